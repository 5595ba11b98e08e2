"""What the twin reads out of an Ethernet frame. Refuses what is shorter than it says.

Two steps, since neighbour discovery and the source check stand between them: `parse_ip` finds
addresses, fragment and transport protocol; `parse_transport` the ports, flags and ICMP type.
Lengths are those of IP: bytes of the frame after the IP packet (Ethernet padding) are no content.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec

from reconciler.core.dataplane.layout import FAMILY_V4, FAMILY_V6, Reason

ETHERNET_HEADER: Final = 14
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IPV6: Final = 0x86DD

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132

FIN: Final = 1
SYN: Final = 2
RST: Final = 4
ACK: Final = 16

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS: Final = frozenset((_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION))
_MAX_EXTENSIONS: Final = 6
_MAX_INNER_EXTENSIONS: Final = 2
_IPV4: Final = struct.Struct(">BxHHHBBxx4s4s")
_IPV6: Final = struct.Struct(">BxxxHBB16s16s")

# Bytes of the transport header that a packet has to hold; a first fragment: what policy and
# conntrack look at, so that no later fragment can bring ports or flags that nobody saw.
_HEADER: Final = {TCP: 20, UDP: 8, SCTP: 12, ICMP: 8, ICMPV6: 8}
_FIRST_FRAGMENT: Final = {TCP: 14, UDP: 4, SCTP: 4, ICMP: 8, ICMPV6: 8}
_INNER: Final = 8  # what an ICMP error has to carry of the packet that it is about
_ECHO: Final = {ICMP: (8, 0), ICMPV6: (128, 129)}


class Fragment(enum.IntEnum):
    WHOLE = 0
    FIRST = 1
    LATER = 2


class Packet(msgspec.Struct, frozen=True):
    """An IP packet. source, destination: 16 bytes as in map keys. at, end: offsets in the frame
    of the transport header and behind the packet. identification: of a fragment."""

    family: int
    source: bytes
    destination: bytes
    protocol: int
    hops: int
    at: int
    end: int
    fragment: Fragment = Fragment.WHOLE
    identification: int = 0


class Transport(msgspec.Struct, frozen=True):
    """Ports (ICMP echo: both are its id), TCP flags, ICMP type (-1: none, or not seen)."""

    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    type: int = -1


class Unparsed(Exception):
    """Why a packet can't be read, and what is known of it (for the event)."""

    def __init__(self, reason: Reason, packet: Packet | None = None) -> None:
        super().__init__(reason.name)
        self.reason, self.packet = reason, packet


def ethertype(frame: bytes) -> int:
    if len(frame) < ETHERNET_HEADER:
        raise Unparsed(Reason.MALFORMED)
    return int.from_bytes(frame[12:14], "big")


def parse_ip(frame: bytes, at: int, family: int, *, inner: bool = False) -> Packet:
    """The packet whose IP header stands at offset `at`. `inner`: it stands cut off in an ICMP
    error, so its own length may pass the end of the frame. Raises Unparsed."""
    return (_parse_ipv4 if family == FAMILY_V4 else _parse_ipv6)(frame, at, inner)


def _parse_ipv4(frame: bytes, at: int, inner: bool) -> Packet:
    if at + _IPV4.size > len(frame):
        raise Unparsed(Reason.MALFORMED)
    first, total, identification, word, hops, protocol, source, destination = _IPV4.unpack_from(
        frame, at
    )
    header = 4 * (first & 15)
    end = len(frame) if inner else at + total
    if (
        first >> 4 != 4
        or not _IPV4.size <= header <= total
        or at + header > len(frame)
        or end > len(frame)
    ):
        raise Unparsed(Reason.MALFORMED)
    if word & 0x1FFF:
        fragment = Fragment.LATER
    else:
        fragment = Fragment.FIRST if word & 0x2000 else Fragment.WHOLE
    return Packet(
        FAMILY_V4,
        source + bytes(12),
        destination + bytes(12),
        protocol,
        hops,
        at + header,
        end,
        fragment,
        identification,
    )


def _parse_ipv6(frame: bytes, at: int, inner: bool) -> Packet:
    if at + _IPV6.size > len(frame):
        raise Unparsed(Reason.MALFORMED)
    first, payload, following, hops, source, destination = _IPV6.unpack_from(frame, at)
    at += _IPV6.size
    end = len(frame) if inner else at + payload
    if first >> 4 != 6 or end > len(frame):
        raise Unparsed(Reason.MALFORMED)
    known = Packet(FAMILY_V6, source, destination, 0, hops, at, end)
    fragment, identification = Fragment.WHOLE, 0
    for _ in range(_MAX_INNER_EXTENSIONS if inner else _MAX_EXTENSIONS):
        if following not in _EXTENSIONS or fragment is Fragment.LATER:
            break  # what follows a later fragment's header is no header
        if at + 8 > end:
            raise Unparsed(Reason.MALFORMED, known)
        size = 8 * (frame[at + 1] + 1)
        if following == _FRAGMENT:
            if fragment is not Fragment.WHOLE:  # a fragment of a fragment
                raise Unparsed(Reason.MALFORMED, known)
            size = 8
            word = int.from_bytes(frame[at + 2 : at + 4], "big")
            identification = int.from_bytes(frame[at + 4 : at + 8], "big")
            if word >> 3:
                fragment = Fragment.LATER
            elif word & 1:
                fragment = Fragment.FIRST
        elif following == _AUTHENTICATION:
            size = 4 * (frame[at + 1] + 2)
        elif following == _ROUTING and frame[at + 2] == 0:
            raise Unparsed(Reason.MALFORMED, known)
        following = frame[at]
        at += size
        if at > end:
            raise Unparsed(Reason.MALFORMED, known)
    return msgspec.structs.replace(
        known, protocol=following, at=at, fragment=fragment, identification=identification
    )


def parse_transport(frame: bytes, packet: Packet, *, inner: bool = False) -> Transport:
    """Of a packet that is not a later fragment. Raises Unparsed."""
    protocol = packet.protocol
    if protocol not in _HEADER or (
        protocol in _ECHO and (protocol == ICMP) != (packet.family == FAMILY_V4)
    ):
        raise Unparsed(Reason.UNKNOWN_PROTOCOL, packet)
    if inner:
        need = _INNER
    else:
        need = (_FIRST_FRAGMENT if packet.fragment is Fragment.FIRST else _HEADER)[protocol]
    have, at = packet.end - packet.at, packet.at
    if have < need:
        raise Unparsed(Reason.MALFORMED, packet)
    if protocol in _ECHO:
        identifier = 0
        if packet.fragment is Fragment.WHOLE and frame[at] in _ECHO[protocol]:
            identifier = int.from_bytes(frame[at + 4 : at + 6], "big")
        return Transport(identifier, identifier, type=frame[at])
    source, destination = struct.unpack_from(">HH", frame, at)
    flags = frame[at + 13] if protocol == TCP and have >= 14 else 0
    return Transport(source, destination, flags)
