"""Drives the core of the discovery server: streams and states in, frames out; one timer.

A view is the resources of some directories (`files.State`), made when the first node comes that is
to have just these. When directories come or go, or are for other nodes than before, all streams are
led to new views in one step, so that a resource that only moves from one directory to another is
not taken from anybody meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from reconciler.core.discovery.service import Polled, Service
from reconciler.core.discovery.types import ClientState, Node, Variant
from reconciler.core.resources.types import Resource
from reconciler.core.xds.effects import Send
from reconciler.errors import ProtocolError
from reconciler.probe import services
from reconciler.server.discovery.files import State
from reconciler.server.discovery.pace import Pace
from reconciler.server.driving import Streams, Timed

_IDLE_VIEWS: Final = 1024
"""Views that are kept although no stream has them: what was made for them may be of use again."""

Opened = Callable[[int, str], None]


class Driver(Timed):
    """`grpc.Hub` for the services in `methods`; call on the event loop only."""

    def __init__(
        self,
        log: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """options: of `core.discovery.Service`."""
        super().__init__(clock)
        self._log = log
        self._service = Service(self._view_of, **options)
        self._loop = asyncio.get_running_loop()
        self._streams: Streams | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self._pause: asyncio.Handle | None = None  # until streams are brought the next change
        self._due: float | None = None
        self._generation = 0
        self._names: dict[str, tuple[str, ...]] = {}  # view → directories
        self._contents: dict[str, Mapping[str, Mapping[str, Resource]]] = {}  # view → as published
        self.state = State()
        self.broken = 0  # streams that were ended for what they sent

    def serve(self, streams: Streams) -> None:
        self._streams = streams

    def methods(self) -> dict[str, Opened]:
        """Full name of each method → what is told of a stream of it."""
        found: dict[str, Opened] = {}
        for service in (services.AGGREGATED, *services.OWN.values()):
            pairs = ((Variant.SOTW, service.sotw), (Variant.DELTA, service.delta))
            for variant, name in pairs:
                if name:
                    opened = self._opener(variant, service.type_url or None)
                    found[f"/{service.name}/{name}"] = opened
        return found

    # ------------------------------------------------------------------------------- what is served

    def changed(self, state: State) -> None:
        """Serve this from now on."""
        before, self.state = self.state, state
        now = self._clock()
        if _classes(before) == _classes(state):
            differ = _differ(before, state)
            for view in list(self._service.views):
                if not differ.isdisjoint(self._names[view]):
                    self._publish(view, now)
        else:
            self._generation += 1
            self._service.reassign(now)
        self._carry_out(now)
        self._forget()
        self._lead()

    def _lead(self) -> None:
        """Bring what has changed to the streams, unless they have only just been brought something:
        then after a pause, with what comes until then."""
        if self._pause is not None or not self._service.behind:
            return
        now = self._clock()
        gone = False
        if self._streams is None:
            self._service.lead(now)
        else:
            for _ in self._service.leading(now, self._streams.grouped):
                self._carry_out(now)
                gone = self._streams.flush()
        if gone:
            self._led(now)
        else:
            self._pause = self._loop.call_soon(self._led, now)

    def _led(self, began: float) -> None:
        self._rest(self._pace.led(began, self._clock()))

    def _rest(self, seconds: float) -> None:
        self._pause = self._loop.call_later(seconds, self._next)

    def _next(self) -> None:
        longer = self._pace.again(self._clock(), self._service.unanswered())
        if longer is not None:
            self._rest(longer)
            return
        self._pause = None
        self._lead()

    def poll(self, type_url: str, request: bytes, node: str) -> Polled:
        """A request without a stream; node: the proven name, or "". ProtocolError says what of it
        can't be answered."""
        try:
            return self._service.poll(type_url, request, node or None)
        finally:
            if len(self._names) > 2 * _IDLE_VIEWS:
                self._forget()

    def content(self, view: str, type_url: str, name: str) -> Resource | None:
        """A resource of a view, as it is now."""
        return self._contents.get(view, {}).get(type_url, {}).get(name)

    def clients(self) -> Iterable[ClientState]:
        return self._service.clients()

    @property
    def behind(self) -> bool:
        """Streams are yet to be brought something that has changed."""
        return self._service.behind

    @property
    def views(self) -> int:
        return len(self._service.views)

    def _view_of(self, node: Node) -> str:
        names = self.state.of(node)
        view = "\n".join((str(self._generation), *names))
        if view not in self._names:
            # Before the node joins it: what it says it has can be compared only with what there is.
            self._names[view] = names
            self._publish(view, self._clock())
        return view

    def _publish(self, view: str, now: float) -> None:
        """Streams are led to it later, all at their time."""
        resources = self.state.resources(self._names[view])
        self._contents[view] = resources
        self._service.publish(view, resources, now, lead=False)

    def _forget(self) -> None:
        """Views that nobody has; those of earlier generations nobody will."""
        current = f"{self._generation}\n"
        idle = len(self._names) > _IDLE_VIEWS
        for view in list(self._names):
            old = view != str(self._generation) and not view.startswith(current)
            if (idle or old) and self._service.drop(view):
                del self._names[view], self._contents[view]

    # ------------------------------------------------------------------------------- streams

    def _opener(self, variant: Variant, type_url: str | None) -> Opened:
        def opened(stream: int, node: str) -> None:
            now = self._clock()
            self._service.stream_opened(stream, variant, type_url, now, node or None)

        return opened

    def stream_opened(self, stream: int, node: str) -> None:
        """Of delta ADS."""
        self._opener(Variant.DELTA, None)(stream, node)

    def received(self, stream: int, frame: bytes) -> None:
        now = self._clock()
        try:
            due = self._service.received(stream, frame, now)
        except ProtocolError as error:
            self.broken += 1
            self._log.warning("stream ended", stream=stream, reason=error.reason)
            self._carry_out(now)
            raise
        if due:
            self._carry_out(now)

    def drained(self, stream: int) -> None:
        now = self._clock()
        if self._service.drained(stream, now):
            self._carry_out(now)

    def stream_closed(self, stream: int) -> None:
        self._service.stream_closed(stream)
        if len(self._names) > 2 * _IDLE_VIEWS:
            self._forget()
        self._carry_out(self._clock())

    def stop(self) -> None:
        for handle in (self._timer, self._pause):
            if handle is not None:
                handle.cancel()

    # ------------------------------------------------------------------------------- effects

    def _carry_out(self, now: float) -> None:
        streams = self._streams
        if streams is not None:
            for effect in self._service.effects():
                if isinstance(effect, Send):
                    streams.send(effect.stream, effect.frame)
                else:
                    stream, reason = effect.stream, effect.reason
                    self._log.warning("stream ended", stream=stream, reason=reason)
                    streams.close(stream, effect.status, reason)
        due = self._service.next_deadline()
        if due != self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due, self._timer = due, None
            if due is not None:
                self._timer = self._loop.call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        self._due = self._timer = None
        now = self._clock()
        self._service.tick(now)
        self._carry_out(now)


def _classes(state: State) -> list[tuple[str, object]]:
    """By what nodes are told apart."""
    return [(each.name, each.condition) for each in state.directories]


def _differ(before: State, after: State) -> set[str]:
    """Directories whose resources are others; both states have the same directories."""
    pairs = zip(before.directories, after.directories, strict=True)
    return {new.name for old, new in pairs if old.found != new.found}


class Summary(msgspec.Struct, frozen=True):
    """What there is. resources: type URL → how many there are, in all directories."""

    resources: dict[str, int]
    directories: tuple[str, ...]
    views: int
    problems: tuple[str, ...]


def summary(driver: Driver, problems: Iterable[object]) -> Summary:
    counts: dict[str, int] = {}
    for directory in driver.state.directories:
        for type_url, found in directory.by_type.items():
            counts[type_url] = counts.get(type_url, 0) + len(found)
    return Summary(
        counts,
        tuple(each.name for each in driver.state.directories),
        driver.views,
        tuple(map(str, problems)),
    )
