"""Maps as packed bytes and the few look-ups that give a packet's verdict: no code of the tables.

Writes are applied one entry at a time; each Op list becomes a list of single writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reconciler.core.dataplane.adopt import Adopted
from reconciler.core.dataplane.layout import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    ENDPOINT_CLOSED,
    ENDPOINT_KEY,
    ENDPOINT_VALUE,
    FAMILY_V4,
    FAMILY_V6,
    GROUP_VALUE,
    POLICY_KEY,
    POLICY_VALUE,
    GroupIndex,
    IdentityIndex,
    MapId,
)
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.errors import MapFull

STAGED = (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.GROUPS, MapId.POLICIES)
Write = tuple[MapId, bytes, bytes | None] | Flip | Grace


def single_writes(ops: Sequence[Op]) -> Iterator[Write]:
    for op in ops:
        if isinstance(op, Put):
            for key, value in op.entries:
                yield op.map, key, value
        elif isinstance(op, Remove):
            for key in op.keys:
                yield op.map, key, None
        else:
            yield op


class RawMaps:
    def __init__(self, limits: dict[MapId, int] | None = None) -> None:
        self.maps: dict[MapId, dict[bytes, bytes]] = {each: {} for each in STAGED}
        self.lengths: dict[MapId, dict[bytes, int]] = {each: {} for each in STAGED}
        self.limits = limits or {}
        self.active = 0
        self.revision = 0
        self.root = bytes(32)
        self._found: dict[MapId, dict[bytes, bytes | None]] = {each: {} for each in STAGED}
        # What questions share, each until something is written that it was read from.
        self._numbers: dict[tuple[int, Direction, int], int] = {}
        self._peers: dict[bytes, tuple[int, int]] = {}
        self._verdicts: dict[tuple[int, int, Direction, int, int], bool] = {}

    def write(self, write: Write) -> None:
        if isinstance(write, Flip):
            self.active, self.revision, self.root = write.half, write.revision, write.root
            self._numbers.clear()
            self._peers.clear()
            return
        if isinstance(write, Grace):
            return
        map_id, key, value = write
        self._found[map_id].clear()
        if map_id is MapId.POLICIES:
            self._verdicts.clear()
        else:
            self._numbers.clear()
            self._peers.clear()
        held = self.maps[map_id]
        if value is None:
            if held.pop(key, None) is not None:
                self._length(map_id, key, -1)
            return
        if key not in held:
            if len(held) >= self.limits.get(map_id, 1 << 30):
                raise MapFull(map_id, len(held) + 1, len(held))
            self._length(map_id, key, 1)
        held[key] = value

    def _length(self, map_id: MapId, key: bytes, step: int) -> None:
        lengths = self.lengths[map_id]
        lengths[key[:4]] = lengths.get(key[:4], 0) + step
        if not lengths[key[:4]]:
            del lengths[key[:4]]

    def dump(self, attached: Sequence[int]) -> Adopted:
        return Adopted(
            self.active,
            self.revision,
            self.root,
            {map_id: dict(held) for map_id, held in self.maps.items()},
            frozenset(attached),
        )

    def longest(self, map_id: MapId, data: bytes) -> bytes | None:
        """Value of the longest prefix; remembered until the map is written."""
        found = self._found[map_id]
        if data not in found:
            found[data] = self._longest(map_id, data)
        return found[data]

    def _longest(self, map_id: MapId, data: bytes) -> bytes | None:
        bits = int.from_bytes(data, "big")
        held, size = self.maps[map_id], len(data)
        for packed in sorted(
            self.lengths[map_id], key=lambda each: -int.from_bytes(each, "little")
        ):
            shift = size * 8 - int.from_bytes(packed, "little")
            masked = (bits >> shift << shift).to_bytes(size, "big")
            found = held.get(packed + masked)
            if found is not None:
                return found
        return None

    def row(self, group: int) -> tuple[int, int, int]:
        value = self.maps[MapId.GROUPS].get(group.to_bytes(4, "little"))
        row = GROUP_VALUE.unpack(value) if value else (0,) * 6
        first, second, third = row[3 * self.active : 3 * self.active + 3]
        return first, second, third

    def peer(self, address: bytes) -> tuple[int, int]:
        """(group index, identity index) of an address."""
        family = FAMILY_V4 if len(address) == 4 else FAMILY_V6
        data = ADDRESS_KEY.pack(0, family, address.ljust(16, b"\0"))[4:]
        found = self.longest(MapId.ADDRESSES, data)
        group = int(ADDRESS_VALUE.unpack(found)[self.active]) if found else 0
        if group == GroupIndex.NONE:
            return group, IdentityIndex.UNKNOWN
        return group, self.row(group)[0] or IdentityIndex.UNKNOWN

    def number(self, ifindex: int, direction: Direction, size: int) -> int:
        """Of the rules of an endpoint for addresses of so many bytes; 0: nothing is allowed."""
        entry = self.maps[MapId.ENDPOINTS].get(ENDPOINT_KEY.pack(ifindex))
        if entry is None:
            return 0
        _, flags, *halves = ENDPOINT_VALUE.unpack(entry)
        group, ipv4, ipv6 = halves[3 * self.active : 3 * self.active + 3]
        if flags & ENDPOINT_CLOSED or not any(ipv4 if size == 4 else ipv6):
            return 0
        _, ingress, egress = self.row(group)
        return ingress if direction is Direction.INGRESS else egress

    def verdict(
        self, number: int, index: int, direction: Direction, protocol: int, port: int
    ) -> bool:
        verdicts = []
        for each in (index, 0):
            key = POLICY_KEY.pack(0, number, each, direction, protocol, port.to_bytes(2, "big"))
            found = self.longest(MapId.POLICIES, key[4:])
            verdicts.append(POLICY_VALUE.unpack(found)[0] if found else 0)
        return 2 not in verdicts and 1 in verdicts

    def allowed(
        self, ifindex: int, peer: bytes, direction: Direction, protocol: int, port: int
    ) -> bool:
        asked = ifindex, direction, len(peer)
        if (number := self._numbers.get(asked)) is None:
            number = self._numbers[asked] = self.number(*asked)
        if number == 0:
            return False
        if (place := self._peers.get(peer)) is None:
            place = self._peers[peer] = self.peer(peer)
        their_group, index = place
        if their_group == GroupIndex.SERVICE:
            if direction is Direction.EGRESS:
                return False
            index = IdentityIndex.UNKNOWN
        question = number, index, direction, protocol, port
        if (verdict := self._verdicts.get(question)) is None:
            verdict = self._verdicts[question] = self.verdict(*question)
        return verdict
