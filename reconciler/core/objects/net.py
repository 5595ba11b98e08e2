"""Addresses and CIDR prefixes as bytes.

Reads what the Kubernetes API server accepts: IPv4 with leading zeros means decimal there, and host
bits of a CIDR are cut off. Refuses IPv4-mapped IPv6 (two ways to write one address would have two
owners) and zones.
"""

from __future__ import annotations

import ipaddress
import re

import msgspec

_DECIMAL = re.compile(r"[0-9]{1,10}")


class Prefix(msgspec.Struct, frozen=True, order=True):
    """A CIDR prefix: 4 or 16 address bytes with the host bits zero, and a length in bits."""

    address: bytes
    length: int

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"

    def covers(self, other: Prefix) -> bool:
        """Whether every address of `other` is in this prefix (equal ones cover each other)."""
        return (
            len(self.address) == len(other.address)
            and self.length <= other.length
            and mask(other.address, self.length) == self.address
        )


def mask(address: bytes, length: int) -> bytes:
    """`address` with every bit after the first `length` cleared."""
    bits = 8 * len(address)
    number = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return number.to_bytes(len(address), "big")


def parse_address(text: str) -> bytes:
    """4 or 16 bytes; ValueError with a reason for anything but one plain address."""
    if ":" not in text:
        parts = text.split(".")
        if len(parts) != 4 or not all(_DECIMAL.fullmatch(part) for part in parts):
            raise ValueError(f"{text!r} is not an IP address")
        try:
            return bytes(map(int, parts))
        except ValueError:
            raise ValueError(f"{text!r} is not an IP address: a part is above 255") from None
    if "%" in text:
        raise ValueError(f"{text!r} has a zone: only plain addresses are allowed")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if address.ipv4_mapped is not None:
        raise ValueError(f"{text!r} is an IPv4-mapped IPv6 address: write {address.ipv4_mapped}")
    return address.packed


def parse_prefix(text: str) -> Prefix:
    """The network that a CIDR stands for, host bits cut off; ValueError with a reason."""
    address_text, slash, length_text = text.partition("/")
    if not slash or not _DECIMAL.fullmatch(length_text):
        raise ValueError(f"{text!r} is not a CIDR, such as 10.0.0.0/8 or fd00::/8")
    try:
        address = parse_address(address_text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a CIDR: {error}") from None
    length, bits = int(length_text), 8 * len(address)
    if length > bits or (length_text != "0" and length_text.startswith("0")):
        raise ValueError(f"{text!r} is not a CIDR: the length must be 0 to {bits}")
    return Prefix(mask(address, length), length)


def format_address(address: bytes) -> str:
    return str(ipaddress.ip_address(address))
