"""Packets between pods on eBPF while a leader is killed in the middle of a relabel, at a real API
server: none is lost that is allowed before and after, and none comes through that is denied.

Datagrams, which nobody sends again, and a connection, over two nodes. The large one is
`reconciler demo --kubernetes`; test_failover.py has leaders that are gone at random points.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.commands.demo_parts import count_flows
from reconciler.datapath import pins
from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.topology import NodeSpec, PodSpec, Spec, Topology
from reconciler.testing.traffic import Traffic, Way
from tests.integration.conftest import own_pins
from tests.kubernetes.api import Api
from tests.kubernetes.identities import journal
from tests.kubernetes.plane import WAIT, Plane
from tests.root import need_root

pytestmark = pytest.mark.kernel

PORT = 8080
APPS = {"client": 1, "stranger": 1, "server": 2}  # app → its node
ANSWERS = 10
"""Of each flow, before the kill and after the last node is in sync."""


class Cluster:
    """Two nodes, three pods with a device each, two replicas of the server."""

    def __init__(self, plane: Plane, api: Api, client: ApiClient) -> None:
        self.plane, self.api, self.client = plane, api, client
        self.nodes: list[str] = []
        self.shop = ""

    async def populate(self) -> Spec:
        api = self.api
        self.shop = await api.namespace("shop", {"team": "one"})
        specs, pods = [], []
        for at in (1, 2):
            address, cidr = f"192.0.2.{at}", f"10.{at}.0.0/16"
            self.nodes.append(await api.node(f"n{at}", address, cidr))
            specs.append(NodeSpec(self.nodes[-1], (address,), (cidr,)))
        for number, (app, at) in enumerate(APPS.items(), 2):
            node, addresses = self.nodes[at - 1], (f"10.{at}.0.{number}",)
            labels = {"app": app}
            await api.pod(self.shop, app, node=node, labels=labels, addresses=addresses)
            pods.append(PodSpec(f"{self.shop}/{app}", node, addresses))
        peer = {"podSelector": {"matchLabels": {"app": "client"}}}
        await api.policy(
            self.shop,
            "server",
            {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": [peer]}]},
        )
        return Spec(tuple(specs), tuple(pods))

    async def start(self, topology: Topology, pin_dir: Path) -> None:
        plane = self.plane
        plane.server("r1")
        await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
        plane.server("r2")
        for node, servers in zip(self.nodes, (("r1", "r2"), ("r2", "r1")), strict=True):
            datapath = ("--pin-dir", str(pin_dir / node), "--pod-interfaces", "pod*")
            plane.agent(node, *servers, datapath=datapath, network=topology.namespaces[node].path)
        await plane.until(lambda: self.enforced("one", "r1", "r2"))

    def enforced(self, team: str, *replicas: str) -> bool:
        """All three label sets are of this team, and each node has that from one of these."""
        for replica in replicas:
            bound = [row for row in self.plane.identities(replica, self.shop) if row["pods"]]
            if len(bound) != len(APPS) or any(f"team={team};" not in r["label_set"] for r in bound):
                return False
        rows = [row for node in self.nodes for row in self.plane.ask(node, "/v1/endpoints")]
        return [row["state"] for row in rows] == ["enforcing"] * len(APPS) and all(
            any(self.plane.state_of(node, replica) == "in-sync" for replica in replicas)
            for node in self.nodes
        )

    async def relabel(self, team: str) -> None:
        change = {"metadata": {"labels": {"team": team}}}
        await self.api.patch(f"/api/v1/namespaces/{self.shop}", change)

    async def given(self) -> int:
        """Revision of the journal: grows with each number that is given."""
        spec = await journal(self.client, self.plane.name)
        assert spec is not None
        return int(spec["revision"])


@pytest.fixture
async def pin_dir() -> AsyncIterator[Path]:
    need_root()
    with own_pins("failover") as path:
        path.mkdir()
        yield path
        for each in path.iterdir():
            pins.unpin_all(each)


async def test_no_packet_is_lost_when_the_leader_is_killed_in_a_relabel(
    pin_dir: Path, plane: Plane, client: ApiClient, api: Api
) -> None:
    cluster = Cluster(plane, api, client)
    spec = await cluster.populate()
    caller, stranger, server = (f"{cluster.shop}/{app}" for app in APPS)
    expected = {
        Way(caller, server, "UDP", PORT): True,
        Way(caller, server, "TCP", PORT): True,
        Way(stranger, server, "UDP", PORT): False,
    }
    ports = (("TCP", PORT), ("UDP", PORT))
    with Topology(spec) as topology, Traffic(topology, ports, period=0.01) as traffic:
        try:
            await cluster.start(topology, pin_dir)
            assert await asyncio.to_thread(traffic.matrix, list(expected)) == expected
            flows = [await asyncio.to_thread(traffic.flow, way) for way in expected]

            async def flowing() -> None:
                """Each allowed one has answers to what is sent from now on."""
                past = traffic.answered()
                allowed = [
                    flow for flow, passes in zip(flows, expected.values(), strict=True) if passes
                ]
                await plane.until(
                    lambda: all(traffic.answered()[each] > past[each] + ANSWERS for each in allowed)
                )

            await flowing()
            before = await cluster.given()
            await cluster.relabel("two")
            async with asyncio.timeout(WAIT):
                while await cluster.given() == before:
                    pass
            plane.kill("r1")  # the numbers are given; what is enforced of it, is chance
            await cluster.relabel("three")
            await plane.until(lambda: cluster.enforced("three", "r2"), 4 * WAIT)
            await flowing()
            found = count_flows(await asyncio.to_thread(traffic.stop_flows), expected)
        finally:
            plane.kill_all()
    assert (found.lost, found.leaked, found.failures) == (0, 0, ())
    assert found.allowed == 2
    assert found.denied_sent > ANSWERS
