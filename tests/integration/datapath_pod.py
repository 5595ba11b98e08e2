"""Pod A of `kernel_world` on any datapath: what it sends and is sent, and its peer B's rules."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from reconciler.core.dataplane.layout import CONNTRACK_VALUE, IdentityIndex, MapId, Reason
from reconciler.core.dataplane.ops import Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import Datapath
from reconciler.datapath.twin import TwinDatapath
from reconciler.testing.packets import TCP
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    Entry,
    policy_entry,
    small_specs,
    world,
)

IN, OUT = Direction.INGRESS, Direction.EGRESS
ANY: Final = IdentityIndex.ANY
SECOND: Final = 1_000_000_000
BOTH: Final = ((POD_A.ipv4, POD_B.ipv4), (POD_A.ipv6, POD_B.ipv6))
"""(pod A's, pod B's) addresses of each family."""


def twin() -> TwinDatapath:
    """An empty one, with the kernel's clock."""
    return TwinDatapath(small_specs(), lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC))


class PodA:
    """Pods A and B are known to the datapath, with these policy entries and no others."""

    def __init__(self, datapath: Datapath, *policies: Entry) -> None:
        datapath.apply(world((POD_A, POD_B), policies))
        self.datapath = datapath

    def sends(self, frame: bytes) -> Reason:
        return self.datapath.run(frame, ifindex=POD_A.ifindex, direction=OUT)

    def gets(self, frame: bytes) -> Reason:
        return self.datapath.run(frame, ifindex=POD_A.ifindex, direction=IN)

    def put(self, map: MapId, *entries: Entry) -> None:
        self.datapath.apply([Put(map, entries)])

    def forget(self, map: MapId, *entries: Entry) -> None:
        self.datapath.apply([Remove(map, tuple(key for key, _ in entries))])

    def age(self, seconds: float) -> None:
        """Every flow was last seen so much earlier: the kernel's clock can't be moved."""
        for key, value in self.datapath.dump(MapId.CONNTRACK).items():
            seen, flags = CONNTRACK_VALUE.unpack(value)
            earlier = (seen - int(seconds * SECOND)) % 2**64
            self.put(MapId.CONNTRACK, (key, CONNTRACK_VALUE.pack(earlier, flags)))

    def flow_flags(self) -> list[int]:
        values = self.datapath.dump(MapId.CONNTRACK).values()
        return sorted(CONNTRACK_VALUE.unpack(value)[1] for value in values)


Make = Callable[..., PodA]


def out_to_b(protocol: int | None = TCP, port: int | None = 80) -> Entry:
    return policy_entry(POD_A.egress, POD_B.group, OUT, protocol=protocol, port=port)


def in_from_b(protocol: int | None = TCP, port: int | None = 80) -> Entry:
    return policy_entry(POD_A.ingress, POD_B.group, IN, protocol=protocol, port=port)
