"""What was made once and may be wanted again: the latest of it, in bounded bytes and number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """What was not asked for the longest goes first; what came last stays, however large."""

    __slots__ = ("_bytes", "_entries", "_found", "size")

    def __init__(self, bytes: int, entries: int) -> None:
        """How much is kept at most; bytes are as `put` says."""
        self._bytes = bytes
        self._entries = entries
        self._found: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: K) -> V | None:
        found = self._found.get(key)
        if found is None:
            return None
        self._found.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """In place of what was there. size: bytes that it takes"""
        before = self._found.pop(key, None)
        self._found[key] = value, size
        self.size += size - (0 if before is None else before[1])
        while len(self) > 1 and (self.size > self._bytes or len(self) > self._entries):
            self.size -= self._found.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._found.clear()
        self.size = 0
