"""Keys of the address trie, and what covers a prefix in it.

The trie is shared by both halves, so a key that only one cut names still catches the other cut's
packets. The rule that keeps this invisible: **every key present holds, in the half in force, what
that cut would answer without the key**: its own value if the cut names it, else the value of the
longest present key around it (which by the same rule is right). Then adding a key, and removing one
that its cut doesn't name, change no answer, in whatever order the writes go. The same is made true
of the idle half before a flip.

Keys for one address cover nothing but themselves, so only the wider ones (a few CIDRs) are indexed:
looking up what covers a key costs one dict look-up for each prefix length that occurs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from reconciler.core.dataplane.layout import (
    ADDRESS_KEY,
    ADDRESS_STATIC_BITS,
    FAMILY_V4,
    FAMILY_V6,
)
from reconciler.core.policy.ir import Prefix

_HOST_V4: Final = ADDRESS_KEY.pack(ADDRESS_STATIC_BITS + 32, FAMILY_V4, bytes(16))[:8]
_HOST_V6: Final = ADDRESS_KEY.pack(ADDRESS_STATIC_BITS + 128, FAMILY_V6, bytes(16))[:8]
_PAD_V4: Final = bytes(12)

EVERYWHERE: Final = (Prefix(bytes(4), 0), Prefix(bytes(16), 0))
"""0.0.0.0/0 and ::/0: always known, so that an address outside the cluster is world."""


def host_key(address: bytes) -> bytes:
    """Trie key of one address, 4 or 16 bytes."""
    return _HOST_V4 + address + _PAD_V4 if len(address) == 4 else _HOST_V6 + address


@lru_cache(maxsize=1024)  # few are wide, and these are asked for again and again
def prefix_key(prefix: Prefix) -> bytes:
    """Trie key of a prefix; host bits are cleared, since the trie would return them."""
    size = len(prefix.address)
    family = FAMILY_V4 if size == 4 else FAMILY_V6
    address = _clear(prefix.address, prefix.length)
    return ADDRESS_KEY.pack(ADDRESS_STATIC_BITS + prefix.length, family, address.ljust(16, b"\0"))


def parse_key(key: bytes) -> Prefix:
    length, family, address = ADDRESS_KEY.unpack(key)
    return Prefix(address[: 4 if family == FAMILY_V4 else 16], length - ADDRESS_STATIC_BITS)


def is_host(prefix: Prefix) -> bool:
    return prefix.length == len(prefix.address) * 8


def _clear(address: bytes, length: int) -> bytes:
    shift = len(address) * 8 - length
    return (int.from_bytes(address, "big") >> shift << shift).to_bytes(len(address), "big")


class PrefixIndex:
    """A set of prefixes that answers: which is the longest around this one?"""

    __slots__ = ("_by_length", "_lengths")

    def __init__(self) -> None:
        # address size → length → leading bits → prefix
        self._by_length: dict[int, dict[int, dict[int, Prefix]]] = {4: {}, 16: {}}
        self._lengths: dict[int, list[int]] = {4: [], 16: []}

    def add(self, prefix: Prefix) -> None:
        size = len(prefix.address)
        found = self._by_length[size].setdefault(prefix.length, {})
        if not found:
            self._lengths[size] = sorted(self._by_length[size], reverse=True)
        found[self._bits(prefix.address, prefix.length)] = prefix

    def discard(self, prefix: Prefix) -> None:
        size = len(prefix.address)
        found = self._by_length[size].get(prefix.length)
        if found is None:
            return
        found.pop(self._bits(prefix.address, prefix.length), None)
        if not found:
            del self._by_length[size][prefix.length]
            self._lengths[size] = sorted(self._by_length[size], reverse=True)

    def covering(self, prefix: Prefix, *, strictly: bool = True) -> Prefix | None:
        """The longest prefix of the set around this one; `strictly`: not the prefix itself."""
        size = len(prefix.address)
        number = int.from_bytes(prefix.address, "big")
        limit = prefix.length - strictly
        for length in self._lengths[size]:
            if length <= limit:
                found = self._by_length[size][length].get(number >> (size * 8 - length))
                if found is not None:
                    return found
        return None

    def grain(self, size: int) -> int:
        """How many leading bytes decide what covers an address of `size` bytes."""
        longest = next((length for length in self._lengths[size] if length < size * 8), 0)
        return (longest + 7) // 8

    def covering_host(self, address: bytes) -> Prefix | None:
        """The longest prefix of the set around one address that is not the address itself."""
        size = len(address)
        bits = size * 8
        number = int.from_bytes(address, "big")
        for length in self._lengths[size]:
            if length < bits:
                found = self._by_length[size][length].get(number >> (bits - length))
                if found is not None:
                    return found
        return None

    @staticmethod
    def _bits(address: bytes, length: int) -> int:
        return int.from_bytes(address, "big") >> (len(address) * 8 - length)
