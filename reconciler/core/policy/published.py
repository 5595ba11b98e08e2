"""What the compiler gives out: rule sets that are in use and the peer sets that they name.

References are counted, so that what nobody names any more is gone when a change is settled, and
a change is told exactly: by comparing with what was there before it, only where it touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from pyroaring import BitMap

from reconciler.core.policy.index import SelectorIndex
from reconciler.core.policy.ir import RuleSet
from reconciler.core.policy.selectors import Selector
from reconciler.errors import Rejected

SHARD_BITS: Final = 10
"""A shard of a peer set is the numbers with one value of number >> SHARD_BITS."""


class PolicyDelta(msgspec.Struct, frozen=True):
    """What one `apply` changed, exactly: what ended as it began is not in it.

    peer_sets: (selector hash, shard) whose members changed, appeared or are gone
    rule_sets_added, rule_sets_removed: names
    policies_changed: numbers with a new or different `IdentityPolicy`; policies_removed: without
    warnings:  of the policies that were given and are not what they were
    """

    peer_sets: frozenset[tuple[str, int]] = frozenset()
    rule_sets_added: frozenset[str] = frozenset()
    rule_sets_removed: frozenset[str] = frozenset()
    policies_changed: frozenset[int] = frozenset()
    policies_removed: frozenset[int] = frozenset()
    warnings: tuple[Rejected, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.peer_sets
            or self.rule_sets_added
            or self.rule_sets_removed
            or self.policies_changed
            or self.policies_removed
        )


class Published:
    """The three mappings are those of the compiler. `use` and `unuse` come before one `settle`."""

    def __init__(self, index: SelectorIndex) -> None:
        self.peer_sets: dict[str, BitMap] = {}
        self.selectors: dict[str, Selector] = {}
        self.rule_sets: dict[str, RuleSet] = {}
        self._index = index
        self._rule_set_uses: Counter[str] = Counter()
        self._peer_set_uses: Counter[str] = Counter()
        self._touched: set[str] = set()  # peer sets whose uses changed
        self._known: dict[str, bool] = {}  # rule set → was there before the change

    def use(self, name: str, rule_set: RuleSet) -> None:
        """One user more of a rule set."""
        self._rule_set_uses[name] += 1
        if self._rule_set_uses[name] == 1:
            self._known.setdefault(name, False)
            self.rule_sets[name] = rule_set
            for peer_set in _peer_sets(rule_set):
                self._touched.add(peer_set)
                self._peer_set_uses[peer_set] += 1

    def unuse(self, name: str) -> None:
        """One user less; the rule set goes with its last."""
        self._rule_set_uses[name] -= 1
        if not self._rule_set_uses[name]:
            del self._rule_set_uses[name]
            self._known.setdefault(name, True)
            for peer_set in _peer_sets(self.rule_sets.pop(name)):
                self._touched.add(peer_set)
                self._peer_set_uses[peer_set] -= 1

    def settle(self, moved: Mapping[str, BitMap]) -> PolicyDelta:
        """End a change: publish and withdraw peer sets; the rule sets and shards that it changed.

        moved: peer set → numbers that are in it now or were before the change, but not both
        """
        shards = frozenset(
            (name, shard)
            for name in self._touched | moved.keys()
            for shard in self._publish(name, moved.get(name, _NOBODY))
        )
        added = frozenset(
            name for name, known in self._known.items() if not known and name in self.rule_sets
        )
        removed = frozenset(
            name for name, known in self._known.items() if known and name not in self.rule_sets
        )
        self._touched.clear()
        self._known.clear()
        return PolicyDelta(shards, added, removed)

    def _publish(self, name: str, moved: BitMap) -> set[int]:
        """Make one peer set published if a rule set names it, else not; its changed shards."""
        before = name in self.peer_sets
        after = self._peer_set_uses[name] > 0
        if not after:
            del self._peer_set_uses[name]
        members = self._index.members(name)
        if after:
            self.peer_sets[name] = members
            self.selectors[name] = self._index.selector(name)
        elif before:
            del self.peer_sets[name], self.selectors[name]
        if before and after:
            return _shards(moved)
        if before:
            return _shards(members ^ moved)
        return _shards(members) if after else set()


_NOBODY: Final = BitMap()


def _peer_sets(rule_set: RuleSet) -> set[str]:
    return {peer_set for rule in rule_set.rules for peer_set in rule.peer_sets}


def _shards(numbers: Iterable[int]) -> set[int]:
    return {number >> SHARD_BITS for number in numbers}
