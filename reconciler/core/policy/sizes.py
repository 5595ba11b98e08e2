"""How many kernel entries a rule set needs, before any node is asked to hold it.

An upper bound: an identity in several peer sets of one rule set is counted for each, and a CIDR
block once, although every known prefix inside it has entries. Rule sets are immutable, so what one
contributes a member is worked out once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyroaring import BitMap

from reconciler.core.policy.entries import expand
from reconciler.core.policy.ir import RuleSet


class Sizes:
    def __init__(self, peer_sets: Mapping[str, BitMap]) -> None:
        self._peer_sets = peer_sets
        self._known: dict[str, tuple[int, tuple[tuple[str, int], ...]]] = {}

    def entries(self, name: str, rules: RuleSet) -> int:
        """Entries for the members that its peer sets have now."""
        found = self._known.get(name)
        if found is None:
            expanded = expand(rules)
            fixed = len(expanded.any)
            fixed += sum(map(len, expanded.by_cidr.values()))
            fixed += sum(map(len, expanded.by_reserved.values()))
            each = tuple((key, len(made)) for key, made in expanded.by_peer_set.items())
            found = self._known[name] = (fixed, each)
        fixed, each = found
        return fixed + sum(
            count * len(self._peer_sets[key]) for key, count in each if key in self._peer_sets
        )

    def keep(self, names: Collection[str]) -> None:
        """Forget all other rule sets."""
        for name in self._known.keys() - set(names):
            del self._known[name]
