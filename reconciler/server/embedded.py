"""A server without Kubernetes: objects from a directory of manifests, the journal in SQLite."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import msgspec

from reconciler.config import ServerConfig
from reconciler.core.plane import ControlPlane, PlaneConfig
from reconciler.core.trace import Trace
from reconciler.errors import ConfigError, Rejected
from reconciler.server.cluster import Cluster
from reconciler.server.driver import Driver
from reconciler.server.journal import SqliteJournal
from reconciler.server.manifests import watch


async def cluster(
    config: ServerConfig,
    plane_config: PlaneConfig,
    stack: AsyncExitStack,
    stop: asyncio.Event,
    trace: Trace | None,
    log: Any,
) -> Cluster:
    """JournalError: the journal can't be had."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
    stack.callback(thread.shutdown)
    journal = SqliteJournal(_journal_path(config))
    in_thread = asyncio.get_running_loop().run_in_executor
    state = await in_thread(thread, journal.open)
    stack.push_async_callback(lambda: in_thread(thread, journal.close))
    log.info("journal open", epoch=state.epoch, identities=len(state.entries))
    plane = ControlPlane(plane_config, state, time.monotonic(), trace=trace)
    driver = Driver(plane, journal, thread, log, debounce=config.debounce_ms / 1000)
    stack.push_async_callback(driver.stop)
    source = _Source(config.manifests, driver, stop, log)
    return Cluster(plane, driver, (source.run,), lambda: source.problems)


class _Source:
    """problems: of the manifests, all that stand."""

    def __init__(self, manifests: str, driver: Driver, stop: asyncio.Event, log: Any) -> None:
        self.problems: tuple[Rejected, ...] = ()
        self._manifests, self._driver, self._stop, self._log = manifests, driver, stop, log

    async def run(self, loaded: asyncio.Event) -> None:
        if not self._manifests:
            self._driver.changed((), at_once=True)
            loaded.set()
            return
        async with aclosing(watch(self._manifests, self._stop)) as batches:
            async for batch in batches:
                for problem in batch.problems:
                    if problem not in self.problems:
                        self._log.warning("problem", **msgspec.structs.asdict(problem))
                self.problems = batch.problems
                self._driver.changed(batch.changes, at_once=not loaded.is_set())
                loaded.set()


def _journal_path(config: ServerConfig) -> Path:
    path = Path(config.journal) if config.journal else Path(config.state_dir) / "journal.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: {error.strerror}") from None
    return path
