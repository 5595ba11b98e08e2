"""The xDS service on grpc.aio: bytes in, bytes out; what the bytes mean is the core's business.

Each stream has one reader and, while there is something to send, one writer. The node's name comes
from the client's certificate and nothing else; without TLS (which `config` allows on this machine
only) from the `node.id` of the first request.

The core keeps at most one cut on its way to a node, so a stream's queue is short by construction. A
peer that does not take what was sent for `stall_seconds`, or lets more than `queue_bytes` pile up,
is closed with RESOURCE_EXHAUSTED (told behind what gRPC has accepted already); it comes back with
versions and costs little. A frame that can't be read ends its own stream with INVALID_ARGUMENT and
no other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import msgspec
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from reconciler.config import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.local import clear_socket
from reconciler.tls import KeyPair, is_node_name, node_of

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

STALL_SECONDS: Final = 30.0
QUEUE_BYTES: Final = 256 << 20
MAX_FRAME: Final = 64 << 20  # a first request lists every version that the node holds

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a half of the traffic
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.server_max_unrequested_time_in_server", 60),
)


class Hub(Protocol):
    """Who is told about streams. Called on the event loop; must not block."""

    def stream_opened(self, stream: int, node: str) -> None: ...

    def received(self, stream: int, frame: bytes) -> None:
        """ProtocolError: this stream is closed with its status and reason."""

    def stream_closed(self, stream: int) -> None: ...


class Traffic(msgspec.Struct):
    """What went over a node's streams since the server started; messages and their bytes."""

    streams: int = 0
    opened: int = 0
    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class _Stream:
    __slots__ = ("context", "failure", "handler", "id", "node", "queue", "queued", "writer")

    def __init__(self, id: int, node: str, context: Any, handler: asyncio.Task[Any]) -> None:
        self.id, self.node, self.context, self.handler = id, node, context, handler
        self.queue: deque[bytes] | None = None  # while there is a writer
        self.queued = 0
        self.writer: asyncio.Task[None] | None = None
        self.failure: tuple[str, str] | None = None


class XdsServer:
    """One listening address. `send` and `close` are the core's effects on a stream."""

    def __init__(
        self,
        hub: Hub,
        listen: Address,
        tls: KeyPair | None,
        *,
        stall_seconds: float = STALL_SECONDS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._hub = hub
        self._listen = listen
        self._tls = tls
        self._stall = stall_seconds
        self._limit = queue_bytes
        self._numbers = itertools.count(1)
        self._streams: dict[int, _Stream] = {}
        self._server: grpc.aio.Server | None = None
        self._stopping = False
        self.port = 0
        self.traffic: dict[str, Traffic] = {}

    async def start(self) -> None:
        """Listen; UnavailableError when the address can't be had."""
        if self._listen.path:
            clear_socket(self._listen.path)
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(self._serve),))
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(self._listen.target)
            else:
                credentials = grpc.ssl_server_credentials(
                    [(self._tls.key, self._tls.certificate)],
                    root_certificates=self._tls.ca,
                    require_client_auth=True,
                )
                self.port = server.add_secure_port(self._listen.target, credentials)
        except RuntimeError:
            raise UnavailableError(f"{self._listen.target}: can't listen there") from None
        await server.start()
        self._server = server

    async def stop(self, grace: float = 5.0) -> None:
        """Take no new streams, tell the open ones to go elsewhere, wait for them to end."""
        self._stopping = True
        for stream in list(self._streams.values()):
            self._fail(stream, "UNAVAILABLE", "the server is shutting down")
        if self._server is not None:
            await self._server.stop(grace)

    def send(self, stream: int, frame: bytes) -> None:
        """Queue a frame; for a stream that has ended, nothing happens."""
        found = self._streams.get(stream)
        if found is None or found.failure is not None:
            return
        if found.queued + len(frame) > self._limit:
            reason = f"more than {self._limit} bytes wait for the node to read them"
            self._fail(found, "RESOURCE_EXHAUSTED", reason)
            return
        if found.queue is None:
            found.queue = deque()
            found.writer = asyncio.create_task(self._write(found), name=f"write-{stream}")
        found.queue.append(frame)
        found.queued += len(frame)

    def close(self, stream: int, status: str, reason: str) -> None:
        """End a stream with a gRPC status, by name."""
        found = self._streams.get(stream)
        if found is not None:
            self._fail(found, status, reason)

    # ------------------------------------------------------------------------------ one stream

    async def _serve(self, _requests: object, context: Any) -> None:
        if self._stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        first: bytes | None = None
        if self._tls is not None:
            node = _authenticated(context)
            if not node:
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "the client's certificate is not a node's (CN system:node:<name>, "
                    "O system:nodes)",
                )
        else:
            first = await _read(context)
            if first is None:
                return
            node = _claimed(first)
            if not node:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "the first request names no node"
                )
        handler = asyncio.current_task()
        assert handler is not None
        stream = _Stream(next(self._numbers), node, context, handler)
        self._streams[stream.id] = stream
        traffic = self.traffic.setdefault(node, Traffic())
        traffic.streams += 1
        traffic.opened += 1
        try:
            self._hub.stream_opened(stream.id, node)
            await self._receive(stream, first, traffic)
        except asyncio.CancelledError:
            if stream.failure is None:
                raise  # the peer is gone
            handler.uncancel()
        finally:
            traffic.streams -= 1
            del self._streams[stream.id]
            self._hub.stream_closed(stream.id)
            if stream.writer is not None:
                stream.writer.cancel()
                await asyncio.gather(stream.writer, return_exceptions=True)
        if stream.failure is not None:
            status, reason = stream.failure
            await context.abort(grpc.StatusCode[status], reason)

    async def _receive(self, stream: _Stream, first: bytes | None, traffic: Traffic) -> None:
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
        traffic = self.traffic[stream.node]
        queue = stream.queue
        try:
            while queue:
                frame = queue.popleft()
                async with asyncio.timeout(self._stall):
                    await stream.context.write(frame)
                stream.queued -= len(frame)
                traffic.sent += 1
                traffic.sent_bytes += len(frame)
        except TimeoutError:
            reason = f"the node took nothing for {self._stall:g} s"
            self._fail(stream, "RESOURCE_EXHAUSTED", reason)
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the stream broke under the write: its reader notices too, and tells the hub
        finally:
            stream.queue = stream.writer = None

    def _fail(self, stream: _Stream, status: str, reason: str) -> None:
        """End the stream at its reader, which is the handler and alone may give a status."""
        if stream.failure is None:
            stream.failure = (status, reason)
            if stream.queue is not None:
                stream.queue.clear()
            if asyncio.current_task() is not stream.handler:
                stream.handler.cancel()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, behaviour: Any) -> None:
        self._handler: Any = grpc.stream_stream_rpc_method_handler(behaviour)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler if handler_call_details.method == METHOD else None


async def _read(context: Any) -> bytes | None:
    """The next frame; None when the peer has said its last."""
    frame = await context.read()
    return None if frame is grpc.aio.EOF else frame


def _authenticated(context: Any) -> str:
    certificates = context.auth_context().get("x509_pem_cert", ())
    return node_of(certificates[0]) if len(certificates) == 1 else ""


def _claimed(frame: bytes) -> str:
    try:
        name = str(discovery_pb2.DeltaDiscoveryRequest.FromString(frame).node.id)
    except DecodeError:
        return ""
    return name if is_node_name(name) else ""
