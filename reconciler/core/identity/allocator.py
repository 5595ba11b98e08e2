"""Gives each label set one number, and takes numbers back as late as it can.

The allocator is pure: it says what to write to the journal (`next_batch`), is told what became of
it (`written`, `refused`), and only then changes what is live. At most one write is under way.

It promises that no two live label sets share a number and that one label set never has two; that
a number goes back to the pool only when its retirement is journaled, a cut without it is published
and the caller has said that no node may use an older cut (`advance`); and that a label set which
comes back before that gets its old number. What a restart forgets – acknowledgements – is waited
for anew.

A label set that no journal has room for is refused when it is bound, unless it has a number that
it can keep. It doesn't enter the machine, so nothing waits for it.

It doesn't count users of a label set, know nodes or read a clock. Each entry's life is the table
models/identity.toml; entries that want something are kept in queues by state, so that a batch
costs what is in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice, takewhile
from math import ceil
from types import MappingProxyType
from typing import Final

import msgspec
from pyroaring import BitMap

from reconciler.core.identity.entry import MODEL, IdentityEntry, Registry
from reconciler.core.identity.journal import (
    MAX_LABEL_SET_BYTES,
    Changes,
    Entry,
    Identity,
    JournalBatch,
    JournalState,
    is_oversized,
)
from reconciler.core.trace import Event, Trace, cut
from reconciler.errors import CapacityError, JournalCorrupt

POOL: Final = range(256, 65536)
"""Numbers of a cluster: below are the reserved ones, above those of other clusters."""

ALARM_PERCENT: Final = (90, 80)
"""Use of the pool, in percent, that somebody should be told of; 100 when it is used up."""

MAX_BATCH: Final = 5000
"""Label sets given a number in one write (and numbers retired, revived, freed)."""

MAX_BATCH_BYTES: Final = 600_000
"""Of label sets given a number in one write: an object of the Kubernetes API has at most 1.5 MB, of
which digests and bitmaps take up to 0.7. The largest label set (`MAX_LABEL_SET_BYTES`) fits."""

ENTRY_BYTES: Final = 64
"""What an entry takes besides its label set, where it is written as text."""

WAVE_BYTES: Final = 300_000
"""Of a journal that is nearly full: for less room than this, or than what waits takes, no write is
made. Each one writes the whole object."""

DRAIN_STEP: Final = 1.0
"""Drain times end at multiples of these seconds. The label sets of a namespace that is deleted go
one after the other, with their pods; so they are retired in few writes, and freed in as few."""

QUEUED: Final = ("waiting", "recalled", "draining")

SPEC: Final = "Allocation"


class _Flight(msgspec.Struct, frozen=True):
    """The write under way, with the entries that it is about in the order of the batch."""

    batch: JournalBatch
    entries: tuple[IdentityEntry, ...]


class Allocator:
    """Begins with what the journal holds: nothing is renumbered.

    Entries found active are live and drain until `bind` names them; so bind what exists within
    `drain_seconds`. `now` is in seconds and never goes back, here and in every method.
    """

    def __init__(
        self,
        state: JournalState,
        *,
        pool: range = POOL,
        drain_seconds: float = 30.0,
        max_batch: int = MAX_BATCH,
        now: float,
        trace: Trace | None = None,
    ) -> None:
        self._trace = trace
        self._epoch, self._revision = state.epoch, state.revision
        self._pool, self._drain_seconds, self._max_batch = pool, drain_seconds, max_batch
        self._cursor = state.cursor if state.cursor in pool else pool.start
        self._free = BitMap(pool)
        self._held_back: frozenset[int] = frozenset()
        self._set_aside = BitMap()  # those of them that would be free
        self._registry = Registry()
        self._entries: dict[str, IdentityEntry] = {}
        self._oversized: dict[str, None] = {}
        self._queues: dict[str, OrderedDict[str, IdentityEntry]] = {
            name: OrderedDict() for name in QUEUED
        }
        self._flight: _Flight | None = None
        self._deposed = False
        self._room: int | None = None  # None: no bound
        self._room_at = state.revision
        self._published = self._clear_before = 0
        self._adopt(state, now)
        if self._trace is not None:
            self._trace(_led(state, pool))

    def _adopt(self, state: JournalState, now: float) -> None:
        self._registry.deadline = self._end_of_drain(now)
        numbers: set[int] = set()
        for held in state.entries:
            if held.number in numbers or held.label_set in self._entries:
                raise JournalCorrupt(
                    f"the journal has number {held.number} or label set {held.label_set} twice"
                )
            numbers.add(held.number)
            self._free.discard(held.number)
            entry = self._new(held.label_set)
            entry.number, entry.birth = held.number, held.birth
            self._fire(entry, f"adopt_{held.phase}")
        self._registry.clear()

    # What the cluster wants

    def bind(self, label_sets: Iterable[str], now: float) -> None:
        """These label sets have a group now (they had none)."""
        for label_set in label_sets:
            entry = self._entries.get(label_set)
            if is_oversized(label_set) and (entry is None or entry.state == "freeing"):
                self._oversized[label_set] = None
                continue
            self._fire(entry or self._new(label_set), "bind")
            if self._trace is not None:
                self._trace(Event(SPEC, "Bind", {"label_set": label_set}))

    def release(self, label_sets: Iterable[str], now: float) -> None:
        """The last group of these label sets is gone; they drain from now."""
        self._registry.deadline = self._end_of_drain(now)
        for label_set in label_sets:
            entry = self._entries.get(label_set)
            if label_set in self._oversized:
                del self._oversized[label_set]
            elif entry is None:
                MODEL.step(MODEL.initial, "release")  # raises: it was never bound
            else:
                self._fire(entry, "release")
                if self._trace is not None:
                    self._trace(Event(SPEC, "Release", {"label_set": label_set}))

    def hold_back(self, numbers: Iterable[int]) -> None:
        """From now these numbers, and no others, are neither given nor taken back.

        A write under way is not called back. One whose label set has it goes on being live.
        """
        self._held_back = frozenset(numbers)
        self._free |= self._set_aside
        self._set_aside = self._free & BitMap(self._held_back)
        self._free -= self._set_aside

    def room(self, revision: int, size: int) -> None:
        """The journal has room for so many bytes of label sets, `ENTRY_BYTES` more each, at this
        revision of it. It has room for any until this is called.

        What doesn't fit waits, for a call that says more: numbers are given in as many writes as
        that takes. Numbers are taken back meanwhile.
        """
        if revision >= self._room_at:
            self._room, self._room_at = size, revision

    # The journal

    def next_batch(self, now: float) -> JournalBatch | None:
        """The next write, or None: nothing to write, or one is under way, or deposed."""
        if self._flight is not None or self._deposed:
            return None
        free = tuple(islice(self._clear(), self._max_batch))
        retire = tuple(islice(self._drained(now), self._max_batch))
        revive = tuple(islice(self._queues["recalled"].values(), self._max_batch))
        waiting = self._queues["waiting"]
        numbers = self._next_numbers(self._fitting())
        allocate = tuple(zip(waiting.values(), numbers, strict=False))
        if not (allocate or retire or revive or free):
            return None
        for entry, number in allocate:
            entry.number = number
        batch = JournalBatch(
            epoch=self._epoch,
            expected=self._revision,
            allocate=tuple((number, entry.label_set) for entry, number in allocate),
            retire=tuple(entry.number for entry in retire),
            revive=tuple(entry.number for entry in revive),
            free=tuple(entry.number for entry in free),
            cursor=self._after(allocate[-1][1]) if allocate else self._cursor,
        )
        reserve = tuple(entry for entry, _ in allocate)
        self._flight = _Flight(batch, (*reserve, *revive, *free, *retire))
        for trigger, entries in (
            ("reserve", reserve),
            ("revive", revive),
            ("free", free),
            ("retire", retire),
        ):
            for entry in entries:
                self._fire(entry, trigger)
        if self._trace is not None:
            self._trace(_made(batch, retire))
        return batch

    def written(self, revision: int, now: float) -> Changes:
        """The write under way took effect and made `revision`."""
        flight = self._landed()
        self._registry.deadline = self._end_of_drain(now)
        self._revision, self._cursor = revision, flight.batch.cursor
        if self._room is not None and self._room_at < revision:
            given = (label_set for _, label_set in flight.batch.allocate)
            self._room -= sum(len(label_set) + ENTRY_BYTES for label_set in given)
            self._room_at = revision
        for number, label_set in flight.batch.allocate:
            self._free.discard(number)
            self._set_aside.discard(number)
            self._entries[label_set].birth = revision
        for entry in flight.entries:
            self._fire(entry, "written")
        registry = self._registry
        self._free.update(number for number in registry.returned if number in self._pool)
        registry.returned.clear()
        self.hold_back(self._held_back)
        changes = Changes(
            activated=tuple(registry.activated),
            revived=tuple(registry.revived),
            retired=tuple(registry.retired),
            freed=tuple(registry.freed),
        )
        registry.clear()
        if self._trace is not None:
            self._trace(Event(SPEC, "Written", {"revision": revision}))
        return changes

    def refused(self, reason: str, *, deposed: bool = False) -> None:
        """The write under way did not take effect: `next_batch` will make it again.

        deposed: another server has taken over (JournalConflict). Nothing is written any more, and
        `reason` is what `deposed` says.
        """
        flight = self._landed()
        # Backwards and to the front, so that nothing loses its place in a queue.
        for entry in reversed(flight.entries):
            self._fire(entry, "refused", first=True)
        self._deposed = self._deposed or deposed
        if self._trace is not None:
            self._trace(Event(SPEC, "Conflict" if deposed else "Refused"))

    def _landed(self) -> _Flight:
        flight, self._flight = self._flight, None
        if flight is None:
            raise RuntimeError("no journal write is under way")
        return flight

    # The cuts

    def published(self, revision: int) -> None:
        """A cut without anything that has left by now is published, its revision is `revision`.

        To be called for the first cut after a start and after each `written` that retired.
        """
        if revision < self._published:
            raise ValueError(f"cut {revision} is published after {self._published}")
        self._published = revision
        for number, entry in self._registry.unpublished.items():
            entry.without = revision
            self._registry.leaving[number] = entry
        self._registry.unpublished.clear()
        if self._trace is not None:
            uses = [_pair(each, label_set) for label_set, each in self._registry.live.items()]
            self._trace(Event(SPEC, "Publish", {**cut(revision), "uses": uses}))

    def advance(self, now: float, clear_before: int) -> None:
        """Every node is known to use only cuts with a revision of `clear_before` or newer.

        A node that is away counts as using what it last may have used until its grace is over.
        """
        self._clear_before = clear_before

    # What is asked of it

    @property
    def revision(self) -> int:
        """Of the journal, as far as its writes are answered."""
        return self._revision

    def journal(self) -> JournalState:
        """What the journal holds, as far as its writes are answered."""
        held = (entry for entry in self._entries.values() if entry.birth)
        entries = (
            Entry(
                entry.number,
                entry.birth,
                entry.label_set,
                "active" if entry.label_set in self._registry.live else "retiring",
            )
            for entry in sorted(held, key=lambda entry: (entry.birth, entry.number))
        )
        return JournalState(self._epoch, self._revision, self._cursor, tuple(entries))

    @property
    def deposed(self) -> bool:
        return self._deposed

    def identity(self, label_set: str) -> Identity | None:
        """The live identity of a label set; None while it has none or is on its way out."""
        return self._registry.live.get(label_set)

    def live(self) -> Mapping[str, Identity]:
        """Label set → identity of all that are in peer sets and policies; a view, not a copy."""
        return MappingProxyType(self._registry.live)

    def entries(self) -> Iterable[IdentityEntry]:
        """Every label set that has, or is about to get, a number; read only."""
        return self._entries.values()

    def usage(self) -> tuple[int, int]:
        """(numbers in use, numbers of the pool)"""
        return len(self._pool) - len(self._free), len(self._pool)

    def alarm(self) -> int:
        """0, 80, 90 or 100: the percentage of the pool whose use has been reached."""
        used, capacity = self.usage()
        if used >= capacity:
            return 100
        return next((level for level in ALARM_PERCENT if used * 100 >= level * capacity), 0)

    def exhausted(self) -> tuple[CapacityError, ...]:
        """One error for each label set that waits and finds the pool empty; others go on."""
        taken = 0 if self._flight is None else len(self._flight.batch.allocate)
        waiting = list(self._queues["waiting"])[len(self._free) - taken :]
        used, capacity = self.usage()
        needed = used + taken + len(self._queues["waiting"])
        return tuple(
            CapacityError(f"label set {label_set}", needed, capacity, "identity numbers")
            for label_set in waiting
        )

    def oversized(self) -> Iterable[str]:
        """Label sets that have a group and get no number, as they are too large."""
        return self._oversized

    def unserved(self) -> bool:
        """Whether label sets want a write that can give them a number, and it is not under way.

        One that came back while the write that frees its number is under way will want one too.
        """
        if self._deposed:
            return False
        flight = self._flight
        taken = 0 if flight is None else len(flight.batch.allocate)
        returning = flight is not None and any(
            entry.state == "freeing-wanted" for entry in flight.entries
        )
        waiting = bool(self._queues["waiting"]) and len(self._free) > taken
        return waiting or returning or bool(self._queues["recalled"])

    def next_deadline(self, now: float) -> float | None:
        """When `next_batch` has something to do if nothing else happens; None: never."""
        if self._flight is not None or self._deposed:
            return None
        if self._queues["recalled"] or (self._free and self._gives()):
            return now
        if next(self._clear(), None) is not None:
            return now
        for entry in self._queues["draining"].values():
            if entry.number not in self._held_back:
                return max(entry.deadline, now)
        return None

    # Inside

    def _new(self, label_set: str) -> IdentityEntry:
        entry = self._entries[label_set] = IdentityEntry(label_set, self._registry)
        return entry

    def _fire(self, entry: IdentityEntry, trigger: str, *, first: bool = False) -> None:
        """Run the entry's machine, then keep the queues by state."""
        before = entry.state
        MODEL.fire(entry, trigger)
        if entry.state == before:
            return
        if before in self._queues:
            del self._queues[before][entry.label_set]
        if entry.state in self._queues:
            queue = self._queues[entry.state]
            queue[entry.label_set] = entry
            if first:
                queue.move_to_end(entry.label_set, last=False)
        elif entry.state == MODEL.initial:
            del self._entries[entry.label_set]

    def _end_of_drain(self, now: float) -> float:
        """Of what begins now."""
        step = min(DRAIN_STEP, self._drain_seconds)
        end = now + self._drain_seconds
        return ceil(end / step) * step if step else end

    def _drained(self, now: float) -> Iterator[IdentityEntry]:
        """Entries whose drain time is over. The queue is in the order of deadlines."""
        over = takewhile(lambda entry: entry.deadline <= now, self._queues["draining"].values())
        return (entry for entry in over if entry.number not in self._held_back)

    def _clear(self) -> Iterator[IdentityEntry]:
        """Entries that no node may use any more. Those that are wanted again are passed over."""
        for entry in self._registry.leaving.values():
            if entry.without > self._clear_before:
                return
            if entry.state == "retiring" and entry.number not in self._held_back:
                yield entry

    def _gives(self) -> bool:
        """Whether there is room for any that wait; looks at them only where it is short."""
        if self._room is None or self._room >= MAX_LABEL_SET_BYTES + ENTRY_BYTES:
            return bool(self._queues["waiting"])
        return self._fitting() > 0

    def _fitting(self) -> int:
        """How many of those that wait fit in one write: all, or there is room for a wave."""
        waiting = self._queues["waiting"]
        room = MAX_BATCH_BYTES if self._room is None else min(self._room, MAX_BATCH_BYTES)
        sizes = accumulate(len(label_set) + ENTRY_BYTES for label_set in waiting)
        fitting = sum(1 for _ in takewhile(room.__ge__, sizes))
        return fitting if fitting == len(waiting) or room >= WAVE_BYTES else 0

    def _next_numbers(self, wanted: int) -> list[int]:
        """Free numbers from the cursor on, once around the pool."""
        wanted = min(wanted, len(self._free), self._max_batch)
        found: list[int] = []
        for start, stop in ((self._cursor, self._pool.stop), (self._pool.start, self._cursor)):
            for number in self._free.iter_equal_or_larger(start):
                if number >= stop or len(found) == wanted:
                    break
                found.append(number)
        return found

    def _after(self, number: int) -> int:
        return number + 1 if number + 1 < self._pool.stop else self._pool.start


# What is recorded


def _pair(identity: Identity, label_set: str) -> dict[str, int | str]:
    return {"number": identity.number, "birth": identity.birth, "owner": label_set}


def _led(state: JournalState, pool: range) -> Event:
    entries = [
        {**_pair(Identity(each.number, each.birth), each.label_set), "phase": each.phase}
        for each in state.entries
    ]
    args = {"epoch": state.epoch, "revision": state.revision, "cursor": state.cursor}
    numbers = {"first": pool.start, "last": pool.stop - 1}
    return Event(SPEC, "Lead", {**args, **numbers, "entries": entries})


def _made(batch: JournalBatch, retire: Iterable[IdentityEntry]) -> Event:
    args = {
        "drained": [entry.label_set for entry in retire],
        "given": [label_set for _, label_set in batch.allocate],
        "numbers": [number for number, _ in batch.allocate],
        "revive": list(batch.revive),
        "free": list(batch.free),
    }
    return Event(SPEC, "Write", args)
