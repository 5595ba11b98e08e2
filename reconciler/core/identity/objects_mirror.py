"""What the journal means, from its object and the identities' objects, kept up as both change.

    mirror = Mirror()
    mirror.identity_changed("300", identity)      # None: it is gone
    mirror.journal_changed(journal)
    mirror.state()                                # as if the journal held every entry in full
    mirror.unresolved                             # numbers in use of which that is not known yet

The two may arrive in any order and skip versions. An entry is taken from an object only if the
journal's digest says so, and is kept as long as the digest stays, whatever becomes of the object.
So `state` is a function of the journal alone, once `unresolved` is empty: a replica that reads has
either the writer's entries or waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from reconciler.core.identity.allocator import POOL
from reconciler.core.identity.journal import Entry, JournalState
from reconciler.core.identity.objects import (
    PINNED,
    AllocationJournal,
    CiliumIdentity,
    Ledger,
    decode,
    digest,
    is_nobody,
    is_owned,
    nobody,
    proven,
)
from reconciler.core.objects import ObjectMeta
from reconciler.errors import JournalCorrupt, Rejected

SOURCE: Final = "ciliumidentities"

EMPTY: Final = Ledger(epoch=0, revision=0, cursor=POOL.start, digests={})


class Mirror:
    """Begins empty. Read `entries`, `unresolved`, `objects` and `ledger`; don't change them.

    entries:    number → entry, of all numbers in use whose meaning is known
    unresolved: the other numbers in use
    objects:    number → object, of all in the pool
    """

    def __init__(self, pool: range = POOL) -> None:
        self.pool = pool
        self.ledger = EMPTY
        self.entries: dict[int, Entry] = {}
        self.unresolved: set[int] = set()
        self.objects: dict[int, CiliumIdentity] = {}
        self._digests: dict[int, int] = {}  # of the entries that are known
        self._pinned: set[int] = set()
        self._outside: dict[str, Rejected] = {}

    def journal_changed(self, journal: AllocationJournal | None) -> None:
        """JournalCorrupt: it contradicts itself, and nothing is changed. None: there is none."""
        ledger = EMPTY if journal is None else decode(journal.spec)
        before, self.ledger = self.ledger, ledger
        for number in before.digests.keys() - ledger.digests.keys():
            self.entries.pop(number, None)
            self._digests.pop(number, None)
            self.unresolved.discard(number)
        turned = before.retiring ^ ledger.retiring
        for number, value in ledger.digests.items():
            if self._digests.get(number) != value:
                self._resolve(number)
            elif number in turned:
                entry = self.entries[number]
                self._know(number, entry.birth, entry.label_set)

    def identity_changed(self, name: str, identity: CiliumIdentity | None) -> None:
        """An object as it is now; None: it is gone."""
        if identity is None:
            self._outside.pop(name, None)
            gone = CiliumIdentity(ObjectMeta(name)).number
            if gone is not None:
                self.objects.pop(gone, None)
                self._pinned.discard(gone)
            return
        number = identity.number
        if number is None or number not in self.pool:
            self._outside[name] = refused(
                name,
                "metadata.name",
                "is not a number of this cluster's pool "
                f"({self.pool.start} to {self.pool.stop - 1}); it is left alone",
            )
            return
        self.objects[number] = identity
        if identity.pinned:
            self._pinned.add(number)
        else:
            self._pinned.discard(number)
        if number in self.unresolved:
            self._resolve(number)

    def recall(self, entries: Iterable[Entry]) -> None:
        """What somebody knew before: it counts where the journal's digest says so."""
        for entry in entries:
            number = entry.number
            if number in self.unresolved and self.ledger.digests[number] == digest(
                number, entry.birth, entry.label_set
            ):
                self.unresolved.discard(number)
                self._know(number, entry.birth, entry.label_set)

    def state(self) -> JournalState:
        """Everything that is known, in the order in which it was given."""
        ledger = self.ledger
        entries = sorted(self.entries.values(), key=lambda entry: (entry.birth, entry.number))
        return JournalState(ledger.epoch, ledger.revision, ledger.cursor, tuple(entries))

    def held_back(self) -> frozenset[int]:
        """Numbers that must neither be given nor taken back: their objects stay (`stays`)."""
        used = self.ledger.digests
        maybe = self._pinned | (self.objects.keys() - used.keys())
        return held_back({number: self.objects[number] for number in maybe}, used)

    def problems(self) -> tuple[Rejected, ...]:
        """What a person should look at, in order; costs a pass over all objects."""
        owners = {entry.label_set: number for number, entry in self.entries.items()}
        found = [*self._outside.values()]
        for number, identity in self.objects.items():
            problem = _problem(number, identity, self.entries.get(number), owners)
            if problem is not None and number not in self.unresolved:
                found.append(problem)
        found += (
            refused(
                str(number),
                "",
                "is in use by the journal, and no object says for which labels",
                severity="warning",
            )
            for number in self.unresolved
        )
        return tuple(sorted(found))

    # ------------------------------------------------------------------------------------ inside

    def _resolve(self, number: int) -> None:
        """Find what a number in use means: in the journal, or in its object."""
        ledger, value = self.ledger, self.ledger.digests[number]
        self.unresolved.discard(number)
        pending = ledger.pending.get(number)
        if pending is not None:
            self._know(number, pending.birth, pending.labels)
            return
        if not is_owned(value):
            self._know(number, value, nobody(number))
            return
        identity = self.objects.get(number)
        if identity is not None:
            found = proven(identity, value, ledger.adoptions)
            if found is not None:
                self._know(number, *found)
                return
        self.entries.pop(number, None)
        self._digests.pop(number, None)
        self.unresolved.add(number)

    def _know(self, number: int, birth: int, label_set: str) -> None:
        phase = "retiring" if number in self.ledger.retiring else "active"
        self.entries[number] = Entry(number, birth, label_set, phase)  # type: ignore[arg-type]
        self._digests[number] = self.ledger.digests[number]


def state_of(
    journal: AllocationJournal | None,
    identities: Iterable[CiliumIdentity],
    *,
    pool: range = POOL,
) -> tuple[JournalState, tuple[Rejected, ...]]:
    """What both say together, and the problems. JournalCorrupt: the journal contradicts itself."""
    mirror = Mirror(pool)
    for identity in identities:
        mirror.identity_changed(identity.metadata.name, identity)
    mirror.journal_changed(journal)
    return mirror.state(), mirror.problems()


def stays(identity: CiliumIdentity) -> bool:
    """Whether an object that the journal does not want is left alone all the same.

    One that a person pinned; one without labels that mean anything: whoever made it may know why.
    """
    return identity.pinned or not identity.label_set


def is_found(identity: CiliumIdentity, origin: int) -> bool:
    """Whether the next leader adopts an object if its number is not in use: as one of before.

    origin: of the journal (`JournalSpec`)
    """
    return identity.pinned or (identity.birth <= origin and not identity.disowned)


def held_back(objects: Mapping[int, CiliumIdentity], used: Mapping[int, object]) -> frozenset[int]:
    """Numbers of pinned objects, and of those not in use that can't be read."""
    return frozenset(
        number
        for number, identity in objects.items()
        if identity.pinned or (number not in used and stays(identity))
    )


def refused(name: str, path: str, reason: str, *, severity: str = "error") -> Rejected:
    return Rejected(SOURCE, f"CiliumIdentity {name}", path, reason, severity)


def _problem(
    number: int, identity: CiliumIdentity, entry: Entry | None, owners: Mapping[str, int]
) -> Rejected | None:
    """What is wrong with an object that stays although the journal does not want it."""
    if entry is not None and not identity.pinned:
        return None
    label_set, name = identity.label_set, str(number)
    if entry is None:
        if not label_set:
            return refused(name, "security-labels", "can't be read; the number is not given away")
        if not identity.pinned:
            return None
        owner = owners.get(label_set)
        if owner is None:
            text = "is pinned and not in use; the next leader adopts it"
            return refused(name, "", text, severity="warning")
        text = f"is pinned, but these labels have number {owner}: remove {PINNED} from one of both"
        return refused(name, "security-labels", text)
    if label_set == entry.label_set:
        return None
    if is_nobody(entry.label_set):
        owner = owners.get(label_set)
        text = "is pinned, but its labels are not those that the journal has"
        if owner is not None:
            text = f"is pinned, but these labels have number {owner}"
        return refused(name, "security-labels", text)
    text = f"is pinned with other labels than those that have this number: {entry.label_set}"
    return refused(name, "security-labels", text)


__all__ = [
    "EMPTY",
    "JournalCorrupt",
    "Mirror",
    "held_back",
    "is_found",
    "refused",
    "state_of",
    "stays",
]
