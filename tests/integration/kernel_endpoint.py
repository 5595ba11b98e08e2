"""Pod A of a kernel datapath: what it sends and is sent, for tests of the packet path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reconciler.core.dataplane.layout import (
    CONNTRACK_KEY,
    CONNTRACK_VALUE,
    IdentityIndex,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Put
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import Datapath
from tests.integration.frames import (
    TCP,
)
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    policy_entry,
)

if TYPE_CHECKING:
    pass


IN, OUT = Direction.INGRESS, Direction.EGRESS
A4, A6, B4, B6 = POD_A.ipv4, POD_A.ipv6, POD_B.ipv4, POD_B.ipv6
HOUR = 3600 * 10**9


class Endpoint:
    """Pod A of a datapath: what it sends and is sent."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath

    def sends(self, frame: bytes) -> Reason:
        return self.datapath.run(frame, ifindex=POD_A.ifindex, direction=OUT)

    def gets(self, frame: bytes) -> Reason:
        return self.datapath.run(frame, ifindex=POD_A.ifindex, direction=IN)

    def age(self, nanoseconds: int) -> None:
        """Make every flow that conntrack knows older."""
        entries = []
        for key, value in self.datapath.dump(MapId.CONNTRACK).items():
            seen, flags = CONNTRACK_VALUE.unpack(value)
            entries.append((key, CONNTRACK_VALUE.pack((seen - nanoseconds) % 2**64, flags)))
        self.datapath.apply([Put(MapId.CONNTRACK, tuple(entries))])

    def flows(self) -> list[tuple[Direction, int, int]]:
        """(direction, protocol, flags) of each."""
        out = []
        for key, value in self.datapath.dump(MapId.CONNTRACK).items():
            _, direction, protocol, *_ = CONNTRACK_KEY.unpack(key)
            out.append((Direction(direction), protocol, CONNTRACK_VALUE.unpack(value)[1]))
        return sorted(out)


Make = Callable[..., Endpoint]


def name(value: bytes | Reason) -> str:
    """Of a test: the frame from its ethertype on, and the reason."""
    return value[12:].hex() if isinstance(value, bytes) else value.name


ALL_OUT = policy_entry(POD_A.egress, IdentityIndex.ANY, OUT)
ALL_IN = policy_entry(POD_A.ingress, IdentityIndex.ANY, IN)
B_WEB_OUT = policy_entry(POD_A.egress, POD_B.group, OUT, protocol=TCP, port=80)
