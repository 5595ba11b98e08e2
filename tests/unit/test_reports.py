"""What a replica says of its nodes: its next process takes nothing back that this one said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import structlog

from reconciler.core.objects import ObjectKey, ObjectMeta
from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import ApiError, Response
from reconciler.server.kubernetes.realization import NodesReport
from reconciler.server.kubernetes.reports import HEARTBEATS, IN_USE, NOT_FOUND, Report, Reports

GRACE = 50.0
INTERVAL = 2.0
NEWEST = 20


class Leases:
    """Of an API server: name → annotations."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, str]] = {}
        self.fails = 0
        self.answers: list[bytes] = []

    async def request(self, method: str, path: str, *, body: bytes = b"", **_: Any) -> Response:
        if self.fails:
            self.fails -= 1
            raise UnavailableError("away")
        if method == "POST":
            meta = json.loads(body)["metadata"]
            self.held[meta["name"]] = meta["annotations"]
            return Response(201, body)
        name = path.rpartition("/")[2]
        if name not in self.held:
            raise ApiError(NOT_FOUND, "NotFound", "no such lease")
        if method == "GET":
            if self.answers:
                return Response(200, self.answers.pop())
            meta = {"name": name, "annotations": self.held[name]}
            return Response(200, json.dumps({"metadata": meta}).encode())
        self.held[name] |= json.loads(body)["metadata"]["annotations"]
        return Response(200, body)


class Rig:
    def __init__(self) -> None:
        self.leases, self.now = Leases(), 100.0
        self.marks: Mapping[str, int] = {}
        self.leader = self.replica("leader")

    def replica(self, name: str, in_use: int = NEWEST) -> Reports:
        client: Any = self.leases
        return Reports(
            client, namespace="default", lease="reconciler", replica=name, interval=INTERVAL,
            grace=GRACE, in_use=lambda: in_use, nodes=NodesReport,
            told=self._told if name == "leader" else lambda _: None,
            leading=lambda: name == "leader", log=structlog.get_logger(), clock=lambda: self.now,
        )  # fmt: skip

    def _told(self, marks: Mapping[str, int]) -> None:
        self.marks = marks

    def watched(self) -> None:
        """The leader reads all that there is."""
        self.leader.changed(
            {
                ObjectKey("Lease", "default", name): Report(ObjectMeta(name, annotations=notes))
                for name, notes in self.leases.held.items()
            }
        )


F = "reconciler-f"


async def test_a_replica_that_starts_again_says_its_old_mark_for_the_grace() -> None:
    rig = Rig()
    await rig.replica("f", in_use=10).begin()
    rig.watched()
    assert rig.marks == {F: 10}
    again = rig.replica("f")  # and has not heard of the node that enforces 10
    await again.begin()
    rig.watched()
    assert rig.marks == {F: 10}
    rig.now += GRACE - 1
    await again.report()
    rig.watched()
    assert rig.marks == {F: 10}
    rig.now += 1
    await again.report()
    rig.watched()
    assert rig.marks == {F: NEWEST}


async def test_what_its_nodes_say_counts_beside_the_old_mark() -> None:
    rig = Rig()
    await rig.replica("f", in_use=10).begin()
    await rig.replica("f", in_use=7).begin()
    rig.watched()
    assert rig.marks == {F: 7}


async def test_one_that_starts_again_and_again_waits_anew() -> None:
    rig = Rig()
    await rig.replica("f", in_use=10).begin()
    await rig.replica("f").begin()
    rig.now += GRACE - 1
    last = rig.replica("f")
    await last.begin()
    rig.now += GRACE - 1
    await last.report()
    assert rig.leases.held[F][IN_USE] == "10"


async def test_a_replica_that_starts_for_the_first_time_says_what_there_is() -> None:
    rig = Rig()
    await rig.replica("f").begin()
    assert rig.leases.held[F][IN_USE] == str(NEWEST)


async def test_an_old_mark_that_cannot_be_read_is_waited_for() -> None:
    """Neither an API server that is away nor a page of a proxy is "no Lease"."""
    rig = Rig()
    await rig.replica("f", in_use=10).begin()
    again = rig.replica("f")
    rig.leases.fails = 1
    assert not await again.start()
    rig.leases.answers = [b"<html>"]
    assert not await again.start()
    assert rig.leases.held[F][IN_USE] == "10"
    assert await again.start()
    assert rig.leases.held[F][IN_USE] == "10"


async def test_what_a_replica_said_that_is_gone_counts_for_the_grace() -> None:
    rig = Rig()
    await rig.replica("f", in_use=10).begin()
    rig.watched()
    rig.now += INTERVAL * HEARTBEATS * 2 + GRACE
    rig.leader.changed({ObjectKey("Lease", "default", F): None})
    assert rig.marks == {F: 10}
    rig.now += 1
    rig.leader.changed({})
    assert rig.marks == {}
