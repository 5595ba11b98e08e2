"""Processes with many nodes' ends of streams: whole agents, or clients of the protocol only.

* "agents": the product's driver, core, applier thread and stream, on maps in memory, with a device
  for each pod and a cache on the disk;
* "clients": decode every response, keep the root of what they hold, compare it with that of the
  commit, and acknowledge. What an agent does for the protocol without what it does for the maps;
* "answers": acknowledge whatever comes, without looking at it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from envoy.service.discovery.v3 import discovery_pb2

from bench.processes import Handler, Quiet, Setup, serve
from reconciler.agent.cache import CacheFile
from reconciler.agent.driver import Driver
from reconciler.agent.grpc import XdsClient
from reconciler.config import Address, parse_address
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import map_specs
from reconciler.core.resources.root import contribution, to_bytes
from reconciler.core.resources.types import COMMIT
from reconciler.core.xds import codec
from reconciler.core.xds.client import Client, Report
from reconciler.datapath.twin import TwinDatapath
from reconciler.tls import KeyPair
from reconciler.wire import resources_pb2 as pb

AT_ONCE: Final = 64
"""Handshakes that one process has under way."""

_RETRY_SECONDS: Final = 0.5


class Peer(Protocol):
    def start(self) -> None: ...

    async def stop(self) -> None: ...


class Agent:
    def __init__(
        self, node: str, address: Address, keys: KeyPair, directory: Path, pods: Sequence[str]
    ) -> None:
        """pods: "namespace/name" of those that run here already; each has its device."""
        datapath = TwinDatapath(map_specs(), time.monotonic_ns)
        core = AgentCore(node, datapath.limits, None, None, time.monotonic())
        self.driver = Driver(core, datapath, CacheFile(directory / node), Quiet())
        self.client = XdsClient(self.driver, address, lambda: keys)
        links = [Link(ifindex, f"veth{ifindex}", pod=pod) for ifindex, pod in enumerate(pods, 1000)]
        self.driver.links_listed(links)

    def start(self) -> None:
        self.driver.start(self.client)

    async def stop(self) -> None:
        await self.client.stop()
        await self.driver.stop()


class Plain:
    """`Listener` of one stream that holds what a node's cut consists of, as versions only."""

    def __init__(
        self, node: str, address: Address, keys: KeyPair, opened: Callable[[], None]
    ) -> None:
        self.node = node
        self._opened = opened
        self.client = XdsClient(self, address, lambda: keys, connect_seconds=60.0)
        self.protocol = Client(node, time.monotonic())
        self._held: dict[tuple[str, str], int] = {}
        self._root = 0

    def start(self) -> None:
        self.client.connect()

    async def stop(self) -> None:
        await self.client.stop()

    def connected(self) -> None:
        self.protocol.tick(time.monotonic() + 60.0)
        for frame in self.protocol.opened(Report(), time.monotonic()):
            self.client.send(frame)
        self._opened()

    def received(self, frame: bytes) -> None:
        response = codec.decode_response(frame)
        if response.type_url == COMMIT:
            said = pb.Commit.FromString(response.resources[0].body).root
            if said != to_bytes(self._root):
                self.client.send(codec.encode_request(self._nack(response)))
                return
        else:
            for name in response.removed:
                self._take(response.type_url, name, 0)
            for one in response.resources:
                added = contribution(response.type_url, one.name, one.version)
                self._take(response.type_url, one.name, added)
        self.client.send(codec.ack(response.type_url, response.nonce))

    def disconnected(self, reason: str) -> None:
        """Begin anew with nothing, after a moment. Only a server under water makes this happen."""
        self.protocol.lost(time.monotonic(), 0.5)
        self._held = {}
        self._root = 0
        asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.client.connect)

    def _take(self, type_url: str, name: str, contributed: int) -> None:
        before = self._held.pop((type_url, name), 0)
        if contributed:
            self._held[type_url, name] = contributed
        self._root += contributed - before

    @staticmethod
    def _nack(response: codec.Response) -> codec.Request:
        return codec.Request(
            type_url=response.type_url, nonce=response.nonce, error="another root is held"
        )


class Answering(Plain):
    _answers: ClassVar[dict[bytes, bytes]] = {}

    def received(self, frame: bytes) -> None:
        answer = self._answers.get(frame)
        if answer is None:
            message = discovery_pb2.DeltaDiscoveryResponse.FromString(frame)
            answer = codec.ack(message.type_url, message.nonce)
            if len(self._answers) < 4096:
                self._answers[frame] = answer
        self.client.send(answer)


def main(pipe: Connection, setup: Setup) -> None:
    serve(pipe, lambda: _start(setup))


async def _start(setup: Setup) -> tuple[Handler, Any]:
    peers: list[Peer] = []
    slots = asyncio.Semaphore(AT_ONCE)

    async def stop() -> None:
        await asyncio.gather(*(peer.stop() for peer in peers))

    async def handle(command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "make":
                directory = Path(setup.directory)
                address = parse_address(setup.address)
                for node in command["nodes"]:
                    keys = setup.keys[node]
                    if setup.kind == "agents":
                        pods = command["pods"][node]
                        peers.append(Agent(node, address, keys, directory, pods))
                    else:
                        kind = Plain if setup.kind == "clients" else Answering
                        peers.append(kind(node, address, keys, slots.release))
                return {}
            case "start":
                for peer in peers:
                    if isinstance(peer, Plain):
                        await slots.acquire()
                    peer.start()
                return {}
        raise ValueError(command["do"])

    return handle, stop()
