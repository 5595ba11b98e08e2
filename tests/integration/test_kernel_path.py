"""The packet path in the kernel, packet by packet through PROG_TEST_RUN: no device is needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from reconciler.core.dataplane.layout import (
    CONNTRACK_VALUE,
    ENDPOINT_CLOSED,
    GroupIndex,
    IdentityIndex,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Put, Remove
from reconciler.core.policy.ir import Verdict
from tests.integration.frames import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    address,
    arp,
    ethernet,
    extension,
    icmp,
    inner,
    ip,
    sctp,
    tcp,
    udp,
)
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    address_entry,
    group_entry,
    policy_entry,
)

if TYPE_CHECKING:
    pass

from tests.integration.kernel_endpoint import (
    A4,
    A6,
    ALL_IN,
    ALL_OUT,
    B4,
    B6,
    B_WEB_OUT,
    HOUR,
    IN,
    OUT,
    Make,
    name,
)

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ip(A4, B4, TCP, tcp(1000, 80)), Reason.ALLOWED),
        (ip(A6, B6, TCP, tcp(1000, 80)), Reason.ALLOWED),
        (ip(A4, B4, TCP, tcp(1000, 81)), Reason.NO_RULE),
        (ip(A4, B4, UDP, udp(1000, 80)), Reason.NO_RULE),
        (ip(A4, "192.0.2.1", TCP, tcp(1000, 80)), Reason.NO_RULE),
        (ip(B4, A4, TCP, tcp(1000, 80)), Reason.BAD_SOURCE),
        (ip(B6, A6, TCP, tcp(1000, 80)), Reason.BAD_SOURCE),
        (ip("0.0.0.0", B4, UDP, udp(68, 67)), Reason.BAD_SOURCE),
        (ip("fe80::9", B6, TCP, tcp(1000, 80)), Reason.BAD_SOURCE),
        (ip(A4, B4, 47, bytes(20)), Reason.UNKNOWN_PROTOCOL),
        (ip(A4, B4, ICMPV6, icmp(128)), Reason.UNKNOWN_PROTOCOL),
        (ip(A6, B6, 50, bytes(20)), Reason.UNKNOWN_PROTOCOL),
        (ip(A6, B6, 59, b""), Reason.UNKNOWN_PROTOCOL),
        (ethernet(0x88CC, bytes(40)), Reason.UNKNOWN_PROTOCOL),
        (ethernet(0x8100, b"\0\5\x08\0" + inner(ip(A4, B4, TCP, tcp(1, 80)))),
         Reason.UNKNOWN_PROTOCOL),
        (ip(A4, B4, TCP, tcp(1000, 80)[:19]), Reason.MALFORMED),
        (ip(A4, B4, UDP, udp(1, 2)[:7]), Reason.MALFORMED),
        (ip(A4, B4, SCTP, sctp(1, 2)[:11]), Reason.MALFORMED),
        (ip(A4, B4, ICMP, icmp(8)[:7]), Reason.MALFORMED),
        (ip(A4, B4, TCP, tcp(1000, 80), total=60), Reason.MALFORMED),
        (ip(A4, B4, TCP, tcp(1000, 80), total=0), Reason.MALFORMED),
        (ip(A4, B4, TCP, tcp(1000, 80), total=39), Reason.MALFORMED),
        (ip(A6, B6, TCP, tcp(1000, 80), total=60), Reason.MALFORMED),
        (ip(A6, B6, TCP, tcp(1000, 80), total=0), Reason.MALFORMED),
        (ip(A6, B6, TCP, tcp(1000, 80)).replace(b"\x60\0\0\0", b"\x40\0\0\0", 1),
         Reason.MALFORMED),
        (ip(A4, B4, TCP, tcp(1000, 80)).replace(b"\x45\0", b"\x44\0", 1), Reason.MALFORMED),
        (ip(A4, B4, TCP, tcp(1000, 80)).replace(b"\x45\0", b"\x4f\0", 1), Reason.MALFORMED),
        # Extension headers: six are walked, a seventh is an unknown protocol.
        (ip(A6, B6, 0, extension(60) + extension(TCP) + tcp(1000, 80)), Reason.ALLOWED),
        (ip(A6, B6, 60, extension(60) * 5 + extension(TCP) + tcp(1000, 80)), Reason.ALLOWED),
        (ip(A6, B6, 60, extension(60) * 6 + extension(TCP) + tcp(1000, 80)),
         Reason.UNKNOWN_PROTOCOL),
        (ip(A6, B6, 51, bytes([TCP, 1]) + bytes(10) + tcp(1000, 80)), Reason.ALLOWED),
        (ip(A6, B6, 43, extension(TCP, b"\2" + bytes(5)) + tcp(1000, 80)), Reason.ALLOWED),
        (ip(A6, B6, 43, extension(TCP, b"\0" + bytes(5)) + tcp(1000, 80)), Reason.MALFORMED),
        (ip(A6, B6, 60, bytes([TCP, 200]) + bytes(6) + tcp(1000, 80)), Reason.MALFORMED),
        (ip(A6, B6, 60, bytes([TCP, 0, 1])), Reason.MALFORMED),
        (arp(A4, "169.254.1.1"), Reason.NEIGHBOUR),
        (arp("0.0.0.0", A4), Reason.NEIGHBOUR),
        (arp(B4, "169.254.1.1"), Reason.BAD_SOURCE),
        (arp(A4, "169.254.1.1", ptype=0x86DD), Reason.MALFORMED),
        (arp(A4, "169.254.1.1")[:41], Reason.MALFORMED),
        # Neighbour discovery from a pod: solicitations, its own advertisements, no router's part.
        (ip(A6, "ff02::1:ff00:1", ICMPV6, icmp(135) + address("fe80::1"), hops=255),
         Reason.NEIGHBOUR),
        (ip("::", "ff02::1:ff00:a", ICMPV6, icmp(135) + address(A6), hops=255),
         Reason.NEIGHBOUR),
        (ip("fe80::9", "ff02::2", ICMPV6, icmp(133), hops=255), Reason.NEIGHBOUR),
        (ip(A6, "fe80::1", ICMPV6, icmp(136) + address(A6), hops=255), Reason.NEIGHBOUR),
        (ip(A6, "fe80::1", ICMPV6, icmp(136) + address(B6), hops=255), Reason.BAD_SOURCE),
        (ip(A6, "fe80::1", ICMPV6, icmp(136), hops=255), Reason.MALFORMED),
        (ip(B6, "fe80::1", ICMPV6, icmp(135) + address(A6), hops=255), Reason.BAD_SOURCE),
        (ip("fe80::9", "ff02::1", ICMPV6, icmp(134) + bytes(8), hops=255), Reason.MALFORMED),
        (ip("fe80::9", A6, ICMPV6, icmp(137) + bytes(32), hops=255), Reason.MALFORMED),
        (ip(A6, "fe80::1", ICMPV6, icmp(135) + address("fe80::1"), hops=64), Reason.NO_RULE),
        (ip("fe80::9", "ff02::16", 0, extension(ICMPV6) + icmp(143), hops=1), Reason.NEIGHBOUR),
        (ip("fe80::9", "ff02::16", ICMPV6, icmp(143), hops=2), Reason.BAD_SOURCE),
        (ip(A6, "ff02::16", ICMPV6, icmp(143), hops=1), Reason.NO_RULE),
    ],
    ids=name,
)  # fmt: skip
def test_what_a_pod_sends(kernel_pod: Make, frame: bytes, reason: Reason) -> None:
    pod = kernel_pod(B_WEB_OUT)
    probed = pod.datapath.probe(frame, ifindex=POD_A.ifindex, direction=OUT)
    assert probed is reason
    assert pod.datapath.metrics() == {}, "a probe has no side effects"
    assert pod.flows() == []
    assert pod.sends(frame) is reason
    assert pod.datapath.metrics() == {(reason, OUT): (1, len(frame))}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ip(B4, A4, TCP, tcp(1000, 80)), Reason.ALLOWED),
        (ip(B6, A6, UDP, udp(1000, 53)), Reason.ALLOWED),
        (ip("192.0.2.9", A4, TCP, tcp(1000, 80)), Reason.DENIED),
        (ip(B4, "10.77.0.99", TCP, tcp(1000, 80)), Reason.BAD_SOURCE),
        (ip(B4, "224.0.0.1", UDP, udp(1, 2)), Reason.BAD_SOURCE),
        (arp("169.254.1.1", A4), Reason.NEIGHBOUR),
        (arp("169.254.1.1", A4)[:41], Reason.MALFORMED),
        (ip("fe80::1", A6, ICMPV6, icmp(135) + address(A6), hops=255), Reason.NEIGHBOUR),
        (ip("fe80::1", "ff02::1", ICMPV6, icmp(134) + bytes(8), hops=255), Reason.NEIGHBOUR),
        (ip("fe80::1", "ff02::1", ICMPV6, icmp(130), hops=1), Reason.NEIGHBOUR),
    ],
    ids=name,
)
def test_what_a_pod_is_sent(kernel_pod: Make, frame: bytes, reason: Reason) -> None:
    pod = kernel_pod(ALL_IN, policy_entry(POD_A.ingress, IdentityIndex.WORLD_V4, IN, Verdict.DENY))
    assert pod.gets(frame) is reason


def test_an_unknown_device_and_a_closed_endpoint_pass_nothing(kernel_pod: Make) -> None:
    pod = kernel_pod(ALL_OUT)
    frame = ip(A4, B4, TCP, tcp(1000, 80))
    assert pod.datapath.run(frame, ifindex=999, direction=OUT) is Reason.NO_ENDPOINT
    pod.datapath.apply([Put(MapId.ENDPOINTS, (POD_A.endpoint(flags=ENDPOINT_CLOSED),))])
    assert pod.sends(frame) is Reason.CLOSED
    assert pod.sends(arp(A4, "169.254.1.1")) is Reason.CLOSED
    pod.datapath.apply([Put(MapId.ENDPOINTS, (POD_A.endpoint(),))])
    assert pod.sends(frame) is Reason.ALLOWED


def test_no_group_or_rule_set_is_closed(kernel_pod: Make) -> None:
    pod = kernel_pod(ALL_OUT)
    frame = ip(A4, B4, TCP, tcp(1000, 80))
    pod.datapath.apply([Put(MapId.GROUPS, (group_entry(POD_A.group, POD_A.group, 100, 0),))])
    assert pod.sends(frame) is Reason.CLOSED
    pod.datapath.apply([Put(MapId.ENDPOINTS, (POD_A.endpoint(groups=(5000, 5000)),))])
    assert pod.sends(frame) is Reason.CLOSED


def test_policy_look_ups(kernel_pod: Make) -> None:
    """Port prefixes, whole protocols, any peer; deny on either side wins; odd verdicts are none."""
    e, b, any_ = POD_A.egress, POD_B.group, IdentityIndex.ANY
    pod = kernel_pod(
        policy_entry(e, b, OUT, protocol=TCP, port=8000, port_bits=13, cookie=1),
        policy_entry(e, b, OUT, Verdict.DENY, protocol=TCP, port=8001, cookie=2),
        policy_entry(e, b, OUT, protocol=UDP, cookie=3),
        policy_entry(e, any_, OUT, Verdict.DENY, protocol=UDP, port=53, cookie=4),
        policy_entry(e, any_, OUT, protocol=ICMP, cookie=5),
        policy_entry(e, any_, OUT, 3, protocol=SCTP),
        policy_entry(e, IdentityIndex.UNKNOWN, OUT, protocol=TCP, port=9, cookie=6),
    )

    def verdict(protocol: int, payload: bytes, to: str = B4) -> tuple[Reason, int]:
        reason = pod.sends(ip(A4, to, protocol, payload))
        events = pod.datapath.drain()
        return reason, events[-1].cookie if events else -1

    assert verdict(TCP, tcp(1, 8000)) == (Reason.ALLOWED, 1)
    assert verdict(TCP, tcp(1, 8007)) == (Reason.ALLOWED, 1)
    assert verdict(TCP, tcp(1, 8008))[0] is Reason.NO_RULE
    assert verdict(TCP, tcp(1, 8001)) == (Reason.DENIED, 2)
    assert verdict(UDP, udp(1, 52)) == (Reason.ALLOWED, 3)
    assert verdict(UDP, udp(1, 53)) == (Reason.DENIED, 4)
    assert verdict(ICMP, icmp(8)) == (Reason.ALLOWED, 5)
    assert verdict(SCTP, sctp(1, 2))[0] is Reason.NO_RULE
    pod.datapath.apply([Remove(MapId.ADDRESSES, (address_entry("0.0.0.0/0", 0)[0],))])
    assert verdict(TCP, tcp(1, 9), "192.0.2.1") == (Reason.ALLOWED, 6)


def test_service_addresses(kernel_pod: Make) -> None:
    """Nothing goes to one before it is translated; what comes from one comes from an unknown."""
    pod = kernel_pod(ALL_OUT, policy_entry(POD_A.ingress, IdentityIndex.UNKNOWN, IN))
    service = address_entry("10.96.0.0/12", GroupIndex.SERVICE)
    row = group_entry(GroupIndex.SERVICE, IdentityIndex.SERVICE, 0, 0)
    pod.datapath.apply([Put(MapId.ADDRESSES, (service,)), Put(MapId.GROUPS, (row,))])
    assert pod.sends(ip(A4, "10.96.0.1", TCP, tcp(1, 443))) is Reason.SERVICE
    assert pod.gets(ip("10.96.0.1", A4, TCP, tcp(1, 443))) is Reason.ALLOWED
    assert pod.sends(ip(A4, "10.96.0.1", TCP, tcp(443, 1, SYN | ACK))) is Reason.REPLY


@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)])
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_replies_pass_by_conntrack(kernel_pod: Make, a: str, b: str, protocol: int) -> None:
    payload = {TCP: lambda s, d: tcp(s, d, ACK), UDP: udp, SCTP: sctp}[protocol]
    pod = kernel_pod(ALL_OUT)
    answer = ip(b, a, protocol, payload(80, 1000))
    assert pod.gets(answer) is Reason.NO_RULE, "no flow yet"
    assert pod.sends(ip(a, b, protocol, payload(1000, 80))) is Reason.ALLOWED
    assert pod.gets(answer) is Reason.REPLY
    assert pod.gets(ip(b, a, protocol, payload(80, 1001))) is Reason.NO_RULE
    assert pod.flows() == [(OUT, protocol, 1)]


def test_a_syn_is_no_reply(kernel_pod: Make) -> None:
    pod = kernel_pod(ALL_OUT)
    assert pod.sends(ip(A4, B4, TCP, tcp(1000, 80))) is Reason.ALLOWED
    assert pod.gets(ip(B4, A4, TCP, tcp(80, 1000, SYN))) is Reason.NO_RULE
    assert pod.gets(ip(B4, A4, TCP, tcp(80, 1000, SYN | ACK))) is Reason.REPLY


def test_replies_end_with_the_policy_of_their_flow(kernel_pod: Make) -> None:
    pod = kernel_pod(B_WEB_OUT)
    pod.sends(ip(A4, B4, TCP, tcp(1000, 80)))
    answer = ip(B4, A4, TCP, tcp(80, 1000, ACK))
    assert pod.gets(answer) is Reason.REPLY
    pod.datapath.apply([Remove(MapId.POLICIES, (B_WEB_OUT[0],))])
    assert pod.gets(answer) is Reason.NO_RULE
    pod.datapath.apply([Put(MapId.POLICIES, (B_WEB_OUT,))])
    assert pod.gets(answer) is Reason.REPLY
    pod.datapath.apply([Put(MapId.ADDRESSES, (address_entry(B4, 30),))])
    assert pod.gets(answer) is Reason.NO_RULE, "the address has another owner"


@pytest.mark.parametrize(
    ("packets", "alive", "dead"),
    [
        ("u", 29, 31),
        ("uU", 119, 121),
        ("s", 59, 61),
        ("sA", 21_500, 21_700),
        ("sAr", 9, 11),
        ("sAfF", 9, 11),
        ("sAf", 21_500, 21_700),
    ],
)
def test_flows_expire(kernel_pod: Make, packets: str, alive: int, dead: int) -> None:
    """Lower case: the pod sends; upper case: it gets. u UDP; s SYN; a ACK; f FIN; r RST."""
    flags = {"s": SYN, "a": ACK, "f": FIN | ACK, "r": RST}
    for seconds, expected in ((alive, Reason.REPLY), (dead, Reason.NO_RULE)):
        pod = kernel_pod(ALL_OUT)
        for letter in packets:
            if letter in "uU":
                there, back = ip(A4, B4, UDP, udp(1000, 80)), ip(B4, A4, UDP, udp(80, 1000))
            else:
                flag = flags[letter.lower()]
                there = ip(A4, B4, TCP, tcp(1000, 80, flag))
                back = ip(B4, A4, TCP, tcp(80, 1000, flag))
            assert (pod.sends(there) if letter.islower() else pod.gets(back)).passed
        pod.age(seconds * 10**9)
        last = ip(B4, A4, UDP, udp(80, 1000)) if "u" in packets else ip(
            B4, A4, TCP, tcp(80, 1000, ACK)
        )  # fmt: skip
        assert pod.gets(last) is expected


def test_a_closing_flow_starts_anew_with_a_syn(kernel_pod: Make) -> None:
    pod = kernel_pod(ALL_OUT)
    pod.sends(ip(A4, B4, TCP, tcp(1000, 80, SYN)))
    pod.sends(ip(A4, B4, TCP, tcp(1000, 80, RST)))
    assert pod.flows() == [(OUT, TCP, 8)]
    pod.datapath.drain()
    pod.sends(ip(A4, B4, TCP, tcp(1000, 80, SYN)))
    assert pod.flows() == [(OUT, TCP, 0)]
    assert [event.reason for event in pod.datapath.drain()] == [Reason.ALLOWED]
    pod.age(HOUR)
    pod.sends(ip(A4, B4, TCP, tcp(1000, 80, ACK)))
    assert len(pod.datapath.drain()) == 1, "an expired flow is a new one"


def test_last_seen_is_refreshed_by_both_sides(kernel_pod: Make) -> None:
    pod = kernel_pod(ALL_OUT)
    pod.sends(ip(A4, B4, UDP, udp(1000, 80)))
    for frame, way in (
        (ip(A4, B4, UDP, udp(1000, 80)), pod.sends),
        (ip(B4, A4, UDP, udp(80, 1000)), pod.gets),
    ):
        pod.age(20 * 10**9)
        before = time.monotonic_ns()
        assert way(frame).passed
        (value,) = pod.datapath.dump(MapId.CONNTRACK).values()
        assert CONNTRACK_VALUE.unpack(value)[0] >= before
