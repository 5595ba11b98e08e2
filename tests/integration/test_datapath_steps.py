"""The packet path step by step on every datapath: one frame, one reason.

Pod A may send and be sent everything unless a case says otherwise, so that a frame that reaches
policy is ALLOWED, and whatever else comes out is the step's own doing.
"""

from __future__ import annotations

from typing import Final

import pytest

from reconciler.core.dataplane.layout import (
    ENDPOINT_CLOSED,
    GroupIndex,
    IdentityIndex,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Remove
from reconciler.core.policy.ir import Verdict
from reconciler.testing import neighbours
from reconciler.testing.packets import (
    ESP,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    NO_NEXT_HEADER,
    SCTP,
    TCP,
    UDP,
    Extension,
    Flow,
    authentication_header,
    ethernet,
    fragment_header,
    icmp,
    icmpv6,
    ip,
    options_header,
    routing_header,
)
from tests.integration.datapath_pod import ANY, BOTH, IN, OUT, Make, in_from_b, out_to_b
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    Entry,
    Pod,
    address_entry,
    group_entry,
    policy_entry,
)

A4, A6, B4, B6 = POD_A.ipv4, POD_A.ipv6, POD_B.ipv4, POD_B.ipv6
LOCAL, OTHER_LOCAL = "fe80::a", "fe80::b"
ALL_OUT: Final = policy_entry(POD_A.egress, ANY, OUT)
ALL_IN: Final = policy_entry(POD_A.ingress, ANY, IN)
UDP4, UDP6 = Flow(A4, B4, UDP, 1000, 53), Flow(A6, B6, UDP, 1000, 53)
SEGMENT6: Final = UDP6.segment()


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes((value,)) + frame[at + 1 :]


def extended(*extensions: Extension, protocol: int = UDP, payload: bytes = SEGMENT6) -> bytes:
    return ethernet(ip(A6, B6, protocol, payload, extensions=extensions))


def mld(source: str, destination: str, type: int, hops: int = 1) -> bytes:
    message = icmpv6(source, destination, type, payload=bytes(16))
    return ethernet(ip(source, destination, ICMPV6, message, hops=hops))


SENT: Final[dict[str, tuple[bytes, Reason]]] = {
    # source check
    "own IPv4 address": (UDP4.frame(), Reason.ALLOWED),
    "own IPv6 address": (UDP6.frame(), Reason.ALLOWED),
    "another pod's IPv4 address": (UDP4.reversed.frame(), Reason.BAD_SOURCE),
    "another pod's IPv6 address": (UDP6.reversed.frame(), Reason.BAD_SOURCE),
    "no IPv4 address": (Flow("0.0.0.0", B4, UDP).frame(), Reason.BAD_SOURCE),
    "no IPv6 address": (Flow("::", B6, UDP).frame(), Reason.BAD_SOURCE),
    "link-local, not a neighbour message": (Flow(LOCAL, B6, UDP).frame(), Reason.BAD_SOURCE),
    "to a multicast group": (Flow(A6, "ff02::fb", UDP).frame(), Reason.ALLOWED),
    # ethertype
    "VLAN tag": (ethernet(UDP4.packet(), vlan=5), Reason.UNKNOWN_PROTOCOL),
    "LLDP": (ethernet(bytes(46), ethertype=0x88CC), Reason.UNKNOWN_PROTOCOL),
    "length instead of a type": (ethernet(bytes(46), ethertype=46), Reason.UNKNOWN_PROTOCOL),
    # ARP
    "ARP request": (neighbours.arp(A4, B4), Reason.NEIGHBOUR),
    "ARP reply": (neighbours.arp(A4, B4, reply=True), Reason.NEIGHBOUR),
    "ARP probe": (neighbours.arp("0.0.0.0", A4), Reason.NEIGHBOUR),
    "ARP for another": (neighbours.arp(B4, A4, reply=True), Reason.BAD_SOURCE),
    "ARP cut off": (neighbours.arp(A4, B4)[:41], Reason.MALFORMED),
    "ARP not of Ethernet": (changed(neighbours.arp(A4, B4), 15, 6), Reason.MALFORMED),
    "ARP not for IPv4": (changed(neighbours.arp(A4, B4), 16, 0x86), Reason.MALFORMED),
    # IPv4 header
    "IPv4 options": (ethernet(ip(A4, B4, UDP, UDP4.segment(), options=bytes(8))), Reason.ALLOWED),
    "IPv4 of version 6": (changed(UDP4.frame(), 14, 0x65), Reason.MALFORMED),
    "IPv4 header length 4": (changed(UDP4.frame(), 14, 0x44), Reason.MALFORMED),
    "IPv4 header past the end": (changed(UDP4.frame(), 14, 0x4F), Reason.MALFORMED),
    "IPv4 longer than the frame": (
        ethernet(ip(A4, B4, UDP, UDP4.segment(), length=29)),
        Reason.MALFORMED,
    ),
    "IPv4 shorter than its header": (
        ethernet(ip(A4, B4, UDP, UDP4.segment(), length=19)),
        Reason.MALFORMED,
    ),
    "IPv4 without length": (
        ethernet(ip(A4, B4, UDP, UDP4.segment(), length=0)),
        Reason.MALFORMED,
    ),
    "Ethernet padding": (UDP4.frame() + bytes(18), Reason.ALLOWED),
    "transport header in the padding": (
        ethernet(ip(A4, B4, UDP, b"")) + UDP4.segment(),
        Reason.MALFORMED,
    ),
    # IPv6 header and extension headers
    "IPv6 of version 4": (changed(UDP6.frame(), 14, 0x40), Reason.MALFORMED),
    "IPv6 longer than the frame": (
        ethernet(ip(A6, B6, UDP, SEGMENT6, length=9)),
        Reason.MALFORMED,
    ),
    "IPv6 without content": (ethernet(ip(A6, B6, UDP, SEGMENT6, length=0)), Reason.MALFORMED),
    "options before transport": (
        extended(options_header(HOP_BY_HOP), options_header(units=3)),
        Reason.ALLOWED,
    ),
    "authentication header": (extended(authentication_header()), Reason.ALLOWED),
    "routing header type 2": (extended(routing_header(2, data=bytes(20))), Reason.ALLOWED),
    "routing header type 0": (extended(routing_header(0)), Reason.MALFORMED),
    "routing header type 0 behind options": (
        extended(options_header(), routing_header(0)),
        Reason.MALFORMED,
    ),
    "fragment header of a whole packet": (
        extended(fragment_header(0, more=False)),
        Reason.ALLOWED,
    ),
    "six extension headers": (extended(*[options_header()] * 6), Reason.ALLOWED),
    "seven extension headers": (extended(*[options_header()] * 7), Reason.UNKNOWN_PROTOCOL),
    "extension header past the end": (
        extended(Extension(60, bytes((9, 1, 4, 0, 0, 0, 0)))),
        Reason.MALFORMED,
    ),
    "extension header cut off": (extended(protocol=60, payload=bytes(7)), Reason.MALFORMED),
    "fragment of a fragment": (
        extended(fragment_header(0, more=True), fragment_header(0, more=True)),
        Reason.MALFORMED,
    ),
    "ESP": (extended(protocol=ESP, payload=bytes(32)), Reason.UNKNOWN_PROTOCOL),
    "no next header": (extended(protocol=NO_NEXT_HEADER, payload=b""), Reason.UNKNOWN_PROTOCOL),
    # neighbour discovery and listener messages
    "neighbour solicitation": (
        ethernet(neighbours.neighbour_solicitation(A6, B6)),
        Reason.NEIGHBOUR,
    ),
    "duplicate address detection": (
        ethernet(neighbours.neighbour_solicitation("::", A6)),
        Reason.NEIGHBOUR,
    ),
    "solicitation from link-local": (
        ethernet(neighbours.neighbour_solicitation(LOCAL, B6)),
        Reason.NEIGHBOUR,
    ),
    "solicitation from another's address": (
        ethernet(neighbours.neighbour_solicitation(B6, A6)),
        Reason.BAD_SOURCE,
    ),
    "advertisement of its own": (
        ethernet(neighbours.neighbour_advertisement(A6, A6)),
        Reason.NEIGHBOUR,
    ),
    "advertisement of link-local": (
        ethernet(neighbours.neighbour_advertisement(LOCAL, LOCAL)),
        Reason.NEIGHBOUR,
    ),
    "advertisement of another's": (
        ethernet(neighbours.neighbour_advertisement(A6, B6)),
        Reason.BAD_SOURCE,
    ),
    "advertisement of nothing": (
        ethernet(neighbours.neighbour_advertisement(A6, "::")),
        Reason.BAD_SOURCE,
    ),
    "advertisement without a target": (
        ethernet(ip(A6, B6, ICMPV6, icmpv6(A6, B6, 136, payload=bytes(15)), hops=255)),
        Reason.MALFORMED,
    ),
    "router solicitation": (ethernet(neighbours.router_solicitation(LOCAL)), Reason.NEIGHBOUR),
    "router advertisement": (
        ethernet(neighbours.router_advertisement(LOCAL)),
        Reason.MALFORMED,
    ),
    "redirect": (ethernet(neighbours.redirect(LOCAL, B6, A6, B6)), Reason.MALFORMED),
    "solicitation from afar is ordinary ICMPv6": (
        ethernet(neighbours.neighbour_solicitation(A6, B6, hops=254)),
        Reason.ALLOWED,
    ),
    "solicitation with a code is ordinary ICMPv6": (
        ethernet(ip(A6, B6, ICMPV6, icmpv6(A6, B6, 135, 1, payload=bytes(16)), hops=255)),
        Reason.ALLOWED,
    ),
    "solicitation in a fragment": (
        ethernet(
            ip(LOCAL, B6, ICMPV6, icmpv6(LOCAL, B6, 135, payload=bytes(16)), hops=255, more=True)
        ),
        Reason.BAD_SOURCE,
    ),
    "listener report": (ethernet(neighbours.listener_report(LOCAL, "ff02::5")), Reason.NEIGHBOUR),
    "listener report of version 1": (
        ethernet(neighbours.listener_report("::", "ff02::5", version=1)),
        Reason.NEIGHBOUR,
    ),
    "listener done": (
        ethernet(neighbours.listener_report(LOCAL, "ff02::5", done=True)),
        Reason.NEIGHBOUR,
    ),
    "listener report from afar": (mld(LOCAL, "ff02::16", 143, hops=2), Reason.BAD_SOURCE),
    "listener report to one host": (mld(LOCAL, B6, 143), Reason.BAD_SOURCE),
    "listener report from its own address": (mld(A6, "ff02::16", 143), Reason.ALLOWED),
    # fragments
    "later IPv4 fragment alone": (
        ethernet(ip(A4, B4, UDP, bytes(64), fragment_offset=8)),
        Reason.FRAGMENT,
    ),
    "later IPv6 fragment alone": (
        ethernet(ip(A6, B6, UDP, bytes(64), fragment_offset=8)),
        Reason.FRAGMENT,
    ),
    "first fragment": (ethernet(ip(A4, B4, UDP, bytes(16), more=True)), Reason.ALLOWED),
    "tiny IPv4 fragment": (ethernet(ip(A4, B4, UDP, bytes(3), more=True)), Reason.MALFORMED),
    "tiny IPv6 fragment": (ethernet(ip(A6, B6, SCTP, bytes(3), more=True)), Reason.MALFORMED),
    "tiny ICMP fragment": (ethernet(ip(A4, B4, ICMP, b"\x08", more=True)), Reason.MALFORMED),
    "fragment of an unknown protocol": (
        ethernet(ip(A4, B4, 47, bytes(64), more=True)),
        Reason.UNKNOWN_PROTOCOL,
    ),
    # transport
    **{
        f"{name} header {'whole' if size == full else 'cut off'}": (
            ethernet(ip(A4, B4, protocol, (b"\x08" + bytes(40))[:size])),
            Reason.ALLOWED if size == full else Reason.MALFORMED,
        )
        for name, protocol, full in (
            ("TCP", TCP, 20), ("UDP", UDP, 8), ("SCTP", SCTP, 12), ("ICMP", ICMP, 8),
        )
        for size in (full, full - 1)
    },
    "GRE": (ethernet(ip(A4, B4, 47, bytes(40))), Reason.UNKNOWN_PROTOCOL),
    "ICMP in IPv6": (ethernet(ip(A6, B6, ICMP, icmp(8))), Reason.UNKNOWN_PROTOCOL),
    "ICMPv6 in IPv4": (ethernet(ip(A4, B4, ICMPV6, icmp(128))), Reason.UNKNOWN_PROTOCOL),
    "ICMP error about nothing": (ethernet(ip(A4, B4, ICMP, icmp(3))), Reason.NO_RULE),
    "ICMPv6 error about nothing": (ethernet(ip(A6, B6, ICMPV6, icmpv6(A6, B6, 2))), Reason.NO_RULE),
    "ICMP that is no error": (ethernet(ip(A4, B4, ICMP, icmp(13))), Reason.ALLOWED),
}  # fmt: skip

RECEIVED: Final[dict[str, tuple[bytes, Reason]]] = {
    "for its IPv4 address": (UDP4.reversed.frame(), Reason.ALLOWED),
    "for its IPv6 address": (UDP6.reversed.frame(), Reason.ALLOWED),
    "for another IPv4 address": (UDP4.frame(), Reason.BAD_SOURCE),
    "for another IPv6 address": (UDP6.frame(), Reason.BAD_SOURCE),
    "for a multicast group": (Flow(B6, "ff02::fb", UDP).frame(), Reason.BAD_SOURCE),
    "ARP request": (neighbours.arp(B4, A4), Reason.NEIGHBOUR),
    "ARP not of Ethernet": (changed(neighbours.arp(B4, A4), 15, 6), Reason.NEIGHBOUR),
    "ARP cut off": (neighbours.arp(B4, A4)[:41], Reason.MALFORMED),
    "neighbour solicitation": (
        ethernet(neighbours.neighbour_solicitation(B6, A6)),
        Reason.NEIGHBOUR,
    ),
    "neighbour advertisement": (
        ethernet(neighbours.neighbour_advertisement(B6, B6)),
        Reason.NEIGHBOUR,
    ),
    "router advertisement": (
        ethernet(neighbours.router_advertisement(OTHER_LOCAL)),
        Reason.NEIGHBOUR,
    ),
    "redirect": (ethernet(neighbours.redirect(OTHER_LOCAL, A6, B6, B6)), Reason.NEIGHBOUR),
    "solicitation from afar, not for it": (
        ethernet(neighbours.neighbour_solicitation(B6, A6, hops=64)),
        Reason.BAD_SOURCE,
    ),
    "listener query": (ethernet(neighbours.listener_query(OTHER_LOCAL)), Reason.NEIGHBOUR),
    "listener query from a global address": (mld(B6, "ff02::1", 130), Reason.BAD_SOURCE),
    "routing header type 0": (
        ethernet(ip(B6, A6, UDP, SEGMENT6, extensions=(routing_header(0),))),
        Reason.MALFORMED,
    ),
    "later fragment alone": (
        ethernet(ip(B4, A4, UDP, bytes(64), fragment_offset=8)),
        Reason.FRAGMENT,
    ),
    "SCTP": (Flow(B4, A4, SCTP).frame(), Reason.ALLOWED),
    "GRE": (ethernet(ip(B4, A4, 47, bytes(40))), Reason.UNKNOWN_PROTOCOL),
}


@pytest.mark.parametrize("name", SENT)
def test_what_a_pod_sends(make: Make, name: str) -> None:
    frame, reason = SENT[name]
    pod = make(ALL_OUT, ALL_IN)
    assert pod.datapath.probe(frame, ifindex=POD_A.ifindex, direction=OUT) is reason
    assert pod.sends(frame) is reason


@pytest.mark.parametrize("name", RECEIVED)
def test_what_a_pod_is_sent(make: Make, name: str) -> None:
    frame, reason = RECEIVED[name]
    pod = make(ALL_OUT, ALL_IN)
    assert pod.datapath.probe(frame, ifindex=POD_A.ifindex, direction=IN) is reason
    assert pod.gets(frame) is reason


EVERY_KIND = [
    neighbours.arp(A4, B4),
    ethernet(neighbours.neighbour_solicitation("::", A6)),
    UDP4.frame(),
    UDP6.frame(),
    ethernet(bytes(46), ethertype=0x88CC),
]


@pytest.mark.parametrize("frame", EVERY_KIND)
def test_nothing_passes_without_an_endpoint_or_before_it_opens(make: Make, frame: bytes) -> None:
    pod = make(ALL_OUT, ALL_IN)
    pod.put(MapId.ENDPOINTS, POD_A.endpoint(flags=ENDPOINT_CLOSED))
    assert pod.sends(frame) is pod.gets(frame) is Reason.CLOSED
    pod.datapath.apply([Remove(MapId.ENDPOINTS, (POD_A.endpoint()[0],))])
    assert pod.sends(frame) is pod.gets(frame) is Reason.NO_ENDPOINT


def test_an_address_that_a_pod_does_not_have(make: Make) -> None:
    pod = make(ALL_OUT, ALL_IN)
    pod.put(MapId.ENDPOINTS, Pod(POD_A.number, POD_A.ifindex).endpoint())
    for frame in (UDP4.frame(), UDP6.frame(), Flow("0.0.0.0", B4).frame(), Flow("::", B6).frame()):
        assert pod.sends(frame) is Reason.BAD_SOURCE
    assert pod.sends(neighbours.arp(A4, B4)) is Reason.BAD_SOURCE
    assert pod.sends(neighbours.arp("0.0.0.0", A4)) is Reason.NEIGHBOUR


# --- policy -------------------------------------------------------------------------------------

ALLOW, DENY = Verdict.ALLOW, Verdict.DENY


def rule(peer: int, verdict: int = ALLOW, **which: int) -> Entry:
    return policy_entry(POD_A.egress, peer, OUT, verdict, **which)


B, HOST = POD_B.group, IdentityIndex.HOST


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ([], Reason.NO_RULE),
        ([rule(ANY)], Reason.ALLOWED),
        ([rule(B)], Reason.ALLOWED),
        ([rule(HOST)], Reason.NO_RULE),
        ([rule(B, protocol=TCP)], Reason.ALLOWED),
        ([rule(B, protocol=UDP)], Reason.NO_RULE),
        ([rule(B, protocol=TCP, port=80)], Reason.ALLOWED),
        ([rule(B, protocol=TCP, port=81)], Reason.NO_RULE),
        ([rule(B, protocol=TCP, port=80, port_bits=12)], Reason.ALLOWED),
        ([rule(B, protocol=TCP, port=96, port_bits=12)], Reason.NO_RULE),
        ([rule(B), rule(ANY, DENY)], Reason.DENIED),
        ([rule(ANY), rule(B, DENY)], Reason.DENIED),
        ([rule(ANY, protocol=TCP, port=80), rule(B, DENY)], Reason.DENIED),
        ([rule(B, protocol=TCP, port=80), rule(ANY, DENY, protocol=TCP)], Reason.DENIED),
        ([rule(B, DENY, protocol=UDP), rule(ANY)], Reason.ALLOWED),
        # Of one peer only the longest entry speaks: that is the compiler's to know.
        ([rule(B, DENY), rule(B, protocol=TCP, port=80)], Reason.ALLOWED),
        ([rule(B, protocol=TCP), rule(B, DENY, protocol=TCP, port=80)], Reason.DENIED),
        # A verdict that is none is no entry.
        ([rule(B, 0)], Reason.NO_RULE),
        ([rule(B, 3), rule(ANY)], Reason.ALLOWED),
        # Another rule set's, the other direction's.
        ([policy_entry(POD_A.ingress, ANY, OUT)], Reason.NO_RULE),
        ([policy_entry(POD_A.egress, ANY, IN)], Reason.NO_RULE),
    ],
)
def test_policy_looks_up_the_peer_and_any(make: Make, rules: list[Entry], reason: Reason) -> None:
    for a, b in BOTH:
        assert make(*rules).sends(Flow(a, b, TCP, 1000, 80).frame()) is reason


def test_the_port_is_the_destinations(make: Make) -> None:
    pod = make(out_to_b(), in_from_b(port=443))
    assert pod.sends(Flow(A4, B4, TCP, 80, 1000).frame()) is Reason.NO_RULE
    assert pod.gets(Flow(B4, A4, TCP, 443, 1000).frame()) is Reason.NO_RULE
    assert pod.gets(Flow(B4, A4, TCP, 1000, 443).frame()) is Reason.ALLOWED


def test_icmp_has_no_port(make: Make) -> None:
    pod = make(out_to_b(ICMP, 8))
    assert pod.sends(Flow(A4, B4, ICMP, 8).frame()) is Reason.NO_RULE
    for entry in (out_to_b(ICMP, None), out_to_b(None, None)):
        pod = make(entry)
        assert pod.sends(Flow(A4, B4, ICMP, 8).frame()) is Reason.ALLOWED


@pytest.mark.parametrize("group", [GroupIndex.NONE, GroupIndex.UNKNOWN, 77, 1 << 30])
def test_peers_that_nobody_knows_are_unknown(make: Make, group: int) -> None:
    """No owner, an owner without an identity, one past the end: never world, never a pod."""
    pod = make(out_to_b(None, None), policy_entry(POD_A.egress, IdentityIndex.WORLD_V4, OUT))
    pod.put(MapId.GROUPS, group_entry(GroupIndex.UNKNOWN, IdentityIndex.UNKNOWN, 0, 0))
    pod.put(MapId.GROUPS, group_entry(GroupIndex.NONE, IdentityIndex.WORLD_V4, 0, 0))
    pod.put(MapId.ADDRESSES, address_entry(B4, group))
    frame = Flow(A4, B4, TCP).frame()
    assert pod.sends(frame) is Reason.NO_RULE
    pod.put(MapId.POLICIES, policy_entry(POD_A.egress, IdentityIndex.UNKNOWN, OUT))
    assert pod.sends(frame) is Reason.ALLOWED
    pod.put(MapId.POLICIES, policy_entry(POD_A.egress, IdentityIndex.UNKNOWN, OUT, DENY))
    pod.put(MapId.POLICIES, ALL_OUT)
    assert pod.sends(frame) is Reason.DENIED


def test_an_address_in_no_prefix_is_unknown(make: Make) -> None:
    pod = make(policy_entry(POD_A.egress, IdentityIndex.UNKNOWN, OUT))
    assert pod.sends(Flow(A4, "192.0.2.1").frame()) is Reason.NO_RULE, "world"
    for key in pod.datapath.dump(MapId.ADDRESSES):
        pod.datapath.apply([Remove(MapId.ADDRESSES, (key,))])
    assert pod.sends(Flow(A4, "192.0.2.1").frame()) is Reason.ALLOWED


@pytest.mark.parametrize(
    ("wide", "narrow", "inside", "outside"),
    [
        ("192.0.0.0/8", "192.0.2.0/23", "192.0.3.255", "192.0.4.0"),
        ("192.0.2.0/24", "192.0.2.7", "192.0.2.7", "192.0.2.6"),
        ("2001:db8::/32", "2001:db8:0:8::/61", "2001:db8:0:f::1", "2001:db8:0:10::1"),
        ("::/0", "2001:db8::7", "2001:db8::7", "2001:db8::6"),
    ],
)
def test_the_longest_prefix_owns_an_address(
    make: Make, wide: str, narrow: str, inside: str, outside: str
) -> None:
    pod = make(policy_entry(POD_A.egress, 41, OUT))
    pod.put(MapId.GROUPS, group_entry(40, 40, 0, 0), group_entry(41, 41, 0, 0))
    pod.put(MapId.ADDRESSES, address_entry(wide, 40), address_entry(narrow, 41))
    source = A6 if ":" in wide else A4
    assert pod.sends(Flow(source, inside, UDP).frame()) is Reason.ALLOWED
    assert pod.sends(Flow(source, outside, UDP).frame()) is Reason.NO_RULE
    pod.forget(MapId.ADDRESSES, address_entry(narrow, 41))
    assert pod.sends(Flow(source, inside, UDP).frame()) is Reason.NO_RULE


@pytest.mark.parametrize("group", [GroupIndex.NONE, 77, 1 << 30])
def test_no_rule_set_is_closed(make: Make, group: int) -> None:
    pod = make(ALL_OUT, ALL_IN, policy_entry(0, ANY, OUT), policy_entry(0, ANY, IN))
    pod.put(MapId.ENDPOINTS, POD_A.endpoint(groups=(group, POD_A.group)))
    assert pod.sends(UDP4.frame()) is Reason.CLOSED
    assert pod.gets(UDP4.reversed.frame()) is Reason.CLOSED
    assert pod.sends(neighbours.arp(A4, B4)) is Reason.NEIGHBOUR


def test_service_addresses_wait_for_their_translation(make: Make) -> None:
    pod = make(ALL_OUT, ALL_IN)
    for a, service in ((A4, "10.96.0.0/12"), (A6, "fd96::/108")):
        address = service.partition("/")[0]
        pod.put(MapId.ADDRESSES, address_entry(service, GroupIndex.SERVICE))
        assert pod.sends(Flow(a, address, TCP).frame()) is Reason.SERVICE
        assert pod.gets(Flow(address, a, TCP).frame()) is Reason.ALLOWED, "from an unknown peer"
    pod.put(MapId.POLICIES, policy_entry(POD_A.ingress, IdentityIndex.UNKNOWN, IN, DENY))
    assert pod.gets(Flow("10.96.0.0", A4, UDP).frame()) is Reason.DENIED
    pod.put(MapId.GROUPS, group_entry(POD_A.group, POD_A.group, POD_A.ingress, 0))
    assert pod.sends(Flow(A4, "10.96.0.0", TCP).frame()) is Reason.CLOSED
