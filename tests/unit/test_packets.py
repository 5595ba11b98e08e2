"""Packet builders against fixed bytes, published check values, and the rules of each checksum."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from reconciler.testing import neighbours, packets
from reconciler.testing.packets import (
    ACK,
    AUTHENTICATION,
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    ROUTING,
    SCTP,
    SYN,
    TCP,
    UDP,
    Extension,
    Flow,
)

A4, B4 = "10.0.0.1", "10.0.0.2"
A6, B6 = "fd00::1", "fd00::2"
PAIRS = ((A4, B4), (A6, B6))


def folded(data: bytes) -> int:
    """Ones' complement sum; 0xffff when the data holds its own right checksum."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total: int = sum(words)
    while total > 0xFFFF:
        total = total % 0x10000 + total // 0x10000
    return total


def split(packet: bytes) -> tuple[bytes, bytes, int, bytes]:
    """(source, destination, protocol, payload) of a packet without IPv6 extension headers."""
    if packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20], packet[9], packet[4 * (packet[0] & 15) :]
    return packet[8:24], packet[24:40], packet[6], packet[40:]


def test_published_check_values() -> None:
    # RFC 1071 section 3; the IPv4 header of Wikipedia's example; the check value of CRC-32C.
    assert packets.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    header = bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")
    assert packets.checksum(header) == 0xB861
    assert packets.crc32c(b"123456789") == 0xE3069283


def test_checksum_pads_an_odd_length() -> None:
    assert packets.checksum(b"\x01") == packets.checksum(b"\x01\x00") == 0xFEFF


def test_a_syn_byte_by_byte() -> None:
    frame = Flow(A4, B4, TCP, 0x1234, 80).frame()
    assert frame[:14] == packets.HOST_MAC + packets.POD_MAC + b"\x08\x00"
    packet = frame[14:]
    assert packet[:10] == bytes.fromhex("4500 0028 0001 0000 40 06")
    assert folded(packet[:20]) == 0xFFFF
    assert packet[12:20] == bytes((10, 0, 0, 1, 10, 0, 0, 2))
    assert packet[20:36] == bytes.fromhex("1234 0050 00000001 00000000 50 02 ffff")
    assert len(packet) == 40


@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
@pytest.mark.parametrize(
    ("a", "b", "protocol"),
    [
        *((A4, B4, protocol) for protocol in (TCP, UDP, SCTP, ICMP)),
        *((A6, B6, protocol) for protocol in (TCP, UDP, SCTP, ICMPV6)),
    ],
)
def test_every_checksum_is_right(a: str, b: str, protocol: int, payload: bytes) -> None:
    packet = Flow(a, b, protocol, 1000, 53).packet(payload=payload)
    source, destination, number, segment = split(packet)
    assert (source, destination, number) == (
        ipaddress.ip_address(a).packed,
        ipaddress.ip_address(b).packed,
        protocol,
    )
    if protocol == SCTP:
        expected = packets.crc32c(segment[:8] + bytes(4) + segment[12:])
        assert int.from_bytes(segment[8:12], "little") == expected
    elif protocol == ICMP:
        assert folded(segment) == 0xFFFF
    elif a == A4:
        pseudo = source + destination + bytes((0, protocol)) + len(segment).to_bytes(2, "big")
        assert folded(pseudo + segment) == 0xFFFF
    else:
        pseudo = source + destination + struct.pack(">II", len(segment), protocol)
        assert folded(pseudo + segment) == 0xFFFF
    assert packet.endswith(payload)


def test_a_udp_checksum_is_never_zero() -> None:
    zero = next(
        payload
        for payload in (n.to_bytes(2, "big") for n in range(1 << 16))
        if packets.checksum(
            packets.pseudo_header(bytes(4), bytes(4), UDP, 10)
            + bytes((0, 1, 0, 1, 0, 10, 0, 0))
            + payload
        )
        == 0
    )
    assert packets.udp(bytes(4), bytes(4), 1, 1, payload=zero)[6:8] == b"\xff\xff"


def test_fields_that_tests_break() -> None:
    assert packets.ip(A4, B4, UDP, b"", length=7)[2:4] == b"\0\7"
    assert packets.ip(A6, B6, UDP, b"", length=7)[4:6] == b"\0\7"
    assert packets.ip(A4, B4, UDP, b"", hops=3)[8] == packets.ip(A6, B6, UDP, b"", hops=3)[7] == 3
    assert packets.ip(A4, B4, UDP, b"", fragment_offset=5, more=True)[6:8] == b"\x20\x05"
    with_options = packets.ip(A4, B4, UDP, b"data", options=b"\x01\x01\x01\x00")
    assert with_options[0] == 0x46
    assert folded(with_options[:24]) == 0xFFFF
    assert packets.ethernet(b"", ethertype=0x88CC)[12:] == b"\x88\xcc"
    assert packets.ethernet(b"\x45", vlan=7)[12:] == b"\x81\x00\x00\x07\x08\x00\x45"


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="different families"):
        packets.ip(A4, B6, UDP, b"")
    with pytest.raises(ValueError, match="extension headers"):
        packets.ip(A4, B4, UDP, b"", extensions=(packets.options_header(),))
    with pytest.raises(ValueError, match="instead of options"):
        packets.ip(A6, B6, UDP, b"", options=bytes(4))
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        packets.address(bytes(5))
    with pytest.raises(ValueError, match="multiple of 8"):
        packets.fragments(A4, B4, UDP, bytes(20), size=12)
    with pytest.raises(ValueError, match="protocol 47"):
        Flow(A4, B4, 47).frame()


def test_extension_headers_are_a_chain() -> None:
    chain = (
        packets.router_alert(),
        packets.routing_header(2, data=bytes(20)),
        packets.authentication_header(),
        packets.fragment_header(0, more=True, identification=0xABCD),
        packets.options_header(units=2),
    )
    packet = packets.ip(A6, B6, UDP, b"payload!", extensions=chain)
    assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
    seen, following, at = [], packet[6], 40
    while following != UDP:
        seen.append((following, at))
        if following == FRAGMENT:
            size = 8
        elif following == AUTHENTICATION:
            size = 4 * (packet[at + 1] + 2)
        else:
            size = 8 * (packet[at + 1] + 1)
        following, at = packet[at], at + size
    assert packet[at:] == b"payload!"
    assert seen == [
        (HOP_BY_HOP, 40),
        (ROUTING, 48),
        (AUTHENTICATION, 72),
        (FRAGMENT, 96),
        (DESTINATION_OPTIONS, 104),
    ]
    assert packet[96:104] == bytes((DESTINATION_OPTIONS, 0, 0, 1)) + bytes.fromhex("0000abcd")
    assert packets.options_header(units=1) == Extension(60, bytes((0, 1, 4, 0, 0, 0, 0)))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_fragments_join_to_the_segment(a: str, b: str) -> None:
    flow = Flow(a, b, UDP, 1, 2)
    segment = flow.segment(payload=bytes(range(100)))
    frames = flow.fragments(size=48, payload=bytes(range(100)), identification=77)
    joined = b""
    for index, frame in enumerate(frames):
        packet = frame[14:]
        if a == A4:
            word = int.from_bytes(packet[6:8], "big")
            offset, more, content = word & 0x1FFF, bool(word & 0x2000), packet[20:]
            identification = int.from_bytes(packet[4:6], "big")
        else:
            assert packet[6] == FRAGMENT
            word = int.from_bytes(packet[42:44], "big")
            offset, more, content = word >> 3, bool(word & 1), packet[48:]
            identification = int.from_bytes(packet[44:48], "big")
        assert identification == 77
        assert offset * 8 == len(joined)
        assert more is (index < len(frames) - 1)
        joined += content
    assert joined == segment
    assert len(frames) == 3


def test_answers_turn_the_tuple_around() -> None:
    flow = Flow(A4, B4, TCP, 1000, 80)
    answer = flow.answer()
    assert answer[26:34] == bytes((10, 0, 0, 2, 10, 0, 0, 1))
    assert answer[34:38] == struct.pack(">HH", 80, 1000)
    assert answer[47] == SYN | ACK
    echo = Flow(A6, B6, ICMPV6, 9)
    assert (echo.frame()[54], echo.answer()[54]) == (128, 129)
    assert echo.frame()[58:60] == echo.answer()[58:60] == b"\0\x09"
    assert (Flow(A4, B4, ICMP, 9).frame()[34], Flow(A4, B4, ICMP, 9).answer()[34]) == (8, 0)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_errors_carry_what_they_are_about(a: str, b: str) -> None:
    about = Flow(a, b, UDP, 1, 2).packet(payload=bytes(2000))
    error = packets.icmp_error(b, a, about)
    _, _, protocol, message = split(error)
    assert message[0] == (3 if a == A4 else 1)
    assert protocol == (ICMP if a == A4 else ICMPV6)
    assert message[8:] == about[: 28 if a == A4 else 1232]
    assert len(error) == (56 if a == A4 else 1280)
    assert packets.icmp_error(b, a, about, type=2, code=4, keep=50)[-50:] == about[:50]


def test_arp() -> None:
    frame = neighbours.arp(A4, B4)
    assert frame[12:22] == bytes.fromhex("0806 0001 0800 06 04 0001")
    assert frame[22:] == packets.POD_MAC + bytes((10, 0, 0, 1)) + bytes(6) + bytes((10, 0, 0, 2))
    assert neighbours.arp(A4, B4, reply=True)[20:22] == b"\0\2"


@pytest.mark.parametrize(
    ("packet", "type", "hops"),
    [
        (neighbours.neighbour_solicitation(A6, B6), 135, 255),
        (neighbours.neighbour_solicitation("::", A6), 135, 255),
        (neighbours.neighbour_advertisement(A6, A6), 136, 255),
        (neighbours.router_solicitation("fe80::1"), 133, 255),
        (neighbours.router_advertisement("fe80::1"), 134, 255),
        (neighbours.redirect("fe80::1", A6, B6, B6), 137, 255),
        (neighbours.listener_report("fe80::1", "ff02::1:ff00:1"), 143, 1),
        (neighbours.listener_report("fe80::1", "ff02::1:ff00:1", version=1), 131, 1),
        (neighbours.listener_report("fe80::1", "ff02::1:ff00:1", done=True), 132, 1),
        (neighbours.listener_query("fe80::1"), 130, 1),
    ],
)
def test_neighbour_messages(packet: bytes, type: int, hops: int) -> None:
    source, destination, following, message = split(packet)
    if following == HOP_BY_HOP:
        assert message[:8] == bytes((ICMPV6, 0, 5, 2, 0, 0, 1, 0))
        following, message = message[0], message[8:]
    assert following == ICMPV6
    assert message[0] == type
    assert packet[7] == hops
    assert folded(source + destination + struct.pack(">II", len(message), 58) + message) == 0xFFFF


def test_solicitations_go_to_the_targets_group() -> None:
    packet = neighbours.neighbour_solicitation("::", "fd00::1:2345:6789")
    assert packet[24:40] == ipaddress.ip_address("ff02::1:ff45:6789").packed
    assert packet[48:64] == ipaddress.ip_address("fd00::1:2345:6789").packed
    assert len(packet) == 64  # a probe for duplicates carries no option
