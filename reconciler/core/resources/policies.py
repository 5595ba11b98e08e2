"""Policy layers: what nodes need to judge for the identities that have a pod on them.

A layer is a function of the identities' numbers, of the rule sets that are served as *closed*, and
of the compiled policy. Nodes with the same numbers share one, and a change of policy is worked into
those layers only that hold something of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from weakref import WeakValueDictionary

import msgspec
from pyroaring import BitMap

from reconciler.core.policy.ir import Direction, IdentityPolicy, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode
from reconciler.core.resources.layer import Layer
from reconciler.core.resources.parts import Key
from reconciler.core.resources.types import PEER_SET, POLICY, RULE_SET, Resource

CLOSED: Final = {direction: rule_set_hash(RuleSet(direction, True, ())) for direction in Direction}
"""Names of the rule sets that drop everything, the pod's own node included."""

CLOSED_RULES: Final = {CLOSED[each]: RuleSet(each, True, ()) for each in Direction}

NO_MEMBERS: Final = BitMap()


class Share:
    """The layer of those nodes that have these numbers and refuse these rule sets.

    rule_sets, selectors: names of what the layer holds
    numbers_due, shards_due: what in the layer is not up to date
    """

    __slots__ = (
        "__weakref__", "layer", "numbers", "numbers_due", "refused", "rule_sets", "selectors",
        "shards_due",
    )  # fmt: skip

    def __init__(
        self, numbers: frozenset[int], refused: frozenset[str], before: Share | None
    ) -> None:
        """before: one with other numbers, of which this one is made."""
        self.numbers = numbers
        self.refused = refused
        if before is None:
            self.layer = Layer({})
            self.rule_sets: frozenset[str] = frozenset()
            self.selectors: frozenset[str] = frozenset()
            self.numbers_due = set(numbers)
            self.shards_due: set[tuple[str, int]] = set()
        else:
            self.layer = before.layer
            self.rule_sets, self.selectors = before.rule_sets, before.selectors
            self.numbers_due = before.numbers_due | (numbers ^ before.numbers)
            self.shards_due = set(before.shards_due)


class PolicyLayers:
    def __init__(
        self,
        peer_sets: Mapping[str, BitMap],
        rule_sets: Mapping[str, RuleSet],
        policies: Mapping[int, IdentityPolicy],
    ) -> None:
        """The mappings are live; `update` says what to read again."""
        self.peer_sets = peer_sets
        self._rules = rule_sets
        self._subjects = policies
        self._shards: dict[str, dict[int, Resource]] = {}
        self._rule_sets: dict[str, Resource] = {}
        self._selectors: dict[str, frozenset[str]] = {}  # rule set → what it names
        self._policies: dict[int, Resource] = {}
        # Each lives as long as a node is served from it.
        self._shares: WeakValueDictionary[tuple[frozenset[int], frozenset[str]], Share] = (
            WeakValueDictionary()
        )

    def update(
        self,
        shards: Iterable[tuple[str, int]],
        rule_sets_removed: Iterable[str],
        policies: frozenset[int],
    ) -> None:
        """shards: (selector, shard)"""
        changed: dict[str, set[tuple[str, int]]] = {}
        for selector, shard in shards:
            changed.setdefault(selector, set()).add((selector, shard))
            made = encode.peer_set(selector, self.peer_sets.get(selector, NO_MEMBERS), shard)
            held = self._shards.setdefault(selector, {})
            if made is not None:
                held[shard] = made
            else:
                held.pop(shard, None)
            if not held:
                del self._shards[selector]
        for name in rule_sets_removed:
            self._rule_sets.pop(name, None)
            self._selectors.pop(name, None)
        for number in policies:
            subject = self._subjects.get(number)
            if subject is None:
                self._policies.pop(number, None)
            else:
                self._policies[number] = encode.policy(subject)
        for share in self._shares.values():
            share.layer.shorten()
            if not share.numbers.isdisjoint(policies):
                share.numbers_due |= share.numbers & policies
            if not share.selectors.isdisjoint(changed):
                for selector in share.selectors & changed.keys():
                    share.shards_due |= changed[selector]

    def share(
        self, numbers: frozenset[int], refused: frozenset[str], before: Share | None
    ) -> Share:
        """The share, up to date. before: that of which a new one is made; it refuses the same."""
        found = self._shares.get((numbers, refused))
        if found is None:
            found = self._shares[numbers, refused] = Share(numbers, refused, before)
        if found.numbers_due or found.shards_due:
            self._bring_up(found)
        return found

    def rules(self, share: Share) -> Iterator[Rule]:
        for name in share.rule_sets:
            yield from self._rule_set(name).rules

    def _bring_up(self, share: Share) -> None:
        put: list[Resource] = []
        gone: list[Key] = []
        shards = share.shards_due
        if share.numbers_due:
            subjects = {each.number: each for each in self._chosen(share)}
            for number in share.numbers_due:
                if number in subjects:
                    put.append(self._policy(subjects[number]))
                else:
                    gone.append((POLICY, str(number)))
            names = {name for each in subjects.values() for name in (each.ingress, each.egress)}
            selectors = {selector for name in names for selector in self._selectors_of(name)}
            put.extend(self._rules_resource(name) for name in names - share.rule_sets)
            gone.extend((RULE_SET, name) for name in share.rule_sets - names)
            for selector in selectors ^ share.selectors:
                shards.update((selector, shard) for shard in self._shards.get(selector, ()))
            share.rule_sets, share.selectors = frozenset(names), frozenset(selectors)
        for selector, shard in shards:
            made = self._shards.get(selector, {}).get(shard)
            if made is not None and selector in share.selectors:
                put.append(made)
            else:
                gone.append((PEER_SET, encode.shard_name(selector, shard)))
        share.layer = share.layer.changed(put, gone)
        share.numbers_due, share.shards_due = set(), set()

    def _chosen(self, share: Share) -> Iterator[IdentityPolicy]:
        """Policies of the share's numbers, with what is refused closed."""
        refused = share.refused
        for number in share.numbers:
            subject = self._subjects.get(number)
            if subject is None:
                continue
            if refused and {subject.ingress, subject.egress} & refused:
                subject = msgspec.structs.replace(
                    subject,
                    ingress=_closed(subject.ingress, refused, Direction.INGRESS),
                    egress=_closed(subject.egress, refused, Direction.EGRESS),
                )
            yield subject

    def _policy(self, subject: IdentityPolicy) -> Resource:
        if subject is not self._subjects[subject.number]:
            return encode.policy(subject)  # with something closed
        resource = self._policies.get(subject.number)
        if resource is None:
            resource = self._policies[subject.number] = encode.policy(subject)
        return resource

    def _rules_resource(self, name: str) -> Resource:
        made = self._rule_sets.get(name)
        if made is None:
            made = self._rule_sets[name] = encode.rule_set(name, self._rule_set(name))
        return made

    def _selectors_of(self, name: str) -> frozenset[str]:
        found = self._selectors.get(name)
        if found is None:
            rules = self._rule_set(name).rules
            found = frozenset(selector for rule in rules for selector in rule.peer_sets)
            self._selectors[name] = found
        return found

    def _rule_set(self, name: str) -> RuleSet:
        return CLOSED_RULES.get(name) or self._rules[name]


def peers_in_rules(rules: Iterable[Rule], peer_sets: Mapping[str, BitMap]) -> BitMap | None:
    """Numbers that these rules tell apart from an unknown pod's; None: all, because a rule denies
    an unknown pod where another one is not."""
    named = BitMap()
    for rule in rules:
        if rule.verdict is Verdict.DENY and (rule.peer_sets or rule.reserved):
            return None
        for selector in rule.peer_sets:
            named |= peer_sets.get(selector, NO_MEMBERS)
    return named


def _closed(name: str, refused: frozenset[str], direction: Direction) -> str:
    return CLOSED[direction] if name in refused else name
