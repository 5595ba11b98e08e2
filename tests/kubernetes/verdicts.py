"""What agents say of packets between pods of a `Population`, beside the oracle on the objects that
the API server has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from reconciler.commands.demo_memory import MemoryProber
from reconciler.core.objects import Namespace, NetworkPolicy, Pod, decode_as
from reconciler.core.policy.oracle import World, oracle
from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes.population import PORT, Place, Population
from reconciler.testing.topology import PodSpec, Spec
from reconciler.testing.traffic import Way
from tests.kubernetes.plane import Plane

T = TypeVar("T")

PORTS: Final = (PORT, 9090)
EACH: Final = 6
"""Pods of a namespace, of neighbouring deployments: some of them call each other."""


class Verdicts:
    """nodes: those with an agent, on the datapath in memory."""

    def __init__(
        self, plane: Plane, client: ApiClient, population: Population, nodes: Sequence[str]
    ) -> None:
        self._plane, self._client = plane, client
        self.nodes = tuple(nodes)
        self._places = tuple(_chosen(population, self.nodes))
        self.spec = Spec((), ())
        self.addresses: dict[str, str] = {}

    def agent_status(self, node: str) -> str:
        return self._plane.status(node)

    async def judged(self) -> dict[Way, bool]:
        """Every way between those of the pods that there are; each verdict is the oracle's."""
        pods = {
            f"{p.metadata.namespace}/{p.metadata.name}": p for p in await self._all("pods", Pod)
        }
        pods = {name: pods[name] for name in map(_name, self._places) if name in pods}
        self.spec = Spec(
            (),
            tuple(
                PodSpec(name, pod.spec.node_name, tuple(each.ip for each in pod.status.pod_ips))
                for name, pod in pods.items()
            ),
        )
        self.addresses |= {pod.name: pod.addresses[0] for pod in self.spec.pods}
        namespaces = await self._all("namespaces", Namespace)
        path = "apis/networking.k8s.io/v1/networkpolicies"
        world = World(
            {each.metadata.name: each for each in namespaces},
            tuple(await self._all(path, NetworkPolicy)),
        )
        ways = [
            Way(source, destination, "TCP", port)
            for source in pods
            for destination in pods
            for port in PORTS
            if source != destination
        ]
        expected = {
            way: all(oracle(world, pods[way.source], pods[way.destination], "TCP", way.port))
            for way in ways
        }
        with MemoryProber(self) as prober:
            found = await asyncio.to_thread(prober.matrix, ways)
        wrong = [way for way in ways if found[way] != expected[way]]
        assert not wrong, wrong[:5]
        return found

    async def from_nobody(self, gone: str, to: str) -> Any:
        """What the destination makes of a packet from the address that a pod had; no pod sends."""
        (node,) = (pod.node for pod in self.spec.pods if pod.name == to)
        ends = f"from={self.addresses[gone]}&to={self.addresses[to]}"
        said = await self._plane.asked(node, f"/v1/probe?{ends}&protocol=6&port={PORT}")
        assert said["egress"] is None
        return said["ingress"]

    async def _all(self, path: str, kind: type[T]) -> list[T]:
        path = f"/{path}" if "/" in path else f"/api/v1/{path}"
        items = json.loads((await self._client.request("GET", path)).body)["items"]
        found = [decode_as(json.dumps(each).encode(), kind) for each in items]
        assert all(isinstance(each, kind) for each in found)
        return [each for each in found if isinstance(each, kind)]


def _name(place: Place) -> str:
    return f"{place.namespace}/{place.name}"


def _chosen(population: Population, nodes: Sequence[str]) -> Iterator[Place]:
    taken: dict[tuple[str, int], Place] = {}
    for place in population.places():
        if place.node in nodes and place.deployment < EACH:
            taken.setdefault((place.namespace, place.deployment), place)
    yield from taken.values()
