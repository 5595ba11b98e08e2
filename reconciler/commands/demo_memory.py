"""The demo's prober where no packets can be sent: probes of the agents' datapaths in memory.

A way passes if the datapath of the source's node lets its first packet out and that of the
destination's node lets it in. A flow is the same question, over and over. While an agent is dead
its datapath is gone with it (unlike the kernel's), so then nothing is asked.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import aiohttp
import msgspec

from reconciler.testing.topology import Spec
from reconciler.testing.traffic import FlowReport, Way

_PROTOCOLS: Final = {"TCP": "6", "UDP": "17"}
_AT_ONCE: Final = 16


class Agents(Protocol):
    """spec: the pods; nodes: those with an agent."""

    spec: Spec
    nodes: tuple[str, ...]

    def agent_status(self, node: str) -> str: ...


class MemoryProber:
    def __init__(self, cluster: Agents) -> None:
        self._node_of = {pod.name: pod.node for pod in cluster.spec.pods}
        self._addresses = {pod.name: pod.addresses for pod in cluster.spec.pods}
        self._sockets = {
            node: cluster.agent_status(node).removeprefix("unix:") for node in cluster.nodes
        }
        self._flows: list[Way] = []
        self._counts: list[list[int]] = []  # sent, passed
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def __enter__(self) -> MemoryProber:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_flows()

    def matrix(self, ways: Sequence[Way]) -> dict[Way, bool]:
        return asyncio.run(self._matrix(ways))

    async def _matrix(self, ways: Sequence[Way]) -> dict[Way, bool]:
        limit = asyncio.Semaphore(_AT_ONCE)
        async with self._sessions() as sessions:

            async def one(way: Way) -> bool:
                async with limit:
                    return bool(await self._passes(sessions, way))

            return dict(zip(ways, await asyncio.gather(*map(one, ways)), strict=True))

    def flow(self, way: Way) -> int:
        self._flows.append(way)
        self._counts.append([0, 0])
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=lambda: asyncio.run(self._keep_asking()))
            self._thread.start()
        return len(self._flows)

    def stop_flows(self) -> list[FlowReport]:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        reports = [
            FlowReport(way, sent, passed, passed, sent - passed, 0.0)
            for way, (sent, passed) in zip(self._flows, self._counts, strict=True)
        ]
        self._flows, self._counts = [], []
        return reports

    async def _keep_asking(self) -> None:
        async with self._sessions() as sessions:
            while not self._stop.is_set():
                for number, way in enumerate(list(self._flows)):
                    try:
                        passed = await self._passes(sessions, way)
                    except aiohttp.ClientError:
                        passed = None
                    if passed is not None:
                        self._counts[number][0] += 1
                        self._counts[number][1] += passed
                await asyncio.sleep(0.005)

    async def _passes(self, sessions: dict[str, aiohttp.ClientSession], way: Way) -> bool | None:
        """None: a pod is not attached (its agent has just started)."""
        query = {
            "from": self._address(way.source, way.family),
            "to": self._address(way.destination, way.family),
            "protocol": _PROTOCOLS[way.protocol],
            "port": str(way.port),
        }
        passed = True
        for side, end in (("egress", way.source), ("ingress", way.destination)):
            node = self._node_of.get(end)
            if node is None:
                continue
            async with sessions[node].get("http://localhost/v1/probe", params=query) as response:
                answer = msgspec.json.decode(await response.read())[side]
            if answer is None or answer["reason"] == "closed":
                return None
            passed = passed and answer["passed"]
        return passed

    def _address(self, name: str, family: int) -> str:
        found = self._addresses.get(name, (name,))
        return next(one for one in found if (":" in one) == (family == socket.AF_INET6))

    @asynccontextmanager
    async def _sessions(self) -> AsyncIterator[dict[str, aiohttp.ClientSession]]:
        sessions = {
            node: aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
            for node, path in self._sockets.items()
        }
        try:
            yield sessions
        finally:
            for session in sessions.values():
                await session.close()
