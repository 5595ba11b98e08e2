"""The xDS service on grpc.aio: bytes in, bytes out; what the bytes mean is the core's business.

Each stream has one reader and, while there is something to send, one writer.

The node's name comes from a proof and nothing else: the client's certificate, or a token in the
metadata (`authorization: Bearer ...`); see `proofs`. Without TLS (which `config` allows on this
machine only) the name is what the `node.id` of the first request claims, or of no interest.

How long a stream may live, and what both ways to carry streams have in common, is in `streams`.
Certificate files that rotate are used for the next connection, and no stream ends.

The core keeps at most one cut on its way to a node, so a stream's queue is short by construction. A
peer that does not take what was sent for `stall_seconds`, or lets more than `queue_bytes` pile up,
is closed with RESOURCE_EXHAUSTED (told behind what gRPC has accepted already); it comes back with
versions and costs little. A frame that can't be read ends its own stream with INVALID_ARGUMENT and
no other.

A stop may take its time (`drain`): connections are told at once to take no new streams (GOAWAY),
and the streams on them, which are served meanwhile, are ended one after the other, so that their
nodes come to the other replicas spread over that time, and not all at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from reconciler.address import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.local import clear_socket
from reconciler.server.proofs import claimed, credentials, prove
from reconciler.server.streams import STOPPING, Opened, StreamServer, Traffic, one_by_one
from reconciler.tls import Proof


class _Stream:
    __slots__ = (
        "context", "end", "failure", "handler", "id", "queue", "queued", "traffic", "writer",
    )  # fmt: skip

    def __init__(self, id: int, traffic: Traffic, context: Any, handler: asyncio.Task[Any]) -> None:
        self.id, self.traffic, self.context, self.handler = id, traffic, context, handler
        self.queue: deque[bytes] | None = None  # while there is a writer
        self.queued = 0
        self.writer: asyncio.Task[None] | None = None
        self.failure: tuple[str, str] | None = None
        self.end: asyncio.TimerHandle | None = None


class XdsServer(StreamServer[_Stream]):
    """`send` and `close` are the core's effects on a stream."""

    _server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; UnavailableError when an address can't be had."""
        server = grpc.aio.server(options=tuple(self._options.items()))
        server.add_generic_rpc_handlers((_Handlers(self._methods, self._serve),))
        if self._add_others is not None:
            self._add_others(server)
        two = self._token_listen is not None
        self.port = self._add(server, self._listen, tokens=self._tokens is not None and not two)
        if self._token_listen is not None:
            self.token_port = self._add(server, self._token_listen, tokens=True)
        await server.start()
        self._server = server

    def _add(self, server: grpc.aio.Server, where: Address, *, tokens: bool) -> int:
        if where.path:
            clear_socket(where.path)
        try:
            if self._tls is None:
                return server.add_insecure_port(where.target)
            return server.add_secure_port(where.target, credentials(self._tls, tokens=tokens))
        except RuntimeError:
            raise UnavailableError(f"{where.target}: can't listen there") from None

    async def stop(self, grace: float = 5.0, drain: float = 0.0) -> None:
        """Take no new streams, tell the open ones to go elsewhere, wait for them to end.

        drain: seconds over which the open ones are ended, in random order; grace: how long after
        that the last ones may take.
        """
        self._stopping = True
        streams = list(self._streams.values())
        for stream, after in zip(streams, one_by_one(len(streams), drain), strict=True):
            if after:
                self._arm(stream, after, *STOPPING)
            else:
                self._fail(stream, *STOPPING)
        if self._server is not None:
            await self._server.stop(grace + drain)

    def send(self, stream: int, frame: bytes) -> None:
        """Queue a frame; for a stream that has ended, nothing happens."""
        found = self._streams.get(stream)
        if found is None or found.failure is not None:
            return
        if found.queued + len(frame) > self.queue_bytes:
            self._fail(found, "RESOURCE_EXHAUSTED", self._too_much())
            return
        if found.queue is None:
            found.queue = deque()
            found.writer = asyncio.create_task(self._write(found), name=f"write-{stream}")
        found.queue.append(frame)
        found.queued += len(frame)

    def grouped(self, streams: Sequence[int]) -> tuple[Sequence[int]]:
        return (streams,)

    def flush(self) -> bool:
        """The streams' own tasks send it."""
        return False

    def close(self, stream: int, status: str, reason: str) -> None:
        """End a stream with a gRPC status, by name."""
        found = self._streams.get(stream)
        if found is not None:
            self._fail(found, status, reason)

    # ------------------------------------------------------------------------------ one stream

    async def _serve(self, method: str, opened: Opened, context: Any) -> None:
        first: bytes | None = None
        proof: Proof | None = None
        node = ""
        try:
            self._may_open()
            if self._tls is not None:
                proof = await prove(context, self._cluster, self._tokens, self._clock)
                node = proof.node
            elif method in self._named:
                first = await _read(context)
                if first is None:
                    return
                node = claimed(first)
            # Not with the first message, as gRPC does by itself: while that one is not taken it
            # could send no status, and the peer would never hear of its end.
            await context.send_initial_metadata(())
            self._may_open()  # others may have come, or a stop, while something was waited for
        except ProtocolError as error:
            self._note_refused(context.peer(), error)
            await context.abort(grpc.StatusCode[error.status], error.reason)
        handler = asyncio.current_task()
        assert handler is not None
        traffic = self._traffic_of(method, node)
        stream = _Stream(next(self._numbers), traffic, context, handler)
        self._streams[stream.id] = stream
        try:
            life = self._life(proof)
            if life is not None:
                self._arm(stream, *life)
            opened(stream.id, node)
            await self._receive(stream, first)
        except asyncio.CancelledError:
            if stream.failure is None:
                raise  # the peer is gone
            handler.uncancel()
        finally:
            traffic.streams -= 1
            del self._streams[stream.id]
            self._hub.stream_closed(stream.id)
            if stream.end is not None:
                stream.end.cancel()
            if stream.writer is not None:
                stream.writer.cancel()
                await asyncio.gather(stream.writer, return_exceptions=True)
        if stream.failure is not None:
            status, reason = stream.failure
            await context.abort(grpc.StatusCode[status], reason)

    def _arm(self, stream: _Stream, after: float, status: str, reason: str) -> None:
        """End it then, whenever it was to be ended before."""
        if stream.end is not None:
            stream.end.cancel()
        loop = asyncio.get_running_loop()
        stream.end = loop.call_later(after, self._fail, stream, status, reason)

    async def _receive(self, stream: _Stream, first: bytes | None) -> None:
        traffic = stream.traffic
        frame = first if first is not None else await _read(stream.context)
        while frame is not None and stream.failure is None:
            traffic.received += 1
            traffic.received_bytes += len(frame)
            try:
                self._hub.received(stream.id, frame)
            except ProtocolError as error:
                stream.failure = (error.status, error.reason)
                return
            frame = await _read(stream.context)

    async def _write(self, stream: _Stream) -> None:
        traffic, queue = stream.traffic, stream.queue
        try:
            while self._more(stream):
                assert queue is not None
                frame = queue.popleft()
                async with asyncio.timeout(self._stall):
                    await stream.context.write(frame)
                stream.queued -= len(frame)
                traffic.sent += 1
                traffic.sent_bytes += len(frame)
        except TimeoutError:
            self._fail(stream, "RESOURCE_EXHAUSTED", self._took_nothing())
        except (
            grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError
        ):  # fmt: skip
            pass  # the stream broke under the write: its reader notices too, and tells the hub
        finally:
            stream.queue = stream.writer = None

    def _more(self, stream: _Stream) -> bool:
        """There is something to write. Who is told that all is written may have more at once."""
        if not stream.queue and stream.failure is None and self.drained is not None:
            self.drained(stream.id)
        return bool(stream.queue)

    def _fail(self, stream: _Stream, status: str, reason: str) -> None:
        """End the stream at its reader, which is the handler and alone may give a status."""
        if stream.failure is None:
            stream.failure = (status, reason)
            if stream.queue is not None:
                stream.queue.clear()
            if asyncio.current_task() is not stream.handler:
                stream.handler.cancel()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(
        self, methods: Mapping[str, Opened], serve: Callable[..., Coroutine[Any, Any, None]]
    ) -> None:
        def handler(method: str, opened: Opened) -> Any:
            async def behaviour(_requests: object, context: Any) -> None:
                await serve(method, opened, context)

            return grpc.stream_stream_rpc_method_handler(behaviour)

        self._handlers = {method: handler(method, told) for method, told in methods.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


async def _read(context: Any) -> bytes | None:
    """The next frame; None when the peer has said its last."""
    frame = await context.read()
    return None if frame is grpc.aio.EOF else frame
