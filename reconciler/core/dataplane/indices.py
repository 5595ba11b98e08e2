"""What stands for what: the indices of groups, peers and rule sets, and when they are free again.

The tables' state without the steps of a cut (those are in `tables`). An index is given out while
staging, belongs to both cuts until the flip has settled, and is free only then; what no packet can
have seen is given back at once when a staging is taken back.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from reconciler.core.dataplane.endpoints import Endpoints
from reconciler.core.dataplane.layout import GroupIndex, IdentityIndex, MapId, RuleSetNumber
from reconciler.core.dataplane.mirror import NO_BLOCK, Mirror, Pool
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.rulesets import RESERVED, PeerKey
from reconciler.core.dataplane.view import Cause, GroupKey, Row, View
from reconciler.core.policy.ir import Prefix
from reconciler.core.trace import Trace
from reconciler.errors import Refusal

NOBODY: Cause = ("", "")
FIXED_INDICES = frozenset(int(index) for index in RESERVED)
FIXED_GROUPS = tuple(index for index in GroupIndex if 0 < index < GroupIndex.FIRST_FREE)


class Phase(enum.Enum):
    SETTLED = "both halves are equal, nothing is left over"
    STAGING = "the idle half and unseen entries are ahead of the cut in force"
    FLIPPED = "the new cut is in force, the idle half and leftovers are of the old one"


class Full(Exception):
    """Internal: unwinds a staging that doesn't fit."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Indices:
    def __init__(
        self,
        node: str,
        limits: Mapping[MapId, int],
        services: Iterable[Prefix] = (),
        next_id: int = 1,
        trace: Trace | None = None,
    ) -> None:
        self._trace = trace
        self.limits = limits
        self.phase = Phase.SETTLED
        self.active = 0
        self.view = View(node, services)
        self.mirror = Mirror()
        self.endpoints = Endpoints(next_id, trace)
        self.owners: Overlay[bytes, GroupKey] = Overlay()  # trie key → what the next cut says
        self.uses: Overlay[GroupKey, int] = Overlay()  # addresses and pods of a group
        self.rows: Overlay[GroupKey, Row] = Overlay()  # of used groups
        self.peer_uses: Overlay[PeerKey, int] = Overlay()  # used groups of a peer
        self.group_index: Overlay[GroupKey, int] = Overlay()
        self.peer_index: Overlay[PeerKey, int] = Overlay()
        self.rule_number: Overlay[str, int] = Overlay()
        self.loose: Overlay[bytes, bool] = Overlay()  # trie keys that the next cut doesn't name
        self._pod_groups: Overlay[str, str] = Overlay()
        self._peer_at: dict[int, PeerKey] = {}
        self._rule_at: dict[int, str] = {}
        self._sweep = False  # leftovers may be anywhere
        self._begun = False  # reserved groups and prefixes are in the tables
        self._set_pools((), (), ())

    def _set_pools(self, groups: Iterable[int], peers: Iterable[int], rules: Iterable[int]) -> None:
        self._group_pool = Pool(GroupIndex.FIRST_FREE, self.limits.get(MapId.GROUPS), groups)
        self._peer_pool = Pool(IdentityIndex.FIRST_FREE, None, peers)
        self._rule_pool = Pool(RuleSetNumber.FIRST_FREE, None, rules)
        self._taken: tuple[list[int], list[int], list[int]] = ([], [], [])

    @property
    def idle(self) -> int:
        return 1 - self.active

    @property
    def begun(self) -> bool:
        """Something was staged, so both halves are known: `commit` may follow."""
        return self._begun

    @property
    def sweeps(self) -> bool:
        """The maps were taken over, so leftovers may be anywhere; settling looks at everything."""
        return self._sweep

    @property
    def used(self) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        """Indices of groups and peers, and numbers of rule sets, that are not free."""
        return self._group_pool.used, self._peer_pool.used, self._rule_pool.used

    # --- taking over and giving up ---------------------------------------------------------

    def load(
        self,
        active: int,
        maps: Mapping[MapId, Mapping[bytes, bytes]],
        attached: Iterable[int],
    ) -> None:
        """Begin with maps that another process filled: in force as they are, not understood.

        Everything in them stays until the first cut has been flipped to and settled; no index
        that occurs anywhere is given out before.
        """
        assert not self._begun, "only empty tables can take over others"
        self.active = active
        self.mirror.load(maps)
        self.endpoints.adopt(maps.get(MapId.ENDPOINTS, {}), attached, active)
        groups = set(self.mirror.groups) | self.endpoints.groups()
        for pair in self.mirror.addresses.now.values():
            groups.update(pair)
        peers = {index for _, index in self.mirror.blocks}
        rules = {number for number, _ in self.mirror.blocks}
        for row in self.mirror.groups.now.values():
            for peer, ingress, egress in row:
                peers.add(peer)
                rules |= {ingress, egress}
        self._set_pools(groups, peers, rules)
        self.loose = Overlay(dict.fromkeys(self.mirror.addresses, True))
        self._sweep = True

    def recognise(
        self,
        groups: Mapping[GroupKey, int],
        peers: Mapping[PeerKey, int],
        rules: Mapping[str, int],
    ) -> None:
        """After `load`: what some indices stand for in the half in force (see `adopt`)."""
        self.group_index = Overlay(groups)
        self.peer_index = Overlay(peers)
        self.rule_number = Overlay(rules)
        self._peer_at = {index: peer for peer, index in peers.items()}
        self._rule_at = {number: name for name, number in rules.items()}

    def _clear_leftovers(self) -> None:
        """Remove entries of maps taken over that no packet can meet: of a staging, or an old cut.

        They make room for what is staged next. Packets of before the last flip may still be under
        way, so a grace has to come first.
        """
        if not self._sweep:
            return
        peers, rules = set(FIXED_INDICES) | {int(IdentityIndex.ANY)}, set()
        for row in self.mirror.groups.now.values():
            peer, ingress, egress = row[self.active]
            peers.add(peer)
            rules |= {ingress, egress}
        for number, index in list(self.mirror.blocks):
            if number not in rules or index not in peers:
                self.mirror.write_block(number, index, NO_BLOCK)

    def _free_groups(self) -> None:
        for group in list(self.uses.touched):
            index = self.group_index.get(group)
            if group not in self.uses and index is not None:
                self.group_index.drop(group)
                self.mirror.remove_group(index)
                self._group_pool.give(index)
        if self._sweep:
            live = {*self.group_index.now.values(), *FIXED_GROUPS}
            for index in [each for each in self.mirror.groups if each not in live]:
                self.mirror.remove_group(index)
            for index in self._group_pool.used - live:
                self._group_pool.give(index)

    def _free_peers(self) -> None:
        for peer in list(self.peer_uses.touched):
            if peer not in self.peer_uses:
                self.peer_index.drop(peer)
        stale = {self.peer_index.before(peer) for peer in self.peer_index.touched}
        stale.update(self._taken[1])
        if self._sweep:
            stale |= {index for _, index in self.mirror.blocks} | self._peer_pool.used
        for index in stale:
            if index is None or index == IdentityIndex.ANY or index in FIXED_INDICES:
                continue
            peer_there = self._peer_at.get(index)
            if peer_there is None or self.peer_index.get(peer_there) != index:
                for number in self.mirror.rules_with(index):
                    self.mirror.write_block(number, index, NO_BLOCK)
                self._peer_at.pop(index, None)
                self._peer_pool.give(index)

    def _free_rules(self) -> None:
        stale = {self.rule_number.before(name) for name in self.rule_number.touched}
        stale.update(self._taken[2])
        if self._sweep:
            stale |= {number for number, _ in self.mirror.blocks} | self._rule_pool.used
        for number in stale:
            if number is None:
                continue
            name = self._rule_at.get(number)
            if name is None or self.rule_number.get(name) != number:
                for index in self.mirror.peers_in(number):
                    self.mirror.write_block(number, index, NO_BLOCK)
                self._rule_at.pop(number, None)
                self._rule_pool.give(number)

    def _overlays(self) -> list[Overlay[Any, Any]]:
        return [each for each in vars(self).values() if isinstance(each, Overlay)]

    def _keep(self) -> None:
        self.view.keep()
        self.mirror.keep()
        for overlay in self._overlays():
            overlay.keep()
        self._taken = ([], [], [])

    def _undo(self) -> None:
        for overlay in self._overlays():
            overlay.undo()
        for pool, taken in zip(
            (self._group_pool, self._peer_pool, self._rule_pool), self._taken, strict=True
        ):
            for index in taken:
                pool.give(index)
        for index in self._taken[1]:
            self._peer_at.pop(index, None)
        for index in self._taken[2]:
            self._rule_at.pop(index, None)
        self._taken = ([], [], [])
        self._begun = bool(self.owners)

    # --- indices ---------------------------------------------------------------------------

    def _index_of(self, group: GroupKey, cause: Cause) -> int:
        if isinstance(group, GroupIndex):
            return int(group)
        index = self.group_index.get(group)
        if index is None:
            index = self._group_pool.take()
            if index is None:
                limit = self._limit(MapId.GROUPS)
                self._full(cause, MapId.GROUPS, max(limit + 1, len(self.uses)))
            self._taken[0].append(index)
            self.group_index.put(group, index)
        return index

    def _take_peer(self, peer: PeerKey) -> None:
        index = self._peer_pool.take()
        assert index is not None
        self._taken[1].append(index)
        self._peer_at[index] = peer
        self.peer_index.put(peer, index)

    def _take_rule(self, name: str) -> int:
        number = self._rule_pool.take()
        assert number is not None
        self._taken[2].append(number)
        self._rule_at[number] = name
        self.rule_number.put(name, number)
        return number

    def _limit(self, map_id: MapId) -> int:
        return self.limits.get(map_id, 1 << 32)

    def _check_entries(self, cause: Cause) -> None:
        if self.mirror.entries > self._limit(MapId.POLICIES):
            self._full(cause, MapId.POLICIES, self.mirror.entries)

    def _full(self, cause: Cause, map_id: MapId, needed: int) -> NoReturn:
        limit = self._limit(map_id)
        reason = f"needs {needed} entries in map {map_id}, which holds {limit}"
        raise Full(Refusal(cause[0], cause[1], reason, needed, limit))
