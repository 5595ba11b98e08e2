"""A server in Kubernetes, or of a Kubernetes cluster: objects and journal at the API server."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from reconciler.config import ServerConfig
from reconciler.core.plane import ControlPlane, PlaneConfig
from reconciler.core.trace import Trace
from reconciler.server.cluster import Cluster
from reconciler.server.driver import Driver
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.events import Recorder
from reconciler.server.kubernetes.replica import UNREAD, Replica, Unopened


async def cluster(
    config: ServerConfig,
    plane_config: PlaneConfig,
    stack: AsyncExitStack,
    stop: asyncio.Event,
    trace: Trace | None,
    log: Any,
) -> Cluster:
    """ConfigError: the credentials can't be read. Nothing is asked of the API server yet."""
    client = await ApiClient.connect(config.kubeconfig, config.kube_context)
    stack.push_async_callback(client.close)
    thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
    stack.callback(thread.shutdown)
    plane = ControlPlane(plane_config, UNREAD, time.monotonic(), trace=trace, leading=False)
    driver = Driver(plane, Unopened(), thread, log, debounce=config.debounce_ms / 1000)
    stack.push_async_callback(driver.stop)
    name = config.replica or f"{socket.gethostname()}_{os.getpid()}"
    events = Recorder(client, instance=name, log=log)
    replica = Replica(
        config, client, plane, driver, thread, log, name=name, events=events, trace=trace
    )

    async def elect(_: asyncio.Event) -> None:
        await replica.elect()

    async def report(_: asyncio.Event) -> None:
        await events.run()

    async def tell(loaded: asyncio.Event) -> None:
        await loaded.wait()
        await replica.reports.run()

    async def show(loaded: asyncio.Event) -> None:
        await loaded.wait()
        await replica.statuses.run()

    runs = (replica.read, elect, report, tell, show)
    return Cluster(plane, driver, runs, lambda: replica.problems, client)
