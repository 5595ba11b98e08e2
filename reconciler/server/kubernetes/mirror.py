"""What is held of one kind, and what changes when a list or an event arrives. Pure.

Promises: what is told, applied in order, always gives what the API server had at `position`, but
for objects that are refused: of these the last good version stays until there is a good one or the
object is gone; where none is held, as after a start, it is what their kind has stand for them.
Nothing is told twice, and a list that says what is held already says nothing, so a relist is no
flap: an object is never deleted and made again to tell that it still exists.

An object that was deleted and made again under its name between two looks is told as one change
(its uid differs). If the new one is refused, the old one is gone all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

import msgspec

from reconciler.core.objects import ObjectKey
from reconciler.errors import Rejected
from reconciler.server.kubernetes.kinds import Bookmark, Event, Gone, Item, Kind, T


class Delta(msgspec.Struct, Generic[T], frozen=True):
    """What differs: objects that are new or changed, and keys of those that are gone.

    problems: whether `Mirror.problems` differs too
    """

    changed: tuple[T, ...] = ()
    gone: tuple[ObjectKey, ...] = ()
    problems: bool = False


class _Held(msgspec.Struct, Generic[T]):
    uid: str
    version: int
    object: T | None  # the last good one, or what stands for it
    problems: tuple[Rejected, ...]
    good: bool


class Mirror(Generic[T]):
    """position: the resourceVersion up to which everything is held; -1 before the first list."""

    def __init__(self, kind: Kind[T]) -> None:
        self.kind = kind
        self.position = -1
        self._held: dict[ObjectKey, _Held[T]] = {}
        self._bad: set[ObjectKey] = set()

    @property
    def problems(self) -> tuple[Rejected, ...]:
        """All that stand, by object."""
        return tuple(p for key in sorted(self._bad) for p in self._held[key].problems)

    def objects(self) -> list[T]:
        """All good ones, as they are told."""
        return [held.object for held in self._held.values() if held.object is not None]

    def __len__(self) -> int:
        return len(self._held)

    def replace(self, version: int, items: Iterable[Item[T]]) -> Delta[T]:
        """A whole list: everything that isn't in it is gone. Sets the position, also back."""
        changed: list[T] = []
        left = dict.fromkeys(self._held)
        gone: list[ObjectKey] = []
        problems = False
        for item in items:
            left.pop(item.key, None)
            delta = self._put(item)
            changed += delta.changed
            gone += delta.gone
            problems |= delta.problems
        for key in left:
            delta = self._remove(key)
            gone += delta.gone
            problems |= delta.problems
        self.position = version
        return Delta(tuple(changed), tuple(gone), problems)

    def apply(self, event: Event[T]) -> Delta[T]:
        """One event of a watch that goes on from `position`; the caller sees to that it does."""
        self.position = max(self.position, event.version)
        if isinstance(event, Bookmark):
            return Delta()
        if isinstance(event, Gone):
            return self._remove(event.key)
        return self._put(event.item)

    def _put(self, item: Item[T]) -> Delta[T]:
        held = self._held.get(item.key)
        if held is not None and (held.version, held.uid) == (item.version, item.uid):
            return Delta()
        before = held.object if held is not None else None
        now, said, good = item.object, item.problems, item.object is not None
        if now is None:
            if held is not None and held.uid == item.uid and held.good:
                now, good = before, True  # the same object's last good version
            elif item.instead is not None:
                now, said = item.instead.object, item.instead.problems
        self._held[item.key] = _Held(item.uid, item.version, now, said, good)
        (self._bad.add if said else self._bad.discard)(item.key)
        problems = said != (held.problems if held is not None else ())
        if now is None:
            return Delta((), (item.key,) if before is not None else (), problems)
        if now is before or (before is not None and self.kind.same(before, now)):
            return Delta((), (), problems)
        return Delta((now,), (), problems)

    def _remove(self, key: ObjectKey) -> Delta[T]:
        held = self._held.pop(key, None)
        if held is None:
            return Delta()
        self._bad.discard(key)
        gone = (key,) if held.object is not None else ()
        return Delta((), gone, bool(held.problems))
