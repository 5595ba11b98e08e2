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
from reconciler.core.resources.types import PEER_SET, Resource

CLOSED: Final = {direction: rule_set_hash(RuleSet(direction, True, ())) for direction in Direction}
"""Names of the rule sets that drop everything, the pod's own node included."""

CLOSED_RULES: Final = {CLOSED[each]: RuleSet(each, True, ()) for each in Direction}

NO_MEMBERS: Final = BitMap()


class Share:
    """The layer of those nodes that have these numbers and refuse these rule sets.

    rule_sets, selectors: names of what the layer holds
    """

    __slots__ = (
        "__weakref__", "layer", "numbers", "refused", "rule_sets", "selectors", "shards", "stale",
    )  # fmt: skip

    def __init__(self, numbers: frozenset[int], refused: frozenset[str], before: Layer) -> None:
        self.numbers = numbers
        self.refused = refused
        self.layer = before
        self.rule_sets: frozenset[str] = frozenset()
        self.selectors: frozenset[str] = frozenset()
        self.stale = True  # to be derived again
        self.shards: set[tuple[str, int]] = set()  # to be exchanged


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
        for number in policies:
            subject = self._subjects.get(number)
            if subject is None:
                self._policies.pop(number, None)
            else:
                self._policies[number] = encode.policy(subject)
        for share in self._shares.values():
            share.layer.shorten()
            if not share.numbers.isdisjoint(policies):
                share.stale = True
            elif not share.selectors.isdisjoint(changed):
                for selector in share.selectors & changed.keys():
                    share.shards |= changed[selector]

    def share(self, numbers: frozenset[int], refused: frozenset[str], before: Layer) -> Share:
        """The share, up to date. before: where a new one's layer is derived from."""
        found = self._shares.get((numbers, refused))
        if found is None:
            found = self._shares[numbers, refused] = Share(numbers, refused, before)
        if found.stale:
            self._derive(found)
        elif found.shards:
            put = [each for key in found.shards if (each := self._shard(*key)) is not None]
            gone = [(PEER_SET, encode.shard_name(*key)) for key in found.shards]
            found.layer = found.layer.changed(put, gone)
        found.shards.clear()
        return found

    def rules(self, share: Share) -> Iterator[Rule]:
        for name in share.rule_sets:
            yield from self._rule_set(name).rules

    def _derive(self, share: Share) -> None:
        table: dict[Key, Resource] = {}
        names: set[str] = set()
        for subject, resource in self._chosen(share):
            table[resource.type_url, resource.name] = resource
            names |= {subject.ingress, subject.egress}
        selectors: set[str] = set()
        for name in names:
            rules = self._rule_set(name)
            made = self._rule_sets.get(name)
            if made is None:
                made = self._rule_sets[name] = encode.rule_set(name, rules)
            table[made.type_url, made.name] = made
            for rule in rules.rules:
                selectors.update(rule.peer_sets)
        for selector in selectors:
            for resource in self._shards.get(selector, {}).values():
                table[resource.type_url, resource.name] = resource
        gone = [key for key in share.layer.resources if key not in table]
        share.layer = share.layer.changed(table.values(), gone)
        share.rule_sets, share.selectors = frozenset(names), frozenset(selectors)
        share.stale = False

    def _chosen(self, share: Share) -> Iterator[tuple[IdentityPolicy, Resource]]:
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
                yield subject, encode.policy(subject)
                continue
            resource = self._policies.get(number)
            if resource is None:
                resource = self._policies[number] = encode.policy(subject)
            yield subject, resource

    def _shard(self, selector: str, shard: int) -> Resource | None:
        return self._shards.get(selector, {}).get(shard)

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
