"""The server's driver, where its core fails."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from reconciler.core.identity import JournalBatch
from reconciler.core.intake import Intake, IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.plane import ControlPlane, PlaneConfig
from reconciler.server.driver import Driver
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.world import World


async def fails(journal: MemoryJournal) -> None:
    """A driver that has something to write ends, and says why."""
    world = World()
    world.namespace("a", {})
    world.pod("a", "p", "n1", {"app": "x"}, ["10.1.0.1"])
    config = PlaneConfig(intake=IntakeConfig(filter=LabelFilter.default()))
    plane = ControlPlane(config, journal.open(), 0.0)
    with ThreadPoolExecutor(1) as thread:
        driver = Driver(plane, journal, thread, structlog.get_logger(), debounce=0.0)
        driver.changed(world.everything())
        with pytest.raises(ValueError, match="a bug"):
            await asyncio.wait_for(driver.failed, 10)
        await driver.stop()


@pytest.mark.parametrize("where", ["a change", "the answer of the journal"])
async def test_a_core_that_fails_ends_the_server(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a step may have been taken: nobody may be served what comes after it."""

    def fail(*args: object) -> None:
        raise ValueError("a bug")

    loop = asyncio.get_running_loop()
    said: list[str] = []
    loop.set_exception_handler(lambda _, context: said.append(str(context["exception"])))
    monkeypatch.setattr(Intake, "absorb" if where == "a change" else "written", fail)
    await fails(MemoryJournal())


async def test_a_journal_that_fails_in_its_own_way_ends_the_server() -> None:
    class Broken(MemoryJournal):
        def append(self, batch: JournalBatch) -> int:
            raise ValueError("a bug")

    await fails(Broken())
