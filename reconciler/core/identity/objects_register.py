"""The writer's copy of the journal: the next content of its object, and what became of it.

    register = Register(ledger, entries)
    change = register.batch(batch)        # or lead, adoption, tidied; nothing is changed yet
    after = register.after(change)        # to be written, with `objects.encode`
    register.take(change, after)          # it was

Also what is to be done about each number's object: `action`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from reconciler.core.identity.allocator import ENTRY_BYTES
from reconciler.core.identity.beginning import beginning
from reconciler.core.identity.journal import (
    Entry,
    JournalBatch,
    JournalState,
    check_expected,
    contradiction,
)
from reconciler.core.identity.objects import (
    MAX_SPEC_BYTES,
    CiliumIdentity,
    Ledger,
    Pending,
    digest,
    fixed_bytes,
    is_nobody,
    proven,
    says,
)
from reconciler.core.identity.objects_mirror import is_found, stays

Kind = Literal["create", "mark", "disown", "repair", "delete"]


class Change(msgspec.Struct, frozen=True):
    """entries: number → what it is then, None: no longer in use; pending: all of it, then."""

    epoch: int
    revision: int
    cursor: int
    entries: Mapping[int, Entry | None]
    pending: Mapping[int, Pending]
    adoptions: tuple[int, ...]


class Register:
    """All entries, those pending, and whose objects have come meanwhile.

    materialised: pending numbers whose object is there; they leave `pending` with the next write
    missing:      others whose object is not, or is not right; they come back to `pending`
    adopted:      every adopted object has its birth
    """

    def __init__(self, ledger: Ledger, entries: Iterable[Entry]) -> None:
        self.ledger = ledger
        self.entries = {entry.number: entry for entry in entries}
        self._owners = {entry.label_set: entry.number for entry in self.entries.values()}
        self.materialised: set[int] = set()
        self.missing: set[int] = set()
        self.adopted = False

    def state(self) -> JournalState:
        entries = sorted(self.entries.values(), key=lambda entry: (entry.birth, entry.number))
        ledger = self.ledger
        return JournalState(ledger.epoch, ledger.revision, ledger.cursor, tuple(entries))

    # Changes

    def lead(self, wall: float) -> Change:
        """The next epoch. wall: seconds since 1970."""
        ledger = self.ledger
        begun = beginning(ledger.epoch, ledger.revision, wall)
        return Change(
            begun.epoch, begun.revision, ledger.cursor, {}, ledger.pending, ledger.adoptions
        )

    def adoption(self, entries: Iterable[Entry]) -> Change:
        """One more revision with these entries: new ones, and numbers that become nobody's."""
        ledger = self.ledger
        changed = {entry.number: entry for entry in entries}
        revision = ledger.revision + 1
        pending = {n: each for n, each in ledger.pending.items() if n not in changed}
        active = any(entry.phase == "active" for entry in changed.values())
        adoptions = (*ledger.adoptions, revision) if active else ledger.adoptions
        return Change(ledger.epoch, revision, ledger.cursor, changed, pending, adoptions)

    def batch(self, batch: JournalBatch) -> Change:
        """One write of the allocator. Errors as in `journal.apply_batch`."""
        ledger = self.ledger
        check_expected(ledger.epoch, ledger.revision, batch)
        revision = ledger.revision + 1
        changed: dict[int, Entry | None] = {}
        for number in batch.retire:
            changed[number] = self._turned(number, "active", "retiring", changed)
        for number in batch.revive:
            changed[number] = self._turned(number, "retiring", "active", changed)
        left: set[str] = set()
        for number in batch.free:
            left.add(self._turned(number, "retiring", "retiring", changed).label_set)
            changed[number] = None
        pending = {
            number: each
            for number, each in self._pending().items()
            if number not in changed or changed[number] is not None
        }
        came: set[str] = set()
        for number, label_set in batch.allocate:
            held = changed[number] if number in changed else self.entries.get(number)
            owned = label_set in self._owners and label_set not in left
            if held is not None or owned or label_set in came:
                raise contradiction(f"number {number} or label set {label_set} is in use")
            came.add(label_set)
            changed[number] = Entry(number, revision, label_set, "active")
            pending[number] = Pending(number, revision, label_set)
        return Change(ledger.epoch, revision, batch.cursor, changed, pending, self._adoptions())

    def tidied(self) -> Change | None:
        """The same revision without what needs no keeping any more; None: there is nothing."""
        ledger = self.ledger
        pending, adoptions = self._pending(), self._adoptions()
        if pending == ledger.pending and adoptions == ledger.adoptions:
            return None
        return Change(ledger.epoch, ledger.revision, ledger.cursor, {}, pending, adoptions)

    def _pending(self) -> dict[int, Pending]:
        pending = {n: p for n, p in self.ledger.pending.items() if n not in self.materialised}
        for number in self.missing - self.materialised:
            entry = self.entries.get(number)
            if entry is not None and not is_nobody(entry.label_set):
                pending[number] = Pending(number, entry.birth, entry.label_set)
        return pending

    def _adoptions(self) -> tuple[int, ...]:
        return () if self.adopted else self.ledger.adoptions

    def _turned(
        self,
        number: int,
        old: str,
        new: Literal["active", "retiring"],
        changed: Mapping[int, object],
    ) -> Entry:
        entry = self.entries.get(number)
        if entry is None or entry.phase != old or number in changed:
            raise contradiction(f"number {number} is not {old}")
        return msgspec.structs.replace(entry, phase=new)

    def room(self) -> int:
        """Bytes of label sets, `ENTRY_BYTES` more for each, that the next write may give numbers;
        below 0 where the object is too large already."""
        pending = self._pending().values()
        held = sum(len(each.labels.encode()) + ENTRY_BYTES for each in pending)
        return MAX_SPEC_BYTES - fixed_bytes(self.ledger) - held

    def after(self, change: Change) -> Ledger:
        """The journal's content with the change."""
        ledger = self.ledger
        digests = dict(ledger.digests)
        retiring = set(ledger.retiring)
        for number, entry in change.entries.items():
            retiring.discard(number)
            if entry is None:
                digests.pop(number, None)
                continue
            digests[number] = digest(number, entry.birth, entry.label_set)
            if entry.phase == "retiring":
                retiring.add(number)
        return Ledger(
            change.epoch,
            change.revision,
            change.cursor,
            digests,
            frozenset(retiring),
            change.pending,
            change.adoptions,
            ledger.origin,
        )

    def take(self, change: Change, after: Ledger) -> None:
        """The change took effect; `after` is what `after` gave."""
        for number, entry in change.entries.items():
            old = self.entries.pop(number, None)
            if old is not None and self._owners.get(old.label_set) == number:
                del self._owners[old.label_set]
            if old is not None and (entry is None or entry.birth != old.birth):
                self.materialised.discard(number)
                self.missing.discard(number)
        for number, entry in change.entries.items():
            if entry is not None:
                self.entries[number] = entry
                self._owners[entry.label_set] = number
        self.ledger = after
        self.materialised &= change.pending.keys()
        self.missing -= change.pending.keys()

    # Objects

    def noticed(self, number: int, seen: CiliumIdentity | None) -> Action | None:
        """The number's object is now like this: what is to be done about it."""
        entry = self.entries.get(number)
        pending = number in self.ledger.pending
        todo = action(number, entry, seen, self.ledger)
        if entry is None or is_nobody(entry.label_set):
            return todo
        # Nothing to do for one that is right; or for a pinned one whatever it says
        if seen and todo is None and (not seen.pinned or says(seen, entry)):
            self.missing.discard(number)
            if pending:
                self.materialised.add(number)
            return todo
        self.materialised.discard(number)
        ledger = self.ledger
        known = seen and proven(seen, ledger.digests[number], ledger.adoptions)
        if not pending and not known:
            self.missing.add(number)
        return todo


class Action(msgspec.Struct, frozen=True):
    """One write of one object. seen: the object that it is of; None: there was none.

    create, mark, disown, delete are those of specs/AllocationObjects.tla; repair undoes what
    somebody did to an object that was right before, in place, as its labels are written nowhere
    else
    """

    kind: Kind
    number: int
    entry: Entry | None
    seen: CiliumIdentity | None


def action(
    number: int, entry: Entry | None, seen: CiliumIdentity | None, ledger: Ledger
) -> Action | None:
    """What brings the object to what the journal says; None: it is, or it is to be left alone.

    An object is deleted only when its number is in use no more, or has another meaning that the
    journal still has in full: while it retires it may yet be revived. One that the next leader
    may adopt is disowned before it is deleted or gets other labels.
    """
    if seen is None:
        create = entry is not None and entry.phase == "active"
        return Action("create", number, entry, None) if create else None
    kind = _wanted(number, entry, seen, ledger)
    if kind is None:
        return None
    takes = kind == "delete" or (kind == "repair" and not _same(entry, seen))
    if takes and seen.label_set and is_found(seen, ledger.origin):
        kind = "disown"
    return Action(kind, number, entry, seen)


def _wanted(number: int, entry: Entry | None, seen: CiliumIdentity, ledger: Ledger) -> Kind | None:
    """What is to become of an object that there is, in the end."""
    if entry is None:
        return None if stays(seen) else "delete"
    if is_nobody(entry.label_set):
        # It is deleted when its number is free, and must not be adopted anew then
        return None if stays(seen) or not is_found(seen, ledger.origin) else "disown"
    if says(seen, entry):
        return None
    same = _same(entry, seen)
    found = seen.birth <= ledger.origin or entry.birth in ledger.adoptions
    if same and found and seen.birth != entry.birth:
        return "mark"
    if seen.pinned:
        return "repair" if same else None
    if number in ledger.pending and seen.birth != entry.birth:
        return "delete"
    return "repair"


def _same(entry: Entry | None, seen: CiliumIdentity) -> bool:
    return entry is not None and seen.label_set == entry.label_set
