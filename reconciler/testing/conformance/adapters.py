"""How the suite gives a target its state: over HTTP, or as a file in a directory that it reads.

HTTP is for targets of any kind; a target's own adapter answers

    PUT /resources   {"resources": [{"@type": ..., ...}, ...]}: the whole new state, for every node
    POST /restart    end all streams and start anew, with the same state

with 204, with 501 when it can't do what the request needs, or with 4xx and a reason. A resource
with a time to live comes as an `envoy.service.discovery.v3.Resource`: `name`, `ttl`, `resource`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

import aiohttp
import msgspec

from reconciler.errors import UnavailableError
from reconciler.probe.client import Client, Ended, Stream
from reconciler.probe.follow import Follower
from reconciler.probe.frames import Node
from reconciler.probe.messages import unpack
from reconciler.probe.services import AGGREGATED, OWN, Variant

SECONDS: Final = 20.0
_TROUBLE_SECONDS: Final = 1.0
"""In which a connection on this machine or near it fails, if it does."""

FILE: Final = "conformance.json"
EPOCH: Final = "conformance-epoch"


class NotSupported(Exception):
    """The adapter says that the target (or it) can't do this."""


class Refused(Exception):
    """The adapter says that this is wrong, as of a state that the target does not take."""


class Adapter(Protocol):
    """An async context. Raises NotSupported, Refused, and UnavailableError when the target can't be
    driven any more."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

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

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        await self._ask("PUT", "/resources", {"resources": list(resources)})

    async def restart(self) -> None:
        await self._ask("POST", "/restart", None)

    async def _ask(self, method: str, path: str, body: object) -> None:
        assert self._session is not None, "used outside of its context"
        data = None if body is None else io.BytesIO(msgspec.json.encode(body))
        headers = {"Content-Type": "application/json"}
        asked = self._session.request(method, self._url + path, data=data, headers=headers)
        try:
            async with asked as answer:
                text = (await answer.text()).strip()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(f"{self._url}: {error or 'no answer'}") from None
        if answer.status == 501:
            raise NotSupported(text or f"the adapter has no {method} {path}")
        if 400 <= answer.status < 500:
            raise Refused(f"{method} {path}: {answer.status} {text}")
        if answer.status != 204:
            raise UnavailableError(f"{self._url}: {method} {path}: {answer.status} {text}")


class DirectoryAdapter:
    """A file in a directory that the target reads again when it changes.

    That it has been read shows in a resource that is part of every state, a `Runtime` with a
    number, which a stream of the adapter's own waits for: a target that takes a directory as a
    whole serves all of the state when it serves the number. The file is one list of resources as
    an HTTP adapter is sent them.
    """

    def __init__(
        self,
        folder: Path,
        client: Callable[[], Client],
        node: Node,
        restart: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """client: a new connection to the target. restart: ends the target and starts it again; it
        need not wait until that answers. None: it can't be done."""
        self._folder, self._new_client, self._node = folder, client, node
        self._restart = restart
        self._stack = contextlib.AsyncExitStack()
        self._stream: Stream | None = None
        self._follower = Follower(OWN["RTDS"].type_url, Variant.DELTA)
        self._run = str(os.getpid())
        self._epoch = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        (self._folder / FILE).unlink(missing_ok=True)
        await self._stack.aclose()

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        self._epoch += 1
        epoch = {
            "@type": OWN["RTDS"].type_url,
            "name": EPOCH,
            "layer": {"epoch": self._number()},
        }
        written = self._folder / f".{FILE}"
        written.write_bytes(msgspec.json.encode([*resources, epoch]))
        written.rename(self._folder / FILE)
        await self._served()

    async def restart(self) -> None:
        if self._restart is None:
            raise NotSupported("nothing was said that restarts the target")
        await self._stack.aclose()
        self._stream = None
        await self._restart()
        await self._served()

    def _number(self) -> str:
        return f"{self._run}-{self._epoch}"

    async def _served(self) -> None:
        """Until the newest state is."""
        try:
            async with asyncio.timeout(SECONDS):
                while not await self._reached():
                    pass
        except TimeoutError:
            reason = f"what is in {self._folder} is not served after {SECONDS:g} s"
            raise UnavailableError(reason + await self._trouble()) from None

    async def _trouble(self) -> str:
        """What a patient stream doesn't tell: why there is no connection; "" when there is one."""
        async with self._new_client() as client:
            stream = client.open(AGGREGATED, Variant.DELTA)
            try:
                ended = await stream.receive(_TROUBLE_SECONDS)
            finally:
                await stream.close()
        return f": {ended}" if isinstance(ended, Ended) else ""

    async def _reached(self) -> bool:
        """Take one response; whether it has the newest number."""
        if self._stream is None:
            client = await self._stack.enter_async_context(self._new_client())
            self._stream = client.open(AGGREGATED, Variant.DELTA, patient=True)
            self._stack.push_async_callback(self._stream.close)
            self._follower = Follower(OWN["RTDS"].type_url, Variant.DELTA)
            await self._stream.send(self._follower.first((EPOCH,), node=self._node))
        response = await self._stream.receive()
        if isinstance(response, Ended):
            raise UnavailableError(f"the target ended a stream: {response}")
        assert response is not None
        self._follower.received(response)
        await self._stream.send(self._follower.ack())
        held = self._follower.held.get(EPOCH)
        found: Any = held and held.body and unpack(held.body)
        return bool(found) and dict(found.layer) == {"epoch": self._number()}
