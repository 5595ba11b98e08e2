"""The way of one packet through the twin: the steps of `base`'s text, in their order.

A `Passage` is one packet at one endpoint. It reads the half in force once, and writes conntrack and
fragments only when told to (`effects`), so that a probe changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from reconciler.core.dataplane.layout import (
    CONNTRACK_KEY,
    CONNTRACK_VALUE,
    ENDPOINT_CLOSED,
    EVENT,
    FAMILY_V4,
    FAMILY_V6,
    FRAGMENT_KEY,
    FRAGMENT_VALUE,
    IdentityIndex,
    Reason,
)
from reconciler.core.policy.ir import Direction
from reconciler.datapath.twin_maps import Cache
from reconciler.datapath.twin_packets import (
    ACK,
    ETHERNET_HEADER,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Fragment,
    Packet,
    Transport,
    Unparsed,
    ethertype,
    parse_ip,
    parse_transport,
)
from reconciler.datapath.twin_policy import LocalEndpoint, PolicyView, Ruling

SECOND: Final = 1_000_000_000  # ns
REFRESH_NS: Final = SECOND  # an entry that nothing changes is written this often at most

# Flags of a conntrack value.
REPLIED: Final = 1
FIN_FORWARD: Final = 2
FIN_REPLY: Final = 4
RESET: Final = 8

_EGRESS_BIT: Final = 1 << 31  # of a fragments key's endpoint
_ARP_SIZE: Final = 28
_ARP_ETHERNET_IPV4: Final = bytes((0, 1, 8, 0, 6, 4))
_NOBODY: Final = bytes(16)
_ERRORS: Final = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
_ECHO_REQUEST: Final = {ICMP: 8, ICMPV6: 128}
_ECHO_REPLY: Final = {ICMP: 0, ICMPV6: 129}
_LISTENER: Final = (130, 131, 132, 143)
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _ADVERTISEMENT, _REDIRECT = 133, 134, 136, 137
_MESSAGE, _LINK_LAYER_OPTION = 24, 8  # bytes (RFC 4861, 4.3 to 4.6)


def timeout_ns(protocol: int, flags: int) -> int:
    """How long a flow lives after its last packet."""
    if protocol == TCP and is_closing(flags):
        seconds = 10
    elif protocol in (TCP, SCTP) and flags & REPLIED:
        seconds = 21_600
    elif protocol == TCP:
        seconds = 60
    elif protocol == UDP and flags & REPLIED:
        seconds = 120
    else:
        seconds = 30
    return seconds * SECOND


def is_closing(flags: int) -> bool:
    """Of a TCP flow: it was reset, or both sides have finished."""
    both = FIN_FORWARD | FIN_REPLY
    return bool(flags & RESET) or flags & both == both


def _age(now: int, last_seen: int) -> int:
    """Nanoseconds between two 64-bit clock values, as the kernel subtracts them: a last-seen before
    the clock's zero is a very large number."""
    return (now - last_seen + (1 << 63)) % (1 << 64) - (1 << 63)


def _other(direction: Direction) -> Direction:
    return Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS


def _link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


class Passage:
    """One packet; `judge` once. The other fields are what its event says."""

    def __init__(
        self,
        policy: PolicyView,
        conntrack: Cache,
        fragments: Cache,
        now_ns: Callable[[], int],
        *,
        effects: bool,
    ) -> None:
        self._policy, self._conntrack, self._fragments = policy, conntrack, fragments
        self._now_ns, self._effects = now_ns, effects
        self.half = 0
        self.endpoint: LocalEndpoint | None = None
        self.packet: Packet | None = None
        self.transport = Transport()
        self.ruling = Ruling(Reason.NO_RULE)
        self.opened = False

    def judge(self, frame: bytes, ifindex: int, direction: Direction) -> Reason:
        self.half = self._policy.half()
        endpoint = self.endpoint = self._policy.endpoint(ifindex, self.half)
        if endpoint is None:
            return Reason.NO_ENDPOINT
        if endpoint.flags & ENDPOINT_CLOSED:
            return Reason.CLOSED
        try:
            kind = ethertype(frame)
            if kind == ETHERTYPE_ARP:
                return _judge_arp(frame, endpoint, direction)
            if kind not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
                return Reason.UNKNOWN_PROTOCOL
            family = FAMILY_V4 if kind == ETHERTYPE_IPV4 else FAMILY_V6
            self.packet = parse_ip(frame, ETHERNET_HEADER, family)
            return self._judge_ip(frame, self.packet, endpoint, direction)
        except Unparsed as unparsed:
            self.packet = unparsed.packet
            return unparsed.reason

    def _judge_ip(
        self, frame: bytes, packet: Packet, endpoint: LocalEndpoint, direction: Direction
    ) -> Reason:
        neighbour = _judge_neighbour(frame, packet, endpoint, direction, self._known)
        if neighbour is not None:
            return neighbour
        own = endpoint.ipv4 if packet.family == FAMILY_V4 else endpoint.ipv6
        claimed = packet.source if direction is Direction.EGRESS else packet.destination
        if own == _NOBODY or claimed != own:
            return Reason.BAD_SOURCE
        fragment_key = FRAGMENT_KEY.pack(
            endpoint.id | (_EGRESS_BIT if direction is Direction.EGRESS else 0),
            packet.identification,
            packet.source,
            packet.destination,
        )
        if packet.fragment is Fragment.LATER:
            first = self._fragments.get(fragment_key)
            if first is None:
                return Reason.FRAGMENT
            source_port, destination_port, protocol = FRAGMENT_VALUE.unpack(first)
            if protocol != packet.protocol:
                return Reason.FRAGMENT
            self.transport = Transport(
                int.from_bytes(source_port, "big"), int.from_bytes(destination_port, "big")
            )
        else:
            self.transport = parse_transport(frame, packet)
        if self.transport.type in _ERRORS.get(packet.protocol, ()):
            reason = self._judge_error(frame, packet, endpoint, direction)
        else:
            reason = self._judge_flow(packet, self.transport, endpoint, direction)
        if packet.fragment is Fragment.FIRST and self._effects and reason.passed:
            self._fragments.store(
                fragment_key,
                FRAGMENT_VALUE.pack(
                    self.transport.source_port.to_bytes(2, "big"),
                    self.transport.destination_port.to_bytes(2, "big"),
                    packet.protocol,
                ),
            )
        return reason

    def _known(self, address: bytes) -> bool:
        _, identity = self._policy.peer(address, FAMILY_V6, self.half)
        return identity not in (IdentityIndex.UNKNOWN, IdentityIndex.WORLD_V6)

    def _judge_error(
        self, frame: bytes, packet: Packet, endpoint: LocalEndpoint, direction: Direction
    ) -> Reason:
        """An ICMP error: to who sent a packet of a live flow, which went here the other way."""
        cut_off = frame[: packet.end]
        try:
            inner = parse_ip(cut_off, packet.at + 8, packet.family, inner=True)
            if inner.fragment is Fragment.LATER or inner.source != packet.destination:
                return Reason.NO_RULE
            ports = parse_transport(cut_off, inner, inner=True)
        except Unparsed:
            return Reason.NO_RULE
        forward = _flow(inner, ports)
        for way, flow in ((_other(direction), forward), (direction, _reverse(forward))):
            if (
                self._live(_flow_key(endpoint.id, way, flow)) is not None
                and self._ask(endpoint, way, flow).reason is Reason.ALLOWED
            ):
                return Reason.RELATED
        return Reason.NO_RULE

    def _judge_flow(
        self, packet: Packet, transport: Transport, endpoint: LocalEndpoint, direction: Direction
    ) -> Reason:
        later = packet.fragment is Fragment.LATER
        protocol, flags = packet.protocol, transport.flags
        only_syn = protocol == TCP and flags & (SYN | ACK) == SYN
        forward = _flow(packet, transport)
        seen = RESET if flags & RST else 0
        if not only_syn and (
            protocol not in _ECHO_REPLY or later or transport.type == _ECHO_REPLY[protocol]
        ):
            way, flow = _other(direction), _reverse(forward)
            key = _flow_key(endpoint.id, way, flow)
            live = self._live(key)
            if live is not None:
                self.ruling = self._ask(endpoint, way, flow)
                if self.ruling.reason is Reason.ALLOWED:
                    if self._effects:
                        finished = FIN_REPLY if flags & FIN else 0
                        self._touch(key, live, seen | REPLIED | finished)
                    return Reason.REPLY
        self.ruling = self._ask(endpoint, direction, forward)
        reason = self.ruling.reason
        opens = protocol not in _ECHO_REQUEST or transport.type == _ECHO_REQUEST[protocol]
        if reason is Reason.ALLOWED and self._effects and opens:
            key = _flow_key(endpoint.id, direction, forward)
            live = self._live(key)
            if live is not None and only_syn and is_closing(live[1]):
                live = None
            self.opened = live is None
            self._touch(key, live, seen | (FIN_FORWARD if flags & FIN else 0))
        return reason

    def _ask(self, endpoint: LocalEndpoint, direction: Direction, flow: _Flow) -> Ruling:
        family, protocol, source, destination, _, port = flow
        peer = source if direction is Direction.INGRESS else destination
        return self._policy.judge(
            endpoint.group, self.half, direction, peer, family, protocol, port
        )

    def _live(self, key: bytes) -> tuple[int, int] | None:
        """(last seen, flags) of a flow that is known and not expired."""
        value = self._conntrack.get(key)
        if value is None:
            return None
        last_seen, flags = CONNTRACK_VALUE.unpack(value)
        protocol = key[5]
        if _age(self._now_ns(), last_seen) > timeout_ns(protocol, flags):
            return None
        return last_seen, flags

    def _touch(self, key: bytes, live: tuple[int, int] | None, flags: int) -> None:
        now = self._now_ns()
        if live is not None:
            last_seen, old = live
            flags |= old
            if flags == old and _age(now, last_seen) <= REFRESH_NS:
                return
        self._conntrack.store(key, CONNTRACK_VALUE.pack(now, flags))

    def event(self, reason: Reason, ifindex: int, direction: Direction) -> bytes:
        """EVENT of layout.py."""
        packet = self.packet or Packet(0, _NOBODY, _NOBODY, 0, 0, 0, 0)
        return EVENT.pack(
            self._now_ns(),
            self.endpoint.id if self.endpoint else 0,
            ifindex,
            self.ruling.peer,
            self.ruling.cookie,
            direction,
            packet.protocol,
            packet.family,
            reason,
            self.transport.source_port.to_bytes(2, "big"),
            self.transport.destination_port.to_bytes(2, "big"),
            packet.source,
            packet.destination,
        )


_Flow = tuple[int, int, bytes, bytes, int, int]
"""family, protocol, source, destination, source port, destination port of a flow's first packet"""


def _flow(packet: Packet, transport: Transport) -> _Flow:
    return (
        packet.family,
        packet.protocol,
        packet.source,
        packet.destination,
        transport.source_port,
        transport.destination_port,
    )


def _reverse(flow: _Flow) -> _Flow:
    family, protocol, source, destination, source_port, destination_port = flow
    return family, protocol, destination, source, destination_port, source_port


def _flow_key(endpoint: int, direction: Direction, flow: _Flow) -> bytes:
    family, protocol, source, destination, source_port, destination_port = flow
    return CONNTRACK_KEY.pack(
        endpoint,
        direction,
        protocol,
        source_port.to_bytes(2, "big"),
        destination_port.to_bytes(2, "big"),
        family,
        source,
        destination,
    )


def _judge_arp(frame: bytes, endpoint: LocalEndpoint, direction: Direction) -> Reason:
    arp = frame[ETHERNET_HEADER : ETHERNET_HEADER + _ARP_SIZE]
    if len(arp) < _ARP_SIZE:
        return Reason.MALFORMED
    if direction is Direction.INGRESS:
        return Reason.NEIGHBOUR
    if not arp.startswith(_ARP_ETHERNET_IPV4):
        return Reason.MALFORMED
    sender = arp[14:18]
    return Reason.NEIGHBOUR if sender in (bytes(4), endpoint.ipv4[:4]) else Reason.BAD_SOURCE


Known = Callable[[bytes], bool]


def _judge_neighbour(
    frame: bytes, packet: Packet, endpoint: LocalEndpoint, direction: Direction, known: Known
) -> Reason | None:
    """Neighbour discovery and multicast listener messages; None: it is neither.

    known: whether the cluster has an owner for an address, so that it may be a neighbour's.
    """
    length = packet.end - packet.at
    if (
        packet.family != FAMILY_V6
        or packet.protocol != ICMPV6
        or packet.fragment is not Fragment.WHOLE
        or length < 8
    ):
        return None
    type, code = frame[packet.at], frame[packet.at + 1]
    source = packet.source
    if type in _LISTENER:
        local = source == _NOBODY or _link_local(source)
        if packet.hops == 1 and packet.destination[:2] == b"\xff\x02" and local:
            return Reason.NEIGHBOUR
        return None
    if not 133 <= type <= 137 or code or packet.hops != 255:
        return None
    if direction is Direction.INGRESS:
        return Reason.NEIGHBOUR
    if type in (_ROUTER_ADVERTISEMENT, _REDIRECT):
        return Reason.MALFORMED  # a pod is no router
    if source not in (_NOBODY, endpoint.ipv6) and not _link_local(source):
        return Reason.BAD_SOURCE
    target = frame[packet.at + 8 : min(packet.at + _MESSAGE, packet.end)]
    if type == _ADVERTISEMENT:
        if length < _MESSAGE:
            return Reason.MALFORMED
        if not _link_local(target) and (target == _NOBODY or target != endpoint.ipv6):
            return Reason.BAD_SOURCE
    to = packet.destination
    if _link_local(to) or (to[0] == 0xFF and to[1] & 15 <= 2):
        return Reason.NEIGHBOUR
    # It may leave the link: only what resolution needs, to whom the cluster knows.
    if type == _ROUTER_SOLICITATION or length > _MESSAGE + _LINK_LAYER_OPTION:
        return None
    about_itself = type == _ADVERTISEMENT or target == to
    return Reason.NEIGHBOUR if about_itself and known(to) else None
