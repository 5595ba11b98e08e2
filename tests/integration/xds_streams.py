"""A client's end of an xDS stream that says exactly what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from reconciler.probe import frames, services
from reconciler.probe.frames import Node, Request, Response
from reconciler.probe.services import Service, Variant

SECONDS: Final = 20.0


class Stream:
    """node: said in the first request, unless that has its own"""

    def __init__(self, call: Any, variant: Variant, node: Node | None = None) -> None:
        self.call, self.variant, self._node = call, variant, node

    async def ask(self, type_url: str, *names: str, **fields: Any) -> None:
        """A request as it stands."""
        request = Request(type_url, tuple(names), **{"node": self._node, **fields})
        self._node = None
        await self.raw(frames.encode(request, self.variant))

    async def raw(self, data: bytes) -> None:
        await self.call.write(data)

    async def read(self) -> bytes:
        """The next response as it came; there must be one."""
        async with asyncio.timeout(SECONDS):
            data = await self.call.read()
        assert data is not grpc.aio.EOF
        return bytes(data)

    async def get(self) -> Response:
        return frames.decode(await self.read(), self.variant)

    async def names(self) -> list[str]:
        """Of the next response."""
        return [each.name for each in (await self.get()).items]

    async def rest(self) -> tuple[list[Response], str, str]:
        """What comes until the stream ends, and the status and reason that it ends with."""
        found = []
        try:
            async with asyncio.timeout(SECONDS):
                while (data := await self.call.read()) is not grpc.aio.EOF:
                    found.append(frames.decode(data, self.variant))
        except grpc.aio.AioRpcError as error:
            return found, error.code().name, str(error.details())
        return found, "OK", ""

    async def ended(self) -> tuple[str, str]:
        """Status and reason with which the server ends the stream; whatever came before."""
        _, status, reason = await self.rest()
        return status, reason


@asynccontextmanager
async def call(
    port: int,
    variant: Variant,
    service: Service = services.AGGREGATED,
    keys: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[Any]:
    """On a connection of its own; keys: None for plaintext"""
    where = f"127.0.0.1:{port}"
    made = (
        grpc.aio.insecure_channel(where) if keys is None else grpc.aio.secure_channel(where, keys)
    )
    async with made as channel:
        yield channel.stream_stream(service.method(variant))()


@asynccontextmanager
async def stream(
    port: int, variant: Variant = Variant.DELTA, keys: grpc.ChannelCredentials | None = None
) -> AsyncIterator[Stream]:
    """Of the aggregated service."""
    async with call(port, variant, keys=keys) as made:
        yield Stream(made, variant)
