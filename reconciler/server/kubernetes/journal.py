"""The allocation journal in Kubernetes: one AllocationJournal object, written by compare-and-swap.

    journal = KubernetesJournal(JournalApi(connect(kubeconfig), "default"))
    state = journal.open()            # the next epoch, everything found adopted
    revision = journal.append(batch)  # in etcd when it returns

Each write names the resourceVersion and UID that it was made for, so a server that was deposed – or
paused in the middle of a write – changes nothing (R5). It also carries a mark of its own, `writer`:
a write whose answer was lost is found to be ours when the object is read back, instead of being
taken for another server's or made twice. Until that is known, `append` waits, and asks again with
back-off for at most `patience` seconds; then it fails with JournalError, and if it turns out
later that the write had taken effect, the next call is a JournalConflict and the server begins
anew. A change of the object's metadata by others is no conflict.

Which entries are objects already is told by `noticed`, from any thread; they leave the journal
with the next write, or with `tidy`. All other calls block and belong on one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

import msgspec

from reconciler.core.identity.allocator import POOL
from reconciler.core.identity.journal import Entry, JournalBatch, JournalState
from reconciler.core.identity.objects import (
    MAX_SPEC_BYTES,
    CiliumIdentity,
    JournalSpec,
    Ledger,
    Writer,
    decode,
    encode,
)
from reconciler.core.identity.objects_adopt import adopt, first_revision
from reconciler.core.identity.objects_mirror import EMPTY, Mirror, held_back, state_of
from reconciler.core.identity.objects_register import Action, Change, Register
from reconciler.errors import JournalConflict, JournalCorrupt, JournalError, Rejected
from reconciler.server.kubernetes.journal_api import Found, JournalApi, Refused, Unanswered

PATIENCE_SECONDS: Final = 10.0
"""How long a write waits for an answer that can be believed; less than a Lease lasts."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0

NOT_FOUND: Final = 404
CONFLICT: Final = 409
TOO_MANY: Final = 429

_PASSING: Final = frozenset({NOT_FOUND, CONFLICT, TOO_MANY})
"""Refusals after which the write may be made again: too many requests; another version of the
object, perhaps in its metadata only; a kind that isn't served yet after an API server's start."""


_NO_MARK: Final = Writer("", 0)


class _Overtaken(Exception):
    """An earlier write of ours took effect after all: what is to be written must be made anew."""


class _Sent(msgspec.Struct, frozen=True):
    change: Change
    after: Ledger


def read(api: JournalApi, pool: range = POOL) -> tuple[JournalState, tuple[Rejected, ...]]:
    """The journal's content for tools, while a server may be writing it; changes nothing."""
    try:
        found = api.get()
        if found is None:
            raise JournalError(f"allocation journal {api.name}: there is none")
        return state_of(found.journal, api.identities(), pool=pool)
    except (Refused, Unanswered) as error:
        raise JournalError(f"allocation journal {api.name}: {error}") from error


class KubernetesJournal:
    """The journal that is called `name`, which is made if it isn't there.

    recall:  entries that this process knows of (as a follower), for those whose objects are gone
    changed: called after each write that changed entries, on the writing thread
    """

    def __init__(
        self,
        api: JournalApi,
        *,
        pool: range = POOL,
        recall: Callable[[], Iterable[Entry]] = tuple,
        changed: Callable[[], None] = lambda: None,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self.holder = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:12]}"
        self.problems: tuple[Rejected, ...] = ()
        """What adoption found, for people."""
        self.held_at_open: frozenset[int] = frozenset()
        """`held_back` as it was then: for the allocator, before it gives a number."""
        self.recall, self.changed = recall, changed
        self._api = api
        self._what = f"allocation journal {api.name}"
        self._patience, self._clock, self._sleep, self._wall = patience, clock, sleep, wall
        self._lock = threading.Lock()  # of the register, held for moments
        self._register: Register | None = None
        self._touched: set[int] = set()
        self._sequence = 0
        self._found: Found | None = None  # the object as this server last wrote or read it
        self._unknown: dict[int, _Sent] = {}  # writes of which nobody knows what became
        self.confirmed_at = float("-inf")
        """By `now`: at that time, or later, the object was as this server knows it."""

    # The port

    def open(self) -> JournalState:
        """Take the next epoch, from whoever has it, and adopt what is there.

        JournalConflict: another server took it from this one at once. JournalCorrupt: the object
        contradicts itself and is left as it is. JournalError: the API server refuses or is away.
        """
        if self._register is not None:
            raise JournalError(f"{self._what}: is open already")
        self._unknown.clear()
        with self._explained():
            self._lead()
            # Read after the epoch was taken, so not older than the journal.
            mirror = Mirror(self.pool)
            for identity in self._api.identities():
                mirror.identity_changed(identity.metadata.name, identity)
            assert self._found is not None
            mirror.journal_changed(self._found.journal)
            mirror.recall(self.recall())
            register = Register(mirror.ledger, mirror.entries.values())
            adoption = adopt(mirror)
            if adoption.entries:
                self._commit(register, lambda: register.adoption(adoption.entries))
                mirror.journal_changed(self._found.journal)
        self.problems = (*adoption.problems, *mirror.problems())
        self.held_at_open = mirror.held_back()
        with self._lock:
            self._register = register
            self._touched = set(register.entries) | set(mirror.objects)
        return register.state()

    def append(self, batch: JournalBatch) -> int:
        """Write the batch, all or nothing, and return the new revision.

        JournalConflict: another server wrote, or the object is gone. JournalError: the API server
        refuses or can't be reached, or there is no room until entries have become objects.
        """
        register = self._opened()
        with self._explained():
            self._commit(register, lambda: register.batch(batch))
        self.changed()
        return register.ledger.revision

    def close(self) -> None:
        """Let go of it; the object stays. A journal that is not open is no error."""
        with self._lock:
            self._register = None
            self._touched.clear()
        self._api.close()

    # Objects

    def tidy(self) -> bool:
        """Write the journal without what objects hold by now; whether there was anything to.

        Errors as in `append`.
        """
        register = self._opened()
        with self._explained():
            return self._commit(register, register.tidied)

    def confirm(self) -> None:
        """Read whether this server still leads: JournalConflict if another one has written."""
        register = self._opened()
        with self._explained(), contextlib.suppress(_Overtaken):
            began = self.now()
            self._look(register, _NO_MARK)
            self.confirmed_at = began

    def now(self) -> float:
        """Seconds, of the clock of `confirmed_at`. From any thread."""
        return self._clock()

    def noticed(self, number: int, seen: CiliumIdentity | None) -> Action | None:
        """The number's object is now like this: what is to be done about it. From any thread."""
        with self._lock:
            return None if self._register is None else self._register.noticed(number, seen)

    def held_back(self, objects: Mapping[int, CiliumIdentity]) -> frozenset[int]:
        """Numbers that must neither be given nor taken back (`objects_mirror.held_back`)."""
        with self._lock:
            return held_back(objects, {} if self._register is None else self._register.entries)

    def room(self) -> tuple[int, int]:
        """(revision, bytes): what the next write has room for (`Allocator.room`), now that these
        entries have objects. From any thread."""
        with self._lock:
            if self._register is None:
                return 0, 0
            return self._register.ledger.revision, self._register.room()

    def unmarked(self) -> tuple[Entry, ...]:
        """Entries of adoptions that the journal has not closed. From any thread."""
        with self._lock:
            if self._register is None or self._register.adopted:
                return ()
            births = self._register.ledger.adoptions
            entries = self._register.entries.values() if births else ()
            return tuple(entry for entry in entries if entry.birth in births)

    def adopted(self) -> None:
        """All objects of `unmarked` have their births. From any thread."""
        with self._lock:
            if self._register is not None:
                self._register.adopted = True

    def touched(self) -> set[int]:
        """Numbers whose entries changed since the last call, at first all. From any thread."""
        with self._lock:
            touched, self._touched = self._touched, set()
            return touched

    def untold(self) -> int:
        """How many numbers `touched` would give. From any thread."""
        with self._lock:
            return len(self._touched)

    def untidy(self) -> bool:
        """Whether `tidy` has something to write. From any thread."""
        with self._lock:
            return self._register is not None and self._register.tidied() is not None

    # ------------------------------------------------------------------------------------ inside

    def _opened(self) -> Register:
        if self._register is None:
            raise JournalError(f"{self._what}: is not open")
        return self._register

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (Refused, Unanswered) as error:
            raise JournalError(f"{self._what}: {error}") from error
        except JournalCorrupt as error:
            raise JournalCorrupt(
                f"{self._what}: can't be read: {error}. It was left as it is: restore it from a "
                "backup. Where there is none, delete it: the next leader adopts the "
                "CiliumIdentities, and only label sets without one get other numbers"
            ) from error

    def _lead(self) -> None:
        """The next epoch, however often another server writes meanwhile."""
        end = self._clock() + self._patience
        while True:
            found = self._found = self._api.get() or self._create()
            register = Register(decode(found.journal.spec), ())
            try:
                self._commit(register, partial(register.lead, self._wall()))
                return
            except JournalConflict:
                if self._clock() >= end:
                    raise

    def _create(self) -> Found:
        """A journal that nobody has led yet, whoever makes it."""
        first = first_revision(self._api.identities(), self._wall())
        ledger = msgspec.structs.replace(EMPTY, revision=first, origin=first)
        try:
            return self._api.create(encode(ledger, Writer(self.holder, 0)))
        except Refused as error:
            if error.status != CONFLICT:
                raise
            found = self._api.get()
            if found is None:
                raise
            return found

    def _commit(self, register: Register, make: Callable[[], Change | None]) -> bool:
        """Write what `make` wants, and take it over; False: it wanted nothing."""
        while True:
            with self._lock:
                change = make()
                if change is None:
                    return False
                after = register.after(change)
            try:
                self._write(register, _Sent(change, after))
            except _Overtaken:
                continue
            self._take(register, _Sent(change, after))
            return True

    def _take(self, register: Register, sent: _Sent) -> None:
        with self._lock:
            register.take(sent.change, sent.after)
            self._touched |= sent.change.entries.keys()
            self._unknown.clear()  # what was sent for an older version can't arrive any more

    def _write(self, register: Register, sent: _Sent) -> None:
        """Returns when it took effect; JournalConflict or JournalError when it never will.

        JournalError also when that is not known: the next write finds out.
        """
        self._sequence += 1
        mark = Writer(self.holder, self._sequence)
        spec = encode(sent.after, mark)
        self._check_size(spec)
        self._unknown[mark.sequence] = sent
        end, pause = self._clock() + self._patience, FIRST_PAUSE
        while True:
            assert self._found is not None
            began = self.now()
            try:
                self._found = self._api.replace(self._found, spec)
                self.confirmed_at = began
                return
            except Refused as error:
                if error.sure and error.status not in _PASSING:
                    del self._unknown[mark.sequence]
                    raise
                if error.gone:
                    del self._unknown[mark.sequence]
                    raise self._gone() from error
                reason: Exception = error
            except Unanswered as error:
                reason = error
            try:
                if self._look(register, mark):
                    self.confirmed_at = began
                    return
            except (Refused, Unanswered) as error:
                reason = error
            if self._clock() >= end:
                raise JournalError(
                    f"{self._what}: {reason}; whether the write took effect is not known yet"
                ) from reason
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _look(self, register: Register, mark: Writer) -> bool:
        """Read the object back: whether the write with this mark took effect.

        False: nobody wrote since, so it may be made again. JournalConflict: somebody did.
        """
        found, held = self._api.get(), self._found
        assert held is not None
        if found is None or found.journal.metadata.uid != held.journal.metadata.uid:
            raise self._gone()
        spec = found.journal.spec
        if spec.writer == mark:
            self._found = found
            return True
        if spec == held.journal.spec:
            self._found = found  # perhaps with other metadata
            return False
        if spec.writer.holder == self.holder and spec.writer.sequence in self._unknown:
            self._found = found
            self._take(register, self._unknown[spec.writer.sequence])
            raise _Overtaken
        raise JournalConflict(
            f"{self._what}: is at epoch {spec.epoch}, revision {spec.revision}, written by "
            f"{spec.writer.holder}: another server has taken over"
        )

    def _gone(self) -> JournalConflict:
        return JournalConflict(
            f"{self._what}: somebody deleted it; the next leader begins a new one with the "
            "CiliumIdentities that are there"
        )

    def _check_size(self, spec: JournalSpec) -> None:
        size = len(msgspec.json.encode(spec))
        if size > MAX_SPEC_BYTES:
            raise JournalError(
                f"{self._what}: would have {size} bytes, {MAX_SPEC_BYTES} are the most that one "
                f"object may have; nothing was written. {len(spec.pending)} entries wait to become "
                "CiliumIdentities"
            )
