"""Ethernet frames for tests, byte by byte: each keyword is a header field that a test may break."""

from __future__ import annotations

import socket
import struct

TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16
MORE = 0x2000


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ethernet(ethertype: int, payload: bytes) -> bytes:
    return bytes(12) + struct.pack(">H", ethertype) + payload


def ip(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    hops: int = 64,
    fragment: int = 0,
    id: int = 7,
    total: int | None = None,
) -> bytes:
    """A frame with an IPv4 or IPv6 packet. `fragment`: IPv4 flags and offset, 8-byte units; for
    IPv6 the same word becomes a fragment header. `total`: IP's own length instead of the true."""
    if ":" not in source:
        header = struct.pack(
            ">BBHHHBBH4s4s",
            0x45,
            0,
            20 + len(payload) if total is None else total,
            id,
            fragment,
            hops,
            protocol,
            0,
            address(source),
            address(destination),
        )
        return ethernet(0x0800, header + payload)
    if fragment:
        word = (fragment & 0x1FFF) << 3 | bool(fragment & MORE)
        payload = struct.pack(">BBHI", protocol, 0, word, id) + payload
        protocol = 44
    header = struct.pack(
        ">IHBB16s16s",
        6 << 28,
        len(payload) if total is None else total,
        protocol,
        hops,
        address(source),
        address(destination),
    )
    return ethernet(0x86DD, header + payload)


def udp(sport: int, dport: int, size: int = 8) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + size, 0) + bytes(size)


def tcp(sport: int, dport: int, flags: int = SYN) -> bytes:
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, flags, 1000, 0, 0)


def sctp(sport: int, dport: int) -> bytes:
    return struct.pack(">HHII", sport, dport, 1, 0)


def icmp(type: int, id: int = 0, code: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHHH", type, code, 0, id, 1) + payload


def arp(sender: str, target: str, *, ptype: int = 0x0800) -> bytes:
    return ethernet(
        0x0806,
        struct.pack(">HHBBH", 1, ptype, 6, 4, 1)
        + bytes(6)
        + address(sender)
        + bytes(6)
        + address(target),
    )


def inner(frame: bytes) -> bytes:
    """The IP packet of a frame, as an ICMP error carries it."""
    return frame[14:]


def extension(next: int, body: bytes = bytes(6)) -> bytes:
    """An IPv6 extension header; the body fills up to a multiple of 8 bytes."""
    return bytes([next, (len(body) + 2) // 8 - 1]) + body
