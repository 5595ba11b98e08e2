"""Drives the control plane's core: events in, effects out; one journal write, one timer at a time.

Everything runs on the event loop but the journal, which has a thread of its own (a write waits for
the disk). Object changes are collected for `debounce` seconds, so that a burst becomes one cut. The
core decides everything; here is only what carries it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from reconciler.core import plane as core
from reconciler.core import seen
from reconciler.core.discovery.types import ClientState
from reconciler.core.identity import Journal, JournalBatch, JournalState
from reconciler.core.objects import Change
from reconciler.core.resources.types import Resource
from reconciler.core.xds.effects import Close, Send
from reconciler.errors import JournalConflict, JournalError
from reconciler.server.driving import Streams, Timed


class Driver(Timed):
    """`grpc.Hub` for the service; `changed` for the sources of objects.

    failed: set when the core can't go on: another server has taken the journal, or a step of it
            ended in an error and may have been taken by half
    """

    def __init__(
        self,
        plane: core.ControlPlane,
        journal: Journal,
        journal_thread: ThreadPoolExecutor,
        log: Any,
        *,
        debounce: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._plane = plane
        self._journal = journal
        self._thread = journal_thread
        self._log = log
        self._debounce = debounce
        self._loop = asyncio.get_running_loop()
        self._streams: Streams | None = None
        self._collected: list[Change] = []
        self._positions: Mapping[str, int] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._stopped = False
        self.alarms = 0
        self.on_alarm: Callable[[str, str, str], None] | None = None
        self.on_overtaken: Callable[[str], None] | None = None  # else it fails

    def serve(self, streams: Streams) -> None:
        self._streams = streams

    # ------------------------------------------------------------------------------- events

    def changed(
        self,
        changes: Iterable[Change],
        *,
        at_once: bool = False,
        positions: Mapping[str, int] | None = None,
    ) -> None:
        """positions: where there are replicas, up to where each kind has been read with these."""
        self._collected.extend(changes)
        self._positions = positions
        if at_once:
            self._changes_due(even_none=True)
        elif (self._collected or positions) and self._flush is None:
            self._flush = self._loop.call_later(self._debounce, self._changes_due)

    def lead(self, journal: Journal, state: JournalState) -> None:
        """Write this journal from now on; it was opened in this state."""
        self._journal = journal
        with self._step():
            self._plane.lead(state, self._clock())

    def follow(self, state: JournalState) -> None:
        """Others write the journal, which is in this state, or in a newer one."""
        with self._step():
            self._plane.follow(state, self._clock())

    def elsewhere(self, marks: Mapping[str, int]) -> None:
        """What other replicas say of their nodes; see `ControlPlane.elsewhere`."""
        with self._step():
            self._plane.elsewhere(marks, self._clock())

    def hold_back(self, numbers: Iterable[int]) -> None:
        """See `ControlPlane.hold_back`."""
        with self._step():
            self._plane.hold_back(numbers, self._clock())

    def room(self, revision: int, size: int) -> None:
        """What the journal has room for; see `Allocator.room`."""
        self._plane.intake.room(revision, size)
        if self._plane.leading:
            with self._step():
                self._plane.tick(self._clock())

    def clients(self) -> Iterable[ClientState]:
        """See `core.seen`."""
        return seen.clients(self._plane)

    def content(self, view: str, type_url: str, name: str) -> Resource | None:
        """A resource as a node has it, or is being brought it. view: the node's name"""
        return seen.content(self._plane, view, type_url, name)

    async def written(self) -> None:
        """Until no journal write is under way."""
        if self._writes:
            await asyncio.gather(*self._writes, return_exceptions=True)

    def _changes_due(self, *, even_none: bool = False) -> None:
        """even_none: the first call tells the core that these are all objects there are."""
        if self._flush is not None:
            self._flush.cancel()
        self._flush = None
        changes, self._collected = self._collected, []
        if changes or even_none or self._positions:
            with self._step():
                self._plane.objects_changed(changes, self._clock(), self._positions)

    def stream_opened(self, stream: int, node: str) -> None:
        self._log.info("stream opened", stream=stream, node=node)
        self._plane.stream_opened(stream, node, self._clock())
        self._carry_out()

    def received(self, stream: int, frame: bytes) -> None:
        self._plane.received(stream, frame, self._clock())
        self._carry_out()

    def stream_closed(self, stream: int) -> None:
        self._log.info("stream closed", stream=stream)
        self._plane.stream_closed(stream, self._clock())
        self._carry_out()

    def _tick(self) -> None:
        self._timer = None
        with self._step():
            self._plane.tick(self._clock())

    # ------------------------------------------------------------------------------- effects

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Of the core; then what it wants done. Timers and tasks have nobody to raise an error to,
        and nothing is served from a core that is in an unknown state."""
        try:
            yield
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            raise
        self._carry_out()

    def _carry_out(self) -> None:
        for effect in self._plane.effects():
            match effect:
                case Send(stream, frame):
                    if self._streams is not None:
                        self._streams.send(stream, frame)
                case Close(stream, status, reason):
                    self._log.warning("stream refused", stream=stream, reason=reason)
                    if self._streams is not None:
                        self._streams.close(stream, status, reason)
                case core.WriteJournal(batch):
                    task = asyncio.create_task(self._write(batch), name="journal-write")
                    self._writes.add(task)
                    task.add_done_callback(self._writes.discard)
                case core.Alarm(kind, object, text):
                    self.alarm(kind, object, text)
        self._arm()

    def alarm(self, kind: str, object: str, text: str) -> None:
        """Say it once, and count it; `on_alarm` may say it elsewhere too."""
        self.alarms += 1
        self._log.warning("alarm", kind=kind, object=object, text=text)
        if self.on_alarm is not None:
            self.on_alarm(kind, object, text)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopped:
            return
        deadline = self._plane.next_deadline(self._clock())
        if deadline is not None:
            delay = max(0.0, deadline - self._clock())
            self._timer = self._loop.call_later(delay, self._tick)

    async def _write(self, batch: JournalBatch) -> None:
        plane, append = self._plane, self._journal.append

        def ours() -> bool:
            """Still the leadership that wrote: another one has no use for the answer."""
            return plane.leading and plane.epoch == batch.epoch

        with self._step():
            try:
                revision = await self._loop.run_in_executor(self._thread, append, batch)
            except JournalConflict as error:
                if ours():
                    self._overtaken(error)
            except JournalError as error:
                self._log.error("journal", reason=str(error))
                if ours():
                    plane.journal_refused(str(error), self._clock())
            else:
                if ours():
                    plane.journal_written(revision, self._clock())

    def _overtaken(self, error: JournalConflict) -> None:
        if self.on_overtaken is not None:
            self.on_overtaken(str(error))
            return
        self._plane.journal_refused(str(error), self._clock(), deposed=True)
        if not self.failed.done():
            self.failed.set_exception(error)

    async def stop(self) -> None:
        """No more timers; a journal write that has begun is waited for."""
        if self._writes:
            await asyncio.gather(*self._writes, return_exceptions=True)
        self._stopped = True
        for handle in (self._timer, self._flush):
            if handle is not None:
                handle.cancel()
        if not self.failed.done():
            self.failed.cancel()
