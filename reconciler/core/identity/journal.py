"""What the allocation journal holds, what is written to it, and what every journal must do.

The journal is the only place where a number is given or taken back. It is written by
compare-and-swap on (epoch, revision): a writer that is not the newest leader, or that has not seen
the last write, changes nothing. The revision rises with each write and never goes back, nor does
it over the loss of a journal (`beginning`), so the revision that gave a number – its birth – tells
apart all meanings that the number ever has.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

from reconciler.errors import JournalConflict, JournalError

MAX_LABEL_SET_BYTES: Final = 450_000
"""Of a label set that gets a number, as text. Its CiliumIdentity is up to 3.2 times as large, with
the names of its labels a second time in what the API server adds; etcd takes 1.5 MiB a write. A
journal of one object has room for it, even while all numbers are in use."""

Phase = Literal["active", "retiring"]


class Identity(msgspec.Struct, frozen=True, order=True):
    """A label set's number with its birth, the journal revision that gave it (reserved: 0)."""

    number: int
    birth: int


class Entry(msgspec.Struct, frozen=True):
    """One number in use. `label_set` is the canonical key "source:key=value;..."."""

    number: int
    birth: int
    label_set: str
    phase: Phase

    @property
    def state(self) -> str:
        """The state of models/identity.toml that this stands for, as far as the journal knows."""
        return self.phase


class JournalState(msgspec.Struct, frozen=True):
    """All of it. `cursor` is where the search for the next number begins."""

    epoch: int
    revision: int
    cursor: int
    entries: tuple[Entry, ...] = ()


class JournalBatch(msgspec.Struct, frozen=True):
    """One write, all or nothing, if the journal is at (epoch, expected).

    allocate: (number, label set): births are the revision that the write returns
    retire:   active → retiring
    revive:   retiring → active, with the birth that it has
    free:     retiring → gone
    """

    epoch: int
    expected: int
    allocate: tuple[tuple[int, str], ...]
    retire: tuple[int, ...]
    revive: tuple[int, ...]
    free: tuple[int, ...]
    cursor: int


class Changes(msgspec.Struct, frozen=True):
    """What one write did to the identities that are live (in peer sets and policies).

    activated, revived: enter with the next cut; retired: leave with the next cut (then
    `Allocator.published`); freed: back in the pool, of interest to whoever mirrors the journal
    """

    activated: tuple[tuple[str, Identity], ...] = ()
    revived: tuple[tuple[str, Identity], ...] = ()
    retired: tuple[Identity, ...] = ()
    freed: tuple[Identity, ...] = ()


class Journal(Protocol):
    """The port. Calls block; errors are those of the JournalError tree."""

    def open(self) -> JournalState:
        """Take the lock and an epoch above all before (`beginning`). JournalLocked,
        JournalCorrupt."""

    def append(self, batch: JournalBatch) -> int:
        """Write the batch and return the new revision. JournalConflict: nothing was written."""

    def close(self) -> None: ...


def is_oversized(label_set: str) -> bool:
    """Whether it can't be given a number, whatever else there is: the same on every replica."""
    return len(label_set.encode()) > MAX_LABEL_SET_BYTES


def apply_batch(state: JournalState, batch: JournalBatch) -> JournalState:
    """The state after the write: what every journal must do, for those that hold one object.

    JournalConflict if the writer is not the newest or has not seen the last write; JournalError
    if the batch contradicts the state (a number given twice, one retired that is not active).
    """
    check_expected(state.epoch, state.revision, batch)
    revision = state.revision + 1
    entries = {entry.number: entry for entry in state.entries}
    label_sets = {entry.label_set for entry in state.entries}
    for numbers, old, new in (
        (batch.retire, "active", "retiring"),
        (batch.revive, "retiring", "active"),
        (batch.free, "retiring", None),
    ):
        for number in numbers:
            entry = entries.get(number)
            if entry is None or entry.phase != old:
                raise contradiction(f"number {number} is not {old}")
            if new is None:
                del entries[number]
                label_sets.discard(entry.label_set)
            else:
                entries[number] = msgspec.structs.replace(entry, phase=new)
    for number, label_set in batch.allocate:
        if number in entries or label_set in label_sets:
            raise contradiction(f"number {number} or label set {label_set} is in use")
        entries[number] = Entry(number, revision, label_set, "active")
        label_sets.add(label_set)
    return JournalState(state.epoch, revision, batch.cursor, tuple(entries.values()))


def check_expected(epoch: int, revision: int, batch: JournalBatch) -> None:
    """Refuse the write of a deposed leader, or of one that missed a write."""
    if (epoch, revision) != (batch.epoch, batch.expected):
        raise JournalConflict(
            f"the journal is at epoch {epoch}, revision {revision}; the write was made for "
            f"epoch {batch.epoch}, revision {batch.expected}: another server has taken over"
        )


def contradiction(reason: str) -> JournalError:
    return JournalError(f"the batch contradicts the journal, nothing was written: {reason}")
