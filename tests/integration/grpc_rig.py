"""A hub and a listener that write down what they see, and servers and clients around them."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from reconciler import tls
from reconciler.agent.grpc import XdsClient
from reconciler.config import Address
from reconciler.errors import ProtocolError
from reconciler.server import certs
from reconciler.server.transport import TRANSPORTS

_used: list[Any] = [TRANSPORTS["grpc"]]


@pytest.fixture(params=TRANSPORTS, autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[None]:
    """To be imported by each module whose tests run over both."""
    _used.append(TRANSPORTS[request.param])
    yield
    _used.pop()


def server_class() -> Any:
    """The one of this test."""
    return _used[-1]


NOW = datetime.datetime.now(datetime.UTC)


class Changed:
    """Wakes whoever waits for a condition on a recorder."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def changed(self) -> None:
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)

    async def wait(self, condition: Callable[[], bool]) -> None:
        if not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((condition, future))
            async with asyncio.timeout(10):
                await future


class Hub(Changed):
    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[int, str] = {}
        self.frames: list[tuple[int, bytes]] = []
        self.closed: list[int] = []

    def stream_opened(self, stream: int, node: str) -> None:
        self.nodes[stream] = node
        self.changed()

    def received(self, stream: int, frame: bytes) -> None:
        if frame == b"\xff":
            raise ProtocolError("INVALID_ARGUMENT", "not a request")
        self.frames.append((stream, frame))
        self.changed()

    def stream_closed(self, stream: int) -> None:
        self.closed.append(stream)
        self.changed()


class Listener(Changed):
    def __init__(self) -> None:
        super().__init__()
        self.up = 0
        self.frames: list[bytes] = []
        self.reasons: list[str] = []

    def connected(self) -> None:
        self.up += 1
        self.changed()

    def received(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.changed()

    def disconnected(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed()


def request(node: str, type_url: str = "t") -> bytes:
    message = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url)
    message.node.id = node
    return bytes(message.SerializeToString())


@asynccontextmanager
async def serving(
    address: Address, keys: tls.KeyPair | tls.KeyFiles | None, **options: Any
) -> AsyncIterator[Any]:
    hub = Hub()
    server = server_class()(hub, address, keys, **options)
    await server.start()
    try:
        yield hub, server
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def client_of(
    address: Address, keys: tls.KeyPair | None, **options: Any
) -> AsyncIterator[tuple[XdsClient, Listener]]:
    listener = Listener()
    client = XdsClient(listener, address, lambda: keys, **options)
    try:
        yield client, listener
    finally:
        await client.stop()


def keys_of(authority: Path, issued: certs.Issued) -> tls.KeyPair:
    return tls.load(str(issued.certificate), str(issued.key), str(authority / "ca.crt"))
