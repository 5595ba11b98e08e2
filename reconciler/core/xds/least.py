"""Keys with a number each, of which the least is wanted all the time and any may change.

A heap with an entry for each number that a key ever had; those that are out of date are dropped
when they come to its top, and all at once when they are more than half of it. So a change costs
O(log n), reading the least nothing, and the memory is that of the keys.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

_SPARE: Final = 64
"""Entries out of date that are never worth a clean-up."""


class Least:
    __slots__ = ("_heap", "_values")

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._values)

    @property
    def entries(self) -> int:
        """Of the heap, with those that are out of date."""
        return len(self._heap)

    def set(self, key: str, value: float | None) -> None:
        """None: the key has no number (any more)."""
        if self._values.get(key) == value:
            return
        if value is None:
            del self._values[key]
        else:
            self._values[key] = value
            heappush(self._heap, (value, key))
        if len(self._heap) > 2 * len(self._values) + _SPARE:
            self._heap = [(number, name) for name, number in self._values.items()]
            heapify(self._heap)

    def least(self) -> float | None:
        """The least number; None when no key has one."""
        self._clean()
        return self._heap[0][0] if self._heap else None

    def take(self, limit: float) -> list[str]:
        """Keys whose number is `limit` or less, by ascending number; they have none afterwards."""
        taken: list[str] = []
        self._clean()
        while self._heap and self._heap[0][0] <= limit:
            key = heappop(self._heap)[1]
            del self._values[key]
            taken.append(key)
            self._clean()
        return taken

    def _clean(self) -> None:
        heap, values = self._heap, self._values
        while heap and values.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
