"""The xDS service on grpc.aio: bytes in, bytes out; what the bytes mean is the core's business.

Each stream has one reader and, while there is something to send, one writer.

The node's name comes from a proof and nothing else: the client's certificate, or a token in the
metadata (`authorization: Bearer ...`); see `proofs`. Without TLS (which `config` allows on this
machine only) the name is what the `node.id` of the first request claims, or of no interest.

A proof counts from the stream's start until it expires: then, or when the stream is as old as
`max_stream_age` (a tenth more or less, so that nodes don't come back together), the stream is ended
and the node comes back with versions and the proof that it has by then. What it enforces meanwhile
does not change. Certificate files that rotate are used for the next connection, and no stream ends.

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
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import msgspec

from reconciler.config import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.local import clear_socket
from reconciler.server.proofs import Tokens, claimed, credentials, prove
from reconciler.tls import KeyFiles, KeyPair, Proof

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
    # Streams that wait for their handler: when all nodes come back at once they are many.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
)

Opened = Callable[[int, str], None]
"""Told of a new stream, with its node; may raise nothing."""


class Hub(Protocol):
    """Who is told about streams. Called on the event loop; must not block."""

    def stream_opened(self, stream: int, node: str) -> None: ...

    def received(self, stream: int, frame: bytes) -> None:
        """ProtocolError: this stream is closed with its status and reason."""

    def stream_closed(self, stream: int) -> None: ...


class Traffic(msgspec.Struct):
    """What went over a node's streams since the server started; messages and their bytes.

    Or over a method's streams; see `XdsServer`.
    """

    streams: int = 0
    opened: int = 0
    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


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
        methods: Mapping[str, Opened] | None = None,
        named: Collection[str] | None = None,
        drained: Callable[[int], None] | None = None,
        options: Sequence[tuple[str, int]] = (),
        add: Callable[[grpc.aio.Server], None] | None = None,
        cluster: str = "default",
        tokens: Tokens | None = None,
        token_listen: Address | None = None,
        max_stream_age: float = 0.0,
        max_streams: int = 0,
        stall_seconds: float = STALL_SECONDS,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.time,
        refused: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """methods: full name → what is told of a stream of it; not given: agents' delta ADS only.
        named: methods whose nodes have names, not given: all. Without TLS it is that of the first
            request, which is waited for, and traffic is counted by it. Of other methods it is ""
            where it is not proven, and traffic is counted by method.
        drained: told when all that was sent on a stream has been taken.
        options: of gRPC, over `OPTIONS`. add: registers what else is served on the port.
        max_streams: beyond it streams are refused (RESOURCE_EXHAUSTED); 0: no limit.
        refused: told the peer's address, status and reason of each stream that is not taken.
        """
        self._hub = hub
        self._methods = {METHOD: hub.stream_opened} if methods is None else dict(methods)
        self._named = self._methods.keys() if named is None else frozenset(named)
        self._drained = drained
        self._options = tuple({**dict(OPTIONS), **dict(options)}.items())
        self._add_more = add
        self._max_streams = max_streams
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
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((_Handlers(self._methods, self._serve),))
        if self._add_more is not None:
            self._add_more(server)
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
        random.shuffle(streams)
        loop = asyncio.get_running_loop()
        reason = "the server is shutting down"
        for at, stream in enumerate(streams):
            if drain and at:
                if stream.end is not None:
                    stream.end.cancel()
                after = drain * at / len(streams)
                stream.end = loop.call_later(after, self._fail, stream, "UNAVAILABLE", reason)
            else:
                self._fail(stream, "UNAVAILABLE", reason)
        if self._server is not None:
            await self._server.stop(grace + drain)

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
            self.refused[error.status] = self.refused.get(error.status, 0) + 1
            if self._tell_refused is not None:
                self._tell_refused(context.peer(), error.status, error.reason)
            await context.abort(grpc.StatusCode[error.status], error.reason)
        handler = asyncio.current_task()
        assert handler is not None
        traffic = self.traffic.setdefault(node if method in self._named else method, Traffic())
        stream = _Stream(next(self._numbers), traffic, context, handler)
        self._streams[stream.id] = stream
        traffic.streams += 1
        traffic.opened += 1
        try:
            self._limit_age(stream, proof)
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
            reason = f"the node took nothing for {self._stall:g} s"
            self._fail(stream, "RESOURCE_EXHAUSTED", reason)
        except (
            grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError
        ):  # fmt: skip
            pass  # the stream broke under the write: its reader notices too, and tells the hub
        finally:
            stream.queue = stream.writer = None

    def _more(self, stream: _Stream) -> bool:
        """There is something to write. Who is told that all is written may have more at once."""
        if not stream.queue and stream.failure is None and self._drained is not None:
            self._drained(stream.id)
        return bool(stream.queue)

    def _may_open(self) -> None:
        if self._stopping:
            raise ProtocolError("UNAVAILABLE", "the server is shutting down")
        if self._max_streams and len(self._streams) >= self._max_streams:
            reason = f"{self._max_streams} streams are open, and no more are taken"
            raise ProtocolError("RESOURCE_EXHAUSTED", reason)

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
