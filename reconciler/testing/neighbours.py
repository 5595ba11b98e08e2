"""How neighbours find each other, as bytes: ARP, neighbour discovery, multicast listener reports.

ARP comes as an Ethernet frame, the others as IP packets: put `packets.ethernet` around them.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from reconciler.testing.packets import (
    ARP,
    ICMPV6,
    IPV4,
    POD_MAC,
    Address,
    address,
    ethernet,
    icmpv6,
    ip,
    router_alert,
)

ALL_NODES: Final = "ff02::1"
ALL_ROUTERS: Final = "ff02::2"
ALL_MLDV2_ROUTERS: Final = "ff02::16"


def arp(
    sender: Address,
    target: Address,
    *,
    reply: bool = False,
    sender_mac: bytes = POD_MAC,
    target_mac: bytes = bytes(6),
) -> bytes:
    """A frame with an ARP request or reply for IPv4 over Ethernet; a probe has sender 0.0.0.0."""
    message = struct.pack(">HHBBH", 1, IPV4, 6, 4, 2 if reply else 1)
    message += sender_mac + address(sender) + target_mac + address(target)
    return ethernet(message, ethertype=ARP, source=sender_mac)


def neighbour_solicitation(
    source: Address, target: Address, *, destination: Address | None = None, hops: int = 255
) -> bytes:
    """An IP packet. destination: the target's solicited-node group if not given. A source of ::
    makes it the probe of duplicate address detection, which carries no option."""
    group = bytes.fromhex("ff0200000000000000000001ff") + address(target)[13:]
    to = group if destination is None else address(destination)
    option = b"" if not any(address(source)) else b"\x01\x01" + POD_MAC
    message = icmpv6(source, to, 135, payload=address(target) + option)
    return ip(source, to, ICMPV6, message, hops=hops)


def neighbour_advertisement(
    source: Address, target: Address, *, destination: Address = ALL_NODES, hops: int = 255
) -> bytes:
    """An IP packet that says that `target` is at POD_MAC."""
    payload = address(target) + b"\x02\x01" + POD_MAC
    message = icmpv6(source, destination, 136, rest=b"\x20\0\0\0", payload=payload)
    return ip(source, destination, ICMPV6, message, hops=hops)


def router_solicitation(source: Address, *, hops: int = 255) -> bytes:
    """An IP packet to all routers."""
    return ip(source, ALL_ROUTERS, ICMPV6, icmpv6(source, ALL_ROUTERS, 133), hops=hops)


def router_advertisement(
    source: Address, *, destination: Address = ALL_NODES, hops: int = 255
) -> bytes:
    """An IP packet; a router for 1,800 s, without prefixes."""
    message = icmpv6(source, destination, 134, rest=b"\x40\0\x07\x08", payload=bytes(8))
    return ip(source, destination, ICMPV6, message, hops=hops)


def redirect(
    source: Address, destination: Address, target: Address, about: Address, *, hops: int = 255
) -> bytes:
    """An IP packet that tells `destination` to reach the address `about` through `target`."""
    message = icmpv6(source, destination, 137, payload=address(target) + address(about))
    return ip(source, destination, ICMPV6, message, hops=hops)


def listener_report(
    source: Address, group: Address, *, version: int = 2, hops: int = 1, done: bool = False
) -> bytes:
    """An IP packet of multicast listener discovery with its router alert: a report for one group
    (RFC 3810, or RFC 2710 with version 1), or version 1's Done."""
    if version == 2 and not done:
        destination, type = ALL_MLDV2_ROUTERS, 143
        rest, payload = b"\0\0\0\1", b"\x04\0\0\0" + address(group)
    else:
        destination = ALL_ROUTERS if done else str(ipaddress.ip_address(group))
        type = 132 if done else 131
        rest, payload = bytes(4), address(group)
    message = icmpv6(source, destination, type, rest=rest, payload=payload)
    return ip(source, destination, ICMPV6, message, hops=hops, extensions=(router_alert(),))


def listener_query(source: Address, *, hops: int = 1) -> bytes:
    """An IP packet with a general query (RFC 2710) and its router alert."""
    message = icmpv6(source, ALL_NODES, 130, rest=b"\x27\x10\0\0", payload=bytes(16))
    return ip(source, ALL_NODES, ICMPV6, message, hops=hops, extensions=(router_alert(),))
