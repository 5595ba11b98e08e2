"""What a replica that doesn't lead knows of identities: the journal as it reads it.

It has the questions of `Allocator` and none of its writes: which label set has which number is what
the journal says, at the revision that was read last. A bound label set without one is about to get
it from the leader, so what needs it waits (`unserved`), unless the leader has none to give or the
label set is too large.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from types import MappingProxyType

from reconciler.core.identity.allocator import ALARM_PERCENT, POOL
from reconciler.core.identity.journal import (
    Changes,
    Entry,
    Identity,
    JournalBatch,
    JournalState,
    is_oversized,
)
from reconciler.errors import CapacityError


class Followed:
    def __init__(self, state: JournalState, *, pool: range = POOL) -> None:
        self._pool = pool
        self._bound: dict[str, None] = {}
        self._live: dict[str, Identity] = {}
        self._retiring: frozenset[str] = frozenset()
        # Bound, not live, by what becomes of them: a number is given, given back, or neither
        self._waiting: dict[str, None] = {}
        self._recalled: dict[str, None] = {}
        self._oversized: dict[str, None] = {}
        self._entries: tuple[Entry, ...] = ()
        self._held_back: frozenset[int] = frozenset()
        self._used = 0
        self.revision = -1
        self.follow(state)

    def follow(self, state: JournalState) -> Changes:
        """The journal is at this state now. A state older than the last one is ignored."""
        if state.revision <= self.revision:
            return Changes()
        self.revision = state.revision
        live = {
            entry.label_set: Identity(entry.number, entry.birth)
            for entry in state.entries
            if entry.phase == "active"
        }
        old, self._live = self._live, live
        self._entries = state.entries
        self._count()
        self._retiring = frozenset(
            entry.label_set for entry in state.entries if entry.phase == "retiring"
        )
        for missing in (self._waiting, self._recalled, self._oversized):
            missing.clear()
        for label_set in self._bound:
            self._look_for(label_set)
        return Changes(
            activated=tuple(item for item in live.items() if old.get(item[0]) != item[1]),
            retired=tuple(
                identity for label_set, identity in old.items() if live.get(label_set) != identity
            ),
        )

    # What the cluster wants

    def bind(self, label_sets: Iterable[str], now: float) -> None:
        for label_set in label_sets:
            self._bound[label_set] = None
            self._look_for(label_set)

    def release(self, label_sets: Iterable[str], now: float) -> None:
        for label_set in label_sets:
            self._bound.pop(label_set, None)
            for missing in (self._waiting, self._recalled, self._oversized):
                missing.pop(label_set, None)

    def _look_for(self, label_set: str) -> None:
        if label_set in self._live:
            return
        if label_set in self._retiring:
            self._recalled[label_set] = None
        elif is_oversized(label_set):
            self._oversized[label_set] = None
        else:
            self._waiting[label_set] = None

    def hold_back(self, numbers: Iterable[int]) -> None:
        """The leader gives none of these numbers (`Allocator.hold_back`)."""
        self._held_back = frozenset(numbers)
        self._count()

    def _count(self) -> None:
        numbers = {entry.number for entry in self._entries} | self._held_back
        self._used = sum(1 for number in numbers if number in self._pool)

    @property
    def bound(self) -> Iterable[str]:
        """Label sets that have a group now."""
        return self._bound

    # What is asked of it

    @property
    def deposed(self) -> bool:
        return False

    def identity(self, label_set: str) -> Identity | None:
        return self._live.get(label_set)

    def live(self) -> Mapping[str, Identity]:
        return MappingProxyType(self._live)

    def entries(self) -> Iterable[Entry]:
        return self._entries

    def usage(self) -> tuple[int, int]:
        return self._used, len(self._pool)

    def alarm(self) -> int:
        used, capacity = self.usage()
        if used >= capacity:
            return 100
        return next((at for at in ALARM_PERCENT if used * 100 >= at * capacity), 0)

    def exhausted(self) -> tuple[CapacityError, ...]:
        used, capacity = self.usage()
        needed = used + len(self._waiting)
        return tuple(
            CapacityError(f"label set {label_set}", needed, capacity, "identity numbers")
            for label_set in islice(self._waiting, capacity - used, None)
        )

    def oversized(self) -> Iterable[str]:
        return self._oversized

    def unserved(self) -> bool:
        used, capacity = self.usage()
        return bool(self._recalled) or (bool(self._waiting) and used < capacity)

    # What only the leader does

    def next_batch(self, now: float) -> JournalBatch | None:
        return None

    def next_deadline(self, now: float) -> float | None:
        return None

    def published(self, mark: int) -> None: ...

    def advance(self, now: float, clear_before: int) -> None: ...
