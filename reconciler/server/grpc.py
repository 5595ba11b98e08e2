"""The xDS service on grpc.aio: bytes in, bytes out; what the bytes mean is the core's business.

Each stream has one reader and, while there is something to send, one writer.

The node's name comes from a proof and nothing else: the client's certificate, or a token in the
metadata (`authorization: Bearer ...`) that `Tokens` verifies. gRPC's Python API can demand a client
certificate of everyone on a port or ask nobody for one (asking without demanding is in its C core
only), so a port takes one kind of proof; a server that takes both has two ports. Without TLS (which
`config` allows on this machine only) the name is what the `node.id` of the first request claims.

A proof counts from the stream's start until it expires: then, or when the stream is as old as
`max_stream_age` (a tenth more or less, so that nodes don't come back together), the stream is ended
and the node comes back with versions and the proof that it has by then. What it enforces meanwhile
does not change. Certificate files that rotate are used for the next connection, and no stream ends.

The core keeps at most one cut on its way to a node, so a stream's queue is short by construction. A
peer that does not take what was sent for `stall_seconds`, or lets more than `queue_bytes` pile up,
is closed with RESOURCE_EXHAUSTED (told behind what gRPC has accepted already); it comes back with
versions and costs little. A frame that can't be read ends its own stream with INVALID_ARGUMENT and
no other.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import msgspec
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from reconciler.config import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.local import clear_socket
from reconciler.tls import KeyFiles, KeyPair, Proof, is_node_name, proof_of

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


class Tokens(Protocol):
    """Who verifies tokens."""

    async def prove(self, token: str) -> Proof:
        """ProtocolError: the stream is refused with its status and reason (UNAVAILABLE: can't say
        now), which go to a peer that nobody knows and so tell it nothing."""


class Traffic(msgspec.Struct):
    """What went over a node's streams since the server started; messages and their bytes."""

    streams: int = 0
    opened: int = 0
    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class _Stream:
    __slots__ = (
        "context", "end", "failure", "handler", "id", "node", "queue", "queued", "writer",
    )  # fmt: skip

    def __init__(self, id: int, node: str, context: Any, handler: asyncio.Task[Any]) -> None:
        self.id, self.node, self.context, self.handler = id, node, context, handler
        self.queue: deque[bytes] | None = None  # while there is a writer
        self.queued = 0
        self.writer: asyncio.Task[None] | None = None
        self.failure: tuple[str, str] | None = None
        self.end: asyncio.TimerHandle | None = None


class XdsServer:
    """`send` and `close` are the core's effects on a stream.

    What `listen` takes as proof: with `tokens` but no `token_listen`, tokens; else certificates.
    `token_listen` is the second port, for tokens. Without `tls` there is one port and no proof.
    cluster: whose nodes' SPIFFE IDs are believed. clock: Unix time, as expiry is written in.
    """

    def __init__(
        self,
        hub: Hub,
        listen: Address,
        tls: KeyPair | KeyFiles | None,
        *,
        cluster: str = "default",
        tokens: Tokens | None = None,
        token_listen: Address | None = None,
        max_stream_age: float = 0.0,
        stall_seconds: float = STALL_SECONDS,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.time,
        refused: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """refused: told the peer's address, status and reason of each stream without a proof."""
        self._hub = hub
        self._tell_refused = refused
        self._listen = listen
        self._tls = tls
        self._cluster = cluster
        self._tokens = tokens
        self._token_listen = token_listen
        self._max_age = max_stream_age
        self._clock = clock
        self._stall = stall_seconds
        self._limit = queue_bytes
        self._numbers = itertools.count(1)
        self._streams: dict[int, _Stream] = {}
        self._server: grpc.aio.Server | None = None
        self._stopping = False
        self.port = self.token_port = 0
        self.traffic: dict[str, Traffic] = {}
        self.refused: dict[str, int] = {}  # streams, by gRPC status: nobody's, or not provable now

    async def start(self) -> None:
        """Listen; UnavailableError when an address can't be had."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(self._serve),))
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
            return server.add_secure_port(where.target, _credentials(self._tls, tokens=tokens))
        except RuntimeError:
            raise UnavailableError(f"{where.target}: can't listen there") from None

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
        first: bytes | None = None
        proof: Proof | None = None
        try:
            if self._stopping:
                raise ProtocolError("UNAVAILABLE", "the server is shutting down")
            if self._tls is not None:
                proof = await self._prove(context)
                node = proof.node
            else:
                first = await _read(context)
                if first is None:
                    return
                node = _claimed(first)
        except ProtocolError as error:
            self.refused[error.status] = self.refused.get(error.status, 0) + 1
            if self._tell_refused is not None:
                self._tell_refused(context.peer(), error.status, error.reason)
            await context.abort(grpc.StatusCode[error.status], error.reason)
        handler = asyncio.current_task()
        assert handler is not None
        stream = _Stream(next(self._numbers), node, context, handler)
        self._streams[stream.id] = stream
        traffic = self.traffic.setdefault(node, Traffic())
        traffic.streams += 1
        traffic.opened += 1
        try:
            self._limit_age(stream, proof)
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
            if stream.end is not None:
                stream.end.cancel()
            if stream.writer is not None:
                stream.writer.cancel()
                await asyncio.gather(stream.writer, return_exceptions=True)
        if stream.failure is not None:
            status, reason = stream.failure
            await context.abort(grpc.StatusCode[status], reason)

    async def _prove(self, context: Any) -> Proof:
        """Which node the peer is. Only a port that demands certificates sees any, so a stream
        without one came in where tokens are the proof."""
        certificates = context.auth_context().get("x509_pem_cert", ())
        if certificates:
            proof = proof_of(certificates[0], self._cluster) if len(certificates) == 1 else None
            if proof is None:
                raise ProtocolError("PERMISSION_DENIED", _NO_NODE.format(cluster=self._cluster))
        elif self._tokens is not None:
            proof = await self._tokens.prove(_bearer(context))
            if self._stopping:
                raise ProtocolError("UNAVAILABLE", "the server is shutting down")
        else:
            raise ProtocolError("UNAUTHENTICATED", "a client certificate is needed")
        if proof.expires <= self._clock():  # of a connection that is older than this stream
            raise ProtocolError("UNAUTHENTICATED", f"the {proof.by} has expired")
        return proof

    def _limit_age(self, stream: _Stream, proof: Proof | None) -> None:
        """Arm the timer that ends the stream."""
        left = float("inf") if proof is None else proof.expires - self._clock()
        status, reason = "UNAUTHENTICATED", f"the {proof.by if proof else ''} has expired"
        age = self._max_age * random.uniform(0.9, 1.1) if self._max_age else left
        if age < left:
            left, status = age, "UNAVAILABLE"
            reason = "the stream has the age at which streams are ended; connect again"
        if left < float("inf"):
            loop = asyncio.get_running_loop()
            stream.end = loop.call_later(left, self._fail, stream, status, reason)

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


_NO_NODE: Final = (
    "the client's certificate is not a node's (CN system:node:<name>, O system:nodes; or URI "
    "spiffe://{cluster}/node/<name>)"
)


def _credentials(tls: KeyPair | KeyFiles, *, tokens: bool) -> grpc.ServerCredentials:
    """For one port; rotated files are used from the next handshake on."""

    def configuration(keys: KeyPair) -> grpc.ServerCertificateConfiguration:
        pairs = [(keys.key, keys.certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, None if tokens else keys.ca)

    used = tls.current() if isinstance(tls, KeyFiles) else tls
    initial = configuration(used)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """On a thread of gRPC, before each handshake. None: as before."""
        nonlocal used
        keys = tls.current() if isinstance(tls, KeyFiles) else tls
        if keys is used:
            return None
        used = keys
        return configuration(keys)

    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetch,  # type: ignore[arg-type]  # the stubs don't know of None, the documentation does
        require_client_authentication=not tokens,
    )


def _bearer(context: Any) -> str:
    """The token of the call's metadata; ProtocolError when there is not exactly one."""
    values = [value for key, value in context.invocation_metadata() if key == "authorization"]
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise ProtocolError("UNAUTHENTICATED", "a bearer token in `authorization` is needed")
    return str(token.strip())


def _claimed(frame: bytes) -> str:
    """The node that a first request claims to be of; ProtocolError when it names none."""
    try:
        name = str(discovery_pb2.DeltaDiscoveryRequest.FromString(frame).node.id)
    except DecodeError:
        name = ""
    if not is_node_name(name):
        raise ProtocolError("INVALID_ARGUMENT", "the first request names no node")
    return name
