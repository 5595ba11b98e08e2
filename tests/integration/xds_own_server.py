"""Our own server of any xDS types in this process, on either transport: what bad clients are let
loose on, and a target of the conformance suite that is its own adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from reconciler.address import Address
from reconciler.probe.client import Client, Stream
from reconciler.probe.follow import Follower
from reconciler.probe.frames import Node, Response
from reconciler.probe.services import AGGREGATED, OWN, Variant
from reconciler.server.discovery.documents import parse
from reconciler.server.discovery.driver import Driver
from reconciler.server.discovery.files import Directory, State
from reconciler.server.discovery.match import EVERY
from reconciler.server.transport import TRANSPORTS, Transport
from reconciler.testing.conformance.language import Piece
from reconciler.testing.conformance.resources import content, written
from tests.integration.xds_streams import SECONDS


class Quiet:
    """A log that nobody reads."""

    def warning(self, event: str, **fields: Any) -> None:
        pass

    info = warning


def carried(transport: Any, driver: Driver, port: int = 0, **options: Any) -> Transport:
    """A server of this class for all that the driver serves. options: of the transport"""
    server: Transport = transport(
        driver,
        Address("127.0.0.1", port),
        None,
        methods=driver.methods(),
        named=(),
        drained=driver.drained,
        **options,
    )
    driver.serve(server)
    return server


def state_of(resources: Sequence[Mapping[str, Any]]) -> State:
    """The same for every node; they must be right."""
    parsed = parse(msgspec.json.encode(list(resources)), "all.json")
    assert parsed.problems == (), parsed.problems
    return State((Directory("", EVERY, parsed.found),) if resources else ())


class OwnServer:
    """options: of the transport; core: of the core"""

    def __init__(self, transport: str, core: Mapping[str, Any], **options: Any) -> None:
        self.transport, self._core, self._options = transport, core, options
        self.port = 0
        self._state = State()

    async def __aenter__(self) -> OwnServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def start(self) -> None:
        self.driver = Driver(Quiet(), **self._core)
        self.driver.changed(self._state)
        self.server = carried(TRANSPORTS[self.transport], self.driver, self.port, **self._options)
        await self.server.start()
        self.port = self.server.port

    async def stop(self) -> None:
        self.driver.stop()
        await self.server.stop(0.2)

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        self._state = state_of(resources)
        self.driver.changed(self._state)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def client(self) -> Client:
        return Client(Address("127.0.0.1", self.port))


@asynccontextmanager
async def own_server(
    transport: str, core: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[OwnServer]:
    server = OwnServer(transport, core or {}, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Good:
    """A client that follows one resource, and an update of it that it must get."""

    def __init__(self, own: OwnServer, stream: Stream) -> None:
        self.own, self._stream = own, stream
        self._follower = Follower(OWN["EDS"].type_url, Variant.DELTA)
        self.content = 0
        self.others: list[dict[str, Any]] = []

    async def begin(self) -> None:
        await self._put()
        await self._stream.send(self._follower.first(("good",), node=Node("good")))
        await self._wait()

    async def update(self) -> None:
        await self._put()
        await self._wait()

    async def _put(self) -> None:
        self.content += 1
        await self.own.put([written(Piece("EDS", "good", self.content)), *self.others])

    async def _wait(self) -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                found = await self._stream.receive()
                assert isinstance(found, Response), found
                self._follower.received(found)
                await self._stream.send(self._follower.ack())
                body = self._follower.held["good"].body
                assert body is not None
                if content("EDS", body) == str(self.content):
                    return


@asynccontextmanager
async def good_on(own: OwnServer) -> AsyncIterator[Good]:
    async with own.client() as client:
        stream = client.open(AGGREGATED, Variant.DELTA)
        good = Good(own, stream)
        try:
            await good.begin()
            yield good
        finally:
            await stream.close()
