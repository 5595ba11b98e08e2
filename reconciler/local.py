"""HTTP on this machine only: the status APIs of server and agent, and the client that asks them.

JSON over a Unix socket (readable by its owner only) or a loopback port; `config` refuses anything
else. An error is an object with one key, `error`: the line that the command line prints. Only what
`public` gives is also served where other machines ask: kubelet and Prometheus.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from reconciler.config import Address
from reconciler.errors import ConfigError, ReconcilerError, UnavailableError

JSON_TYPE: Final = "application/json"
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Text(Protocol):
    async def text(self) -> bytes: ...


_SHORT: Final = 16 << 10
"""Bytes that are read on the event loop: what goes to a thread comes back behind all that the loop
has to do by then, which with many streams is longer than to read them."""


async def reading(read: Callable[[bytes], T], body: bytes) -> T:
    """What `read` makes of a body, without holding up the event loop for long."""
    return await asyncio.to_thread(read, body) if len(body) > _SHORT else read(body)


def json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON_TYPE)


def public(metrics: Text, content_type: str, ready: Callable[[], str]) -> dict[str, Handler]:
    """/metrics, /healthz (this process answers) and /readyz (503 with what `ready` says)."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.text(), headers={"Content-Type": content_type})

    async def health(_: web.Request) -> web.Response:
        return json({"status": "ok"})

    async def readiness(_: web.Request) -> web.Response:
        if reason := ready():
            raise UnavailableError(reason)
        return json({"status": "ok"})

    return {"/metrics": page, "/healthz": health, "/readyz": readiness}


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UnavailableError as error:
        return json({"error": str(error)}, 503)
    except ConfigError as error:
        return json({"error": str(error)}, 400)
    except ReconcilerError as error:
        return json({"error": str(error)}, 500)
    except web.RequestPayloadError as error:  # gzip that is none, chunks that are none
        return json({"error": f"the body can't be read: {' '.join(str(error).split())}"}, 400)
    except web.HTTPException as error:
        return json({"error": error.reason}, error.status)


@contextlib.asynccontextmanager
async def serve(
    routes: Mapping[str, Handler], address: Address, *, max_body: int = 1 << 20
) -> AsyncIterator[int]:
    """Answer on these paths while in the context; gives the port (0: a Unix socket).

    routes: path, of GET and HEAD, or method and path ("PUT /resources")
    max_body: bytes of a request
    UnavailableError when the address is in use; a socket that nobody listens on is replaced.
    """
    app = web.Application(middlewares=[_errors], client_max_size=max_body)
    for route, handler in routes.items():
        method, _, path = route.rpartition(" ")
        if method:
            app.router.add_route(method, path, handler)
        else:
            app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        if address.path:
            await web.SockSite(runner, unix_listener(address.path)).start()
            yield 0
        else:
            site = web.TCPSite(runner, address.host, address.port)
            try:
                await site.start()
            except OSError as error:
                raise UnavailableError(f"{address.target}: {error.strerror}") from None
            yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        if address.path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address.path)


def unix_listener(path: str) -> socket.socket:
    """A listening Unix socket that only its owner can use."""
    clear_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(64)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"unix:{path}: {error.strerror}") from None
    return listener


def clear_socket(path: str) -> None:
    """Make room for a socket: make its directory, remove the socket of a process that is gone.

    UnavailableError when one still listens, or when there can be none.
    """
    try:
        _make_room(path)
    except OSError as error:
        raise UnavailableError(f"unix:{path}: {error.strerror or error}") from None


def _make_room(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return
    if not stat.S_ISSOCK(mode):
        raise UnavailableError(f"unix:{path}: exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise UnavailableError(f"unix:{path}: another process listens on it")


class Client:
    """Asks one status API. UnavailableError when nobody answers there."""

    def __init__(self, address: Address, timeout: float = 30.0) -> None:
        self._address = address
        self._timeout = timeout

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of the answer; ReconcilerError with the server's own words otherwise."""
        async with self._request(path, params or {}, self._timeout) as response:
            return await response.read()

    async def lines(self, path: str, params: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines of an answer that does not end by itself."""
        async with self._request(path, params, None) as response:
            async for line in response.content:
                yield line

    @contextlib.asynccontextmanager
    async def _request(
        self, path: str, params: Mapping[str, str], timeout: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        where = self._address
        connector: aiohttp.BaseConnector
        if where.path:
            connector, base = aiohttp.UnixConnector(where.path), "http://localhost"
        else:
            connector, base = aiohttp.TCPConnector(), f"http://{where.target}"
        limits = aiohttp.ClientTimeout(total=timeout, connect=5.0)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limits) as session,
                session.get(base + path, params=params) as response,
            ):
                if response.status != 200:
                    raise _error(response.status, await response.read())
                yield response
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(f"{where.target}: {error.os_error.strerror}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(f"{where.target}: {error or 'no answer in time'}") from None


def _error(status: int, body: bytes) -> ReconcilerError:
    try:
        content: Any = msgspec.json.decode(body)
        text = str(content["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        text = f"HTTP status {status}"
    if status == 503:
        return UnavailableError(text)
    return ConfigError(text) if 400 <= status < 500 else ReconcilerError(text)
