"""Requests to the Kubernetes API server: bytes in, bytes out, typed by whoever asks.

    client = await ApiClient.connect()               # in a pod, or by the default kubeconfig
    answer = await client.request("GET", "/api/v1/namespaces", params={"limit": "500"})
    async with client.stream("/api/v1/pods", {"resourceVersion": "7"}) as lines:
        async for line in lines: ...                 # one watch event each
    await client.close()

An answer of 400 and above is an ApiError with what its Status says; nothing is tried again here but
one request whose credentials the server refused, with credentials read anew. The generated
`kubernetes` client is not used for requests: it decodes lists into objects at 100 times the cost,
and blocks.

Every request is counted by verb and resource, in RBAC's words, so a test can hold what the server
does against what its role grants.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final

import aiohttp
import msgspec

from reconciler.errors import ConfigError, ReconcilerError, UnavailableError
from reconciler.server.kubernetes.credentials import TOKEN_SECONDS, Credentials, Load, loader

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
CONNECTIONS: Final = 128
RELOAD_SECONDS: Final = 5.0
"""Credentials that the server refuses are not read again sooner: a plugin may be slow or costly."""

USER_TIMEOUT_SECONDS: Final = 45
"""A peer that acknowledges nothing for so long is gone, also on a watch where nothing is sent."""

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class ApiError(ReconcilerError):
    """The API server refused. reason: as in Status ("NotFound", "Conflict", "Expired", ...).

    retry_after: seconds that the server asks to wait, 0 when it doesn't
    ending: nothing new is taken because the namespace is being deleted
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float = 0.0,
        *,
        ending: bool = False,
    ) -> None:
        super().__init__(f"the API server answers {status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message
        self.retry_after = retry_after
        self.ending = ending

    @property
    def gone(self) -> bool:
        """What it was asked about is gone, or goes with its namespace."""
        return self.status == 404 or self.ending


class Response(msgspec.Struct, frozen=True):
    status: int
    body: bytes


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float = 0.0
    causes: tuple[_Cause, ...] = ()

    @property
    def ending(self) -> bool:
        return any(cause.reason == "NamespaceTerminating" for cause in self.causes)


class Status(msgspec.Struct, rename="camel"):
    """What an error's body holds, and the object of a watch's ERROR event."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    def error(self) -> ApiError:
        details = self.details or _Details()
        wait = details.retry_after_seconds
        return ApiError(self.code, self.reason, self.message, wait, ending=details.ending)


class ApiClient:
    """A pool of connections to one API server. Made by `connect`; for one event loop."""

    def __init__(self, load: Load, credentials: Credentials) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self._load, self._credentials = load, credentials
        self._authorization = credentials.authorization
        self._read_at = self._token_at = asyncio.get_running_loop().time()
        self._reading = asyncio.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, socket_factory=self._socket),
            headers={
                "User-Agent": f"reconciler/{importlib.metadata.version('reconciler')}",
                "Accept": "application/json",
                # Compressing a list costs the API server more than its bytes cost the network
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @classmethod
    async def connect(cls, kubeconfig: str = "", context: str = "") -> ApiClient:
        """Read the credentials; "" is the pod's own, or else the default kubeconfig.

        No request is made yet. ConfigError: they can't be read.
        """
        return await cls.load(loader(kubeconfig, context))

    @classmethod
    async def load(cls, load: Load) -> ApiClient:
        return cls(load, await asyncio.to_thread(load))

    @property
    def host(self) -> str:
        """URL of the API server."""
        return self._credentials.host

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] = _NONE,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Response:
        """One request and its whole answer; `timeout` is seconds from begin to end.

        ApiError: the answer is 400 or above. UnavailableError: there was no whole answer in time;
        whether the server did what was asked is then unknown.
        """
        self.requests[verb_and_resource(method, path)] += 1
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, CONNECT_SECONDS))
        headers = {"Content-Type": content_type} if body is not None else {}
        with self._explained(method, path):
            response = await self._open(method, path, params, headers, limit, body)
            try:
                return Response(response.status, await response.read())
            finally:
                response.release()

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str] = _NONE, *, silence: float = 330.0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch: its lines without the line ends, until the server ends it.

        silence: seconds without a byte after which the watch counts as dead; more than the
        watch's own timeoutSeconds. Errors as in `request`, also out of the iteration.
        """
        self.requests[verb_and_resource("WATCH", path)] += 1
        limit = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=silence)
        params = {"watch": "true", **params}
        with self._explained("WATCH", path):
            response = await self._open("GET", path, params, {}, limit, None)
        try:
            yield self._lines(response.content, path)
        finally:
            # What of the watch is under way is of no use to another request, and no farewell is due
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def close(self) -> None:
        """End every request and close the connections; a second time is no error.

        aiohttp knows nothing any more of a connection whose request was cancelled, while its TLS
        waits for the server to say goodbye: such sockets are shut down, and waited for.
        """
        await self._session.close()
        for each in list(self._sockets):
            if each.fileno() >= 0:
                with suppress(OSError):  # it isn't connected
                    each.shutdown(socket.SHUT_RDWR)
        now = asyncio.get_running_loop().time
        end = now() + CLOSE_SECONDS
        while any(each.fileno() >= 0 for each in self._sockets) and now() < end:
            await asyncio.sleep(0.005)

    def _socket(self, address: Any) -> socket.socket:
        made = _socket(address)
        self._sockets.add(made)
        return made

    # ----------------------------------------------------------------------------------- sending

    @contextmanager
    def _explained(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise UnavailableError(f"{self.host}: no answer in time to {method} {path}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{self.host}: {error or type(error).__name__}") from error

    async def _lines(self, content: aiohttp.StreamReader, path: str) -> AsyncIterator[bytes]:
        """Lines of any length: `readline` would end at its buffer's size, objects may be larger."""
        parts: list[bytes] = []
        while True:
            with self._explained("WATCH", path):
                chunk = await content.readany()
            if not chunk:
                return
            first, *more = chunk.split(b"\n")
            parts.append(first)
            for line in more:
                whole = b"".join(parts)
                parts = [line]
                if whole:
                    yield whole

    async def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        headers: dict[str, str],
        limit: aiohttp.ClientTimeout,
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        """The answer's begin; tried a second time where credentials read anew may help."""
        for second in (False, True):
            authorization = await self._current()
            tried = self._credentials
            try:
                response = await self._session.request(
                    method,
                    tried.host + path,
                    params=params,
                    data=body,
                    headers={**headers, **authorization},
                    timeout=limit,
                    allow_redirects=False,
                    proxy=tried.proxy,
                    ssl=tried.tls if tried.tls is not None else True,
                    server_hostname=tried.server_name,
                )
            except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
                if second or not await self._read_again(tried):
                    raise
                continue
            if response.status < 300:
                return response
            try:
                refused = _error(response, await response.read())
            finally:
                response.release()
            if response.status != 401 or second or not await self._read_again(tried):
                raise refused
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------------------- credentials

    async def _current(self) -> dict[str, str]:
        now = asyncio.get_running_loop().time()
        if self._authorization and now - self._token_at >= TOKEN_SECONDS:
            self._token_at = now  # first, so that one of many requests asks
            try:
                self._authorization = await asyncio.to_thread(self._credentials.token)
            except Exception:  # the old one may do; if not, 401 has everything read again
                self._token_at = now - TOKEN_SECONDS + RELOAD_SECONDS
        return {"Authorization": self._authorization} if self._authorization else {}

    async def _read_again(self, tried: Credentials) -> bool:
        """Whether there are other credentials now than those that the server refused."""
        async with self._reading:
            if self._credentials is not tried:
                return True  # another request that was refused too has read them
            now = asyncio.get_running_loop().time()
            if now - self._read_at < RELOAD_SECONDS:
                return False
            self._read_at = self._token_at = now
            try:
                self._credentials = await asyncio.to_thread(self._load)
            except ConfigError:
                return False
            self._authorization = self._credentials.authorization
            return True


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """RBAC's words for a request: ("update", "pods/status"); the path where it's no resource's.

    method: HTTP's, or WATCH.
    """
    parts = path.strip("/").split("/")
    rest = {"api": parts[2:], "apis": parts[3:]}.get(parts[0], [])
    if not rest:
        return method.lower(), path
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        rest = rest[2:]
    resource = "/".join((rest[0], *rest[2:3]))
    named = len(rest) > 1
    if method == "GET":
        return ("get" if named else "list"), resource
    if method == "DELETE":
        return ("delete" if named else "deletecollection"), resource
    return _VERBS.get(method, method.lower()), resource


def _error(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    try:
        said = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a proxy's page, or none
        said = Status(message=body[:200].decode("utf-8", "replace").strip())
    details = said.details or _Details()
    wait = details.retry_after_seconds
    header = response.headers.get("Retry-After", "")
    if header.isdecimal():
        wait = max(wait, float(header))
    reason = said.reason or (response.reason or "").replace(" ", "")
    return ApiError(response.status, reason, said.message, wait, ending=details.ending)


def _socket(address: Any) -> socket.socket:
    """A socket that notices a peer that is gone: a watch may be silent for minutes."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000)
    return made


__all__ = ["ApiClient", "ApiError", "Response", "Status", "verb_and_resource"]
