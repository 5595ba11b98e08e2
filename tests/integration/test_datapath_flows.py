"""Flows, fragments and ICMP errors on every datapath: verdicts that depend on packets before."""

from __future__ import annotations

import pytest

from reconciler.core.dataplane.layout import (
    GroupIndex,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Remove
from reconciler.testing.packets import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Flow,
    ethernet,
    fragments,
    icmp_error,
    ip,
    options_header,
)
from tests.integration.datapath_pod import BOTH, IN, OUT, Make, in_from_b, out_to_b
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    address_entry,
    group_entry,
)

# --- flows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), BOTH)
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_replies_pass_and_new_flows_do_not(make: Make, a: str, b: str, protocol: int) -> None:
    pod = make(out_to_b(protocol))
    flow = Flow(a, b, protocol, 1000, 80)
    assert pod.gets(flow.answer()) is Reason.NO_RULE, "nobody asked"
    assert pod.sends(flow.frame()) is Reason.ALLOWED
    assert pod.gets(flow.answer()) is Reason.REPLY
    other = Flow(a, b, protocol, 1001, 80)
    assert pod.gets(other.answer()) is Reason.NO_RULE, "another port"
    # And the other way round: what the pod is sent, it may answer.
    pod.put(MapId.POLICIES, in_from_b(protocol, 443))
    flow = Flow(b, a, protocol, 2000, 443)
    assert pod.gets(flow.frame()) is Reason.ALLOWED
    assert pod.sends(flow.answer()) is Reason.REPLY


@pytest.mark.parametrize(("a", "b"), BOTH)
def test_a_syn_is_never_a_reply(make: Make, a: str, b: str) -> None:
    pod = make(out_to_b())
    flow = Flow(a, b, TCP, 1000, 80)
    assert pod.sends(flow.frame()) is Reason.ALLOWED
    for flags in (SYN, SYN | FIN, SYN | RST):
        assert pod.gets(flow.answer(flags=flags)) is Reason.NO_RULE
    assert pod.gets(flow.answer(flags=SYN | ACK)) is Reason.REPLY


@pytest.mark.parametrize(("a", "b"), BOTH)
def test_no_syn_hides_behind_a_tiny_first_fragment(make: Make, a: str, b: str) -> None:
    pod = make(out_to_b())
    flow = Flow(a, b, TCP, 1000, 80)
    assert pod.sends(flow.frame()) is Reason.ALLOWED
    segment = flow.reversed.segment(flags=SYN)

    def first(size: int) -> bytes:
        return ethernet(ip(b, a, TCP, segment[:size], more=True))

    assert [pod.gets(first(size)) for size in (3, 4, 8, 13)] == [Reason.MALFORMED] * 4
    assert pod.gets(first(16)) is Reason.NO_RULE


@pytest.mark.parametrize("end", ["rule", "peer", "group"])
def test_a_policy_that_shrinks_ends_its_flows(make: Make, end: str) -> None:
    pod = make(out_to_b(), in_from_b(UDP, 53))
    ours, theirs = Flow(*BOTH[0], TCP, 1000, 80), Flow(*BOTH[0][::-1], UDP, 2000, 53)
    assert pod.sends(ours.frame()) is Reason.ALLOWED
    assert pod.gets(ours.answer()) is Reason.REPLY
    assert pod.gets(theirs.frame()) is Reason.ALLOWED
    assert pod.sends(theirs.answer()) is Reason.REPLY
    if end == "rule":
        pod.forget(MapId.POLICIES, out_to_b(), in_from_b(UDP, 53))
    elif end == "peer":  # the address has another owner
        pod.put(MapId.ADDRESSES, address_entry(POD_B.ipv4, GroupIndex.HOST))
    else:
        pod.put(MapId.GROUPS, group_entry(POD_A.group, POD_A.group, 0, 0))
    expected = Reason.CLOSED if end == "group" else Reason.NO_RULE
    assert pod.gets(ours.answer(flags=ACK)) is expected
    assert pod.sends(ours.frame(flags=ACK)) is expected
    assert pod.sends(theirs.answer()) is expected


OPENING, ANSWERED, CLOSING = ["frame"], ["frame", "answer"], ["frame", "answer", "reset"]


@pytest.mark.parametrize(
    ("protocol", "packets", "seconds"),
    [
        (TCP, OPENING, 60),
        (TCP, ANSWERED, 21_600),
        (TCP, CLOSING, 10),
        (UDP, OPENING, 30),
        (UDP, ANSWERED, 120),
        (SCTP, OPENING, 30),
        (SCTP, ANSWERED, 21_600),
        (ICMP, ANSWERED, 30),
    ],
)
def test_flows_expire(make: Make, protocol: int, packets: list[str], seconds: int) -> None:
    port = None if protocol == ICMP else 80
    pod = make(out_to_b(protocol, port))
    flow = Flow(*BOTH[0], protocol, 1000, 80)
    reply = flow.answer(flags=ACK)

    def begin() -> None:
        for key in pod.datapath.dump(MapId.CONNTRACK):
            pod.datapath.apply([Remove(MapId.CONNTRACK, (key,))])
        assert pod.sends(flow.frame()) is Reason.ALLOWED
        for packet in packets[1:]:
            flags = RST | ACK if packet == "reset" else SYN | ACK
            assert pod.gets(flow.answer(flags=flags)) is Reason.REPLY

    begin()
    pod.age(seconds - 5)
    assert pod.gets(reply) is Reason.REPLY
    begin()
    pod.age(seconds + 1)
    assert pod.gets(reply) is Reason.NO_RULE
    # A packet of the flow's own direction begins it anew, without what was known of the old one.
    assert pod.sends(flow.frame(flags=ACK)) is Reason.ALLOWED
    assert pod.flow_flags() == [0]


def test_what_conntrack_remembers_of_a_connection(make: Make) -> None:
    pod = make(out_to_b())
    flow = Flow(*BOTH[0], TCP, 1000, 80)
    pod.sends(flow.frame())
    assert pod.flow_flags() == [0]
    pod.gets(flow.answer())
    assert pod.flow_flags() == [1]
    pod.sends(flow.frame(flags=ACK | FIN))
    assert pod.flow_flags() == [1 | 2]
    pod.gets(flow.answer(flags=ACK | FIN))
    assert pod.flow_flags() == [1 | 2 | 4]
    pod.sends(flow.frame(flags=ACK))
    assert pod.flow_flags() == [1 | 2 | 4], "the last acknowledgement keeps it closing"
    pod.sends(flow.frame())
    assert pod.flow_flags() == [0], "a SYN begins a new one"
    pod.gets(flow.answer(flags=RST | ACK))
    assert pod.flow_flags() == [1 | 8]


def test_a_flow_is_refreshed_by_both_sides(make: Make) -> None:
    pod = make(out_to_b(UDP))
    flow = Flow(*BOTH[0], UDP, 1000, 80)
    pod.sends(flow.frame())
    pod.gets(flow.answer())
    for direction in (IN, OUT):
        pod.age(100)
        if direction is IN:
            pod.gets(flow.answer())
        else:
            pod.sends(flow.frame())
        pod.age(100)
        assert pod.gets(flow.answer()) is Reason.REPLY


@pytest.mark.parametrize(("a", "b", "protocol"), [(*BOTH[0], ICMP), (*BOTH[1], ICMPV6)])
def test_an_echo_reply_belongs_to_its_request(make: Make, a: str, b: str, protocol: int) -> None:
    pod = make(out_to_b(protocol, None))
    request = Flow(a, b, protocol, 7)
    assert pod.gets(request.answer()) is Reason.NO_RULE
    assert pod.sends(request.answer()) is Reason.BAD_SOURCE
    assert pod.sends(request.reversed.answer()) is Reason.ALLOWED, "allowed, but it opens nothing"
    assert pod.gets(request.answer()) is Reason.NO_RULE
    assert pod.sends(request.frame()) is Reason.ALLOWED
    assert pod.gets(request.answer()) is Reason.REPLY
    assert pod.gets(Flow(a, b, protocol, 8).answer()) is Reason.NO_RULE, "another id"
    assert pod.gets(request.reversed.frame()) is Reason.NO_RULE, "a request is never a reply"


@pytest.mark.parametrize(("a", "b"), BOTH)
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_later_fragments_follow_their_first(make: Make, a: str, b: str, protocol: int) -> None:
    pod = make(out_to_b(protocol))
    flow = Flow(a, b, protocol, 1000, 80)
    first, later, last = flow.fragments(size=64, payload=bytes(150), identification=5)
    assert pod.sends(later) is Reason.FRAGMENT
    assert pod.sends(first) is Reason.ALLOWED
    assert pod.sends(last) is pod.sends(later) is Reason.ALLOWED
    assert pod.gets(later) is Reason.BAD_SOURCE
    _, other, _ = flow.fragments(size=64, payload=bytes(150), identification=6)
    assert pod.sends(other) is Reason.FRAGMENT, "of another packet"
    sctp = Flow(a, b, SCTP, 1000, 80).fragments(size=64, payload=bytes(100), identification=5)
    assert pod.sends(sctp[1]) is Reason.FRAGMENT, "of another protocol"
    # Of a reply too; and what policy forbids now, no fragment passes.
    first, later = flow.reversed.fragments(size=64, payload=bytes(100), identification=9)
    assert pod.gets(later) is Reason.FRAGMENT
    assert pod.gets(first) is pod.gets(later) is Reason.REPLY
    pod.forget(MapId.POLICIES, out_to_b(protocol))
    assert pod.gets(later) is Reason.NO_RULE


@pytest.mark.parametrize(("a", "b"), BOTH)
def test_a_first_fragment_that_fell_is_not_remembered(make: Make, a: str, b: str) -> None:
    pod = make(out_to_b(UDP))
    first, later = Flow(a, b, UDP, 1000, 81).fragments(size=64, payload=bytes(100))
    assert pod.sends(first) is Reason.NO_RULE
    assert pod.sends(later) is Reason.FRAGMENT
    assert pod.datapath.dump(MapId.FRAGMENTS) == {}


@pytest.mark.parametrize(("a", "b", "protocol"), [(*BOTH[0], ICMP), (*BOTH[1], ICMPV6)])
def test_a_fragmented_echo_is_answered(make: Make, a: str, b: str, protocol: int) -> None:
    """In fragments no echo id counts: the later ones don't carry it."""
    pod = make(out_to_b(protocol, None))
    request = Flow(a, b, protocol, 7)
    whole = request.reversed.segment(reply=True, payload=bytes(100))
    first, later = (ethernet(each) for each in fragments(b, a, protocol, whole, size=64))
    assert pod.gets(first) is Reason.NO_RULE, "nobody asked"
    for frame in request.fragments(size=64, payload=bytes(100)):
        assert pod.sends(frame) is Reason.ALLOWED
    assert pod.gets(later) is Reason.FRAGMENT
    assert pod.gets(first) is pod.gets(later) is Reason.REPLY
    assert len(pod.datapath.dump(MapId.CONNTRACK)) == 1


def error(a: str, b: str, about: bytes, *, keep: int | None = None) -> bytes:
    return ethernet(icmp_error(a, b, about, keep=keep))


@pytest.mark.parametrize(("a", "b"), BOTH)
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_errors_about_live_flows_pass(make: Make, a: str, b: str, protocol: int) -> None:
    pod = make(out_to_b(protocol), in_from_b(protocol, 443))
    router = "198.51.100.1" if "." in a else "2001:db8::1"
    ours, theirs = Flow(a, b, protocol, 1000, 80), Flow(b, a, protocol, 2000, 443)
    about_ours, about_answer = ours.packet(), theirs.reversed.packet(flags=ACK)
    assert pod.gets(error(router, a, about_ours)) is Reason.NO_RULE
    pod.sends(ours.frame())
    pod.gets(theirs.frame())
    assert pod.gets(error(router, a, about_ours)) is Reason.RELATED
    assert pod.gets(error(router, a, about_answer)) is Reason.RELATED
    assert pod.sends(error(a, b, theirs.packet())) is Reason.RELATED
    assert pod.sends(error(a, b, ours.reversed.packet())) is Reason.RELATED
    assert pod.sends(error(a, router, theirs.packet())) is Reason.NO_RULE, "to somebody else"
    assert pod.gets(error(router, a, ours.reversed.packet())) is Reason.NO_RULE, "not sent by us"
    assert pod.gets(error(router, a, Flow(a, b, protocol, 1, 80).packet())) is Reason.NO_RULE
    assert pod.gets(error(router, a, about_ours[:24], keep=24)) is Reason.NO_RULE, "cut off"
    pod.age(30_000)
    assert pod.gets(error(router, a, about_ours)) is Reason.NO_RULE
    pod.sends(ours.frame())
    pod.forget(MapId.POLICIES, out_to_b(protocol))
    assert pod.gets(error(router, a, about_ours)) is Reason.NO_RULE


@pytest.mark.parametrize(("headers", "reason"), [(2, Reason.RELATED), (3, Reason.NO_RULE)])
def test_an_error_is_read_through_two_extension_headers(
    make: Make, headers: int, reason: Reason
) -> None:
    pod = make(out_to_b(UDP))
    a, b = BOTH[1]
    chain = (options_header(),) * headers
    about = ip(a, b, UDP, Flow(a, b, UDP, 1000, 80).segment(), extensions=chain)
    assert pod.sends(ethernet(about)) is Reason.ALLOWED
    assert pod.gets(error("2001:db8::1", a, about)) is reason


@pytest.mark.parametrize(("a", "b"), BOTH)
def test_an_error_is_about_a_first_fragment(make: Make, a: str, b: str) -> None:
    pod = make(out_to_b(UDP))
    flow = Flow(a, b, UDP, 1000, 80)
    first, later = flow.fragments(size=64, payload=bytes(100))
    assert pod.sends(first) is Reason.ALLOWED
    assert pod.gets(error(b, a, first[14:])) is Reason.RELATED
    assert pod.gets(error(b, a, later[14:])) is Reason.NO_RULE
