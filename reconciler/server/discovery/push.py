"""Resources that somebody hands over, in place of a directory: for controllers in any language.

    PUT /resources     {"resources": [{"@type": ..., ...}, ...]}: the whole new state, of all nodes
    PATCH /resources   the same form: these are added or changed, all others stay

The documents are those of files (`documents`); with `Content-Type: application/x-protobuf` the body
is the same as one message (`binary`). 204: it is in force, whoever subscribes from now on
gets it, and all streams are being led to it; 400: nothing has changed, and every problem is named;
503: the server is shutting down, and takes nothing more. What is written as it was is not read a
second time. A server listens for clients once it was given something: none is told that there is
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from typing import Any, Final

from aiohttp import web

from reconciler import local
from reconciler.config import Address
from reconciler.errors import Rejected, UnavailableError
from reconciler.server.discovery.binary import parse_binary
from reconciler.server.discovery.documents import Found, Parsed, parse
from reconciler.server.discovery.files import Directory, Outcome, State
from reconciler.server.discovery.match import EVERY

_MAX_BODY: Final = 64 << 20
_SOURCE: Final = "resources.json"  # JSON, whatever name it has
_BINARY: Final = frozenset({"application/x-protobuf", "application/protobuf"})
_BINARY_SOURCE: Final = "resources.pb"

_STOPPING: Final = "the server is shutting down"


async def listen(address: Address, stop: asyncio.Event, stack: AsyncExitStack, log: Any) -> Pushes:
    """Takes what is given as long as the stack is."""
    pushes = Pushes(stop)
    routes: dict[str, local.Handler] = {
        "PUT /resources": pushes.put,
        "PATCH /resources": pushes.patch,
    }
    port = await stack.enter_async_context(local.serve(routes, address, max_body=_MAX_BODY))
    stack.callback(pushes.end)
    log.info("waiting for resources", push=address.target, port=port)
    return pushes


class Pushes:
    """A `parts.Source`. A stop takes nothing away; whoever waits then, or comes later, is told that
    nothing more is taken."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._found: dict[str, dict[str, Found]] = {}  # by type and name; what others have stays
        self._known: dict[bytes, Found] = {}  # hash of what was written → what it is
        self._keys: dict[tuple[str, str], bytes] = {}  # type and name → that hash
        self._order = asyncio.Lock()
        self._first: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._began = asyncio.Event()  # to be followed; or it never will be
        self._in_force = False  # the first
        self._take: Callable[[Outcome], None] | None = None
        self._error: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def first(self) -> Outcome:
        """The first good state; the empty one if nothing comes before a stop."""
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((self._first, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if self._stop.is_set():
            self.end()
            return Outcome(State())
        return self._first.result()

    async def follow(self, take: Callable[[Outcome], None]) -> None:
        """Whoever calls this has put the first in force. Raises what `take` has raised."""
        if self._began.is_set():
            return
        self._in_force, self._take = True, take
        self._began.set()
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((self._error, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            self.end()
        if self._error.done():
            raise self._error.result()

    def end(self) -> None:
        """Take nothing more."""
        self._take = None
        self._began.set()

    async def put(self, request: web.Request) -> web.StreamResponse:
        return await self._change(request, keep=False)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        return await self._change(request, keep=True)

    async def _change(self, request: web.Request, *, keep: bool) -> web.Response:
        data = await request.read()
        async with self._order:
            read = partial(parse, file=_SOURCE, known=self._known)
            if request.content_type in _BINARY:
                read = partial(parse_binary, name=_BINARY_SOURCE, known=self._known)
            parsed = await local.reading(read, data)
            problems = (*parsed.problems, *_twice(parsed))
            if problems:
                if self._first.done():
                    await self._give(Outcome(None, problems))
                lines = [str(each) for each in problems]
                return local.json({"error": "\n".join(lines), "problems": lines}, 400)
            if not keep:
                self._found, self._known, self._keys = {}, {}, {}
            self._take_over(parsed)
            found = tuple(chain.from_iterable(each.values() for each in self._found.values()))
            everything = Directory("", EVERY, found, dict(self._found))
            await self._give(Outcome(State((everything,) if found else ())))
        return web.Response(status=204)

    def _take_over(self, parsed: Parsed) -> None:
        """In time that depends on what is new, but for copies."""
        for type_url in {each.type_url for each in parsed.found}:
            self._found[type_url] = dict(self._found.get(type_url, {}))
        for key, each in parsed.known.items():
            name = each.type_url, each.name
            stale = self._keys.get(name)
            if stale is not None:
                del self._known[stale]
            self._keys[name], self._known[key] = key, each
            self._found[each.type_url][each.name] = each

    async def _give(self, outcome: Outcome) -> None:
        """Return when it is in force; UnavailableError when it will not be."""
        first = not self._first.done()
        if first:
            self._first.set_result(outcome)
        await self._began.wait()
        if first and self._in_force:
            return
        if self._take is None or self._stop.is_set():
            raise UnavailableError(_STOPPING)
        try:
            self._take(outcome)
        except Exception as error:
            self.end()
            self._error.set_result(error)
            raise UnavailableError(_STOPPING) from error


def _twice(parsed: Parsed) -> Iterable[Rejected]:
    seen: set[tuple[str, str]] = set()
    for each in parsed.found:
        key = each.type_url, each.name
        if key in seen:
            yield Rejected(each.source, each.title, "", "comes twice")
        seen.add(key)
