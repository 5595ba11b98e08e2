"""The server process of a benchmark: the product's core, driver, journal and xDS service.

Only where its objects come from differs: from JSON in memory, as an API server would list them,
instead of a directory. Changes are debounced as in the product.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import cluster, machine
from bench.processes import Handler, Quiet, Setup, serve
from reconciler.config import ServerConfig, parse_address
from reconciler.core.objects import Change, Upsert, decode
from reconciler.core.plane import ControlPlane
from reconciler.server.driver import Driver
from reconciler.server.journal import SqliteJournal
from reconciler.server.transport import TRANSPORTS, Transport

SERVER = "server"  # its key pair's name in `Setup.keys`


class Watched(Driver):
    """A driver that knows which nodes have not acknowledged the newest cut yet."""

    def __init__(self, plane: ControlPlane, *rest: Any, **options: Any) -> None:
        super().__init__(plane, *rest, **options)
        self.plane = plane
        self.late: set[str] = set()
        self.after = 0  # a cut newer than this revision is waited for
        self.synced = asyncio.Event()
        self.at = 0.0
        self._node_of: dict[int, str] = {}

    def expect(self, nodes: set[str]) -> None:
        """Wait until each of them has a cut that is newer than what there is now."""
        self.late = nodes
        self.after = self.plane.revision
        self.synced.clear()

    def stream_opened(self, stream: int, node: str) -> None:
        self._node_of[stream] = node
        super().stream_opened(stream, node)

    def received(self, stream: int, frame: bytes) -> None:
        super().received(stream, frame)
        name = self._node_of[stream]
        if name in self.late:
            node = self.plane.nodes.get(name)
            if node is not None and node.rollout.in_sync and node.rollout.committed > self.after:
                self.late.discard(name)
                if not self.late:
                    self.at = time.monotonic()
                    self.synced.set()


def main(pipe: Connection, setup: Setup) -> None:
    serve(pipe, lambda: _start(setup))


async def _start(setup: Setup) -> tuple[Handler, Any]:
    stack = AsyncExitStack()
    log = Quiet()
    thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
    stack.callback(thread.shutdown)
    journal = SqliteJournal(Path(setup.directory) / "journal.sqlite")
    state = await asyncio.get_running_loop().run_in_executor(thread, journal.open)
    stack.callback(journal.close)
    published: list[float] = []
    plane = ControlPlane(
        cluster.config(), state, time.monotonic(), lambda _: published.append(time.monotonic())
    )
    driver = Watched(plane, journal, thread, log, debounce=ServerConfig().debounce_ms / 1000)
    stack.push_async_callback(driver.stop)
    keys = setup.keys.get(SERVER)
    service = TRANSPORTS[setup.transport](driver, parse_address(setup.address), keys)
    driver.serve(service)
    stack.push_async_callback(service.stop, 1.0)

    async def handle(command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "load":
                return await _load(command, driver, service)
            case "change":
                return await _change(command["changes"], driver, service, published)
            case "expect":
                driver.expect(set(command["nodes"]))
                driver.after = 0  # they have no cut at all yet
                return {}
            case "wait":
                await asyncio.wait_for(driver.synced.wait(), command["seconds"])
                said, log.warnings = log.warnings, []
                return {"at": driver.at, "bytes": _sent(service), "warnings": said}
        raise ValueError(command["do"])

    return handle, stack.aclose()


async def _load(command: dict[str, Any], driver: Watched, service: Transport) -> dict[str, Any]:
    """Read the objects, publish them, listen."""
    began = time.monotonic()
    decoded = decode(command["objects"], "all.json")
    read = time.monotonic()
    driver.expect(set(command["nodes"]))
    driver.changed((Upsert(item, source) for source, item in decoded.objects), at_once=True)
    await service.start()
    return {"began": began, "read": read, "listening": time.monotonic()}


async def _change(
    changes: list[Change],
    driver: Watched,
    service: Transport,
    published: list[float],
) -> dict[str, Any]:
    """One change, until every connected node has acknowledged the cut with it."""
    before, cpu = _sent(service), machine.cpu_seconds()
    published.clear()
    began = time.monotonic()
    driver.expect({node.name for node in driver.plane.nodes if node.stream is not None})
    driver.changed(changes)
    await asyncio.wait_for(driver.synced.wait(), 1000)
    used = machine.cpu_seconds() - cpu
    after = _sent(service)
    return {
        "published": published[0] - began,
        "acked": driver.at - began,
        "bytes": max(after[node] - before.get(node, 0) for node in after),
        "cpu": used,
    }


def _sent(service: Transport) -> dict[str, int]:
    return {node: traffic.sent_bytes for node, traffic in service.traffic.items()}
