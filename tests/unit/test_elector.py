"""The Lease's shell: a replica follows again only when nothing of its leadership is under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from reconciler.core.leadership import Lease, Release, StandDown
from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import Response
from reconciler.server.kubernetes.lease import Elector, LeaseObject
from reconciler.server.kubernetes.replica import materialise


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


class Proxied:
    """An API client whose answers are pages of a proxy."""

    async def request(self, *_: Any, **__: Any) -> Response:
        return Response(200, b"<html>busy</html>")


async def test_an_answer_that_is_no_lease_is_none_and_ends_nothing() -> None:
    client: Any = Proxied()
    lease = LeaseObject(client, "default", "reconciler", 1.0)
    with pytest.raises(UnavailableError, match="lease"):
        await lease.write(None, "one", 15.0, True)
    elector = _elector(lease)
    async with asyncio.TaskGroup() as tasks:
        elector.core.tick(0.0)
        elector.carry_out(tasks)
    assert elector.core.state == "follower"


async def test_a_leader_that_cannot_materialise_stands_down_and_gives_the_lease_back() -> None:
    lease: Any = Held()
    elector = _elector(lease)
    elector.core.state = "leader"
    elector.core.holder = "one"
    elector.core._seen = Lease("one", 15.0, 1, "7")

    async def fails() -> None:
        raise ExceptionGroup("a bug", [KeyError(300)])

    with structlog.testing.capture_logs() as logs:
        await materialise(fails, elector, structlog.get_logger())
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert elector.core.state == "fenced"
    kinds = [type(effect) for effect in elector.core.effects()]
    assert kinds == [Release, StandDown]


def _elector(lease: LeaseObject) -> Elector:
    async def nothing(*_: object) -> int:
        return 1

    async def stand_down(reason: str) -> None: ...

    return Elector(
        lease, "one", take_over=nothing, lead=lambda: None, stand_down=stand_down,
        random=lambda: 0.0, log=structlog.get_logger(), clock=lambda: 0.0,
    )  # fmt: skip


async def test_one_that_finds_itself_overtaken_when_it_is_to_lead_follows_again() -> None:
    reasons: list[str] = []

    async def stand_down(reason: str) -> None:
        reasons.append(reason)

    async def take_over() -> int:
        return 1

    lease: Any = Held()
    elector = Elector(
        lease, "one", take_over=take_over, lead=lambda: elector.overtaken("epoch 2"),
        stand_down=stand_down, random=lambda: 0.0, log=structlog.get_logger(), clock=lambda: 0.0,
    )  # fmt: skip
    elector.core.state = "candidate"
    elector.core.take_over()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        while elector.core.state != "follower":
            elector.carry_out(tasks)
            await asyncio.sleep(0)
    assert reasons == ["epoch 2"]
