"""Keeps CiliumIdentity objects as the journal has them: in the background, behind what is served.

    objects = Materialiser(client, journal, thread, ...)
    objects.identity_changed(name, identity, version)    # from the watch of CiliumIdentities
    objects.loaded()                                     # the first list has been told
    await objects.run()                                  # while this server leads

What the journal has room for follows from which entries have no object yet, and is told by `room`.
While it is less than one write may need, label sets may be waiting: then objects don't wait for
`rate`.

What is due is worked out for each number by itself, from the journal's entry and the object as it
was last seen, whenever one of both has changed; so it may be interrupted at any point, begin anew
in another process, and be done twice. Writes name what was read (UID and resourceVersion), so a
late one does nothing. An object is changed, deleted, or made again only if the journal was still
this server's after the object had been seen, or missed: what a newer leader did is not taken for
somebody else's doing. At most `concurrency` writes are under way, and `rate` begin a second; what
fails is tried again with back-off, number by number.

Entries whose objects are there leave the journal with its next write, or with one of its own after
`tidy_seconds`. What somebody else did to an object is undone, and reported.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final

import msgspec

from reconciler.core.identity.allocator import MAX_BATCH_BYTES
from reconciler.core.identity.objects import (
    AllocationJournal,
    CiliumIdentity,
    create_body,
    delete_body,
    disown_body,
    is_nobody,
    patch_body,
)
from reconciler.core.identity.objects_mirror import refused, stays
from reconciler.core.identity.objects_register import Action
from reconciler.errors import JournalConflict, JournalError, Rejected, UnavailableError
from reconciler.server.kubernetes.backoff import Backoff
from reconciler.server.kubernetes.client import ApiClient, ApiError, Response
from reconciler.server.kubernetes.journal import KubernetesJournal
from reconciler.server.kubernetes.kinds import Kind

PATH: Final = "/apis/cilium.io/v2/ciliumidentities"

KIND: Final = Kind("CiliumIdentity", "ciliumidentities", PATH, CiliumIdentity)
JOURNAL_KIND: Final = Kind(
    "AllocationJournal",
    "allocationjournals",
    "/apis/reconciler.io/v1alpha1/allocationjournals",
    AllocationJournal,
)
"""What replicas watch of both."""

MERGE_PATCH: Final = "application/merge-patch+json"

CONFLICT: Final = 409
NOT_FOUND: Final = 404

_TELL_EVERY: Final = 256
"""Objects written before it is told again what the journal has room for."""

_YIELD_EVERY: Final = 64
"""Numbers looked at, some 30 µs each, before others on the event loop have their turn."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """rate, burst: writes a second, and how many may begin at once after a rest; else seconds.
    Nobody waits for the objects, and everybody for the API server: its other requests go first
    (bench, `kubernetes`, has what somebody else sees).

    first, limit: of the back-off of a number whose write failed
    """

    concurrency: int = 4
    rate: float = 100.0
    burst: int = 20
    first: float = 0.2
    limit: float = 60.0
    tidy_seconds: float = 10.0


class Materialiser:
    """One leader's, of a journal that is open. Everything but `journal_changed` on the event loop.

    report:    told what somebody did to an object, and what can't be written
    hold_back: told, whenever they are others than `journal.held_at_open` or than told before, the
               numbers that must be neither given nor taken back (`Allocator.hold_back`)
    room:      told what the journal has room for, when that has changed (`KubernetesJournal.room`)
    done:      writes of objects that took effect, by kind
    failed:    writes that did not, and were put off
    """

    def __init__(
        self,
        client: ApiClient,
        journal: KubernetesJournal,
        thread: Executor,
        *,
        report: Callable[[Rejected], None],
        hold_back: Callable[[frozenset[int]], None] = lambda _: None,
        room: Callable[[int, int], None] = lambda revision, size: None,
        random: Callable[[], float],
        pace: Pace = Pace(),  # noqa: B008 - a frozen value
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.failed = 0
        self._client, self._journal, self._thread = client, journal, thread
        self._report, self._hold_back, self._room = report, hold_back, room
        self._told = (-1, 0)  # by `room`
        self._told_at = 0  # how many objects had been written
        self._full = False  # the journal
        self._random, self._pace, self._sleep = random, pace, sleep
        self._loop = asyncio.get_running_loop()
        self._loaded = False
        self._objects: dict[int, CiliumIdentity] = {}
        self._versions: dict[int, int] = {}  # of what was last seen, also of an absence
        self._vanished: dict[int, int] = {}  # number → birth of an object that is gone
        self._staying: dict[int, CiliumIdentity] = {}
        self._held = journal.held_at_open
        self._due: dict[int, None] = {}
        self._busy: set[int] = set()
        self._put_off: dict[int, asyncio.TimerHandle] = {}
        self._backoffs: dict[int, Backoff] = {}
        self._reported: dict[int, str] = {}
        self._seen_at: dict[int, float] = {}  # by the journal's clock
        self._doubtful: set[int] = set()  # to be decided when it is known that this server leads
        self._doubt = asyncio.Event()
        self._slots = asyncio.Semaphore(pace.concurrency)
        self._bucket = _Bucket(pace.rate, pace.burst, self._loop.time, sleep)
        self._wake = asyncio.Event()
        self._written = asyncio.Event()

    # What changes

    def identity_changed(self, name: str, identity: CiliumIdentity | None, version: int) -> None:
        """An object as the watch tells it; None: it is gone. Older than known: ignored."""
        if not name.isascii() or not name.isdigit() or str(int(name)) != name:
            return
        number = int(name)
        if number not in self._journal.pool or version <= self._versions.get(number, -1):
            return
        self._see(number, identity, version)
        self._want(number)

    def loaded(self) -> None:
        """All objects that there are have been told: what is missing is missing."""
        self._loaded = True
        self._wake.set()

    def journal_changed(self) -> None:
        """Entries have changed. From any thread."""
        self._loop.call_soon_threadsafe(self._wake.set)

    def backlog(self) -> int:
        """Numbers that may have something to be written."""
        due = len(self._due) + len(self._busy) + len(self._put_off) + len(self._doubtful)
        return due + self._journal.untold()

    # What is done

    async def run(self) -> None:
        """Until cancelled. JournalConflict: another server leads."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_tidy(), name="tidy-journal")
                tasks.create_task(self._keep_certain(), name="confirm-journal")
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    if self._loaded:
                        await self._work(tasks)
        except* JournalConflict as group:
            raise group.exceptions[0] from None
        finally:
            for timer in self._put_off.values():
                timer.cancel()
            self._put_off.clear()

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        looked = 0
        while True:
            touched = self._journal.touched()
            for number in touched:
                self._want(number)
            if touched or (self._full and self.done.total() >= self._told_at + _TELL_EVERY):
                self._tell_room()
            number = next((each for each in self._due if each not in self._busy), -1)
            if number < 0:
                self._tell_held_back()
                self._tell_room()
                return
            await self._slots.acquire()
            del self._due[number]
            todo = self._journal.noticed(number, self._objects.get(number))
            if todo is None:
                self._slots.release()
                self._settled(number)
                looked += 1
                if looked % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                continue
            theirs = todo.seen is not None or number in self._vanished
            if theirs and self._seen_at[number] >= self._journal.confirmed_at:
                self._slots.release()
                self._doubtful.add(number)
                self._doubt.set()
                continue
            self._busy.add(number)
            self._written.set()  # perhaps the journal has to hold the entry again
            if not self._full:
                await self._bucket.take()
            tasks.create_task(self._carry_out(todo), name=f"ciliumidentity-{number}")

    async def _carry_out(self, todo: Action) -> None:
        number = todo.number
        try:
            await self._write(todo)
            self.done[todo.kind] += 1
            self._tell(todo)
            self._settled(number)
            self._due[number] = None  # look again: the journal notes that it is there
        except ApiError as error:
            if error.status == CONFLICT or _is_gone(error, number):
                await self._look(number)
            else:
                self._fail(number, str(error), error.retry_after)
        except UnavailableError as error:
            self._fail(number, str(error))
        finally:
            self._busy.discard(number)
            self._slots.release()
            self._wake.set()

    async def _write(self, todo: Action) -> None:
        number, seen = todo.number, todo.seen
        if todo.kind == "create":
            assert todo.entry is not None
            self._saw(
                number, await self._client.request("POST", PATH, body=create_body(todo.entry))
            )
            return
        assert seen is not None
        path = f"{PATH}/{number}"
        if todo.kind == "delete":
            await self._client.request("DELETE", path, body=delete_body(seen))
            if self._objects.get(number) is seen:
                self._see(number, None, int(seen.metadata.resource_version))
            return
        if todo.kind == "disown":
            body = disown_body(seen)
        else:
            assert todo.entry is not None
            body = patch_body(todo.entry, seen)
        self._saw(
            number, await self._client.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        )

    async def _look(self, number: int) -> None:
        """It is not as it was seen: read it. It is decided anew, soon but not at once."""
        try:
            self._saw(number, await self._client.request("GET", f"{PATH}/{number}"))
        except ApiError as error:
            if not _is_gone(error, number):
                self._fail(number, str(error), error.retry_after)
                return
            self._see(number, None, self._versions.get(number, -1))
        except UnavailableError as error:
            self._fail(number, str(error))
            return
        self._fail(number, "")

    def _saw(self, number: int, answer: Response) -> None:
        try:
            seen = msgspec.json.decode(answer.body, type=CiliumIdentity)
            version = int(seen.metadata.resource_version)
        except (msgspec.DecodeError, ValueError) as error:
            raise UnavailableError(
                f"CiliumIdentity {number}: the answer is none: {error}"
            ) from error
        if version > self._versions.get(number, -1):
            self._see(number, seen, version)

    def _see(self, number: int, seen: CiliumIdentity | None, version: int) -> None:
        old = self._objects.pop(number, None)
        self._versions[number] = version
        self._staying.pop(number, None)
        if seen is None:
            if old is not None:
                self._vanished[number] = old.birth
                self._seen_at[number] = self._journal.now()
            return
        self._objects[number] = seen
        self._seen_at[number] = self._journal.now()
        if stays(seen):
            self._staying[number] = seen

    def _want(self, number: int) -> None:
        timer = self._put_off.pop(number, None)
        if timer is not None:
            timer.cancel()
        self._due[number] = None
        self._wake.set()

    def _settled(self, number: int) -> None:
        self._backoffs.pop(number, None)
        self._reported.pop(number, None)
        self._written.set()

    def _fail(self, number: int, reason: str, asked: float = 0.0) -> None:
        """Put it off. A reason is told once, until it is another one or all is well."""
        backoff = self._backoffs.get(number)
        if backoff is None:
            backoff = Backoff(self._pace.first, self._pace.limit, self._random)
            self._backoffs[number] = backoff
        if reason:
            self.failed += 1
            if self._reported.get(number) != reason:
                self._reported[number] = reason
                self._report(refused(str(number), "", f"can't be written: {reason}"))
        delay = backoff.failed(asked)
        self._put_off[number] = self._loop.call_later(delay, self._want, number)

    def _tell(self, todo: Action) -> None:
        """What somebody else did to the object, if that is why it was written."""
        vanished = self._vanished.pop(todo.number, 0)
        name = str(todo.number)
        text = ""
        if todo.kind == "repair":
            text = "was changed by somebody, and is again as the journal has it"
        elif todo.kind == "create" and todo.entry is not None and vanished == todo.entry.birth:
            text = "was deleted by somebody while it is in use, and is there again"
        elif (todo.kind == "disown" and todo.entry is None) or (
            todo.kind == "delete" and todo.entry and todo.seen and todo.seen.disowned
        ):
            text = "was made by somebody while a server leads, and is deleted"
        if text:
            self._report(refused(name, "", text, severity="warning"))

    def _tell_held_back(self) -> None:
        held = self._journal.held_back(self._staying)
        if held != self._held:
            self._held = held
            self._hold_back(held)

    def _tell_room(self) -> None:
        self._told_at = self.done.total()
        found = self._journal.room()
        self._full = found[1] < MAX_BATCH_BYTES
        if found != self._told:
            self._told = found
            self._room(*found)

    # The journal

    async def _keep_certain(self) -> None:
        """Ask whether this server still leads, for all that waits to know it."""
        backoff = Backoff(self._pace.first, self._pace.limit, self._random)
        while True:
            await self._doubt.wait()
            self._doubt.clear()
            numbers = frozenset(self._doubtful)
            try:
                await self._loop.run_in_executor(self._thread, self._journal.confirm)
                backoff.worked()
            except JournalConflict:
                raise
            except JournalError as error:
                self._report(Rejected("journal", "", "", str(error), "warning"))
                await self._sleep(backoff.failed())
            self._doubtful -= numbers
            for number in numbers:
                self._want(number)

    async def _keep_tidy(self) -> None:
        """Take what objects hold out of the journal, some time after the last of them came."""
        backoff = Backoff(self._pace.first, self._pace.limit, self._random)
        while True:
            await self._written.wait()
            await self._sleep(self._pace.tidy_seconds)
            self._written.clear()
            entries = self._journal.unmarked()
            if entries and all(self._has_birth(e.number, e.birth, e.label_set) for e in entries):
                self._journal.adopted()
            if not self._journal.untidy():
                continue
            try:
                await self._loop.run_in_executor(self._thread, self._journal.tidy)
                backoff.worked()
            except JournalConflict:
                raise
            except JournalError as error:
                self._report(Rejected("journal", "", "", str(error), "warning"))
                self._written.set()
                await self._sleep(backoff.failed())

    def _has_birth(self, number: int, birth: int, label_set: str) -> bool:
        seen = self._objects.get(number)
        return is_nobody(label_set) or (seen is not None and seen.birth == birth)


def _is_gone(error: ApiError, number: int) -> bool:
    """Whether there is no such object. While the kind is not served, the path is not found."""
    return error.status == NOT_FOUND and f'"{number}" not found' in error.message


_NEARLY: Final = 1e-6
"""Of a token: what is missing of it by rounding would take no time that a clock shows."""


class _Bucket:
    """Tokens that come back at a rate, up to a number of them."""

    def __init__(
        self,
        rate: float,
        burst: int,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._rate, self._burst, self._clock, self._sleep = rate, burst, clock, sleep
        self._tokens, self._at = float(burst), clock()

    async def take(self) -> None:
        """Returns when there is one."""
        while True:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens > 1 - _NEARLY:
                self._tokens -= 1
                return
            await self._sleep((1 - self._tokens) / self._rate)
