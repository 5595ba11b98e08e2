"""Resources that somebody hands over, in place of a directory: for controllers in any language.

    PUT /resources     {"resources": [{"@type": ..., ...}, ...]}: the whole new state, of all nodes
    PATCH /resources   the same form: these are added or changed, all others stay

The documents are those of files (`documents`). 204: it is in force, whoever subscribes from now on
gets it, and all streams are being led to it; 400: nothing has changed, and every problem is named;
503: the server is shutting down, and takes nothing more. What is written as it was is not read a
second time. A server listens for clients once it was given something: none is told that there is
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import web

from reconciler import local
from reconciler.config import Address
from reconciler.errors import Rejected, UnavailableError
from reconciler.server.discovery.documents import Found, Parsed, parse
from reconciler.server.discovery.files import Directory, Outcome, State
from reconciler.server.discovery.match import EVERY

_MAX_BODY: Final = 64 << 20
_SOURCE: Final = "resources.json"  # JSON, whatever name it has
_STOPPING: Final = "the server is shutting down"


async def listen(
    address: Address, stop: asyncio.Event, stack: AsyncExitStack, log: Any
) -> AsyncGenerator[Outcome, None]:
    """What is given, from the first good state on. It listens as long as the stack is."""
    pushes = _Pushes()
    routes: dict[str, local.Handler] = {
        "PUT /resources": pushes.put,
        "PATCH /resources": pushes.patch,
    }
    port = await stack.enter_async_context(local.serve(routes, address, max_body=_MAX_BODY))
    log.info("waiting for resources", push=address.target, port=port)
    return pushes.outcomes(stop)


class _Pushes:
    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Found] = {}
        self._known: Mapping[bytes, Found] = {}  # hash of what was written → what it is
        self._order = asyncio.Lock()
        self._given: asyncio.Queue[tuple[Outcome, asyncio.Future[None]]] = asyncio.Queue()
        self._unanswered: set[asyncio.Future[None]] = set()
        self._ended = False
        self._first = True

    async def outcomes(self, stop: asyncio.Event) -> AsyncGenerator[Outcome, None]:
        """Who asks for the next one has put the last one in force. A stop takes nothing away;
        whoever waits then, or comes later, is told that nothing more is taken."""
        nothing = True
        try:
            while True:
                given = asyncio.ensure_future(self._given.get())
                stopped = asyncio.ensure_future(stop.wait())
                try:
                    await asyncio.wait((given, stopped), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    given.cancel()
                    stopped.cancel()
                if stop.is_set():
                    self._end()
                    if nothing:  # to begin with, so there is this
                        yield Outcome(State())
                    return
                outcome, taken = given.result()
                nothing = False
                yield outcome
                if not taken.done():
                    taken.set_result(None)
        finally:
            self._end()

    def _end(self) -> None:
        self._ended = True
        for taken in self._unanswered:
            if not taken.done():
                taken.set_exception(UnavailableError(_STOPPING))

    async def put(self, request: web.Request) -> web.StreamResponse:
        return await self._change(request, keep=False)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        return await self._change(request, keep=True)

    async def _change(self, request: web.Request, *, keep: bool) -> web.Response:
        data = await request.read()
        async with self._order:
            parsed = await asyncio.to_thread(parse, data, _SOURCE, self._known)
            problems = (*parsed.problems, *_twice(parsed))
            if problems:
                if not self._first:
                    await self._give(Outcome(None, problems))
                lines = [str(each) for each in problems]
                return local.json({"error": "\n".join(lines), "problems": lines}, 400)
            found = dict(self._found) if keep else {}
            found.update(((each.type_url, each.name), each) for each in parsed.found)
            known = {**self._known, **parsed.known} if keep else parsed.known
            self._known = {
                key: each for key, each in known.items() if found[each.type_url, each.name] is each
            }
            self._found, self._first = found, False
            everything = Directory("", EVERY, tuple(found.values()))
            await self._give(Outcome(State((everything,) if found else ())))
        return web.Response(status=204)

    async def _give(self, outcome: Outcome) -> None:
        """Return when it is in force; UnavailableError when it will not be."""
        if self._ended:
            raise UnavailableError(_STOPPING)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unanswered.add(taken)
        try:
            self._given.put_nowait((outcome, taken))
            await taken
        finally:
            self._unanswered.discard(taken)


def _twice(parsed: Parsed) -> Iterable[Rejected]:
    seen: set[tuple[str, str]] = set()
    for each in parsed.found:
        key = each.type_url, each.name
        if key in seen:
            yield Rejected(each.source, each.title, "", "comes twice")
        seen.add(key)
