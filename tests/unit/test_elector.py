"""The Lease's shell: a replica follows again only when nothing of its leadership is under way."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from reconciler.core.leadership import Lease
from reconciler.server.kubernetes.lease import Elector


class Held:
    """A Lease that somebody else holds."""

    async def read(self) -> Lease:
        return Lease("another", 15.0, 1, "7")


async def test_a_write_under_way_is_waited_for_however_often_the_lease_is_read() -> None:
    answered = asyncio.Event()

    async def stand_down(reason: str) -> None:
        await answered.wait()

    async def take_over() -> int:
        return 1

    lease: Any = Held()
    elector = Elector(
        lease, "one", take_over=take_over, lead=lambda: None, stand_down=stand_down,
        random=lambda: 0.0, log=structlog.get_logger(), clock=lambda: 0.0,
    )  # fmt: skip
    elector.core.state = "leader"
    elector.core.overtaken("a newer epoch")
    async with asyncio.TaskGroup() as tasks:
        elector.carry_out(tasks)
        elector.core.tick(0.0)  # the Lease is looked at meanwhile
        elector.carry_out(tasks)
        assert elector.core.state == "fenced"
        answered.set()
        for _ in range(3):
            await asyncio.sleep(0)  # the task goes on, and ends
        elector.carry_out(tasks)
    assert elector.core.state == "follower"
