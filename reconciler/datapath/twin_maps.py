"""The maps of the twin: packed bytes in dictionaries, with the kernel's rules about room and keys.

A `put` is all-or-nothing: it checks sizes and room before it writes. Keys and values are kept as
the objects that were handed in, never copied: many twins in one process share what they are given.

The trie refuses a key with a bit set after its prefix. The kernel would take it, compare it as if
the bit were zero, and give it back as written: two keys for one entry, which no caller means.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Final

from reconciler.core.dataplane.layout import MapSpec
from reconciler.errors import DatapathError, MapFull

Entries = Sequence[tuple[bytes, bytes]]

_LENGTH_BYTES: Final = 4  # an LPM key begins with its prefix length in bits


class Table:
    """A hash: every key its own entry."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        self.entries: dict[bytes, bytes] = {}

    def put(self, entries: Entries) -> None:
        wanted = self._checked(entries)
        needed = len(self.entries) + len(wanted.keys() - self.entries.keys())
        if needed > self.spec.max_entries:
            raise MapFull(self.spec.id, needed, self.spec.max_entries)
        self._write(wanted)

    def remove(self, keys: Sequence[bytes]) -> None:
        self._check_size(map(len, keys), self.spec.key_size, "key")
        for key in keys:
            self.entries.pop(key, None)

    def dump(self) -> dict[bytes, bytes]:
        return dict(self.entries)

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def _checked(self, entries: Entries) -> dict[bytes, bytes]:
        wanted = dict(entries)
        self._check_size(map(len, wanted), self.spec.key_size, "key")
        self._check_size(map(len, wanted.values()), self.spec.value_size, "value")
        return wanted

    def _check_size(self, sizes: Iterable[int], size: int, what: str) -> None:
        if set(sizes) - {size}:
            raise self._refused(f"a {what} is not {size} bytes long")

    def _refused(self, reason: str) -> DatapathError:
        return DatapathError("update", self.spec.id, errno.EINVAL, reason)

    def _write(self, wanted: dict[bytes, bytes]) -> None:
        self.entries.update(wanted)


class Trie(Table):
    """Longest prefix match. Key: u32 prefix length in bits, then the data that it counts in.

    `longest` costs one dictionary look-up for each different prefix length that the trie holds.
    """

    def __init__(self, spec: MapSpec) -> None:
        super().__init__(spec)
        self._bits = 8 * (spec.key_size - _LENGTH_BYTES)
        self._counts: dict[bytes, int] = {}  # by packed length
        self._lengths: tuple[tuple[bytes, int, int], ...] = ()  # packed, bits, mask; longest first

    def longest(self, data: bytes, length: int) -> bytes | None:
        """The value of the longest prefix of the first `length` bits of `data`."""
        found = self.entries.get(length.to_bytes(_LENGTH_BYTES, "little") + data)
        if found is not None:
            return found
        number, size = int.from_bytes(data, "big"), len(data)
        for packed, bits, mask in self._lengths:
            if bits <= length:
                found = self.entries.get(packed + (number & mask).to_bytes(size, "big"))
                if found is not None:
                    return found
        return None

    def remove(self, keys: Sequence[bytes]) -> None:
        self._check_size(map(len, keys), self.spec.key_size, "key")
        before = len(self._counts)
        for key in keys:
            if self.entries.pop(key, None) is not None:
                packed = key[:_LENGTH_BYTES]
                left = self._counts[packed] - 1
                if left:
                    self._counts[packed] = left
                else:
                    del self._counts[packed]
        if len(self._counts) != before:
            self._sort_lengths()

    def _checked(self, entries: Entries) -> dict[bytes, bytes]:
        wanted = super()._checked(entries)
        tails: dict[bytes, tuple[int, int, bytes]] = {}
        for key in wanted:
            packed = key[:_LENGTH_BYTES]
            tail = tails.get(packed)
            if tail is None:
                tail = tails[packed] = self._tail(packed)
            at, rest, zeros = tail
            if not key.endswith(zeros) or (rest and key[at] & rest):
                raise self._refused(f"key {key.hex()} has bits set after its prefix")
        return wanted

    def _tail(self, packed: bytes) -> tuple[int, int, bytes]:
        """What has to be zero: (index of the cut byte, its bits after the prefix, bytes after)."""
        length = int.from_bytes(packed, "little")
        if length > self._bits:
            raise self._refused(f"prefix length {length} is above {self._bits}")
        at = _LENGTH_BYTES + length // 8
        rest = 0xFF >> length % 8 if length % 8 else 0
        return at, rest, bytes(self.spec.key_size - at - bool(rest))

    def _write(self, wanted: dict[bytes, bytes]) -> None:
        before = len(self._counts)
        for key in wanted.keys() - self.entries.keys():
            packed = key[:_LENGTH_BYTES]
            self._counts[packed] = self._counts.get(packed, 0) + 1
        self.entries.update(wanted)
        if len(self._counts) != before:
            self._sort_lengths()

    def _sort_lengths(self) -> None:
        lengths = {packed: int.from_bytes(packed, "little") for packed in self._counts}
        full = (1 << self._bits) - 1
        self._lengths = tuple(
            (packed, bits, full >> (self._bits - bits) << (self._bits - bits))
            for packed, bits in sorted(lengths.items(), key=lambda item: -item[1])
        )


class Array(Table):
    """Every index is there, zero until written. Only what is not zero takes memory."""

    def put(self, entries: Entries) -> None:
        wanted = self._checked(entries)
        last = max(map(_index, wanted), default=-1)
        if last >= self.spec.max_entries:
            raise MapFull(self.spec.id, last + 1, self.spec.max_entries)
        self._write(wanted)

    def get(self, key: bytes) -> bytes | None:
        found = self.entries.get(key)
        if found is None and _index(key) < self.spec.max_entries:
            return bytes(self.spec.value_size)
        return found

    def _write(self, wanted: dict[bytes, bytes]) -> None:
        for key, value in wanted.items():
            if any(value):
                self.entries[key] = value
            else:
                self.entries.pop(key, None)


class Cache(Table):
    """LRU hash: makes room by forgetting what was written or read longest ago. The kernel's
    forgets about that; nobody may rely on which entry goes."""

    def put(self, entries: Entries) -> None:
        self._write(self._checked(entries))

    def store(self, key: bytes, value: bytes) -> None:
        """`put` of one entry whose sizes are known to be right."""
        self.entries.pop(key, None)
        if len(self.entries) >= self.spec.max_entries:
            del self.entries[next(iter(self.entries))]
        self.entries[key] = value

    def _write(self, wanted: dict[bytes, bytes]) -> None:
        for key, value in wanted.items():
            self.store(key, value)


def _index(key: bytes) -> int:
    return int.from_bytes(key, "little")
