"""Keeps one kind's objects as the API server has them: list once, then watch, then watch on.

    list (pages) ─► watch from the list's version ─► ended ─► watch from the last version told
         ▲                     │                       │
         └──── 410: too old ◄──┴───────────────────────┘        any other failure: wait, go on

* Lists ask for no resourceVersion: the answer is then not older than anything that any reader of
  the cluster has seen. `resourceVersion=0` may be answered by an API server that lags behind (there
  are several in a cluster that is highly available), and objects would go back in time; so would
  the vector of positions by which replicas compare themselves. It would also send everything in one
  answer. Since Kubernetes 1.31 the watch cache answers such a list, so it costs etcd nothing.
* A list's pages are of one version. If the token of the next page expires meanwhile (410), the list
  starts anew; nothing of it is told before it is whole.
* A relist is told as one difference (see `mirror`), after a 410 as answer or as event, and where
  the server's versions go back (etcd restored from a backup).
* Bookmarks move the position of a kind in which nothing happens, so a watch can go on from there.
* A watch is asked to end after one to two minutes and to begin again at its position, which costs
  one request. One that has been silent for longer is dead, and so is a peer that doesn't
  acknowledge keepalives (`client`).

Streaming lists (`sendInitialEvents`) would spare the API server memory on lists of 100,000 objects;
pages bound it too and work with older servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic

import msgspec

from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.backoff import Backoff
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.kinds import Item, Kind, T
from reconciler.server.kubernetes.mirror import Delta, Mirror

GONE: Final = 410
"""HTTP status, and code of an ERROR event: the version asked for is history (reason Expired)."""

_UNUSABLE: Final = frozenset({400, 404, 410, 422})
"""Answers to a watch after which asking again for the same position is of no use."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, but for `page` (objects).

    watch, spread: a watch is asked to end after `watch` to `watch + spread`
    grace:         how much longer than that it may be silent
    first, limit:  of the back-off between failures
    request:       for one page of a list
    """

    page: int = 500
    watch: float = 60.0
    spread: float = 60.0
    grace: float = 15.0
    first: float = 0.5
    limit: float = 30.0
    request: float = 60.0


class Reflector(Generic[T]):
    """One kind's objects. `run` never ends by itself, and raises nothing but bugs.

    deliver: called after each list and event, on the event loop, also when only the position moved
    failure: why the last request failed, "" while all is well
    note:    called whenever `failure` has changed
    lists, events: how many lists were made whole, and how many events read
    """

    def __init__(
        self,
        client: ApiClient,
        kind: Kind[T],
        deliver: Callable[[Reflector[Any], Delta[Any]], None],
        *,
        random: Callable[[], float],
        timing: Timing = Timing(),  # noqa: B008 - a frozen value
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        note: Callable[[Reflector[Any]], None] = lambda _: None,
    ) -> None:
        self.kind, self.mirror = kind, Mirror(kind)
        self.failure = ""
        self.lists = self.events = 0
        self._client, self._deliver = client, deliver
        self._random, self._timing, self._sleep = random, timing, sleep
        self._backoff = Backoff(timing.first, timing.limit, random)
        self._note = note
        self._listed = False  # the watch may go on from the position
        self._fresh = True  # nothing was told since the last list

    @property
    def position(self) -> int:
        """-1 before the first list."""
        return self.mirror.position

    async def run(self) -> None:
        while True:
            try:
                if not self._listed:
                    await self._list()
                await self._watch()
            except ApiError as error:
                await self._failed(error, error.retry_after)
            except UnavailableError as error:
                await self._failed(error)

    async def first_list(self) -> None:
        """The first list, as often as it takes; `run` goes on from there."""
        while not self._listed:
            try:
                await self._list()
            except ApiError as error:
                await self._failed(error, error.retry_after)
            except UnavailableError as error:
                await self._failed(error)

    async def _failed(self, error: Exception, asked: float = 0.0) -> None:
        self._set_failure(str(error))
        await self._sleep(self._backoff.failed(asked))

    # --------------------------------------------------------------------------------------- list

    async def _list(self) -> None:
        """UnavailableError or ApiError: nothing of it was told."""
        items: list[Item[T]] = []
        params = {**self.kind.params, "limit": str(self._timing.page)}
        while True:
            answer = await self._client.request(
                "GET", self.kind.path, params=params, timeout=self._timing.request
            )
            page = self.kind.page(answer.body)
            items += page.items
            if not page.next:
                break
            params["continue"] = page.next
        self.lists += 1
        self._listed = self._fresh = True
        self._set_failure("")  # the back-off stays until a watch works: lists are what costs
        self._deliver(self, self.mirror.replace(page.version, items))

    # -------------------------------------------------------------------------------------- watch

    async def _watch(self) -> None:
        """One watch, until the server ends it. Errors as `_list`; what was told is told."""
        now = asyncio.get_running_loop().time
        seconds = self._timing.watch + self._timing.spread * self._random()
        params = {
            **self.kind.params,
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self.position),
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        began, opened, read = now(), False, self.events
        try:
            silence = seconds + self._timing.grace
            async with self._client.stream(self.kind.path, params, silence=silence) as lines:
                opened = True
                async for line in lines:
                    self._told(line)
        except ApiError as error:
            # An ERROR event, whatever its code, says that this position leads nowhere
            self._listed = not (opened or error.status in _UNUSABLE)
            if error.status == GONE and not self._fresh:
                return  # a relist is due at once; it waits if the last one led nowhere
            raise
        if self.events == read and now() - began < min(1.0, seconds / 2):
            raise UnavailableError(f"watch of {self.kind.resource}: ended at once")
        self._worked()

    def _told(self, line: bytes) -> None:
        event = self.kind.event(line)
        if event.version < self.position:
            # Never in one history: events come in order, and only later ones were asked for
            what = f"version {event.version} after {self.position}"
            raise ApiError(GONE, "Expired", f"{self.kind.resource}: {what}")
        self.events += 1
        self._worked()
        self._deliver(self, self.mirror.apply(event))

    def _worked(self) -> None:
        self._fresh = False
        self._set_failure("")
        self._backoff.worked()

    def _set_failure(self, failure: str) -> None:
        if failure != self.failure:
            self.failure = failure
            self._note(self)
