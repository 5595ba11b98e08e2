"""The one place where the kernel maps' layouts are written; kernel/bpf/layout.h comes from it.

All integers are little-endian u32 (host order of every supported machine) unless a field says
`be16`. Addresses are 16 bytes; an IPv4 address stands in the first 4, the rest zero.

Two-sided values hold one half for each value of `active`: a packet reads `active` once and then
only that half, so everything that belongs to a cut shows at one instant.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec


class MapId(enum.StrEnum):
    CUT = "cut"
    ADDRESSES = "addresses"
    ENDPOINTS = "endpoints"
    GROUPS = "groups"
    POLICIES = "policies"
    CONNTRACK = "conntrack"
    FRAGMENTS = "fragments"
    METRICS = "metrics"
    EVENTS = "events"


# --- cut: array of one, mmapped: u32 active, u32 0, 2 x {u64 revision, u8 root[32]} -------------
CUT_VALUE: Final = struct.Struct("<II Q32s Q32s")

# --- addresses: LPM trie. Key: u32 prefixlen (32 + n), u8 family, 3 x 0, u8 address[16] ---------
#     Value: u32 group[2], node-local group index of each half
ADDRESS_KEY: Final = struct.Struct("<I B 3x 16s")
ADDRESS_VALUE: Final = struct.Struct("<II")
ADDRESS_STATIC_BITS: Final = 32
FAMILY_V4: Final = 1
FAMILY_V6: Final = 2

# --- endpoints: hash (no prealloc: a value must not be recycled under a reader). Key: u32 ifindex
#     Value: u32 id (never reused while the node is up: conntrack is keyed by it), u32 flags,
#            2 x {u32 group, u8 ipv4[4], u8 ipv6[16]}; a zero address: the pod has none
ENDPOINT_KEY: Final = struct.Struct("<I")
ENDPOINT_VALUE: Final = struct.Struct("<II I4s16s I4s16s")
ENDPOINT_CLOSED: Final = 1  # flag: drop everything (attached, but no cut with this pod yet)

# --- groups: mmapped array indexed by group index; 2 x {u32 identity, u32 ingress, u32 egress} --
#     identity: node-local identity index; ingress/egress: rule set number
GROUP_VALUE: Final = struct.Struct("<III III")

# --- policies: LPM trie. Key: u32 prefixlen, u32 rule set, u32 peer, u8 direction, u8 protocol,
#     be16 port. Value: u8 verdict (1 allow, 2 deny), 3 x 0, u32 cookie
#     prefixlen = 72: every protocol; 80: one protocol, every port; 80 + n: n leading port bits
POLICY_KEY: Final = struct.Struct("<I II BB 2s")
POLICY_VALUE: Final = struct.Struct("<B 3x I")
POLICY_STATIC_BITS: Final = 72

# --- conntrack: LRU hash. Key: u32 endpoint id, u8 direction, u8 protocol, be16 source port,
#     be16 destination port, u8 family, u8 0, u8 source[16], u8 destination[16]
#     Value: u64 last seen (ns, CLOCK_MONOTONIC), u32 flags (bits below), u32 0
CONNTRACK_KEY: Final = struct.Struct("<I BB 2s 2s B x 16s 16s")
CONNTRACK_VALUE: Final = struct.Struct("<Q I 4x")

# --- fragments: LRU hash. Key: u32 endpoint id (top bit: direction is egress), u32 IP id,
#     u8 source[16], u8 destination[16]. Value: be16 source port, be16 destination port,
#     u8 protocol, padding to 16
FRAGMENT_KEY: Final = struct.Struct("<II 16s 16s")
FRAGMENT_VALUE: Final = struct.Struct("<2s 2s B 11x")

# --- metrics: per-CPU array indexed by reason * 2 + (direction - 1): u64 packets, u64 bytes -----
METRIC_VALUE: Final = struct.Struct("<QQ")

# --- events: ring buffer of EVENT: u64 ns, u32 endpoint id, u32 ifindex, u32 peer identity index,
#     u32 cookie, u8 direction, u8 protocol, u8 family, u8 reason, be16 sport, be16 dport,
#     u8 source[16], u8 destination[16]
EVENT: Final = struct.Struct("<Q IIII BBBB 2s2s 16s16s")


class GroupIndex(enum.IntEnum):
    """Group indices with a fixed meaning; pods and CIDRs begin at FIRST_FREE."""

    NONE = 0  # nothing known: unknown identity, both rule sets closed
    UNKNOWN = 1  # inside the cluster's CIDRs, owner not known
    HOST = 2
    REMOTE_NODE = 3
    WORLD_V4 = 4
    WORLD_V6 = 5
    KUBE_APISERVER = 6
    SERVICE = 7  # inside a service CIDR: not translated yet when tc sees it
    FIRST_FREE = 16


class IdentityIndex(enum.IntEnum):
    """Node-local identity indices with a fixed meaning. 0 in a policy key means any peer."""

    ANY = 0
    UNKNOWN = 1
    HOST = 2
    REMOTE_NODE = 3
    WORLD_V4 = 4
    WORLD_V6 = 5
    KUBE_APISERVER = 6
    SERVICE = 7
    FIRST_FREE = 16


class RuleSetNumber(enum.IntEnum):
    """Rule set 0 has no entries: every look-up misses, every packet drops."""

    CLOSED = 0
    FIRST_FREE = 16


class Reason(enum.IntEnum):
    """Why a packet passed or fell; index of the metrics and `reason` of an event."""

    ALLOWED = 0
    REPLY = 1
    RELATED = 2
    NEIGHBOUR = 3  # ARP, neighbour discovery
    DENIED = 4  # a deny entry
    NO_RULE = 5  # nothing allows it
    CLOSED = 6  # the endpoint has no cut yet
    BAD_SOURCE = 7  # a pod sent from an address that is not its own
    UNKNOWN_PROTOCOL = 8
    FRAGMENT = 9  # a fragment without its first
    MALFORMED = 10
    NO_ENDPOINT = 11  # attached, but not in the endpoints map
    SERVICE = 12  # egress to a service address: not translated yet

    @property
    def passed(self) -> bool:
        return self <= Reason.NEIGHBOUR


class MapSpec(msgspec.Struct, frozen=True):
    id: MapId
    kind: str  # "array", "lpm", "hash", "lru", "percpu_array", "ringbuf"
    key_size: int
    value_size: int
    max_entries: int
    mmap: bool = False
    no_prealloc: bool = False


def map_specs(
    *,
    addresses: int = 524_288,
    endpoints: int = 4_096,
    groups: int = 131_072,
    policies: int = 262_144,
    conntrack: int = 262_144,
    fragments: int = 8_192,
    events_bytes: int = 1 << 20,
) -> dict[MapId, MapSpec]:
    """The maps of a node with their capacities (entries; bytes for the ring buffer)."""
    specs = (
        MapSpec(MapId.CUT, "array", 4, CUT_VALUE.size, 1, mmap=True),
        MapSpec(
            MapId.ADDRESSES, "lpm", ADDRESS_KEY.size, ADDRESS_VALUE.size, addresses,
            no_prealloc=True,
        ),
        MapSpec(
            MapId.ENDPOINTS, "hash", ENDPOINT_KEY.size, ENDPOINT_VALUE.size, endpoints,
            no_prealloc=True,
        ),
        MapSpec(MapId.GROUPS, "array", 4, GROUP_VALUE.size, groups, mmap=True),
        MapSpec(
            MapId.POLICIES, "lpm", POLICY_KEY.size, POLICY_VALUE.size, policies, no_prealloc=True
        ),
        MapSpec(MapId.CONNTRACK, "lru", CONNTRACK_KEY.size, CONNTRACK_VALUE.size, conntrack),
        MapSpec(MapId.FRAGMENTS, "lru", FRAGMENT_KEY.size, FRAGMENT_VALUE.size, fragments),
        MapSpec(MapId.METRICS, "percpu_array", 4, METRIC_VALUE.size, 2 * len(Reason)),
        MapSpec(MapId.EVENTS, "ringbuf", 0, 0, events_bytes),
    )  # fmt: skip
    return {spec.id: spec for spec in specs}
