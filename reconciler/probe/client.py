"""Streams to an xDS server on grpc.aio. A response is read when it is asked for and not before, so
that a client can be as slow a reader as it wants to be.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Self

import grpc
import grpc.aio
import msgspec

from reconciler.address import Address
from reconciler.probe.frames import Request, Response, decode, encode
from reconciler.probe.services import Service, Variant
from reconciler.tls import KeyPair

OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.http2.bdp_probe", 0),  # no more than 64 KiB are taken before they are read
)


class Ended(msgspec.Struct, frozen=True):
    """How a stream ended. status: a gRPC status name"""

    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


class Client:
    """One connection to one server; an async context that closes it.

    tls: certificate and key may be empty; the CA may be too, for what this machine trusts
    server_name: that the server's certificate must be for, where it is not the address
    token: sent as `authorization: Bearer`
    """

    def __init__(
        self,
        server: Address,
        tls: KeyPair | None = None,
        *,
        server_name: str = "",
        token: str = "",
    ) -> None:
        self._server, self._tls, self._server_name = server, tls, server_name
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        options: list[tuple[str, Any]] = list(OPTIONS)
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self._server.target, options)
            return self
        if self._server_name:
            options.append(("grpc.ssl_target_name_override", self._server_name))
        credentials = grpc.ssl_channel_credentials(
            self._tls.ca or None, self._tls.key or None, self._tls.certificate or None
        )
        self._channel = grpc.aio.secure_channel(self._server.target, credentials, options)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()

    def open(self, service: Service, variant: Variant, *, patient: bool = False) -> Stream:
        """A new stream; that it can't be had shows when something is sent or received.

        patient: try until there is a connection
        """
        assert self._channel is not None, "used outside of its context"
        method: Any = self._channel.stream_stream(service.method(variant))
        return Stream(method(metadata=self._metadata, wait_for_ready=patient), variant)


class Stream:
    """One stream: frames go in order; `send_bytes` is for what is no request."""

    def __init__(self, call: Any, variant: Variant) -> None:
        self._call, self.variant = call, variant
        self._reading: asyncio.Task[Any] | None = None
        self.ended: Ended | None = None

    async def send(self, request: Request) -> None:
        """Hand a request over; on a stream that has ended nothing happens: `receive` tells."""
        await self.send_bytes(encode(request, self.variant))

    async def send_bytes(self, data: bytes) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(data)

    async def half_close(self) -> None:
        """Say that no more requests will come."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    async def receive(self, seconds: float | None = None) -> Response | Ended | None:
        """The next response, or how the stream ended; None: nothing came within `seconds`.

        ProtocolError: what came is no response. A wait that was in vain loses nothing.
        """
        if self.ended is not None:
            return self.ended
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="probe-read")
        await asyncio.wait((self._reading,), timeout=seconds)
        if not self._reading.done():
            return None
        found, self._reading = self._reading.result(), None
        if isinstance(found, Ended):
            self.ended = found
            return found
        return decode(found, self.variant)

    async def _read(self) -> bytes | Ended:
        try:
            frame = await self._call.read()
            if frame is not grpc.aio.EOF:
                return bytes(frame)
            code, details = await self._call.code(), await self._call.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            if not self._call.cancelled():
                raise
            return Ended("CANCELLED", "closed here")
        return Ended(code.name, details or "")

    async def close(self) -> None:
        """End the stream from this side; it may have ended."""
        self._call.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None
        self.ended = self.ended or Ended("CANCELLED", "closed here")
