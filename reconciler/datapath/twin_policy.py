"""Who a peer is and what policy says, worked out from the packed maps of one half.

Keys and values are those of `core.dataplane.layout`, read here once more and by other means than
the kernel's programs: that is what makes a difference between the two show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from reconciler.core.dataplane.layout import (
    ADDRESS_STATIC_BITS,
    ADDRESS_VALUE,
    CUT_VALUE,
    ENDPOINT_VALUE,
    FAMILY_V4,
    FAMILY_V6,
    GROUP_VALUE,
    POLICY_STATIC_BITS,
    POLICY_VALUE,
    GroupIndex,
    IdentityIndex,
    MapId,
    Reason,
    RuleSetNumber,
)
from reconciler.core.policy.ir import Direction, Verdict
from reconciler.datapath.twin_maps import Table, Trie
from reconciler.datapath.twin_packets import ICMP, ICMPV6

_POLICY_BITS: Final = POLICY_STATIC_BITS + 8 + 16
_CUT_KEY: Final = bytes(4)


class LocalEndpoint(msgspec.Struct, frozen=True):
    """One half of an entry of map `endpoints`. Addresses: 16 bytes, all zero for none."""

    id: int
    flags: int
    group: int
    ipv4: bytes
    ipv6: bytes


class Ruling(msgspec.Struct, frozen=True):
    """reason: ALLOWED, DENIED, NO_RULE, CLOSED or SERVICE. peer: identity index, 0 if not asked.
    cookie: of the entry that decided, 0 if none did."""

    reason: Reason
    peer: int = 0
    cookie: int = 0


class PolicyView:
    """The look-ups of policy on the maps of one twin."""

    def __init__(self, maps: Mapping[MapId, Table]) -> None:
        addresses, policies = maps[MapId.ADDRESSES], maps[MapId.POLICIES]
        assert isinstance(addresses, Trie)
        assert isinstance(policies, Trie)
        self._addresses, self._policies = addresses, policies
        self._endpoints, self._groups = maps[MapId.ENDPOINTS], maps[MapId.GROUPS]
        self._cut = maps[MapId.CUT]

    def half(self) -> int:
        """The half in force."""
        value = self._cut.get(_CUT_KEY)
        assert value is not None
        return int(CUT_VALUE.unpack(value)[0])

    def endpoint(self, ifindex: int, half: int) -> LocalEndpoint | None:
        value = self._endpoints.get(ifindex.to_bytes(4, "little"))
        if value is None:
            return None
        id, flags, *halves = ENDPOINT_VALUE.unpack(value)
        group, ipv4, ipv6 = halves[3 * half : 3 * half + 3]
        return LocalEndpoint(id, flags, group, ipv4 + bytes(12), ipv6)

    def group(self, index: int, half: int) -> tuple[int, int, int] | None:
        """(identity index, ingress rule set, egress rule set); None: there is no such index."""
        value = self._groups.get(index.to_bytes(4, "little"))
        if value is None:
            return None
        identity, ingress, egress = GROUP_VALUE.unpack(value)[3 * half : 3 * half + 3]
        return identity, ingress, egress

    def peer(self, address: bytes, family: int, half: int) -> tuple[int, int]:
        """(group index, identity index) of 16 address bytes."""
        group = self.owner(address, family, half)
        return group, self.identity(group, half)

    def owner(self, address: bytes, family: int, half: int) -> int:
        """Group index of 16 address bytes."""
        length = ADDRESS_STATIC_BITS + (32 if family == FAMILY_V4 else 128)
        value = self._addresses.longest(bytes((family, 0, 0, 0)) + address, length)
        return int(ADDRESS_VALUE.unpack(value)[half]) if value else GroupIndex.NONE

    def identity(self, group: int, half: int) -> int:
        """Identity index of a group index."""
        if group in (GroupIndex.NONE, GroupIndex.SERVICE):
            return IdentityIndex.UNKNOWN
        row = self.group(group, half)
        return (row[0] if row else 0) or IdentityIndex.UNKNOWN

    def judge(
        self,
        group: int,
        half: int,
        direction: Direction,
        address: bytes,
        family: int,
        protocol: int,
        port: int,
    ) -> Ruling:
        """What policy says now to a flow between a pod of `group` and a peer's 16-byte address.
        port: destination port of the flow's first packet, host order; ICMP has none."""
        row = self.group(group, half)
        rule_set = row[1 if direction is Direction.INGRESS else 2] if row else 0
        if rule_set == RuleSetNumber.CLOSED:
            return Ruling(Reason.CLOSED)
        peer_group, identity = self.peer(address, family, half)
        if peer_group == GroupIndex.SERVICE and direction is Direction.EGRESS:
            return Ruling(Reason.SERVICE, IdentityIndex.SERVICE)
        return self.verdict(rule_set, identity, direction, protocol, port)

    def verdict(
        self, rule_set: int, identity: int, direction: Direction, protocol: int, port: int
    ) -> Ruling:
        """What a rule set says about an identity index, or about everybody."""
        if protocol in (ICMP, ICMPV6):
            port = 0
        before = rule_set.to_bytes(4, "little")
        after = bytes((direction, protocol)) + port.to_bytes(2, "big")
        allowed: Ruling | None = None
        for peer in (identity, IdentityIndex.ANY):
            data = before + peer.to_bytes(4, "little") + after
            value = self._policies.longest(data, _POLICY_BITS)
            if value is None:
                continue
            verdict, cookie = POLICY_VALUE.unpack(value)
            if verdict == Verdict.DENY:
                return Ruling(Reason.DENIED, identity, cookie)
            if verdict == Verdict.ALLOW and allowed is None:
                allowed = Ruling(Reason.ALLOWED, identity, cookie)
        return allowed or Ruling(Reason.NO_RULE, identity)


def address_key(address: bytes) -> tuple[bytes, int]:
    """(16 bytes as in map keys, family) of 4 or 16 address bytes."""
    if len(address) == 4:
        return address + bytes(12), FAMILY_V4
    return address, FAMILY_V6
