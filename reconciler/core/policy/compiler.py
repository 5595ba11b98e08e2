"""The incremental policy compiler: identities and policies in, peer sets, rule sets, policies out.

What it holds at any time is a pure function of the identities and policies that it was given, never
of the order in which they came: a fresh compiler over the same input is equal (property test).

The path: a policy's selectors become watches of the index; the policies that select an identity,
and the numbers of the port names that their ingress rules use, are its *mix* of a direction; a mix
is compiled once to a rule set, whoever has it; rule sets are named by content, so that different
mixes may share one. Published are exactly the rule sets that some identity has and the peer sets
that one of these names.

Cost: a new identity is compared with the selectors filed under its labels and looks its mix up; a
changed policy touches the identities that it selects, and compiles each mix with it once. Nothing
walks over everything. The BitMaps in `peer_sets` are the compiler's own: read them before the next
`apply`, and never change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyroaring import BitMap

from reconciler.core.labels import LabelFilter, LabelSet
from reconciler.core.objects import NetworkPolicy
from reconciler.core.policy.index import Family, SelectorIndex, Watch, named
from reconciler.core.policy.ir import Direction, IdentityPolicy, RuleSet
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.policy.published import PolicyDelta, Published
from reconciler.core.policy.resolve import (
    egress_bases,
    resolve_egress,
    resolve_ingress,
    rule_set_of,
)
from reconciler.core.policy.rules import Translated
from reconciler.core.policy.selectors import NamedPort, Selector
from reconciler.core.policy.translate import translate
from reconciler.errors import Rejected


class MixKey(NamedTuple):
    """Policies of one direction that an identity has, sorted; its numbers of their port names."""

    direction: Direction
    policies: tuple[str, ...]
    ports: tuple[tuple[str, int, int], ...] = ()


class _Mix:
    __slots__ = ("name", "numbers")

    def __init__(self) -> None:
        self.name = ""
        self.numbers: set[int] = set()


class _Policy:
    """A policy with its watches. `families`: those that its egress rules on port names use."""

    __slots__ = ("families", "peers", "ports", "subject", "translated")

    def __init__(self, translated: Translated, index: SelectorIndex) -> None:
        self.translated = translated
        self.subject = index.watch(translated.subject)
        self.peers = [
            index.watch(found) for rule in translated.ingress or () for found in rule.selectors
        ]
        self.peers += [
            index.watch(found) for rule in translated.egress or () for found in egress_bases(rule)
        ]
        self.ports = {
            (port.name, port.protocol)
            for rule in translated.ingress or ()
            for port in rule.named_ports
        }
        self.families = [
            (watch, index.family(watch, port.name, port.protocol))
            for rule in translated.egress or ()
            for port in rule.named_ports
            for watch in (index.watches[found.hash] for found in egress_bases(rule))
        ]


class _Change:
    """What one `apply` touches, with what was there before it."""

    __slots__ = ("left", "members", "policies", "released", "stale", "touched", "warnings")

    def __init__(self) -> None:
        self.touched: set[int] = set()  # identities whose mixes may change
        self.stale: set[MixKey] = set()  # mixes to compile
        self.left: set[MixKey] = set()  # mixes that may have no identity any more
        self.released: list[_Policy] = []
        self.members: dict[str, BitMap] = {}  # peer set → numbers in it now or before, not both
        self.policies: dict[int, IdentityPolicy | None] = {}  # number → before
        self.warnings: tuple[Rejected, ...] = ()

    def member(self, peer_set: str, number: int) -> None:
        """The number joined or left."""
        self.members.setdefault(peer_set, BitMap()).symmetric_difference_update(BitMap([number]))


class Compiler:
    """Give it every identity that has a number and every valid policy; read the four mappings."""

    def __init__(self, filter: LabelFilter) -> None:
        self._index = SelectorIndex()
        self._published = Published(self._index)
        self.peer_sets = self._published.peer_sets
        self.selectors = self._published.selectors
        self.rule_sets = self._published.rule_sets
        self.policies: dict[int, IdentityPolicy] = {}
        self.warnings: dict[str, tuple[Rejected, ...]] = {}
        self._filter = filter
        self._births: dict[int, int] = {}
        self._sources: dict[str, _Policy] = {}
        self._selected_by: dict[int, set[str]] = {}
        self._mixes: dict[MixKey, _Mix] = {}
        self._mixes_with: dict[str, set[MixKey]] = {}
        self._mixes_of: dict[int, tuple[MixKey, MixKey]] = {}

    def apply(
        self,
        *,
        identities_added: Mapping[int, tuple[int, LabelSet]] | None = None,
        identities_removed: Iterable[int] = (),
        policies_changed: Mapping[str, NetworkPolicy | Translated | None] | None = None,
    ) -> PolicyDelta:
        """One change as a whole. Removals come first; an identity that is added again is replaced.

        policies_changed: "namespace/name" → the policy as it is now, None where it is gone
        ValueError for a policy that validation should have refused; then nothing has changed.
        """
        added = identities_added or {}
        given = {key: self._translated(policy) for key, policy in (policies_changed or {}).items()}
        change = _Change()
        for number in {*identities_removed, *added} & self._births.keys():
            self._remove_identity(number, change)
        for key in sorted(given):
            self._replace_policy(key, given[key], change)
        for number, (birth, labels) in added.items():
            self._add_identity(number, birth, labels, change)
        self._recompile(change)
        return self._settle(change)

    # ------------------------------------------------------------------------ what came in

    def _translated(self, policy: NetworkPolicy | Translated | None) -> Translated | None:
        if policy is None or isinstance(policy, Translated):
            return policy
        return translate(policy, self._filter)

    def _remove_identity(self, number: int, change: _Change) -> None:
        labels = self._index.labels[number]
        for watch in self._index.remove(number):
            self._left(watch, number, labels, change)
        del self._births[number], self._selected_by[number]
        change.touched.add(number)

    def _add_identity(self, number: int, birth: int, labels: LabelSet, change: _Change) -> None:
        self._births[number] = birth
        selected_by = self._selected_by[number] = set()
        for watch in self._index.add(number, labels):
            selected_by |= watch.subject_of
            self._joined(watch, number, change)
        change.touched.add(number)

    def _joined(self, watch: Watch, number: int, change: _Change) -> None:
        change.member(watch.selector.hash, number)
        for family in watch.families.values():
            for port in named(self._index.labels[number], family.name, family.protocol):
                if port not in family.parts:
                    self._ports_changed(family, change)
                change.member(family.add(port, number).selector.hash, number)

    def _left(self, watch: Watch, number: int, labels: LabelSet, change: _Change) -> None:
        change.member(watch.selector.hash, number)
        for family in watch.families.values():
            for port in named(labels, family.name, family.protocol):
                change.member(family.remove(port, number).selector.hash, number)
                if port not in family.parts:
                    self._ports_changed(family, change)

    def _ports_changed(self, family: Family, change: _Change) -> None:
        """A port name stands for one number more or less: the rules that use it change."""
        for key in family.users:
            change.stale |= self._mixes_with.get(key, set())

    def _replace_policy(self, key: str, new: Translated | None, change: _Change) -> None:
        old = self._sources.get(key)
        if (old.translated if old else None) == new:
            return
        change.stale |= self._mixes_with.get(key, set())
        if old is not None:
            old.subject.subject_of.discard(key)
            for number in old.subject.members:
                self._selected_by[number].discard(key)
                change.touched.add(number)
            for _, family in old.families:
                family.users.discard(key)
            change.released.append(old)
            del self._sources[key]
            self.warnings.pop(key, None)
        if new is not None:
            source = self._sources[key] = _Policy(new, self._index)
            source.subject.subject_of.add(key)
            for number in source.subject.members:
                self._selected_by[number].add(key)
                change.touched.add(number)
            for _, family in source.families:
                family.users.add(key)
            if new.warnings:
                self.warnings[key] = new.warnings
                change.warnings += new.warnings

    # -------------------------------------------------------------------- what follows from it

    def _recompile(self, change: _Change) -> None:
        """Give touched identities their mixes, compile what is new or stale, name the policies."""
        renamed = set(change.touched)
        for number in change.touched:
            self._move(number, change)
        for key in change.stale:
            mix = self._mixes.get(key)
            if mix is None or not mix.numbers:
                continue
            before = mix.name
            self._name(mix, self._compile(key))
            if mix.name != before:
                renamed |= mix.numbers
        for number in renamed:
            change.policies[number] = self.policies.get(number)
            if number not in self._births:
                self.policies.pop(number, None)
                continue
            ingress, egress = self._mixes_of[number]
            self.policies[number] = IdentityPolicy(
                number, self._births[number], self._mixes[ingress].name, self._mixes[egress].name
            )

    def _move(self, number: int, change: _Change) -> None:
        """Put an identity under the mixes that it now has; those it left may be empty."""
        for key in self._mixes_of.pop(number, ()):
            self._mixes[key].numbers.discard(number)
            change.left.add(key)
        if number not in self._births:
            return
        keys = self._mixes_of[number] = self._mix_keys(number)
        for key in keys:
            mix = self._mixes.get(key)
            if mix is None:
                mix = self._mixes[key] = _Mix()
                for policy in key.policies:
                    self._mixes_with.setdefault(policy, set()).add(key)
                change.stale.add(key)
            mix.numbers.add(number)

    def _mix_keys(self, number: int) -> tuple[MixKey, MixKey]:
        selected_by = sorted(self._selected_by[number])
        ingress = tuple(
            key for key in selected_by if self._sources[key].translated.ingress is not None
        )
        egress = tuple(
            key for key in selected_by if self._sources[key].translated.egress is not None
        )
        wanted = {port for key in ingress for port in self._sources[key].ports}
        ports = tuple(
            sorted(port for port in self._index.labels[number].named_ports if port[:2] in wanted)
        )
        return MixKey(Direction.INGRESS, ingress, ports), MixKey(Direction.EGRESS, egress)

    def _compile(self, key: MixKey) -> RuleSet:
        sources = [self._sources[policy].translated for policy in key.policies]
        if key.direction is Direction.INGRESS:
            rules = [
                rule
                for source in sources
                for found in source.ingress or ()
                for rule in resolve_ingress(found, key.ports)
            ]
        else:
            rules = [
                rule
                for source in sources
                for found in source.egress or ()
                for rule in resolve_egress(found, self._parts)
            ]
        return rule_set_of(key.direction, any(source.isolates for source in sources), rules)

    def _parts(self, base: Selector, port: NamedPort) -> list[tuple[int, str]]:
        """(number, peer set) of every part of a selector that has members with this port name."""
        family = self._index.watches[base.hash].families[port.name, port.protocol]
        return [(number, part.selector.hash) for number, part in sorted(family.parts.items())]

    def _name(self, mix: _Mix, rule_set: RuleSet) -> None:
        name = rule_set_hash(rule_set)
        if name != mix.name:
            self._published.use(name, rule_set)
            if mix.name:
                self._published.unuse(mix.name)
            mix.name = name

    # ----------------------------------------------------------------------------- the end of it

    def _settle(self, change: _Change) -> PolicyDelta:
        """Let go of what nobody uses any more, then compare with what was there before."""
        for key in change.left:
            mix = self._mixes[key]
            if not mix.numbers:
                self._drop_mix(key, mix)
        published = self._published.settle(change.members)
        for source in change.released:
            self._release(source)
        before, after = change.policies, self.policies
        return PolicyDelta(
            peer_sets=published.peer_sets,
            rule_sets_added=published.rule_sets_added,
            rule_sets_removed=published.rule_sets_removed,
            policies_changed=frozenset(
                number for number in before if after.get(number) not in (None, before[number])
            ),
            policies_removed=frozenset(
                number for number in before if before[number] and number not in after
            ),
            warnings=change.warnings,
        )

    def _drop_mix(self, key: MixKey, mix: _Mix) -> None:
        del self._mixes[key]
        for policy in key.policies:
            others = self._mixes_with[policy]
            others.discard(key)
            if not others:
                del self._mixes_with[policy]
        if mix.name:
            self._published.unuse(mix.name)

    def _release(self, source: _Policy) -> None:
        for watch, family in source.families:
            name = (family.name, family.protocol)
            if not family.users and name in watch.families:
                del watch.families[name]
                family.clear()
        for watch in (source.subject, *source.peers):
            watch.uses -= 1
            if not watch.uses:
                self._index.forget(watch)
