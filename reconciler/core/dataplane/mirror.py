"""What the maps hold, as values, and the writes that are due to make it so.

The mirror knows nothing of cuts. Every change made to it is noted and given out by `take` as Ops;
`undo` puts back what was there at the last `keep` (also as Ops, right whether or not the earlier
ones were carried out: it writes old values over keys that exist and removes keys that may not).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping

from reconciler.core.dataplane.layout import (
    ADDRESS_VALUE,
    GROUP_VALUE,
    MapId,
)
from reconciler.core.dataplane.ops import Op, Put, Remove
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.prefixes import PrefixIndex, is_host, parse_key, prefix_key
from reconciler.core.dataplane.rulesets import Block, where
from reconciler.core.policy.ir import Prefix

AddressPair = tuple[int, int]
GroupHalf = tuple[int, int, int]
GroupPair = tuple[GroupHalf, GroupHalf]

NO_GROUP: GroupHalf = (0, 0, 0)
NO_BLOCK: Block = {}


class Mirror:
    def __init__(self) -> None:
        self.addresses: Overlay[bytes, AddressPair] = Overlay()
        self.groups: Overlay[int, GroupPair] = Overlay()
        self.blocks: Overlay[tuple[int, int], Block] = Overlay()
        self.entries = 0  # in the policies map
        self._written: set[bytes] = set()  # policy keys: a staged one may be taken back again
        self._by_rule: dict[int, set[int]] = {}
        self._by_peer: dict[int, set[int]] = {}
        self._wide = PrefixIndex()
        self._due: dict[MapId, dict[bytes, bytes | None]] = {}
        self._drop_due()

    def load(self, maps: Mapping[MapId, Mapping[bytes, bytes]]) -> None:
        """Take over dumped maps; nothing is due."""
        self.addresses = Overlay(
            {key: _pair(value) for key, value in maps.get(MapId.ADDRESSES, {}).items()}
        )
        for key in self.addresses:
            prefix = parse_key(key)
            if not is_host(prefix):
                self._wide.add(prefix)
        groups: dict[int, GroupPair] = {}
        for key, value in maps.get(MapId.GROUPS, {}).items():
            row = GROUP_VALUE.unpack(value)
            if any(row):
                groups[int.from_bytes(key, "little")] = (row[:3], row[3:])
        self.groups = Overlay(groups)
        blocks: dict[tuple[int, int], Block] = {}
        for key, value in maps.get(MapId.POLICIES, {}).items():
            blocks.setdefault(where(key), {})[key] = value
        self.blocks = Overlay(blocks)
        self.entries = sum(map(len, blocks.values()))
        for at in blocks:
            self._index(at, True)

    # --- addresses -------------------------------------------------------------------------

    def covered(self, prefix: Prefix, half: int) -> int:
        """The group that a half answers for a prefix whose key is not there (0: none)."""
        return self._said_by(self._wide.covering(prefix), half)

    def covered_hosts(self, half: int) -> Callable[[bytes], int]:
        """The same for many single addresses, until a wider key is written."""
        grains = {size: self._wide.grain(size) for size in (4, 16)}
        known: dict[tuple[int, bytes], int] = {}

        def covered(address: bytes) -> int:
            size = len(address)
            around = (size, address[: grains[size]])
            found = known.get(around)
            if found is None:
                found = known[around] = self._said_by(self._wide.covering_host(address), half)
            return found

        return covered

    def _said_by(self, around: Prefix | None, half: int) -> int:
        return 0 if around is None else self.addresses[prefix_key(around)][half]

    def write_address(self, key: bytes, prefix: Prefix, pair: AddressPair) -> None:
        if key not in self.addresses and not is_host(prefix):
            self._wide.add(prefix)
        self.addresses.put(key, pair)
        self._due[MapId.ADDRESSES][key] = ADDRESS_VALUE.pack(*pair)

    def write_hosts(self, pairs: Mapping[bytes, AddressPair]) -> None:
        """`write_address` of many keys, each of one address or there already."""
        self.addresses.put_all(pairs)
        values = {pair: ADDRESS_VALUE.pack(*pair) for pair in set(pairs.values())}
        self._due[MapId.ADDRESSES].update({key: values[pair] for key, pair in pairs.items()})

    def remove_address(self, key: bytes) -> None:
        if key in self.addresses:
            self._wide.discard(parse_key(key))
            self.addresses.drop(key)
            self._due[MapId.ADDRESSES][key] = None

    # --- groups ----------------------------------------------------------------------------

    def write_group(self, index: int, pair: GroupPair) -> None:
        if self.groups.get(index) != pair:
            self.groups.put(index, pair)
            self._due[MapId.GROUPS][_index_key(index)] = GROUP_VALUE.pack(*pair[0], *pair[1])

    def remove_group(self, index: int) -> None:
        if index in self.groups:
            self.groups.drop(index)
            self._due[MapId.GROUPS][_index_key(index)] = None

    # --- policies --------------------------------------------------------------------------

    def block(self, number: int, index: int) -> Block:
        return self.blocks.get((number, index)) or NO_BLOCK

    def write_block(self, number: int, index: int, block: Block) -> None:
        at = (number, index)
        self._block_due(self.block(number, index), block)
        if block:
            self.blocks.put(at, block)
        else:
            self.blocks.drop(at)
        self._index(at, bool(block))

    def peers_in(self, number: int) -> Iterable[int]:
        return sorted(self._by_rule.get(number, ()))

    def rules_with(self, index: int) -> Iterable[int]:
        return sorted(self._by_peer.get(index, ()))

    def _block_due(self, have: Block, want: Block) -> None:
        changed = {key: value for key, value in want.items() if have.get(key) != value}
        gone = dict.fromkeys(key for key in have if key not in want)
        self._due[MapId.POLICIES].update(gone)
        self._due[MapId.POLICIES].update(changed)
        self._written.update(gone)
        self._written.update(changed)
        self.entries += len(want) - len(have)

    def _index(self, at: tuple[int, int], present: bool) -> None:
        number, index = at
        for table, first, second in (
            (self._by_rule, number, index),
            (self._by_peer, index, number),
        ):
            if present:
                table.setdefault(first, set()).add(second)
            elif first in table:
                table[first].discard(second)
                if not table[first]:
                    del table[first]

    # --- as a whole ------------------------------------------------------------------------

    def take(self) -> list[Op]:
        """The writes that are due, removals of a map before its new entries need the room."""
        ops: list[Op] = []
        for map_id, due in self._due.items():
            gone = tuple(key for key, value in due.items() if value is None)
            new = tuple((key, value) for key, value in due.items() if value is not None)
            if gone:
                ops.append(Remove(map_id, gone))
            if new:
                ops.append(Put(map_id, new))
        self._drop_due()
        return ops

    def keep(self) -> None:
        for overlay in (self.addresses, self.groups, self.blocks):
            overlay.keep()
        self._written = set()

    def undo(self) -> list[Op]:
        self._drop_due()
        for key in list(self.addresses.touched):
            pair = self.addresses.before(key)
            if pair is None:
                self._due[MapId.ADDRESSES][key] = None
                self._wide.discard(parse_key(key))
            else:
                self._due[MapId.ADDRESSES][key] = ADDRESS_VALUE.pack(*pair)
                prefix = parse_key(key)
                if not is_host(prefix):
                    self._wide.add(prefix)
        for index in self.groups.touched:
            row = self.groups.before(index)
            self._due[MapId.GROUPS][_index_key(index)] = (
                None if row is None else GROUP_VALUE.pack(*row[0], *row[1])
            )
        for at in list(self.blocks.touched):
            before = self.blocks.before(at) or NO_BLOCK
            self.entries += len(before) - len(self.block(*at))
            self._index(at, bool(before))
        for key in self._written:
            block = self.blocks.before(where(key)) or NO_BLOCK
            self._due[MapId.POLICIES][key] = block.get(key)
        for overlay in (self.addresses, self.groups, self.blocks):
            overlay.undo()
        self._written = set()
        return self.take()

    def _drop_due(self) -> None:
        self._due = {MapId.POLICIES: {}, MapId.GROUPS: {}, MapId.ADDRESSES: {}}


class Pool:
    """Indices from `first` up to `limit` (None: no limit), lowest first."""

    def __init__(self, first: int, limit: int | None = None, used: Iterable[int] = ()) -> None:
        self._first = self._next = first
        self._limit = limit
        self._used = set(used)
        self._free: list[int] = []

    def take(self) -> int | None:
        while self._free:
            index = heapq.heappop(self._free)
            if index not in self._used:
                self._used.add(index)
                return index
        while self._next in self._used:
            self._next += 1
        if self._limit is not None and self._next >= self._limit:
            return None
        self._used.add(self._next)
        self._next += 1
        return self._next - 1

    def give(self, index: int) -> None:
        if index >= self._first and index in self._used:
            self._used.discard(index)
            if index < self._next:
                heapq.heappush(self._free, index)

    @property
    def used(self) -> frozenset[int]:
        return frozenset(self._used)


def _pair(value: bytes) -> AddressPair:
    first, second = ADDRESS_VALUE.unpack(value)
    return first, second


def _index_key(index: int) -> bytes:
    return index.to_bytes(4, "little")
