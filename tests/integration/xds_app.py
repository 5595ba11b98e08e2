"""Whole applications that serve xDS, each in a task of this process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from reconciler import local
from reconciler.config import DiscoveryConfig, parse_address
from reconciler.server.discovery.app import run


class Running:
    """An application that serves on `port`."""

    def __init__(self, task: asyncio.Task[None], port: int) -> None:
        self.task, self.port = task, port

    async def stop(self) -> None:
        """As an operator stops it."""
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await self.task


@asynccontextmanager
async def running(
    main: Callable[[Callable[[int], None]], Coroutine[Any, Any, None]],
) -> AsyncIterator[Running]:
    """main: is given what it calls with its port when it serves; its error is raised here"""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(main(ready.set_result))
    ends: set[asyncio.Future[Any]] = {ready, task}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    found = Running(task, ready.result())
    try:
        yield found
    finally:
        await found.stop()


async def status(address: str, path: str) -> str:
    """Of the status API."""
    return (await local.Client(parse_address(address)).get(path)).decode()


class App:
    """`reconciler xds serve` in a task."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.files = home / "resources"
        self.files.mkdir(exist_ok=True)
        self.status = f"unix:{home}/s.sock"
        self.config = DiscoveryConfig(
            **{"resources": str(self.files), "listen": "127.0.0.1:0", "insecure": True,
               "status": self.status, "drain": 0.0, **options},
        )  # fmt: skip
        self._context = running(lambda ready: run(self.config, ready=ready))

    async def __aenter__(self) -> App:
        self._running = await self._context.__aenter__()
        return self

    async def __aexit__(self, *told: Any) -> None:
        await self._context.__aexit__(*told)

    @property
    def port(self) -> int:
        return self._running.port

    @property
    def task(self) -> asyncio.Task[None]:
        return self._running.task

    async def stop(self) -> None:
        await self._running.stop()

    async def page(self) -> str:
        """Its metrics."""
        return await status(self.status, "/metrics")
