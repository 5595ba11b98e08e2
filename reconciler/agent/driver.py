"""Drives the agent's core: events in, effects out; kernel and disk by the applier's thread.

The event loop never waits for the kernel or the disk: what is to be done there is submitted in the
order in which the core gave it, and its outcome comes back as an event.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from reconciler.agent import applier as done
from reconciler.agent.applier import Applier
from reconciler.agent.cache import CacheFile
from reconciler.agent.capacity import Capacity
from reconciler.core.dataplane import effects
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.endpoints import Link
from reconciler.datapath.base import Datapath

T = TypeVar("T")


class Stream(Protocol):
    def connect(self) -> None: ...

    def send(self, frame: bytes) -> None: ...

    def close(self, reason: str) -> None: ...


class Driver:
    """`grpc.Listener` for the client; links and the CNI call the methods of the same names."""

    def __init__(
        self,
        core: AgentCore,
        datapath: Datapath,
        cache: CacheFile,
        log: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.core = core
        self.datapath = datapath
        self._log = log
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._applier = Applier(datapath, self._from_applier, cache)
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._stopped = False
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.alarms = 0
        self.capacity = Capacity()
        self.settled: Callable[[], None] | None = None  # called after every event

    def start(self, stream: Stream) -> None:
        """Begin to carry out what the core has asked for since it was made."""
        self._stream = stream
        self._applier.start()
        self._carry_out()

    async def stop(self) -> None:
        """No more effects; what was submitted to the applier is still done."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._stream is not None:
            await self._loop.run_in_executor(None, self._applier.close)
        if not self.failed.done():
            self.failed.cancel()

    # ------------------------------------------------------------------------------- events

    def connected(self) -> None:
        self._log.info("connected")
        self.core.connected(self._clock())
        self._carry_out()

    def received(self, frame: bytes) -> None:
        self.core.received(frame, self._clock())
        self._carry_out()

    def disconnected(self, reason: str) -> None:
        self._log.warning("disconnected", reason=reason)
        self.core.disconnected(reason, self._clock(), random.random())
        self._carry_out()

    def link_added(self, link: Link) -> None:
        self.core.link_added(link, self._clock())
        self._carry_out()

    def link_removed(self, ifindex: int) -> None:
        self.core.link_removed(ifindex, self._clock())
        self._carry_out()

    def links_listed(self, links: Iterable[Link]) -> None:
        self.core.links_listed(links, self._clock())
        self._carry_out()

    def _tick(self) -> None:
        self._timer = None
        self.core.tick(self._clock())
        self._carry_out()

    # ------------------------------------------------------------------------------- effects

    def _carry_out(self) -> None:
        if self._stopped or self._stream is None:
            return
        for effect in self.core.effects():
            match effect:
                case effects.Send(frame):
                    self._stream.send(frame)
                case effects.Connect():
                    self._stream.connect()
                case effects.Disconnect(reason):
                    self._stream.close(reason)
                case effects.Alarm(kind, object, text):
                    self.alarm(kind, object, text)
                case _:
                    self._applier.submit((effect,))
        self._wake()
        self._arm()
        if self.settled is not None:
            self.settled()

    def alarm(self, kind: str, object: str, text: str) -> None:
        """Say it once, and count it."""
        self.alarms += 1
        self._log.warning("alarm", kind=kind, object=object, text=text)

    def _from_applier(self, outcome: done.Outcome) -> None:
        """On the applier's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._outcome, outcome)

    def _outcome(self, outcome: done.Outcome) -> None:
        now = self._clock()
        match outcome:
            case done.Applied(token):
                self.core.applied(token, now)
                row = self.core.row()
                for name, text in self.capacity.look(row.usage, row.limits):
                    self.alarm("map", name, text)
            case done.ApplyFailed(token, error):
                self.core.apply_failed(token, error, now)
            case done.Attached(ifindex):
                self.core.attached(ifindex, now)
            case done.AttachFailed(ifindex, reason):
                self.core.attach_failed(ifindex, reason, now)
            case done.CacheFailed(reason):
                self.core.cache_failed(reason, now)
            case done.Audited(kernel):
                self.core.audited(kernel, now)
            case done.Crashed(crash):
                if not self.failed.done():
                    self.failed.set_exception(crash)
        self._carry_out()

    async def in_turn(self, call: Callable[[], T]) -> T:
        """Run on the thread that the datapath belongs to, after what was submitted before."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result = call()
            except Exception as error:
                self._loop.call_soon_threadsafe(settle, None, error)
            else:
                self._loop.call_soon_threadsafe(settle, result, None)

        self._applier.call(run)
        return await answer

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.core.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self._clock())
            self._timer = self._loop.call_later(delay, self._tick)

    # ------------------------------------------------------------------------------- waiting

    async def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Until it holds, looked at after every event; False when the time is over."""
        if condition():
            return True
        future = self._loop.create_future()
        entry = (condition, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.remove(entry)
        return True

    def _wake(self) -> None:
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)
