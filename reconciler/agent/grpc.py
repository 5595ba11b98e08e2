"""The agent's end of the xDS stream on grpc.aio: one stream at a time, frames in and out.

It connects when it is told to and says how that went; when to try again is the core's decision.
Every attempt gets a channel of its own, so that gRPC's own reconnecting (and its back-off) never
mixes with the core's, and a new certificate or token on disk is used with the next stream: the
server ends a stream whose proof expires. A certificate that has expired is said here, as a server
that refuses it in the handshake can't say why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from reconciler.config import Address
from reconciler.errors import ReconcilerError
from reconciler.tls import KeyPair, expiry

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CONNECT_SECONDS: Final = 10.0
OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # the server is trusted with the whole node anyway
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class Listener(Protocol):
    """Who is told about the stream. Called on the event loop; must not block."""

    def connected(self) -> None: ...

    def received(self, frame: bytes) -> None: ...

    def disconnected(self, reason: str) -> None:
        """After each `connect`, exactly once."""


class XdsClient:
    def __init__(
        self,
        listener: Listener,
        server: Address,
        tls: Callable[[], KeyPair | None],
        *,
        token: Callable[[], str] | None = None,
        others: tuple[Address, ...] = (),
        server_name: str = "",
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        """tls, token: asked at each attempt; ConfigError ends it with that reason.

        others: replicas of the server. Each attempt after the first is made to the next of all.
        """
        self._listener = listener
        self._servers = deque((server, *others))
        self._tls = tls
        self._token = token
        self._server_name = server_name
        self._connect_seconds = connect_seconds
        self._task: asyncio.Task[None] | None = None
        self._call: Any = None
        self._closing = ""
        self._queue: deque[bytes] = deque()
        self._writer: asyncio.Task[None] | None = None
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0
        self.certificate_expires = 0.0  # Unix time; of the newest attempt's certificate, 0: none

    def connect(self) -> None:
        """Begin an attempt; the one before must have ended."""
        assert self._task is None, "one stream at a time"
        self._task = asyncio.create_task(self._run(), name="xds-stream")

    def send(self, frame: bytes) -> None:
        """Queue a frame; without a stream, nothing happens (the core subscribes anew)."""
        if self._call is None:
            return
        self._queue.append(frame)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(self._call), name="xds-write")

    def close(self, reason: str) -> None:
        """End the stream (or the attempt); `disconnected` gets this reason."""
        if self._task is not None:
            self._closing = reason
            self._task.cancel()

    async def stop(self) -> None:
        for task in (self._task, self._writer):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        reason = "the server ended the stream"
        try:
            metadata = self._metadata()
            async with self._channel() as channel:
                await self._ready(channel)
                call: Any = channel.stream_stream(METHOD)(metadata=metadata)
                self._call = call
                self._listener.connected()
                try:
                    while (frame := await call.read()) is not grpc.aio.EOF:
                        self.received += 1
                        self.received_bytes += len(frame)
                        self._listener.received(frame)
                    status = await call.code()
                    if status is not grpc.StatusCode.OK:
                        reason = f"{status.name}: {await call.details()}"
                finally:
                    self._call = None
                    self._queue.clear()
                    call.cancel()
                    if self._writer is not None:
                        self._writer.cancel()
        except asyncio.CancelledError:
            if not self._closing:
                raise
            reason, self._closing = self._closing, ""
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except (ReconcilerError, OSError) as error:
            reason = str(error)
        self._task = None
        self._servers.rotate(-1)
        self._listener.disconnected(reason)

    @property
    def _server(self) -> Address:
        """That of this attempt."""
        return self._servers[0]

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return ()
        return (("authorization", f"Bearer {self._token()}"),)

    def _channel(self) -> grpc.aio.Channel:
        tls = self._tls()
        if tls is None:
            return grpc.aio.insecure_channel(self._server.target, options=OPTIONS)
        self.certificate_expires = expiry(tls.certificate) if tls.certificate else 0.0
        options: list[tuple[str, Any]] = list(OPTIONS)
        if self._server_name:
            options.append(("grpc.ssl_target_name_override", self._server_name))
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key or None, tls.certificate or None)
        return grpc.aio.secure_channel(self._server.target, credentials, options=options)

    async def _ready(self, channel: grpc.aio.Channel) -> None:
        """Until connected; OSError when that fails, AioRpcError where gRPC can tell why."""
        try:
            async with asyncio.timeout(self._connect_seconds):
                state = channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        await _ask_why(channel)
                        raise ConnectionError(f"{self._server.target}: can't be reached")
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise ConnectionError(
                f"{self._server.target}: no connection in {self._connect_seconds:g} s"
            ) from None

    async def _write(self, call: Any) -> None:
        try:
            while self._queue and call is self._call:
                frame = self._queue.popleft()
                await call.write(frame)
                self.sent += 1
                self.sent_bytes += len(frame)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream broke under the write: the reader has the reason and tells it
        finally:
            self._writer = None


async def _ask_why(channel: grpc.aio.Channel) -> None:
    """AioRpcError with what stopped the connection: gRPC tells only calls, and one fails at once.

    Of no method that a server has, so that it opens no stream where the connection comes up yet.
    """
    call: Any = channel.stream_stream("/reconciler.None/None")(wait_for_ready=False)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    finally:
        call.cancel()
