"""How the suite gives a target its state: over HTTP, or as a file in a directory that it reads.

HTTP is for targets of any kind; a target's own adapter answers

    PUT /resources   {"resources": [{"@type": ..., ...}, ...]}: the whole new state, for every node
    POST /restart    end all streams and start anew, with the same state

with 204, or with 501 when it can't do what the request needs (a resource with a time to live comes
as an `envoy.service.discovery.v3.Resource` with `name`, `ttl` and `resource`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import aiohttp
import msgspec

from reconciler.errors import UnavailableError
from reconciler.probe.client import Client, Ended, Stream
from reconciler.probe.follow import Follower
from reconciler.probe.frames import Node, Response
from reconciler.probe.messages import unpack
from reconciler.probe.services import AGGREGATED, OWN, Variant

SECONDS: Final = 20.0
FILE: Final = "conformance.json"
EPOCH: Final = "conformance-epoch"


class NotSupported(Exception):
    """The adapter says that the target (or it) can't do this."""


class Adapter(Protocol):
    """An async context. UnavailableError: the target can't be driven any more."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        """Return when requests from now on are answered from this state."""

    async def restart(self) -> None:
        """Return when the target answers again."""


class HttpAdapter:
    """The interface above. url: without the path"""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        await self._ask("PUT", "/resources", {"resources": list(resources)})

    async def restart(self) -> None:
        await self._ask("POST", "/restart", None)

    async def _ask(self, method: str, path: str, body: object) -> None:
        assert self._session is not None, "used outside of its context"
        try:
            async with self._session.request(method, self._url + path, json=body) as answer:
                text = (await answer.text()).strip()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(f"{self._url}: {error or 'no answer'}") from None
        if answer.status == 501:
            raise NotSupported(text or f"the adapter has no {method} {path}")
        if answer.status != 204:
            raise UnavailableError(f"{self._url}: {method} {path}: {answer.status} {text}")


class DirectoryAdapter:
    """A file in a directory that the target reads again when it changes.

    That it has been read shows in a resource that is part of every state, a `Runtime` with a
    number, which a stream of the adapter's own waits for: a target that takes a directory as a
    whole serves all of the state when it serves the number. It can't restart the target, and files
    have no times to live.
    """

    def __init__(self, folder: Path, client: Client, node: Node) -> None:
        """client: of the target; a context that this one enters"""
        self._folder, self._client, self._node = folder, client, node
        self._stack = contextlib.AsyncExitStack()
        self._stream: Stream | None = None
        self._follower = Follower(OWN["RTDS"].type_url, Variant.DELTA)
        self._epoch = 0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        (self._folder / FILE).unlink(missing_ok=True)
        if self._stream is not None:
            await self._stream.close()
        await self._stack.aclose()

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        self._epoch += 1
        epoch = {
            "@type": OWN["RTDS"].type_url,
            "name": EPOCH,
            "layer": {"epoch": f"{os.getpid()}-{self._epoch}"},
        }
        written = self._folder / f".{FILE}"
        written.write_bytes(msgspec.json.encode([*resources, epoch]))
        written.rename(self._folder / FILE)
        try:
            async with asyncio.timeout(SECONDS):
                await self._reach(epoch["layer"])
        except TimeoutError:
            reason = f"what is in {self._folder} is not served after {SECONDS:g} s"
            raise UnavailableError(reason) from None

    async def restart(self) -> None:
        raise NotSupported("a target that reads a directory is not restarted from here")

    async def _reach(self, wanted: object) -> None:
        if self._stream is None:
            self._stream = self._client.open(AGGREGATED, Variant.DELTA)
            await self._stream.send(self._follower.first((EPOCH,), node=self._node))
        while True:
            held = self._follower.held.get(EPOCH)
            found: Any = held and held.body and unpack(held.body)
            if found and dict(found.layer) == wanted:
                return
            response = await self._stream.receive()
            if isinstance(response, Ended):
                raise UnavailableError(f"the target ended a stream: {response}")
            assert isinstance(response, Response)
            self._follower.received(response)
            await self._stream.send(self._follower.ack())
