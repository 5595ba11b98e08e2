"""The datapath in memory: the same maps as packed bytes, the same packet path, no kernel.

For laptops without BPF, for clusters of hundreds of nodes in one process, and as the second opinion
on the kernel's programs: it shares only the layouts with them. What differs, and may: time is the
caller's `now_ns`; `Grace` has nothing to wait for; any ifindex can be attached; which entry of a
full LRU map goes.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from reconciler.core.dataplane.layout import (
    CUT_VALUE,
    ENDPOINT_CLOSED,
    EVENT,
    MapId,
    MapSpec,
    Reason,
)
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import CutWord, Event, unpack_events
from reconciler.datapath.twin_maps import Array, Cache, Table, Trie
from reconciler.datapath.twin_path import Passage
from reconciler.datapath.twin_policy import PolicyView, Ruling, address_key
from reconciler.errors import DatapathError

_KINDS: Final[Mapping[str, type[Table]]] = {
    "array": Array,
    "hash": Table,
    "lpm": Trie,
    "lru": Cache,
}
_CUT_KEY: Final = bytes(4)
_RECORD_HEADER: Final = 8  # bytes that a ring buffer spends on each event beside the event


class TwinDatapath:
    """See `base.Datapath`. `now_ns`: nanoseconds of a clock that never goes back.

    `policy` has the look-ups of a packet one by one.
    `graces` counts the grace periods that were asked for. `close` does nothing: like the pinned
    maps of the kernel, a twin outlives the agent that drove it, and serves the next one.
    """

    name = "twin"

    def __init__(self, specs: Mapping[MapId, MapSpec], now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._limits = {id: spec.max_entries for id, spec in specs.items()}
        self._maps = {
            id: _KINDS[spec.kind](spec) for id, spec in specs.items() if spec.kind in _KINDS
        }
        conntrack, fragments = self._maps[MapId.CONNTRACK], self._maps[MapId.FRAGMENTS]
        assert isinstance(conntrack, Cache)
        assert isinstance(fragments, Cache)
        self._conntrack, self._fragments = conntrack, fragments
        self.policy = PolicyView(self._maps)
        self._attached: set[int] = set()
        self._metrics: dict[tuple[Reason, Direction], tuple[int, int]] = {}
        self._events: deque[bytes] = deque()
        self._events_room = (self._limits[MapId.EVENTS] - 1) // (_RECORD_HEADER + EVENT.size)
        self.graces = 0

    @property
    def limits(self) -> Mapping[MapId, int]:
        return self._limits

    # --- maps ---------------------------------------------------------------------------------

    def apply(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if isinstance(op, Put):
                self._written(op.map).put(op.entries)
            elif isinstance(op, Remove):
                self._written(op.map).remove(op.keys)
            elif isinstance(op, Flip):
                self._flip(op)
            else:
                assert isinstance(op, Grace)
                self.graces += 1

    def dump(self, map: MapId) -> dict[bytes, bytes]:
        if map not in self._maps:
            raise DatapathError("dump", map, errno.EINVAL, "has no entries to dump")
        return self._maps[map].dump()

    def cut(self) -> CutWord:
        value = self._maps[MapId.CUT].get(_CUT_KEY)
        assert value is not None
        active, _, first, first_root, second, second_root = CUT_VALUE.unpack(value)
        return CutWord(active, (first, second), (first_root, second_root))

    def _written(self, map: MapId) -> Table:
        if map is MapId.CUT or map not in self._maps:
            raise DatapathError("update", map, errno.EINVAL, "is not written by entries")
        return self._maps[map]

    def _flip(self, op: Flip) -> None:
        if op.half not in (0, 1) or len(op.root) != 32:
            raise DatapathError("flip", "cut", errno.EINVAL, "half or root out of range")
        word = self.cut()
        revisions, roots = list(word.revisions), list(word.roots)
        revisions[op.half], roots[op.half] = op.revision, op.root
        value = CUT_VALUE.pack(op.half, 0, revisions[0], roots[0], revisions[1], roots[1])
        self._maps[MapId.CUT].put(((_CUT_KEY, value),))

    # --- devices ------------------------------------------------------------------------------

    def attach(self, ifindex: int) -> None:
        self._attached.add(ifindex)

    def detach(self, ifindex: int) -> None:
        self._attached.discard(ifindex)

    def attached(self) -> set[int]:
        return set(self._attached)

    # --- packets ------------------------------------------------------------------------------

    def probe(self, packet: bytes, *, ifindex: int, direction: Direction) -> Reason:
        return self._passage(effects=False).judge(packet, ifindex, direction)

    def run(self, packet: bytes, *, ifindex: int, direction: Direction) -> Reason:
        passage = self._passage(effects=True)
        reason = passage.judge(packet, ifindex, direction)
        packets, size = self._metrics.get((reason, direction), (0, 0))
        self._metrics[reason, direction] = (packets + 1, size + len(packet))
        if (passage.opened or not reason.passed) and len(self._events) < self._events_room:
            self._events.append(passage.event(reason, ifindex, direction))
        return reason

    def classify(
        self, ifindex: int, direction: Direction, peer_address: bytes, protocol: int, port: int
    ) -> Reason:
        """What policy says to a flow's first packet between a pod and a peer: ALLOWED, DENIED,
        NO_RULE, CLOSED, SERVICE or NO_ENDPOINT; flows, fragments and source are not looked at.

        peer_address: 4 or 16 bytes. port: the destination's, host order.
        """
        return self.verdict_now(ifindex, direction, peer_address, protocol, port).reason

    def verdict_now(
        self, ifindex: int, direction: Direction, peer_address: bytes, protocol: int, port: int
    ) -> Ruling:
        """`classify` with the peer's identity index and the cookie of the deciding entry."""
        half = self.policy.half()
        endpoint = self.policy.endpoint(ifindex, half)
        if endpoint is None:
            return Ruling(Reason.NO_ENDPOINT)
        if endpoint.flags & ENDPOINT_CLOSED:
            return Ruling(Reason.CLOSED)
        address, family = address_key(peer_address)
        return self.policy.judge(endpoint.group, half, direction, address, family, protocol, port)

    def _passage(self, *, effects: bool) -> Passage:
        return Passage(self.policy, self._conntrack, self._fragments, self._now_ns, effects=effects)

    # --- what happened ------------------------------------------------------------------------

    def metrics(self) -> dict[tuple[Reason, Direction], tuple[int, int]]:
        return dict(self._metrics)

    @property
    def events_fd(self) -> int | None:
        return None

    def drain(self) -> list[Event]:
        data = b"".join(self._events)
        self._events.clear()
        return unpack_events(data)

    # --- end ----------------------------------------------------------------------------------

    def close(self) -> None:
        pass
