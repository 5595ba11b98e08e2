"""Packets as bytes, with correct checksums: what a pod's device would carry.

Three layers, each a function of plain bytes: a transport segment (`tcp`, `udp`, `sctp`, `icmp`,
`icmpv6`), an IP packet around it (`ip`), an Ethernet frame around that (`ethernet`). `Flow` is the
short way from a five-tuple to a frame; ARP and neighbour discovery are in `neighbours`. Header
fields that a test may want to break are keywords; whatever they say, checksums are computed over
the bytes as they are.

Addresses are text ("10.0.0.1", "fd00::1") or 4 or 16 bytes; ports are in host order.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

Address = str | bytes

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132

# IPv6 extension headers (their protocol numbers).
HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
ESP: Final = 50
AUTHENTICATION: Final = 51
NO_NEXT_HEADER: Final = 59
DESTINATION_OPTIONS: Final = 60

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

IPV4: Final = 0x0800
ARP: Final = 0x0806
VLAN: Final = 0x8100
IPV6: Final = 0x86DD

MORE_FRAGMENTS: Final = 0x2000
"""The bit of IPv4's flags and fragment offset that says that more fragments follow."""

POD_MAC: Final = bytes.fromhex("02005e000001")
HOST_MAC: Final = bytes.fromhex("02005e000002")


def address(value: Address) -> bytes:
    """4 or 16 bytes."""
    if isinstance(value, bytes):
        if len(value) not in (4, 16):
            raise ValueError(f"an address has 4 or 16 bytes, not {len(value)}")
        return value
    return ipaddress.ip_address(value).packed


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, padded with a zero byte to an even length."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC32C: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), the checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What the checksums of TCP, UDP and ICMPv6 cover beside the segment (RFC 9293, RFC 8200)."""
    if len(source) == 4:
        return source + destination + struct.pack(">BBH", 0, protocol, length)
    return source + destination + struct.pack(">IxxxB", length, protocol)


def _summed(source: Address, destination: Address, protocol: int, segment: bytes, at: int) -> bytes:
    """`segment` with its checksum written at offset `at`, where it holds zero now."""
    pseudo = pseudo_header(address(source), address(destination), protocol, len(segment))
    value = checksum(pseudo + segment)
    if protocol == UDP and value == 0:
        value = 0xFFFF  # zero would say that there is no checksum
    return segment[:at] + value.to_bytes(2, "big") + segment[at + 2 :]


# --- transport ----------------------------------------------------------------------------------


def tcp(
    source: Address,
    destination: Address,
    source_port: int,
    destination_port: int,
    *,
    flags: int = SYN,
    payload: bytes = b"",
    sequence: int = 1,
    acknowledgement: int = 0,
    options: bytes = b"",
) -> bytes:
    """A TCP segment. flags: FIN | SYN | RST | PSH | ACK. options: a multiple of 4 bytes."""
    segment = struct.pack(
        ">HHIIBBHHH",
        source_port,
        destination_port,
        sequence,
        acknowledgement,
        (20 + len(options)) // 4 << 4,
        flags,
        65_535,
        0,
        0,
    )
    return _summed(source, destination, TCP, segment + options + payload, 16)


def udp(
    source: Address,
    destination: Address,
    source_port: int,
    destination_port: int,
    *,
    payload: bytes = b"",
) -> bytes:
    """A UDP datagram."""
    header = struct.pack(">HHHH", source_port, destination_port, 8 + len(payload), 0)
    return _summed(source, destination, UDP, header + payload, 6)


def sctp(source_port: int, destination_port: int, *, tag: int = 0, chunks: bytes = b"") -> bytes:
    """An SCTP packet: common header and whatever chunks follow it."""
    header = struct.pack(">HHI", source_port, destination_port, tag)
    # The checksum is the one little-endian field (RFC 9260, appendix A).
    return header + crc32c(header + bytes(4) + chunks).to_bytes(4, "little") + chunks


def icmp(type: int, code: int = 0, *, rest: bytes = bytes(4), payload: bytes = b"") -> bytes:
    """An ICMP message. rest: the 4 bytes after the checksum (for echo: id and sequence)."""
    message = struct.pack(">BBH", type, code, 0) + rest + payload
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def icmpv6(
    source: Address,
    destination: Address,
    type: int,
    code: int = 0,
    *,
    rest: bytes = bytes(4),
    payload: bytes = b"",
) -> bytes:
    """An ICMPv6 message. rest: the 4 bytes after the checksum."""
    message = struct.pack(">BBH", type, code, 0) + rest + payload
    return _summed(source, destination, ICMPV6, message, 2)


def echo(
    source: Address,
    destination: Address,
    identifier: int,
    *,
    reply: bool = False,
    sequence: int = 1,
    payload: bytes = b"",
) -> bytes:
    """An echo request (or reply) of the addresses' family."""
    rest = struct.pack(">HH", identifier, sequence)
    if len(address(source)) == 4:
        return icmp(0 if reply else 8, rest=rest, payload=payload)
    return icmpv6(source, destination, 129 if reply else 128, rest=rest, payload=payload)


# --- IP -----------------------------------------------------------------------------------------


class Extension(msgspec.Struct, frozen=True):
    """An IPv6 extension header: its number, and its bytes without the first (next header)."""

    protocol: int
    body: bytes


def options_header(protocol: int = DESTINATION_OPTIONS, *, units: int = 1) -> Extension:
    """A hop-by-hop or destination options header of `units` x 8 bytes, filled with padding."""
    padding = 8 * units - 4
    return Extension(protocol, bytes((units - 1, 1, padding)) + bytes(padding))


def router_alert() -> Extension:
    """The hop-by-hop header that listener messages carry (RFC 2711)."""
    return Extension(HOP_BY_HOP, bytes((0, 5, 2, 0, 0, 1, 0)))


def routing_header(type: int, *, segments_left: int = 0, data: bytes = bytes(4)) -> Extension:
    """A routing header; `data`: 4 + a multiple of 8 bytes."""
    return Extension(ROUTING, bytes(((len(data) - 4) // 8, type, segments_left)) + data)


def authentication_header(*, icv: bytes = bytes(12)) -> Extension:
    """An IPsec authentication header (RFC 4302); `icv`: a multiple of 4 bytes."""
    return Extension(AUTHENTICATION, bytes((1 + len(icv) // 4, 0, 0)) + bytes(8) + icv)


def fragment_header(offset: int, *, more: bool, identification: int = 1) -> Extension:
    """offset: of the fragment's content, in units of 8 bytes."""
    return Extension(FRAGMENT, struct.pack(">BHI", 0, offset << 3 | more, identification))


def ip(
    source: Address,
    destination: Address,
    protocol: int,
    payload: bytes,
    *,
    hops: int = 64,
    identification: int = 1,
    fragment_offset: int = 0,
    more: bool = False,
    options: bytes = b"",
    extensions: Sequence[Extension] = (),
    length: int | None = None,
) -> bytes:
    """An IPv4 or IPv6 packet, by the family of its addresses.

    fragment_offset, more, identification: of a fragment, in units of 8 bytes; for IPv6 they become
        a fragment header behind `extensions` where they say anything
    options:    IPv4 only, a multiple of 4 bytes
    extensions: IPv6 only, in order
    length:     what IP's length field says instead of the truth (IPv4 total, IPv6 payload length)
    """
    from_bytes, to_bytes = address(source), address(destination)
    if len(from_bytes) != len(to_bytes):
        raise ValueError(f"{source!r} and {destination!r} are of different families")
    if len(from_bytes) == 4:
        if extensions:
            raise ValueError("IPv4 has no extension headers")
        size = 20 + len(options)
        header = struct.pack(
            ">BBHHHBBH4s4s",
            0x40 | size // 4,
            0,
            size + len(payload) if length is None else length,
            identification,
            (MORE_FRAGMENTS if more else 0) | fragment_offset,
            hops,
            protocol,
            0,
            from_bytes,
            to_bytes,
        )
        header += options
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload
    if options:
        raise ValueError("IPv6 has extension headers instead of options")
    chain = list(extensions)
    if more or fragment_offset:
        chain.append(fragment_header(fragment_offset, more=more, identification=identification))
    content, following = payload, protocol
    for extension in reversed(chain):
        content = bytes((following,)) + extension.body + content
        following = extension.protocol
    return (
        struct.pack(
            ">IHBB16s16s",
            6 << 28,
            len(content) if length is None else length,
            following,
            hops,
            from_bytes,
            to_bytes,
        )
        + content
    )


def fragments(
    source: Address,
    destination: Address,
    protocol: int,
    payload: bytes,
    *,
    size: int,
    identification: int = 1,
    extensions: Sequence[Extension] = (),
) -> list[bytes]:
    """The IP packets that carry `payload` in pieces of at most `size` bytes (a multiple of 8)."""
    if size <= 0 or size % 8:
        raise ValueError(f"fragments hold a multiple of 8 bytes, not {size}")
    return [
        ip(
            source,
            destination,
            protocol,
            payload[at : at + size],
            identification=identification,
            fragment_offset=at // 8,
            more=at + size < len(payload),
            extensions=extensions,
        )
        for at in range(0, len(payload), size)
    ]


def icmp_error(
    source: Address,
    destination: Address,
    about: bytes,
    *,
    type: int | None = None,
    code: int = 0,
    keep: int | None = None,
) -> bytes:
    """An IP packet with an ICMP error about the first `keep` bytes of the IP packet `about`.

    type: destination unreachable if not given. keep: for IPv4 the header and 8 bytes (RFC 792), for
    IPv6 as much as fits into 1,280 bytes (RFC 4443), if not given.
    """
    if len(address(source)) == 4:
        size = 4 * (about[0] & 15) + 8 if keep is None else keep
        return ip(source, destination, ICMP, icmp(type or 3, code, payload=about[:size]))
    size = 1_280 - 48 if keep is None else keep
    message = icmpv6(source, destination, type or 1, code, payload=about[:size])
    return ip(source, destination, ICMPV6, message)


# --- frames -------------------------------------------------------------------------------------


def ethernet(
    packet: bytes,
    *,
    ethertype: int | None = None,
    source: bytes = POD_MAC,
    destination: bytes = HOST_MAC,
    vlan: int | None = None,
) -> bytes:
    """A frame. ethertype: that of the IP version in the packet's first bits if not given. vlan: id
    of an 802.1Q tag."""
    if ethertype is None:
        ethertype = IPV6 if packet[:1] and packet[0] >> 4 == 6 else IPV4
    tag = b"" if vlan is None else struct.pack(">HH", VLAN, vlan)
    return destination + source + tag + ethertype.to_bytes(2, "big") + packet


class Flow(msgspec.Struct, frozen=True):
    """A five-tuple. For ICMP and ICMPv6 `source_port` is the echo id, `destination_port` unused."""

    source: Address
    destination: Address
    protocol: int = TCP
    source_port: int = 40_000
    destination_port: int = 80

    @property
    def reversed(self) -> Flow:
        """The tuple of the packets that answer this one's. An echo flow keeps its id."""
        if self.protocol in (ICMP, ICMPV6):
            return Flow(self.destination, self.source, self.protocol, self.source_port)
        return Flow(
            self.destination, self.source, self.protocol, self.destination_port, self.source_port
        )

    def segment(self, *, flags: int = SYN, payload: bytes = b"", reply: bool = False) -> bytes:
        """The transport header and payload. flags: of TCP. reply: an echo reply, not a request."""
        ends = (self.source, self.destination)
        ports = (self.source_port, self.destination_port)
        if self.protocol == TCP:
            return tcp(*ends, *ports, flags=flags, payload=payload)
        if self.protocol == UDP:
            return udp(*ends, *ports, payload=payload)
        if self.protocol == SCTP:
            return sctp(*ports, chunks=payload)
        if self.protocol in (ICMP, ICMPV6):
            return echo(*ends, self.source_port, reply=reply, payload=payload)
        raise ValueError(f"no packet of protocol {self.protocol} can be made from a five-tuple")

    def packet(self, *, flags: int = SYN, payload: bytes = b"", reply: bool = False) -> bytes:
        """An IP packet of this flow."""
        segment = self.segment(flags=flags, payload=payload, reply=reply)
        return ip(self.source, self.destination, self.protocol, segment)

    def frame(self, *, flags: int = SYN, payload: bytes = b"", reply: bool = False) -> bytes:
        """A frame of this flow; by default the one that opens it."""
        return ethernet(self.packet(flags=flags, payload=payload, reply=reply))

    def answer(self, *, flags: int = SYN | ACK, payload: bytes = b"") -> bytes:
        """The frame that comes back: SYN and ACK, a datagram, an echo reply with the same id."""
        return self.reversed.frame(flags=flags, payload=payload, reply=True)

    def fragments(
        self, *, size: int, payload: bytes, identification: int = 1, flags: int = ACK
    ) -> list[bytes]:
        """The frames of one packet of this flow in pieces of `size` bytes."""
        segment = self.segment(flags=flags, payload=payload)
        pieces = fragments(
            self.source,
            self.destination,
            self.protocol,
            segment,
            size=size,
            identification=identification,
        )
        return [ethernet(piece) for piece in pieces]
