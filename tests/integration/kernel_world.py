"""Map entries for tests, and a small world: two pods with their own groups and rule sets.

Pod i has ifindex `ifindex`, endpoint id 1000 + i, group and identity 20 + i, ingress rule set
100 + i, egress rule set 200 + i. Both halves are equal unless a test says otherwise. 0/0 and ::/0
are world; 169.254.1.1 and fe80::1 are the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from reconciler.core.dataplane.layout import (
    ADDRESS_KEY,
    ADDRESS_STATIC_BITS,
    ADDRESS_VALUE,
    ENDPOINT_KEY,
    ENDPOINT_VALUE,
    GROUP_VALUE,
    POLICY_KEY,
    POLICY_STATIC_BITS,
    POLICY_VALUE,
    GroupIndex,
    IdentityIndex,
    MapId,
    MapSpec,
    map_specs,
)
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.policy.ir import Direction, Verdict
from tests.integration.frames import address

if TYPE_CHECKING:
    from reconciler.datapath.kernel import KernelDatapath

Entry = tuple[bytes, bytes]


def small_specs() -> dict[MapId, MapSpec]:
    return map_specs(
        addresses=64, endpoints=16, groups=256, policies=128, conntrack=512, fragments=64,
        events_bytes=1 << 16,
    )  # fmt: skip


def address_entry(prefix: str, first: int, second: int | None = None) -> Entry:
    """Groups of both halves; one group: the same for both."""
    text, _, length = prefix.partition("/")
    data = address(text)
    bits = int(length) if length else 8 * len(data)
    key = ADDRESS_KEY.pack(ADDRESS_STATIC_BITS + bits, 1 if len(data) == 4 else 2, data)
    return key, ADDRESS_VALUE.pack(first, first if second is None else second)


def group_entry(index: int, *half: int) -> Entry:
    """(identity, ingress, egress) for both halves, or six numbers."""
    values = half if len(half) == 6 else half * 2
    return index.to_bytes(4, "little"), GROUP_VALUE.pack(*values)


def policy_entry(
    rule_set: int,
    peer: int,
    direction: Direction,
    verdict: int = Verdict.ALLOW,
    *,
    protocol: int | None = None,
    port: int | None = None,
    port_bits: int = 16,
    cookie: int = 0,
) -> Entry:
    bits = POLICY_STATIC_BITS
    if protocol is not None:
        bits += 8
    if port is not None:
        bits += port_bits
    key = POLICY_KEY.pack(
        bits, rule_set, peer, direction, protocol or 0, (port or 0).to_bytes(2, "big")
    )
    return key, POLICY_VALUE.pack(verdict, cookie)


class Pod(msgspec.Struct, frozen=True):
    number: int
    ifindex: int
    ipv4: str = ""
    ipv6: str = ""

    @property
    def id(self) -> int:
        return 1000 + self.number

    @property
    def group(self) -> int:
        return 20 + self.number

    @property
    def ingress(self) -> int:
        return 100 + self.number

    @property
    def egress(self) -> int:
        return 200 + self.number

    def endpoint(self, *, flags: int = 0, groups: tuple[int, int] | None = None) -> Entry:
        ipv4 = address(self.ipv4) if self.ipv4 else bytes(4)
        ipv6 = address(self.ipv6) if self.ipv6 else bytes(16)
        first, second = groups or (self.group, self.group)
        return ENDPOINT_KEY.pack(self.ifindex), ENDPOINT_VALUE.pack(
            self.id, flags, first, ipv4, ipv6, second, ipv4, ipv6
        )


POD_A = Pod(0, 101, "10.77.0.10", "fd77::a")
POD_B = Pod(1, 102, "10.77.0.11", "fd77::b")


def world(pods: Iterable[Pod], policies: Iterable[Entry] = ()) -> tuple[Op, ...]:
    """Puts that make the pods known, with these policy entries."""
    pods = tuple(pods)
    addresses = [
        address_entry("0.0.0.0/0", GroupIndex.WORLD_V4),
        address_entry("::/0", GroupIndex.WORLD_V6),
        address_entry("169.254.1.1", GroupIndex.HOST),
        address_entry("fe80::1", GroupIndex.HOST),
    ]
    groups = [
        group_entry(index, identity, 0, 0)
        for index, identity in (
            (GroupIndex.HOST, IdentityIndex.HOST),
            (GroupIndex.WORLD_V4, IdentityIndex.WORLD_V4),
            (GroupIndex.WORLD_V6, IdentityIndex.WORLD_V6),
        )
    ]
    for pod in pods:
        addresses += [address_entry(one, pod.group) for one in (pod.ipv4, pod.ipv6) if one]
        groups.append(group_entry(pod.group, pod.group, pod.ingress, pod.egress))
    return (
        Put(MapId.POLICIES, tuple(policies)),
        Put(MapId.GROUPS, tuple(groups)),
        Put(MapId.ADDRESSES, tuple(addresses)),
        Put(MapId.ENDPOINTS, tuple(pod.endpoint() for pod in pods)),
    )


def empty(datapath: KernelDatapath) -> None:
    """Take everything out of the maps, metrics and events included; half 0 is in force."""
    from reconciler.datapath.objects import ffi, lib

    for id in (
        MapId.POLICIES,
        MapId.GROUPS,
        MapId.ADDRESSES,
        MapId.ENDPOINTS,
        MapId.CONNTRACK,
        MapId.FRAGMENTS,
    ):
        datapath.apply([Remove(id, tuple(datapath.dump(id)))])
    datapath.apply([Flip(1, 0, bytes(32)), Flip(0, 0, bytes(32)), Grace()])
    metrics = datapath.specs[MapId.METRICS]
    fd = lib.rk_get(str(datapath.pin_dir / MapId.METRICS).encode())
    try:
        zero = ffi.new("char[]", metrics.value_size * lib.rk_possible_cpus())
        for index in range(metrics.max_entries):
            key = ffi.new("uint32_t *", index)
            assert lib.rk_map_update(fd, key, zero) == 0
    finally:
        os.close(fd)
    datapath.drain()
