"""The discovery server on a port of this process, and clients that say exactly what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.config import Address
from reconciler.core.discovery.types import CDS, EDS, LDS, RDS
from reconciler.probe import frames, services
from reconciler.probe.frames import Node, Request, Response
from reconciler.probe.messages import WRAPPER, message_class
from reconciler.probe.services import Variant
from reconciler.server.discovery.documents import parse
from reconciler.server.discovery.driver import Driver
from reconciler.server.discovery.files import Directory, State
from reconciler.server.discovery.match import EVERY
from reconciler.server.transport import Transport
from tests.integration.grpc_rig import server_class

NODE = Node("test-id")
SECONDS = 20.0

DELTA, SOTW = Variant.DELTA, Variant.SOTW

_FIELDS = {CDS: "name", EDS: "cluster_name", LDS: "name", RDS: "name"}
_PADDING = {CDS: "alt_stat_name", LDS: "stat_prefix"}
"""Where a version of a test is written; what nobody looks at."""


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    info = warning


def document(type_url: str, name: str, version: str, ttl: str = "") -> dict[str, Any]:
    """A resource of which `version` makes one version."""
    found: dict[str, Any] = {"@type": type_url, _FIELDS[type_url]: name}
    if type_url in _PADDING:
        found[_PADDING[type_url]] = version
    elif type_url == EDS:
        found["endpoints"] = [{"locality": {"zone": version}}]
    else:
        found["virtual_hosts"] = [{"name": version, "domains": ["*"]}]
    if ttl:
        return {"@type": WRAPPER, "ttl": ttl, "resource": found}
    return found


class _Heard(Driver):
    """Counts requests that have been taken."""

    requests = 0
    more: asyncio.Event | None = None

    def received(self, stream: int, frame: bytes) -> None:
        try:
            super().received(stream, frame)
        finally:
            self.requests += 1
            if self.more is not None:
                self.more.set()


class Rig:
    def __init__(self, driver: _Heard, server: Transport, log: Log) -> None:
        self.driver, self.server, self.log = driver, server, log
        self.held: dict[tuple[str, str], tuple[str, str]] = {}
        self.written = 0

    async def heard(self) -> None:
        """Until the server has taken every request that was written."""
        async with asyncio.timeout(SECONDS):
            while self.driver.requests < self.written:
                self.driver.more = asyncio.Event()
                await self.driver.more.wait()

    def set(self, type_url: str = CDS, ttl: str = "", /, **versions: str | None) -> None:
        """These have these versions from now on (None: are gone); all others stay."""
        self.put({(type_url, name): version for name, version in versions.items()}, ttl)

    def put(self, versions: Mapping[tuple[str, str], str | None], ttl: str = "") -> None:
        """The same of several types at once."""
        for key, version in versions.items():
            if version is None:
                self.held.pop(key)
            else:
                self.held[key] = (version, ttl)
        documents = [document(*key, *value) for key, value in sorted(self.held.items())]
        parsed = parse(msgspec.json.encode(documents), "all.json")
        assert parsed.problems == ()
        self.driver.changed(State((Directory("", EVERY, parsed.found),) if documents else ()))

    @asynccontextmanager
    async def peer(
        self, variant: Variant, own: str = "", *, node: Node | None = NODE
    ) -> AsyncIterator[Peer]:
        """A client with one stream. own: type URL, for that type's own service."""
        service = services.own_service(own) if own else services.AGGREGATED
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            call: Any = channel.stream_stream(service.method(variant))()
            yield Peer(self, call, variant, node)


class Peer:
    def __init__(self, rig: Rig, call: Any, variant: Variant, node: Node | None) -> None:
        self.rig, self.call, self.variant, self._node = rig, call, variant, node

    async def ask(self, type_url: str, *names: str, **fields: Any) -> None:
        """A request as it stands; the node is in the first one."""
        request = Request(type_url, tuple(names), node=self._node, **fields)
        self._node = None
        await self.raw(frames.encode(request, self.variant))

    async def raw(self, data: bytes) -> None:
        self.rig.written += 1
        await self.call.write(data)

    async def get(self) -> Response:
        """The next response; it must have no name twice, and no field that is not in use."""
        async with asyncio.timeout(SECONDS):
            data = await self.call.read()
        assert data is not grpc.aio.EOF
        response = frames.decode(data, self.variant)
        assert response.unnamed == ()
        names = [each.name for each in response.items] + list(response.removed)
        assert len(set(names)) == len(names)
        _check_unused(data, self.variant)
        return response

    async def ack(self, response: Response, *names: str) -> None:
        """names: in the state of the world, all that are wanted."""
        if self.variant is Variant.DELTA:
            await self.ask(response.type_url, nonce=response.nonce)
        else:
            await self.ask(
                response.type_url, *names, nonce=response.nonce, version=response.version
            )

    async def nack(self, response: Response, *names: str, version: str = "") -> None:
        fields: dict[str, Any] = {"nonce": response.nonce, "error": "no good"}
        if self.variant is Variant.SOTW:
            fields["version"] = version
        given = names if self.variant is Variant.SOTW else ()
        await self.ask(response.type_url, *given, **fields)

    async def rest(self) -> tuple[list[Response], str]:
        """What comes until the stream ends, and the status."""
        found = []
        try:
            async with asyncio.timeout(SECONDS):
                while (data := await self.call.read()) is not grpc.aio.EOF:
                    found.append(frames.decode(data, self.variant))
        except grpc.aio.AioRpcError as error:
            return found, error.code().name
        return found, "OK"

    async def ended(self) -> tuple[str, str]:
        """Status and reason with which the server ends the stream; whatever came before."""
        try:
            async with asyncio.timeout(SECONDS):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            return error.code().name, str(error.details())
        return "OK", ""


def _check_unused(data: bytes, variant: Variant) -> None:
    """Fields that the protocol's document has as not in use are not in use."""
    delta = variant is Variant.DELTA
    cls: Any = discovery_pb2.DeltaDiscoveryResponse if delta else discovery_pb2.DiscoveryResponse
    message = cls.FromString(data)
    used = {"resources", "type_url", "nonce", "removed_resources", "version_info"}
    assert {field.name for field, _ in message.ListFields()} <= used


def versions(response: Response) -> dict[str, str]:
    """Name → the version that `document` was made with; "" of a heartbeat."""
    found = {}
    for item in response.items:
        if item.body is None:
            found[item.name] = ""
            continue
        assert item.body.type_url == response.type_url
        cls = message_class(item.body.type_url)
        assert cls is not None
        message: Any = cls.FromString(item.body.value)
        if response.type_url in _PADDING:
            found[item.name] = getattr(message, _PADDING[response.type_url])
        elif response.type_url == EDS:
            found[item.name] = message.endpoints[0].locality.zone
        else:
            found[item.name] = message.virtual_hosts[0].name
    return found


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Rig]:
    log = Log()
    driver = _Heard(log, **options)
    server = server_class()(
        driver,
        Address("127.0.0.1", 0),
        None,
        methods=driver.methods(),
        named=(),
        drained=driver.drained,
    )
    driver.serve(server)
    await server.start()
    try:
        yield Rig(driver, server, log)
    finally:
        await server.stop(0.0)
        driver.stop()


async def subscribed(peer: Peer, type_url: str, *names: str) -> dict[str, str]:
    """Asks, takes the first response, and ACKs it."""
    await peer.ask(type_url, *names)
    response = await peer.get()
    await peer.ack(response, *names)
    await peer.rig.heard()
    return versions(response)
