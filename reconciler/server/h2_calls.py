"""Other services on a port of `h2.H2Server` (health, reflection, CSDS), as they are written for
grpc.aio: `Registry` is what their `add_..._to_server` functions take for a server.

Only what such services use of a context is there. What is sent waits for the peer to take it, as an
xDS stream's does: it ends when nothing of it moved for `stall_seconds`, and what all such calls of
one connection have waiting is bounded.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from reconciler.http2.headers import Header
from reconciler.server.h2_proofs import CallContext
from reconciler.server.h2_session import RECORD

if TYPE_CHECKING:
    from reconciler.server.h2_peer import Call


class Registry:
    """Method → handler."""

    def __init__(self) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._generic: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._generic.extend(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler

    def find(self, method: str, headers: tuple[Header, ...]) -> Any:
        """None: nobody serves it."""
        found: Any = self._methods.get(method)
        for generic in self._generic if found is None else ():
            found = found or generic.service(_Details(method, headers))
        return found


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str, headers: tuple[Header, ...]) -> None:
        self.method = method
        self.invocation_metadata = tuple(_metadata(headers))


class _Ended(Exception):
    """The service has ended the call."""


_WAITING: Final = 1 << 20
"""Bytes of requests that a client may be ahead of the service."""

_REQUEST: Final = 100
"""What a request takes beside its bytes, of which it may have none."""

_AT_ONCE: Final = RECORD
"""Bytes of an answer that goes with its end; more is waited for until the socket has it."""


class Rpc:
    """One call of such a service. task: that runs it; set by who starts it"""

    def __init__(self, call: Call, handler: Any, headers: tuple[Header, ...]) -> None:
        self._call = call
        self._handler = handler
        self._headers = headers
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._status: tuple[str, str] = ("OK", "")
        self._waiting = 0  # bytes of requests that the service has not taken
        self._untaken = 0  # bytes of answers that the socket has not taken
        self.task: asyncio.Task[None] | None = None

    # The connection's side

    def message(self, message: bytes) -> bool:
        """False: too much waits for the service already."""
        size = len(message) + _REQUEST
        self._waiting += size
        self._requests.put_nowait(message)
        return self._waiting <= _WAITING or self._waiting == size

    def ended(self) -> None:
        self._requests.put_nowait(None)

    def taken(self) -> None:
        """All that was sent."""
        self._call.peer.waiting -= self._untaken
        self._untaken = 0
        self._taken.set()

    def over(self) -> None:
        """The stream has ended; whoever ended it, the service is not to go on."""
        self._call.peer.waiting -= self._untaken
        self._untaken = 0
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    async def run(self) -> tuple[str, str]:
        """gRPC status by name, and text; raises what the service does."""
        handler = self._handler
        try:
            given = self._iterate() if handler.request_streaming else await self._one()
            behaviour: Callable[[Any, Any], Any] = (
                handler.stream_stream
                or handler.stream_unary
                or handler.unary_stream
                or handler.unary_unary
            )
            made = behaviour(given, self)
            if hasattr(made, "__aiter__"):
                async for each in made:
                    await self.write(each)
            else:
                if not inspect.isawaitable(made):
                    raise TypeError(f"{handler}: not written for grpc.aio")
                result = await made
                if not handler.response_streaming and self._status[0] == "OK":
                    await self.write(result)
        except _Ended:
            pass
        return self._status

    async def _one(self) -> Any:
        message = await self._requests.get()
        if message is None:
            await self.abort(grpc.StatusCode.INTERNAL, "a request is missing")
        return self._read(message)

    async def _iterate(self) -> AsyncIterator[Any]:
        while (message := await self._requests.get()) is not None:
            yield self._read(message)

    def _read(self, message: bytes) -> Any:
        self._waiting -= len(message) + _REQUEST
        make = self._handler.request_deserializer
        return message if make is None else make(message)

    # The service's side: what it uses of grpc.aio.ServicerContext

    async def write(self, response: Any) -> None:
        make = self._handler.response_serializer
        data = response if make is None else make(response)
        call, peer, size = self._call, self._call.peer, len(data)
        if call.stream.owner is not call:
            raise _Ended
        if not peer.has_room(size):
            await self.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much waits to be read")
        self._untaken += size
        peer.waiting += size
        self._taken.clear()
        waits = not peer.connection.send(call.stream, data)
        peer.note(call)
        peer.touch()
        if waits or self._untaken > _AT_ONCE:
            await self._taken.wait()

    async def read(self) -> Any:
        message = await self._requests.get()
        return grpc.aio.EOF if message is None else self._read(message)

    async def abort(self, code: grpc.StatusCode, details: str = "", *_: Any) -> NoReturn:
        self._status = (code.name, details)
        raise _Ended

    def set_code(self, code: grpc.StatusCode) -> None:
        self._status = (code.name, self._status[1])

    def set_details(self, details: str) -> None:
        self._status = (self._status[0], details)

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return _metadata(self._headers)

    def auth_context(self) -> dict[str, list[bytes]]:
        return CallContext(self._call.peer, self._headers).auth_context()

    def peer(self) -> str:
        return self._call.peer.address

    async def send_initial_metadata(self, _: Any) -> None:
        self._call.peer.connection.start(self._call.stream)
        self._call.peer.touch()


def _metadata(headers: tuple[Header, ...]) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if not name.startswith(b":")
    ]
