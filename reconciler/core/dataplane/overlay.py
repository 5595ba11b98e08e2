"""A dict that remembers what stood where since it was last settled.

Everything that staging may have to take back lives in one of these: the values in force are
`before`, the staged ones are the current ones, and both are there at a cost of what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Overlay(Generic[K, V]):
    """`now` may be read freely; write only through `put` and `drop`. A value is never None."""

    __slots__ = ("_old", "now")

    def __init__(self, initial: Mapping[K, V] | None = None) -> None:
        self.now: dict[K, V] = dict(initial or {})
        self._old: dict[K, V | None] = {}

    def __contains__(self, key: K) -> bool:
        return key in self.now

    def __getitem__(self, key: K) -> V:
        return self.now[key]

    def __len__(self) -> int:
        return len(self.now)

    def __iter__(self) -> Iterator[K]:
        return iter(self.now)

    def get(self, key: K) -> V | None:
        return self.now.get(key)

    def put(self, key: K, value: V) -> None:
        if key not in self._old:
            self._old[key] = self.now.get(key)
        self.now[key] = value

    def put_all(self, values: Mapping[K, V]) -> None:
        """`put` of each, at the cost of dictionaries."""
        if self._old.keys().isdisjoint(values):
            if self.now.keys().isdisjoint(values):
                self._old.update(dict.fromkeys(values))
            else:
                self._old.update({key: self.now.get(key) for key in values})
        else:
            for key in values:
                if key not in self._old:
                    self._old[key] = self.now.get(key)
        self.now.update(values)

    def drop(self, key: K) -> None:
        if key in self.now:
            if key not in self._old:
                self._old[key] = self.now[key]
            del self.now[key]

    def before(self, key: K) -> V | None:
        """The value at the last `keep`."""
        return self._old[key] if key in self._old else self.now.get(key)

    def kept(self) -> Mapping[K, V]:
        """Everything as it was at the last `keep`."""
        if not self._old:
            return self.now
        return {k: value for k, value in {**self.now, **self._old}.items() if value is not None}

    @property
    def touched(self) -> Iterable[K]:
        """Keys written since the last `keep`; some may have their old value again."""
        return self._old.keys()

    def keep(self) -> None:
        """What is there now is what `undo` returns to."""
        self._old = {}

    def undo(self) -> None:
        for key, value in self._old.items():
            if value is None:
                self.now.pop(key, None)
            else:
                self.now[key] = value
        self._old = {}
