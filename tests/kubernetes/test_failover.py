"""Leaders that are killed, or paused and woken up, at random points of a relabel.

Each round relabels a namespace, and the leader is gone at some point of what follows. After the
round a successor has finished it: every label set has one number, and never had another one; none
that stayed was renumbered; journal and objects say the same; each epoch of the journal was written
by one server, and by nobody once the next one had begun.

RECONCILER_SEED repeats the points of a run, which are printed; HYPOTHESIS_PROFILE=long makes more
rounds. A point is a time after the relabel, so what it hits is the machine's to say.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest

from reconciler.core.identity import Identity
from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from tests.conftest import PROFILE
from tests.kubernetes.api import Api
from tests.kubernetes.history import Agreement, History, agreement, history
from tests.kubernetes.plane import WAIT, Plane

ROUNDS: Final = 50 if PROFILE == "long" else 2
LATEST: Final = 0.6
"""Seconds after a relabel. Without a fault it is done in less."""

LONG: Final = 4 * WAIT
"""For what includes the end of a Lease, a start of a process, or keepalives."""

REPLICAS: Final = ("r1", "r2", "r3")
NODES: Final = 2
APPS: Final = 8
OPTIONS: Final = ("--absent-grace", "2")
TEAM: Final = "k8s:io.cilium.k8s.namespace.labels.team"


class Rounds:
    """moving: the namespace that is relabelled; calm: one that is not."""

    def __init__(
        self, plane: Plane, client: ApiClient, api: Api, history: History | None = None
    ) -> None:
        self.plane, self.client, self.api, self.history = plane, client, api, history
        self.nodes: list[str] = []
        self.moving = self.calm = ""
        self.stayed: dict[str, Identity] = {}
        self._cursor = 0  # of the journal, before the first relabel
        self._logged = dict.fromkeys(REPLICAS, 0)

    async def begin(self) -> None:
        api, plane = self.api, self.plane
        self.nodes = [
            await api.node(f"n{at}", f"192.0.2.{at}", f"10.{at}.0.0/16")
            for at in range(1, NODES + 1)
        ]
        self.moving = await api.namespace("moving", {"team": "0"})
        self.calm = await api.namespace("calm", {"team": "calm"})
        for number, namespace in enumerate((self.moving, self.calm)):
            for at in range(APPS):
                on = at % NODES
                await api.pod(
                    namespace, f"p{at}", node=self.nodes[on], labels={"app": f"a{at}"},
                    addresses=[f"10.{on + 1}.{number}.{at + 1}"],
                )  # fmt: skip
        for name in REPLICAS:
            self._start(name)
        for at, node in enumerate(self.nodes):
            plane.agent(node, *REPLICAS[at:], *REPLICAS[:at])
        await self._done("0")
        agreed = await self._agreed()
        self._cursor = agreed.cursor
        self.stayed = self._of(agreed, self.calm)
        assert len(self.stayed) == APPS

    async def relabel(self, number: int) -> None:
        path = f"/api/v1/namespaces/{self.moving}"
        await self.api.patch(path, {"metadata": {"labels": {"team": str(number)}}})

    async def round(self, number: int, fault: str, after: float) -> None:
        """A relabel, and `after` seconds later its leader is gone."""
        leader = await self._holder()
        await self.relabel(number)
        await asyncio.sleep(after)
        if fault == "kill":
            self.plane.kill(leader)
        else:
            self.plane.running[leader].signal(signal.SIGSTOP)
        await self._successor(leader)
        others = [name for name in REPLICAS if name != leader]
        # Nodes may be connected to one that is paused, and only keepalives tell them that it is.
        await self._done(str(number), others, self.nodes if fault == "kill" else ())
        epoch = max([await asyncio.to_thread(self._epoch, name) for name in others])
        if fault == "kill":
            self._start(leader)
        else:
            self.plane.running[leader].signal(signal.SIGCONT)
        await self._done(str(number))
        await self.plane.until(lambda: self._epoch(leader) >= epoch, LONG)
        await self.check(number)

    async def check(self, number: int) -> None:
        """After the relabel of this number, when all is done and written."""
        await self._done(str(number))
        agreed = await self._agreed()
        if self.history is not None:
            self.history.check()
            given = self.history.given.items()
            twice = {name: each for name, each in given if len(each) > 1}
            assert not twice, "a label set got a second number"
        bound = self._of(agreed, self.moving, str(number))
        assert len(bound) == APPS
        assert self._of(agreed, self.calm) == self.stayed, "one that stayed has another number"
        label_sets = [entry.label_set for entry in agreed.entries]
        assert len(label_sets) == len(set(label_sets)), "one label set has two numbers"
        assert agreed.cursor - self._cursor == APPS * number, "numbers were given to nobody"
        await self.plane.until(lambda: sum(map(self._leads, REPLICAS)) == 1)

    # ------------------------------------------------------------------------------ looking

    def _start(self, name: str) -> None:
        log = self.plane.directory / f"{name}.log"
        self._logged[name] = log.stat().st_size if log.exists() else 0
        self.plane.server(name, *OPTIONS)

    def _leads(self, name: str) -> bool:
        """By what the process has said since its start."""
        said = (self.plane.directory / f"{name}.log").read_bytes()[self._logged[name] :].decode()
        return said.rfind("leading") > said.rfind("stands down")

    def _epoch(self, name: str) -> int:
        return int(self.plane.ask(name, "/v1/status")["epoch"])

    async def _holder(self) -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{self.plane.name}"
        async with asyncio.timeout(LONG):
            while True:
                holder = (await self.api.get(path))["spec"].get("holderIdentity")
                if holder and self._leads(holder):
                    return str(holder)
                await asyncio.sleep(0.02)

    async def _successor(self, leader: str) -> None:
        async with asyncio.timeout(LONG):
            while await self._holder() == leader:
                await asyncio.sleep(0.02)

    async def _done(
        self, team: str, names: Sequence[str] = REPLICAS, nodes: Sequence[str] | None = None
    ) -> None:
        """These replicas know of all the new label sets, and nodes (all) have that from one."""
        connected = self.nodes if nodes is None else nodes
        of = f"{TEAM}={team};"

        def done() -> bool:
            for name in names:
                bound = [row for row in self.plane.identities(name, self.moving) if row["pods"]]
                if len(bound) != APPS or any(of not in row["label_set"] for row in bound):
                    return False
            return all(
                any(self.plane.state_of(node, name) == "in-sync" for name in names)
                for node in connected
            )

        await self.plane.until(done, LONG)

    async def _agreed(self) -> Agreement:
        """When journal and objects say the same, and the history has all of it."""
        async with asyncio.timeout(LONG):
            while True:
                found = await agreement(self.client, self.plane.name)
                told = self.history is None or self.history.version >= found.version
                if told and not found.difference:
                    return found
                await asyncio.sleep(0.05)

    def _of(self, agreed: Agreement, namespace: str, team: str = "") -> dict[str, Identity]:
        wanted = f"k8s:io.kubernetes.pod.namespace={namespace};"
        return {
            entry.label_set: Identity(entry.number, entry.birth)
            for entry in agreed.entries
            if wanted in entry.label_set and (not team or f"{TEAM}={team};" in entry.label_set)
        }


@pytest.fixture
async def rounds(plane: Plane, client: ApiClient, api: Api) -> AsyncIterator[Rounds]:
    async with history(client, plane.name) as seen:
        made = Rounds(plane, client, api, seen)
        await made.begin()
        yield made


async def test_a_leader_gone_at_any_point_of_a_relabel_has_a_successor_that_finishes_it(
    rounds: Rounds,
) -> None:
    seed = int(os.environ.get("RECONCILER_SEED") or random.randrange(1 << 32))
    print(f"RECONCILER_SEED={seed}")
    chance = random.Random(seed)
    for number in range(1, ROUNDS + 1):
        fault = ("kill", "stop")[number % 2] if number < 3 else chance.choice(("kill", "stop"))
        after = chance.uniform(0.0, LATEST)
        print(f"round {number}: {fault} after {after * 1000:.0f} ms")
        await rounds.round(number, fault, after)
    assert rounds.history is not None
    journals = rounds.history.journals
    epochs = len({each.spec.epoch for each in journals})
    print(f"{ROUNDS} rounds, {epochs} leaderships, {len(journals)} journal writes")
    assert epochs > ROUNDS


async def test_an_api_server_that_is_killed_in_a_relabel_finds_everything_as_it_was(
    cluster: Cluster, plane: Plane, client: ApiClient, api: Api
) -> None:
    rounds = Rounds(plane, client, api)
    await rounds.begin()
    before = {node: await plane.asked(node, "/v1/status") for node in rounds.nodes}
    await rounds.relabel(1)
    await asyncio.to_thread(cluster.kill_apiserver)
    # Nothing to be done without it; the nodes keep a whole cut.
    after = {node: await plane.asked(node, "/v1/status") for node in rounds.nodes}
    for node in rounds.nodes:
        assert after[node]["endpoints"] == before[node]["endpoints"]
        assert after[node]["committed"] >= before[node]["committed"]
    await asyncio.to_thread(cluster.start_apiserver)
    await rounds.check(1)
    await rounds.relabel(2)
    await rounds.check(2)
