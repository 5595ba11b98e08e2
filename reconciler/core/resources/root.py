"""The root of a cut: what commit and node compare instead of every version.

The sum modulo 2^256 of SHA-256(type URL, 0, name, 0, version) over all staged resources of the
view. A sum is the same in any order and follows each change in one addition and one subtraction, so
neither side ever walks its whole view.

It tells apart what an honest server sent from what the node holds after losses, refusals and
crashes. It is no defence against a server that lies: that one could send the lie itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

MODULUS: Final = 1 << 256
SIZE: Final = 32


def contribution(type_url: str, name: str, version: str) -> int:
    digest = hashlib.sha256(f"{type_url}\0{name}\0{version}".encode()).digest()
    return int.from_bytes(digest, "big")


def total(items: Iterable[tuple[str, str, str]]) -> int:
    """items: (type URL, name, version)."""
    return sum(contribution(*item) for item in items) % MODULUS


def to_bytes(value: int) -> bytes:
    return (value % MODULUS).to_bytes(SIZE, "big")
