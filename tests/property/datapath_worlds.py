"""Random map contents and packets over a universe small enough that they meet.

Few addresses, ports, groups and rule sets: so that a packet finds entries, a second packet finds
the flow of the first, and a later fragment finds its first. Half of all frames keep to the forms
that hosts send; the others are changed, cut or padded somewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

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
    MapId,
)
from reconciler.core.dataplane.ops import Op, Put, Remove
from reconciler.core.objects.net import mask
from reconciler.core.policy.ir import Direction
from reconciler.testing import neighbours
from reconciler.testing.packets import (
    ACK,
    FIN,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Flow,
    address,
    authentication_header,
    ethernet,
    fragment_header,
    fragments,
    icmp_error,
    ip,
    options_header,
    routing_header,
)

IFINDEXES = (101, 102, 103)  # of the third there is never an endpoint
OWN4, OWN6 = (address("10.0.0.1"), address("10.0.0.2")), (address("fd00::1"), address("fd00::2"))
PEERS4 = tuple(map(address, ("10.0.0.2", "10.0.0.3", "10.0.1.3", "192.0.2.1")))
PEERS6 = tuple(map(address, ("fd00::2", "fd00::3", "fd00:0:0:1::3", "2001:db8::1", "fe80::1")))
PORTS = (0, 80, 81, 443)
OPEN_PORT = 1000  # of the side that begins, mostly
GROUPS = (16, 17, 18)
RULE_SETS = (16, 17)
BEYOND = 1 << 20  # past the end of map `groups`

_directions = st.sampled_from(Direction)
_SHORTEST = {b"\x08\x00": 14 + 20, b"\x86\xdd": 14 + 40}  # of a frame, by its ethertype


@functools.cache
def among(*options: Any) -> st.SearchStrategy[Any]:
    """`sampled_from`, one object for the same options: making and validating one is what costs."""
    return st.sampled_from(options)


class Sent(msgspec.Struct, frozen=True):
    """A frame at a device. Shown as hexadecimal digits, to be read with any dissector."""

    ifindex: int
    direction: Direction
    frame: bytes

    def __repr__(self) -> str:
        return f"Sent({self.ifindex}, {self.direction!r}, {self.frame.hex()})"


class Aged(msgspec.Struct, frozen=True):
    """Every flow was last seen so much earlier. Never whole seconds: sums stay off the limits."""

    nanoseconds: int


class Flipped(msgspec.Struct, frozen=True):
    half: int


class Changed(msgspec.Struct, frozen=True):
    op: Op


Step = Sent | Aged | Flipped | Changed


# --- maps ---------------------------------------------------------------------------------------


@st.composite
def address_entries(draw: st.DrawFn) -> tuple[bytes, bytes]:
    if draw(st.booleans()):
        data, family = draw(among(*PEERS4)), 1
        length = draw(among(0, 8, 24, 31, 32))
    else:
        data, family = draw(among(*PEERS6)), 2
        length = draw(among(0, 10, 64, 127, 128))
    group = among(*GROUPS, *GROUPS, 0, 1, 4, 7, BEYOND)
    key = ADDRESS_KEY.pack(ADDRESS_STATIC_BITS + length, family, mask(data, length))
    return key, ADDRESS_VALUE.pack(draw(group), draw(group))


@st.composite
def endpoint_entries(draw: st.DrawFn, number: int) -> tuple[bytes, bytes]:
    halves: list[int | bytes] = []
    for _ in range(2):
        group = draw(among(*GROUPS * 6, 0, BEYOND))
        ipv4 = draw(among(*[OWN4[number]] * 9, bytes(4)))
        ipv6 = draw(among(*[OWN6[number]] * 9, bytes(16)))
        halves += [group, ipv4, ipv6]
    flags = draw(among(*[0] * 18, 1, 2))
    key = ENDPOINT_KEY.pack(IFINDEXES[number])
    return key, ENDPOINT_VALUE.pack(number + 1, flags, *halves)


@st.composite
def group_entries(draw: st.DrawFn, index: int) -> tuple[bytes, bytes]:
    identity = among(16, 17, 18, 0, 1)
    rule_set = among(*RULE_SETS * 9, 0, 99)
    numbers = [draw(each) for _ in range(2) for each in (identity, rule_set, rule_set)]
    return index.to_bytes(4, "little"), GROUP_VALUE.pack(*numbers)


@st.composite
def policy_entries(draw: st.DrawFn) -> tuple[bytes, bytes]:
    peer = draw(among(0, 0, 0, 1, 16, 17, 18))
    protocol = draw(among(0, 0, TCP, TCP, UDP, SCTP, ICMP, ICMPV6))
    bits, port = 0, 0
    if protocol:
        bits = draw(among(8, 8, 9, 15, 18, 20, 23, 24))
        port = draw(among(*PORTS))
        port = port >> (24 - bits) << (24 - bits)
    key = POLICY_KEY.pack(
        POLICY_STATIC_BITS + bits,
        draw(among(*RULE_SETS)),
        peer,
        draw(_directions),
        protocol,
        port.to_bytes(2, "big"),
    )
    verdict = draw(among(1, 1, 1, 1, 2, 0, 3))
    return key, POLICY_VALUE.pack(verdict, draw(st.integers(0, 2**32 - 1)))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Op, ...]:
    """Contents of the maps; a Put each."""
    numbers = draw(among(*[(0, 1)] * 9, (0,)))
    # Allow rules that match much, so that the later steps of the path are reached.
    wide = [
        (
            POLICY_KEY.pack(POLICY_STATIC_BITS, rule_set, 0, direction, 0, b"\0\0"),
            POLICY_VALUE.pack(1, 7),
        )
        for rule_set in RULE_SETS
        for direction in Direction
        if draw(among(True, True, True, False))
    ]
    return (
        Put(MapId.ADDRESSES, tuple(draw(st.lists(address_entries(), max_size=8)))),
        Put(MapId.ENDPOINTS, tuple(draw(endpoint_entries(number)) for number in numbers)),
        Put(MapId.GROUPS, tuple(draw(group_entries(index)) for index in (0, *GROUPS))),
        Put(MapId.POLICIES, (*wide, *draw(st.lists(policy_entries(), max_size=10)))),
    )


def changes() -> st.SearchStrategy[Op]:
    return st.one_of(
        policy_entries().map(lambda entry: Put(MapId.POLICIES, (entry,))),
        policy_entries().map(lambda entry: Remove(MapId.POLICIES, (entry[0],))),
        address_entries().map(lambda entry: Put(MapId.ADDRESSES, (entry,))),
        address_entries().map(lambda entry: Remove(MapId.ADDRESSES, (entry[0],))),
        among(*GROUPS).flatmap(group_entries).map(lambda entry: Put(MapId.GROUPS, (entry,))),
    )


# --- packets ------------------------------------------------------------------------------------


class Conversation(msgspec.Struct, frozen=True):
    """A flow as the pod's packets have it, whoever began it; `number`: which pod."""

    number: int
    flow: Flow

    def way(self, outward: bool) -> Flow:
        return self.flow if outward else self.flow.reversed


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    number = draw(among(0, 0, 0, 1))
    if draw(st.booleans()):
        own, peer = OWN4[number], draw(among(*PEERS4))
        protocol = draw(among(TCP, TCP, UDP, SCTP, ICMP))
    else:
        own, peer = OWN6[number], draw(among(*PEERS6))
        protocol = draw(among(TCP, TCP, UDP, SCTP, ICMPV6))
    port = draw(among(*PORTS))
    ports = draw(among((OPEN_PORT, port), (port, OPEN_PORT)))
    return Conversation(number, Flow(own, peer, protocol, *ports))


_tcp_flags = among(SYN, SYN | ACK, ACK, ACK, ACK | FIN, RST, RST | ACK, SYN | FIN, 0)


_usual_extensions = among(options_header(), authentication_header())
_extensions = among(
    options_header(units=2),
    options_header(HOP_BY_HOP),
    routing_header(2, data=bytes(20)),
    routing_header(0),
    fragment_header(0, more=False),
    fragment_header(0, more=True),
    fragment_header(2, more=True),
)
_chains = st.lists(st.one_of(_usual_extensions, _extensions), max_size=8)


def packets(draw: st.DrawFn, now: Conversation, other: Conversation, outward: bool) -> bytes:
    """An IP packet that a pod sends (`outward`) or is sent; an ICMP error may be about `other`."""
    flow = now.way(outward)
    flags, reply = draw(_tcp_flags), draw(st.booleans())
    kind = draw(among("plain", "plain", "plain", "plain", "fragment", "error", "extended"))
    if kind == "plain":
        return flow.packet(flags=flags, reply=reply)
    if kind == "error":
        about = now.way(not outward)
        if len(address(other.flow.source)) == len(address(flow.source)):
            about = other.way(draw(among(outward, not outward)))
        inside = about.packet(flags=flags, reply=reply, payload=bytes(16))
        if len(address(flow.source)) == 16 and draw(among(0, 0, 1)):
            chain = draw(st.lists(_usual_extensions, max_size=4))
            source, destination, segment = inside[8:24], inside[24:40], inside[40:]
            inside = ip(source, destination, about.protocol, segment, extensions=chain)
        keep = draw(among(None, None, None, None, 20, 28, 47, 48, 60))
        type = draw(among(None, None, None, 1, 2, 3, 4, 5, 11, 12))
        return icmp_error(flow.source, flow.destination, inside, type=type, keep=keep)
    segment = flow.segment(flags=flags, reply=reply, payload=bytes(16))
    if kind == "fragment":
        offset = draw(among(0, 0, 1, 8))
        return ip(
            flow.source,
            flow.destination,
            flow.protocol,
            segment[: draw(among(3, 4, 8, 13, 14, 16, 40))],
            fragment_offset=offset,
            more=offset == 0 or draw(st.booleans()),
            identification=draw(among(1, 1, 2)),
        )
    if len(address(flow.source)) == 4:
        return ip(flow.source, flow.destination, flow.protocol, segment, options=bytes(8))
    return ip(flow.source, flow.destination, flow.protocol, segment, extensions=draw(_chains))


def neighbour_frames(draw: st.DrawFn, number: int) -> bytes:
    own = among(OWN6[number], OWN6[number], bytes(16), address("fe80::1"), PEERS6[1])
    source, target = draw(own), draw(own)
    hops = draw(among(255, 255, 1, 64))
    to = draw(among(target, PEERS6[0], PEERS6[1], *PEERS6))
    kind = draw(st.integers(0, 10))
    if kind == 0:
        sender = draw(among(OWN4[number], OWN4[number], bytes(4), PEERS4[1]))
        return neighbours.arp(sender, PEERS4[0], reply=draw(st.booleans()))
    packet = {
        1: lambda: neighbours.neighbour_solicitation(source, target, hops=hops),
        2: lambda: neighbours.neighbour_advertisement(source, target, hops=hops),
        3: lambda: neighbours.router_solicitation(source, hops=hops),
        4: lambda: neighbours.router_advertisement(source, hops=hops),
        5: lambda: neighbours.redirect(source, target, target, target, hops=hops),
        6: lambda: neighbours.listener_report(source, "ff02::5", version=1, hops=hops % 255),
        7: lambda: neighbours.listener_report(source, "ff02::5", hops=1),
        8: lambda: neighbours.neighbour_solicitation(source, target, destination=to),
        9: lambda: neighbours.neighbour_solicitation(source, to, destination=to),
        10: lambda: neighbours.neighbour_advertisement(source, target, destination=to),
    }[kind]()
    return ethernet(packet)


def frames(draw: st.DrawFn, now: Conversation, other: Conversation, outward: bool) -> bytes:
    """A frame that the kernel's test run takes: it refuses one that ends within the IP header."""
    if draw(st.integers(0, 9)) == 0:
        frame = neighbour_frames(draw, now.number)
    else:
        frame = ethernet(packets(draw, now, other, outward))
    frame = changed(draw, frame)
    return frame.ljust(_SHORTEST.get(frame[12:14], 15), b"\0")


def changed(draw: st.DrawFn, frame: bytes) -> bytes:
    change = draw(among(*[""] * 8, "byte", "byte", "bytes", "cut", "pad", "type", "noise"))
    if change in ("byte", "bytes"):
        data = bytearray(frame)
        for _ in range(1 if change == "byte" else 3):
            at = draw(st.integers(12, min(len(frame), 12 + 90) - 1))
            data[at] = draw(st.integers(0, 255))
        return bytes(data)
    if change == "cut":
        return frame[: draw(st.integers(15, len(frame)))]
    if change == "pad":
        return frame + bytes(draw(st.integers(1, 46)))
    if change == "type":
        ethertype: int = draw(among(0x8100, 0x88A8, 0x0806, 0x0800, 0x86DD, 0x88CC, 0x0026))
        return frame[:12] + ethertype.to_bytes(2, "big") + frame[14:]
    if change == "noise":
        return frame[:14] + draw(st.binary(min_size=1, max_size=80))
    return frame


def sent(draw: st.DrawFn, pool: Sequence[Conversation]) -> Sent:
    now, other = draw(among(*pool)), draw(among(*pool))
    direction = draw(_directions)
    # Rarely at another pod's device, or at one that nothing is known about.
    here = [IFINDEXES[now.number]] * 20
    ifindex = draw(among(*here, IFINDEXES[1], IFINDEXES[2]))
    outward = (direction is Direction.EGRESS) ^ (draw(st.integers(0, 30)) == 0)
    return Sent(ifindex, direction, frames(draw, now, other, outward))


def exchange(draw: st.DrawFn, pool: Sequence[Conversation]) -> list[Step]:
    """A packet and its answer, unharmed; maybe in fragments."""
    now: Conversation = draw(among(*pool))
    began = draw(_directions)
    done: list[Step] = []
    for direction in (began, Direction.INGRESS + Direction.EGRESS - began):
        flow, reply = now.way(direction == Direction.EGRESS), direction != began
        flags = SYN | ACK if reply else SYN
        if draw(st.booleans()):
            segment = flow.segment(flags=flags, reply=reply, payload=bytes(32))
            pieces = fragments(flow.source, flow.destination, flow.protocol, segment, size=24)
        else:
            pieces = [flow.packet(flags=flags, reply=reply)]
        ifindex = IFINDEXES[now.number]
        done += [Sent(ifindex, Direction(direction), ethernet(piece)) for piece in pieces]
    return done


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """At least 20 packets, with flips, changes of the maps and the passing of time between them."""
    pool = draw(st.lists(conversations(), min_size=1, max_size=4))
    ages = among(4.3, 17.1, 47.7, 93.9, 201.3, 22_003.3)
    rare = st.one_of(
        ages.map(lambda seconds: Aged(int(seconds * 1e9))),
        st.integers(0, 1).map(Flipped),
        changes().map(Changed),
    )
    between: st.SearchStrategy[list[Step]] = st.lists(rare, max_size=1)
    done: list[Step] = []
    for _ in range(draw(st.integers(4, 6))):
        done += draw(between)
        if draw(st.booleans()):
            done += exchange(draw, pool)
        done += [sent(draw, pool) for _ in range(draw(st.integers(5, 8)))]
    return done
