"""A cluster's worth of objects at an API server: nodes, namespaces, deployments' pods, policies.

    population = Population(client, Size(pods=2_000, nodes=20))
    await population.create()            # nodes, namespaces, policies, then pods
    await population.running()           # KWOK (or somebody) has given every pod its address
    await population.relabel(1)          # every pod another label set, no verdict another one

Namespaces `team-0`… with deployments `app-0`…, whose pods are spread over all nodes evenly and are
neighbours nowhere: on each node are pods of many deployments. Each namespace denies what comes in;
port 8080 of a deployment is open to two others of its namespace. There is no controller, so pods
are made by who calls, with `AT_ONCE` requests under way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from reconciler.errors import ConfigError, UnavailableError

AT_ONCE: Final = 64
"""Requests under way. With more the API server is no faster on two cores."""

DELETED_AT_ONCE: Final = 100
"""Objects of one request that deletes a collection; the API server takes them one by one."""

PODS_A_NODE: Final = 250
"""A /24 for each node."""

NODES: Final = 4_000
PORT: Final = 8080
MERGE: Final = "application/merge-patch+json"

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_SHIFT: Final = 37  # by which each round over the nodes begins later than the one before


class Answer(Protocol):
    @property
    def body(self) -> bytes: ...


class Requests(Protocol):
    """`server.kubernetes.client.ApiClient`, which this layer does not know."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] = ...,
        body: bytes | None = ...,
        content_type: str = ...,
    ) -> Answer: ...


class Size(msgspec.Struct, frozen=True):
    """pods: of all namespaces, in equal deployments; rounded down to whole ones."""

    pods: int = 20_000
    nodes: int = 200
    namespaces: int = 5
    deployments: int = 50

    @property
    def replicas(self) -> int:
        return self.pods // self.label_sets

    @property
    def label_sets(self) -> int:
        return self.namespaces * self.deployments

    @property
    def total(self) -> int:
        """Pods that there are."""
        return self.replicas * self.label_sets

    def check(self) -> None:
        """ConfigError: these numbers make no cluster."""
        if not 0 < self.nodes <= NODES:
            raise ConfigError(f"{self.nodes} nodes: 1 to {NODES} can be had")
        if self.replicas < 1:
            raise ConfigError(f"{self.pods} pods: at least {self.label_sets}, one a deployment")
        if self.total > self.nodes * PODS_A_NODE:
            raise ConfigError(
                f"{self.pods} pods on {self.nodes} nodes: a node has at most {PODS_A_NODE}"
            )

    def __str__(self) -> str:
        return f"{self.total:,} pods, {self.label_sets} label sets, {self.nodes} nodes"


class Place(msgspec.Struct, frozen=True):
    """Where one pod belongs."""

    namespace: str
    name: str
    deployment: int
    node: str


class Population:
    def __init__(self, api: Requests, size: Size) -> None:
        size.check()
        self.size = size
        self.namespaces = tuple(f"team-{at}" for at in range(size.namespaces))
        self.nodes = tuple(f"node-{at}" for at in range(1, size.nodes + 1))
        self._api = api
        self._slots = asyncio.Semaphore(AT_ONCE)

    # ------------------------------------------------------------------------------- what there is

    def places(self) -> Iterable[Place]:
        size, at = self.size, 0
        for namespace in self.namespaces:
            for deployment in range(size.deployments):
                for replica in range(size.replicas):
                    node = (at + at // size.nodes * _SHIFT) % size.nodes
                    name = f"app-{deployment}-{replica}"
                    yield Place(namespace, name, deployment, self.nodes[node])
                    at += 1

    def callers(self, deployment: int) -> tuple[int, int]:
        """The deployments that reach this one's port."""
        count = self.size.deployments
        return (deployment + 1) % count, (deployment + 2) % count

    # ------------------------------------------------------------------------------------- making

    async def create(self, say: Callable[[int], None] = lambda made: None) -> None:
        """Everything. say: told now and then how many pods are made."""
        await self.create_nodes()
        await self.create_namespaces()
        await self.create_policies()
        await self.create_pods(self.places(), say)

    async def create_nodes(self) -> None:
        await self.all(self._post("/api/v1/nodes", _node(at)) for at in range(self.size.nodes))

    async def create_namespaces(self, more: Mapping[str, str] = _NONE) -> None:
        """With the service accounts that a controller would make. more: further labels of each."""
        for at, name in enumerate(self.namespaces):
            labels = {**more, "team": f"t{at}", "release": "r0"}
            meta = {"name": name, "labels": labels}
            await self._post("/api/v1/namespaces", {"metadata": meta})
            account = {"metadata": {"name": "default"}, "automountServiceAccountToken": False}
            await self._post(f"/api/v1/namespaces/{name}/serviceaccounts", account)

    async def create_policies(self) -> None:
        await self.all(
            self._post(f"/apis/networking.k8s.io/v1/namespaces/{name}/networkpolicies", policy)
            for at, name in enumerate(self.namespaces)
            for policy in self._policies(at)
        )

    async def create_pods(
        self, places: Iterable[Place], say: Callable[[int], None] = lambda made: None
    ) -> None:
        left, made = iter(places), 0

        async def work() -> None:
            nonlocal made
            for place in left:
                await self._post(f"/api/v1/namespaces/{place.namespace}/pods", _pod(place))
                made += 1
                say(made)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def relabel(self, generation: int, namespaces: Sequence[str] = ()) -> None:
        """Another value of one label of these namespaces (default: of all), which no policy asks
        for: all at once, as one `kubectl label` of several."""
        change = {"metadata": {"labels": {"release": f"r{generation}"}}}
        await self.all(
            self._patch(f"/api/v1/namespaces/{name}", change)
            for name in namespaces or self.namespaces
        )

    async def delete_namespace(self, name: str) -> None:
        """As the namespace controller does: what is in it first, then itself."""
        path = f"/api/v1/namespaces/{name}"
        options = json.dumps({"gracePeriodSeconds": 0}).encode()
        await self._api.request("DELETE", path, body=options)
        for kind in ("/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/serviceaccounts",
                     "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
                     "/apis/reconciler.io/v1alpha1/namespaces/{}/policyrealizations"):  # fmt: skip
            params = {
                "limit": str(DELETED_AT_ONCE)
            }  # all of them can take longer than an answer may
            while True:
                answer = await self._api.request(
                    "DELETE", kind.format(name), params=params, body=options
                )
                if not json.loads(answer.body)["items"]:
                    break
        found = json.loads((await self._api.request("GET", path)).body)
        found["spec"]["finalizers"] = []
        await self._api.request("PUT", f"{path}/finalize", body=json.dumps(found).encode())

    # ------------------------------------------------------------------------------------ looking

    async def running(self, seconds: float, say: Callable[[int], None] = lambda done: None) -> None:
        """Until every pod has its address; UnavailableError: some have not, after so long.

        say: told how many of them are known to have it. Pods get theirs more or less in the order
        in which they were made, so the first that has none is asked for; lists would cost the API
        server more than the addresses do.
        """
        now = asyncio.get_running_loop().time
        end, done, places = now() + seconds, 0, tuple(self.places())
        while True:
            step = 1
            while done < len(places) and await self._has_address(
                places[min(done + step, len(places)) - 1]
            ):
                done, step = min(done + step, len(places)), 2 * step
            say(done)
            if done == len(places) and not await self._pending():
                return
            if now() > end:
                raise UnavailableError(
                    f"not all of {len(places)} pods have an address after {seconds:g} s"
                )
            await asyncio.sleep(0.2)

    async def _has_address(self, place: Place) -> bool:
        path = f"/api/v1/namespaces/{place.namespace}/pods/{place.name}"
        found = json.loads((await self._api.request("GET", path)).body)
        return bool(found["status"].get("podIP"))

    async def _pending(self) -> bool:
        params = {"fieldSelector": "status.phase=Pending", "limit": "1"}
        found = json.loads((await self._api.request("GET", "/api/v1/pods", params=params)).body)
        return bool(found["items"])

    # ------------------------------------------------------------------------------------- inside

    async def all(self, requests: Iterable[Awaitable[object]]) -> None:
        async def one(request: Awaitable[object]) -> None:
            async with self._slots:
                await request

        await asyncio.gather(*map(one, requests))

    async def _post(self, path: str, object: Mapping[str, Any]) -> None:
        await self._api.request("POST", path, body=json.dumps(object).encode())

    async def _patch(self, path: str, change: Mapping[str, Any]) -> None:
        body = json.dumps(change).encode()
        await self._api.request("PATCH", path, body=body, content_type=MERGE)

    def _policies(self, at: int) -> Iterable[dict[str, Any]]:
        deny = {"podSelector": {}, "policyTypes": ["Ingress"]}
        yield {"metadata": {"name": "default-deny"}, "spec": deny}
        team = {"matchLabels": {"team": f"t{at}"}}
        for deployment in range(self.size.deployments):
            peers = [
                {"namespaceSelector": team, "podSelector": {"matchLabels": _labels(caller)}}
                for caller in self.callers(deployment)
            ]
            ports = [{"protocol": protocol, "port": PORT} for protocol in ("TCP", "UDP")]
            rule = {"from": peers, "ports": ports}
            spec = {
                "podSelector": {"matchLabels": _labels(deployment)},
                "policyTypes": ["Ingress"],
                "ingress": [rule],
            }
            yield {"metadata": {"name": f"app-{deployment}"}, "spec": spec}


def _labels(deployment: int) -> dict[str, str]:
    return {"app": f"app-{deployment}"}


def _node(at: int) -> dict[str, Any]:
    """With its address, as a kubelet registers it; KWOK leaves it."""
    high, low = divmod(at, 250)
    cidr = f"10.{100 + high}.{low}.0/24"
    return {
        "metadata": {"name": f"node-{at + 1}"},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"172.19.{high}.{low + 1}"}]},
    }


def _pod(place: Place) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "registry.example/app:1",
        "ports": [{"name": "http", "containerPort": PORT}],
    }
    labels = {**_labels(place.deployment), "tier": f"tier-{place.deployment % 3}"}
    return {
        "metadata": {"name": place.name, "labels": labels},
        "spec": {
            "nodeName": place.node,
            "containers": [container],
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
        },
    }
