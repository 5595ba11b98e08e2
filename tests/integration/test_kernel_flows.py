"""Packets of one flow after another: echoes, related errors, fragments, flips, events."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from reconciler.core.dataplane.layout import (
    FRAGMENT_KEY,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Flip, Put, Remove
from tests.integration.frames import (
    ICMP,
    ICMPV6,
    MORE,
    TCP,
    UDP,
    address,
    icmp,
    inner,
    ip,
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

from tests.integration.kernel_endpoint import A4, A6, ALL_OUT, B4, B6, B_WEB_OUT, IN, OUT, Make

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("a", "b", "protocol", "request_", "reply"),
    [(A4, B4, ICMP, 8, 0), (A6, B6, ICMPV6, 128, 129)],
)
def test_echo(kernel_pod: Make, a: str, b: str, protocol: int, request_: int, reply: int) -> None:
    pod = kernel_pod(ALL_OUT)
    assert pod.sends(ip(a, b, protocol, icmp(request_, id=5))) is Reason.ALLOWED
    assert pod.gets(ip(b, a, protocol, icmp(reply, id=6))) is Reason.NO_RULE
    assert pod.gets(ip(b, a, protocol, icmp(request_, id=5))) is Reason.NO_RULE
    assert pod.gets(ip(b, a, protocol, icmp(reply, id=5))) is Reason.REPLY
    # An echo reply that policy lets out opens nothing.
    assert pod.sends(ip(a, b, protocol, icmp(reply, id=9))) is Reason.ALLOWED
    assert pod.gets(ip(b, a, protocol, icmp(reply, id=9))) is Reason.NO_RULE
    assert len(pod.flows()) == 1


@pytest.mark.parametrize(
    ("a", "b", "router", "protocol", "type"),
    [
        (A4, B4, "198.51.100.1", ICMP, 3),
        (A4, B4, "198.51.100.1", ICMP, 11),
        (A4, B4, "198.51.100.1", ICMP, 12),
        (A6, B6, "2001:db8::1", ICMPV6, 1),
        (A6, B6, "2001:db8::1", ICMPV6, 2),
        (A6, B6, "2001:db8::1", ICMPV6, 3),
        (A6, B6, "2001:db8::1", ICMPV6, 4),
    ],
)
def test_related_errors(
    kernel_pod: Make, a: str, b: str, router: str, protocol: int, type: int
) -> None:
    pod = kernel_pod(
        B_WEB_OUT,
        policy_entry(POD_A.ingress, POD_B.group, IN, protocol=UDP, port=53),
        policy_entry(POD_A.egress, POD_B.group, OUT, protocol=protocol),
    )

    def error(source: str, to: str, about: bytes) -> bytes:
        return ip(source, to, protocol, icmp(type, payload=inner(about)))

    out = ip(a, b, TCP, tcp(1000, 80))
    assert pod.gets(error(router, a, out)) is Reason.NO_RULE, "no flow yet"
    assert pod.sends(out) is Reason.ALLOWED
    assert pod.gets(error(router, a, out)) is Reason.RELATED
    assert pod.gets(error(router, a, out[:-12])) is Reason.RELATED, "8 bytes of TCP are enough"
    assert pod.gets(error(router, a, out[:-13])) is Reason.NO_RULE
    assert pod.gets(error(router, a, out[:20])) is Reason.NO_RULE
    assert pod.gets(error(router, a, ip(a, b, TCP, tcp(1001, 80)))) is Reason.NO_RULE
    later = ip(a, b, TCP, tcp(1000, 80), fragment=1)
    assert pod.gets(error(router, a, later)) is Reason.NO_RULE
    # The pod answers a query, and its answer meets an error on the way.
    assert pod.gets(ip(b, a, UDP, udp(2000, 53))) is Reason.ALLOWED
    answer = ip(a, b, UDP, udp(53, 2000))
    assert pod.sends(answer) is Reason.REPLY
    assert pod.gets(error(router, a, answer)) is Reason.RELATED
    # The pod sends an error about a query that it got (port unreachable).
    assert pod.sends(error(a, b, ip(b, a, UDP, udp(2000, 53)))) is Reason.RELATED
    assert pod.sends(error(a, b, ip(b, a, UDP, udp(2000, 54)))) is Reason.NO_RULE
    # An echo request of its own.
    echo = ip(a, b, protocol, icmp(8 if protocol == ICMP else 128, id=3))
    assert pod.sends(echo) is Reason.ALLOWED
    assert pod.gets(error(router, a, echo)) is Reason.RELATED
    # And nothing of it survives the policy.
    pod.datapath.apply([Remove(MapId.POLICIES, (B_WEB_OUT[0],))])
    assert pod.gets(error(router, a, out)) is Reason.NO_RULE


@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)])
def test_fragments(kernel_pod: Make, a: str, b: str) -> None:
    pod = kernel_pod(policy_entry(POD_A.egress, POD_B.group, OUT, protocol=UDP, port=53))
    first = ip(a, b, UDP, udp(1000, 53, 64), fragment=MORE, id=9)
    later = ip(a, b, UDP, bytes(64), fragment=9, id=9)
    assert pod.sends(later) is Reason.FRAGMENT, "its first has not been seen"
    assert pod.sends(first) is Reason.ALLOWED
    assert pod.sends(later) is Reason.ALLOWED
    assert pod.sends(ip(a, b, UDP, bytes(64), fragment=9, id=10)) is Reason.FRAGMENT
    assert pod.sends(ip(a, b, TCP, bytes(64), fragment=9, id=9)) is Reason.FRAGMENT
    assert pod.gets(ip(b, a, UDP, bytes(64), fragment=9, id=9)) is Reason.FRAGMENT
    assert pod.sends(ip(a, b, UDP, udp(1, 53)[:3], fragment=MORE, id=11)) is Reason.MALFORMED
    denied = ip(a, b, UDP, udp(1000, 54, 64), fragment=MORE, id=12)
    assert pod.sends(denied) is Reason.NO_RULE
    assert pod.sends(ip(a, b, UDP, bytes(64), fragment=9, id=12)) is Reason.FRAGMENT
    sides = {FRAGMENT_KEY.unpack(key)[0] for key in pod.datapath.dump(MapId.FRAGMENTS)}
    assert sides == {POD_A.id | 1 << 31}, "what the pod sends is apart from what it gets"
    # Fragments of a reply pass as the reply does.
    assert pod.gets(ip(b, a, UDP, udp(53, 1000, 64), fragment=MORE, id=20)) is Reason.REPLY
    assert pod.gets(ip(b, a, UDP, bytes(64), fragment=9, id=20)) is Reason.REPLY
    sides = {FRAGMENT_KEY.unpack(key)[0] for key in pod.datapath.dump(MapId.FRAGMENTS)}
    assert sides == {POD_A.id | 1 << 31, POD_A.id}


def test_fragmented_echo(kernel_pod: Make) -> None:
    pod = kernel_pod(policy_entry(POD_A.egress, POD_B.group, OUT, protocol=ICMP))
    request_ = ip(A4, B4, ICMP, icmp(8, id=3, payload=bytes(56)), fragment=MORE, id=1)
    reply = ip(B4, A4, ICMP, icmp(0, id=3, payload=bytes(56)), fragment=MORE, id=2)
    assert pod.gets(reply) is Reason.NO_RULE
    assert pod.sends(request_) is Reason.ALLOWED
    assert pod.sends(ip(A4, B4, ICMP, bytes(8), fragment=8, id=1)) is Reason.ALLOWED
    assert pod.gets(reply) is Reason.REPLY
    assert pod.gets(ip(B4, A4, ICMP, bytes(8), fragment=8, id=2)) is Reason.REPLY


def test_a_flip_shows_at_once_and_staging_does_not(kernel_pod: Make) -> None:
    """All that belongs to a cut is staged in the idle half; one word changes every verdict."""
    pod = kernel_pod(
        ALL_OUT,
        policy_entry(300, 40, OUT, protocol=TCP, port=80),
    )
    frame = ip(A4, B4, UDP, udp(1, 53))
    web = ip(A4, B4, TCP, tcp(1, 80))
    assert pod.sends(frame) is Reason.ALLOWED
    pod.datapath.apply(
        [
            Put(MapId.ADDRESSES, (address_entry(B4, POD_B.group, 50),)),
            Put(MapId.GROUPS, (group_entry(50, 0, 0, 0, 40, 0, 0),)),
            Put(MapId.GROUPS, (group_entry(51, 0, 0, 0, 41, 0, 300),)),
            Put(MapId.ENDPOINTS, (POD_A.endpoint(groups=(POD_A.group, 51)),)),
        ]
    )
    assert pod.sends(frame) is Reason.ALLOWED
    pod.datapath.apply([Flip(1, 77, b"\x01" * 32)])
    assert pod.sends(frame) is Reason.NO_RULE
    assert pod.sends(web) is Reason.ALLOWED
    cut = pod.datapath.cut()
    assert (cut.active, cut.revisions, cut.roots) == (1, (0, 77), (bytes(32), b"\x01" * 32))
    pod.datapath.apply([Flip(0, 78, b"\x02" * 32)])
    assert pod.sends(frame) is Reason.ALLOWED
    assert pod.datapath.cut().revisions == (78, 77)


def test_events_and_metrics(kernel_pod: Make) -> None:
    pod = kernel_pod(policy_entry(POD_A.egress, POD_B.group, OUT, protocol=TCP, port=80, cookie=99))
    datapath = pod.datapath
    fd = datapath.events_fd
    assert fd is not None
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(0) == []
    web = ip(A4, B4, TCP, tcp(1000, 80))
    before = time.monotonic_ns()
    pod.sends(web)
    pod.sends(web)
    denied = ip(A6, B6, UDP, udp(7, 9))
    pod.sends(denied)
    assert poll.poll(1000)
    first, second = datapath.drain()
    assert before < first.time_ns < time.monotonic_ns()
    assert (first.endpoint, first.ifindex, first.peer, first.cookie) == (
        POD_A.id, POD_A.ifindex, POD_B.group, 99,
    )  # fmt: skip
    assert (first.direction, first.protocol, first.family) == (OUT, TCP, 1)
    assert (first.source, first.destination) == (address(A4), address(B4))
    assert (first.source_port, first.destination_port) == (1000, 80)
    assert first.reason is Reason.ALLOWED
    assert (second.reason, second.family, second.source_port) == (Reason.NO_RULE, 2, 7)
    assert (second.source, second.destination) == (address(A6), address(B6))
    assert datapath.drain() == []
    assert datapath.metrics() == {
        (Reason.ALLOWED, OUT): (2, 2 * len(web)),
        (Reason.NO_RULE, OUT): (1, len(denied)),
    }


def test_a_full_ring_buffer_changes_no_verdict(kernel_pod: Make) -> None:
    pod = kernel_pod(ALL_OUT)
    frame = ip(B4, A4, UDP, udp(7, 9))
    room = os.sysconf("SC_PAGE_SIZE") * 16 // (64 + 8)
    for _ in range(room + 100):
        assert pod.gets(frame) is Reason.NO_RULE
    assert room - 2 <= len(pod.datapath.drain()) <= room
    assert pod.datapath.metrics()[Reason.NO_RULE, IN][0] == room + 100
    pod.gets(frame)
    assert len(pod.datapath.drain()) == 1, "room again"
