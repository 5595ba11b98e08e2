"""The discovery server on a port of this process, and clients that say exactly what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from reconciler.core.discovery.types import CDS, EDS, LDS, RDS
from reconciler.probe import frames, services
from reconciler.probe.frames import Node, Response
from reconciler.probe.messages import WRAPPER, message_class
from reconciler.probe.services import Variant
from reconciler.server.discovery.driver import Driver
from reconciler.server.transport import Transport
from tests.integration.grpc_rig import server_class
from tests.integration.xds_own_server import Quiet, carried, state_of
from tests.integration.xds_streams import SECONDS, Stream, call

NODE = Node("test-id")

DELTA, SOTW = Variant.DELTA, Variant.SOTW

_FIELDS = {CDS: "name", EDS: "cluster_name", LDS: "name", RDS: "name"}
_PADDING = {CDS: "alt_stat_name", LDS: "stat_prefix"}
"""Where a version of a test is written; what nobody looks at."""


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
    def __init__(self, driver: _Heard, server: Transport) -> None:
        self.driver, self.server = driver, server
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
        self.driver.changed(state_of(documents))

    @asynccontextmanager
    async def peer(
        self, variant: Variant, own: str = "", *, node: Node | None = NODE
    ) -> AsyncIterator[Peer]:
        """A client with one stream. own: type URL, for that type's own service."""
        service = services.own_service(own) if own else services.AGGREGATED
        async with call(self.server.port, variant, service) as made:
            yield Peer(self, made, variant, node)


class Peer(Stream):
    """Its rig counts what it sends, and every response is looked at."""

    def __init__(self, rig: Rig, call: Any, variant: Variant, node: Node | None) -> None:
        super().__init__(call, variant, node)
        self.rig = rig

    async def raw(self, data: bytes) -> None:
        self.rig.written += 1
        await super().raw(data)

    async def get(self) -> Response:
        """The next response; it must have no name twice, and no field that is not in use."""
        data = await self.read()
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
    driver = _Heard(Quiet(), **options)
    server = carried(server_class(), driver)
    await server.start()
    try:
        yield Rig(driver, server)
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
