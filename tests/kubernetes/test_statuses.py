"""PolicyRealization objects on a real API server: when they are written, and what they say."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from reconciler.core.objects import NetworkPolicy, ObjectMeta, Upsert
from reconciler.errors import Rejected
from reconciler.server.kubernetes import statuses
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.install import PATH, definitions, install
from reconciler.server.kubernetes.realization import Found
from reconciler.server.kubernetes.statuses import Policies, Statuses
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api, absent
from tests.kubernetes.plane import WAIT, Plane
from tests.kubernetes.roles import granted

RULES = [
    {
        "apiGroups": ["reconciler.io"],
        "resources": ["policyrealizations"],
        "verbs": ["list", "create", "patch"],
    },
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get"]},
]
OPEN: dict[str, Any] = {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}
REALIZED = Found("Realized", 3, 3, "EnforcedOnNodes", "3 of 3 connected nodes enforce it")
BEHIND = Found("Realizing", 3, 2, "InProgress", "2 of 3 connected nodes enforce it")
REFUSED = Found("Failed", 3, 2, "RefusedByNodes", "refused by n1; its pods are closed there")


class Rig:
    """Statuses with a clock of the test's, and with what is so as the test says."""

    def __init__(self, client: ApiClient, api: Api) -> None:
        self.client, self.api = client, api
        self.now = 1000.0
        self.leading = True
        self.policies = Policies()
        self.so: dict[str, Found] = {}
        self.statuses = self.anew()

    def anew(self) -> Statuses:
        self.statuses = Statuses(
            self.client,
            self.policies,
            look=lambda: lambda name, version: self.so.get(name, REALIZED),
            leading=lambda: self.leading,
            log=structlog.get_logger(),
            monotonic=lambda: self.now,
            wall=lambda: self.now,
        )
        return self.statuses

    def knows(self, object: dict[str, Any]) -> str:
        meta = object["metadata"]
        policy = NetworkPolicy(
            metadata=ObjectMeta(
                name=meta["name"],
                namespace=meta["namespace"],
                uid=meta["uid"],
                resource_version=meta["resourceVersion"],
                generation=meta["generation"],
            )
        )
        self.policies.changed([Upsert(policy, "test")])
        return f"{meta['namespace']}/{meta['name']}"

    async def step(self, seconds: float = 0.0) -> int:
        """How many were written."""
        self.now += seconds
        before = self.statuses.results["written"]
        await self.statuses.step()
        return self.statuses.results["written"] - before

    async def read(self, name: str) -> dict[str, Any]:
        return await read(self.api, name)


def path(name: str) -> str:
    namespace, _, policy = name.partition("/")
    return f"/apis/reconciler.io/v1alpha1/namespaces/{namespace}/policyrealizations/{policy}"


async def read(api: Api, name: str) -> dict[str, Any]:
    object = await api.get(path(name))
    conditions = {each["type"]: each for each in object["status"]["conditions"]}
    return {**object, "conditions": conditions}


@pytest.fixture
async def rig(cluster: Cluster, client: ApiClient, api: Api) -> AsyncIterator[Rig]:
    """As a user who may do what the module says, and no more."""
    await install(client)
    async with granted(cluster, api, "test-policy-statuses", RULES) as kubeconfig:
        own = await ApiClient.connect(kubeconfig)
        yield Rig(own, api)
        await own.close()


async def test_one_write_a_generation_and_none_for_nodes_that_come(rig: Rig, api: Api) -> None:
    shop = await api.namespace("shop")
    object = await api.policy(shop, "open", OPEN)
    name = rig.knows(object)
    assert await rig.step() == 1
    seen = await rig.read(name)
    assert seen["metadata"]["ownerReferences"][0]["uid"] == object["metadata"]["uid"]
    assert seen["status"]["observedGeneration"] == 1
    assert (seen["status"]["phase"], seen["status"]["currentNodesRealized"]) == ("Realized", 3)
    assert seen["conditions"]["Accepted"]["status"] == "True"
    since = seen["conditions"]["Realized"]["lastTransitionTime"]

    rig.so[name] = Found("Realized", 9, 9, "EnforcedOnNodes", "9 of 9 connected nodes enforce it")
    assert await rig.step(100) == 0
    changed = await api.patch(
        f"/apis/networking.k8s.io/v1/namespaces/{shop}/networkpolicies/open",
        {"spec": {"ingress": []}},
    )
    rig.knows(changed)
    assert await rig.step() == 1
    seen = await rig.read(name)
    assert seen["status"]["observedGeneration"] == 2
    assert seen["status"]["currentNodesRealized"] == 9
    assert seen["conditions"]["Realized"]["lastTransitionTime"] == since


async def test_what_is_behind_is_said_when_it_stays_so(rig: Rig, api: Api) -> None:
    name = rig.knows(await api.policy(await api.namespace("shop"), "open", OPEN))
    rig.so[name] = BEHIND
    assert await rig.step() == 0
    assert await rig.step(statuses.SETTLE_SECONDS - 1) == 0
    assert await rig.step(2) == 1
    seen = await rig.read(name)
    assert (seen["status"]["phase"], seen["status"]["currentNodesRealized"]) == ("Realizing", 2)
    assert seen["conditions"]["Realized"]["message"] == BEHIND.message

    # Numbers alone are said now and then, that it is done at once.
    rig.so[name] = Found("Realizing", 3, 1, "InProgress", "1 of 3 connected nodes enforce it")
    assert await rig.step(5) == 0
    assert await rig.step(statuses.REFRESH_SECONDS) == 1
    rig.so[name] = REALIZED
    assert await rig.step() == 1
    assert (await rig.read(name))["status"]["phase"] == "Realized"


async def test_a_short_time_behind_is_not_said_and_begins_anew(rig: Rig, api: Api) -> None:
    name = rig.knows(await api.policy(await api.namespace("shop"), "open", OPEN))
    assert await rig.step() == 1
    for _ in range(3):
        rig.so[name] = BEHIND
        assert await rig.step(statuses.SETTLE_SECONDS / 2) == 0
        rig.so[name] = REALIZED
        assert await rig.step(statuses.SETTLE_SECONDS / 2) == 0
    rig.so[name] = BEHIND
    assert await rig.step(0) == 0
    assert await rig.step(statuses.SETTLE_SECONDS - 1) == 0


async def test_what_nodes_refuse_is_said_at_once(rig: Rig, api: Api) -> None:
    name = rig.knows(await api.policy(await api.namespace("shop"), "open", OPEN))
    assert await rig.step() == 1
    rig.so[name] = REFUSED
    assert await rig.step(1) == 1
    seen = await rig.read(name)
    assert seen["status"]["phase"] == "Failed"
    assert seen["conditions"]["Realized"]["reason"] == "RefusedByNodes"
    assert seen["conditions"]["Realized"]["message"] == REFUSED.message
    assert await rig.step(100) == 0


async def test_one_that_was_not_accepted_says_why(rig: Rig, api: Api) -> None:
    object = await api.policy(await api.namespace("shop"), "open", OPEN)
    name = rig.knows(object)
    problem = Rejected("networkpolicies", f"NetworkPolicy {name}", "spec.ingress[0]", "is wrong")
    rig.policies.problems([problem])
    assert await rig.step() == 1
    seen = await rig.read(name)
    assert seen["status"]["phase"] == "Failed"
    assert seen["conditions"]["Accepted"]["status"] == "False"
    assert seen["conditions"]["Accepted"]["message"] == "spec.ingress[0]: is wrong"
    assert seen["metadata"]["ownerReferences"][0]["uid"] == object["metadata"]["uid"]
    assert await rig.step(100) == 0
    rig.policies.problems([])
    assert await rig.step() == 1
    assert (await rig.read(name))["conditions"]["Accepted"]["status"] == "True"


async def test_a_new_leader_writes_nothing_that_is_written(rig: Rig, api: Api) -> None:
    shop = await api.namespace("shop")
    for at in range(3):
        rig.knows(await api.policy(shop, f"p{at}", OPEN))
    assert await rig.step() == 3
    rig.anew()
    assert await rig.step() == 0
    # One that was deleted and made again is another one.
    policies = f"/apis/networking.k8s.io/v1/namespaces/{shop}/networkpolicies"
    await api.delete(f"{policies}/p1")
    again = await api.policy(shop, "p1", OPEN)
    name = rig.knows(again)
    assert await rig.step() == 1
    assert (await rig.read(name))["metadata"]["ownerReferences"][0]["uid"] == (
        again["metadata"]["uid"]
    )


async def test_who_does_not_lead_writes_nothing(rig: Rig, api: Api) -> None:
    name = rig.knows(await api.policy(await api.namespace("shop"), "open", OPEN))
    rig.leading = False
    assert await rig.step() == 0
    assert await absent(api, path(name))


async def test_what_the_api_server_refuses_holds_nothing_up(rig: Rig, api: Api) -> None:
    """What breaks the schema, and what comes into a namespace that is being deleted."""
    ending, shop = await api.namespace("a-ending"), await api.namespace("shop")
    rig.knows(await api.policy(ending, "open", OPEN))
    odd = rig.knows(await api.policy(shop, "odd", OPEN))
    rig.so[odd] = Found("Failed", -1, 0, "Odd", "x")
    name = rig.knows(await api.policy(shop, "open", OPEN))
    await api.delete(f"/api/v1/namespaces/{ending}")
    with capture_logs() as logs:
        assert await rig.step() == 1
    assert (await rig.read(name))["status"]["phase"] == "Realized"
    results = rig.statuses.results
    assert (results["refused"], results["gone"]) == (1, 1)
    # That it ends is nothing that anybody has to look at.
    assert [each["object"] for each in logs] == [f"NetworkPolicy {odd}"]
    assert await rig.step(1) == 0
    assert (results["refused"], results["gone"]) == (1, 1), "asked again at once"


async def test_no_more_than_the_rate(rig: Rig, api: Api) -> None:
    shop = await api.namespace("shop")
    for at in range(int(statuses.BURST) + 15):
        rig.knows(await api.policy(shop, f"p{at}", OPEN))
    assert await rig.step() == statuses.BURST
    assert await rig.step(1) == statuses.RATE
    assert await rig.step(10) == 5


async def test_a_cluster_without_the_kind_is_served_without(
    rig: Rig, api: Api, client: ApiClient
) -> None:
    name = rig.knows(await api.policy(await api.namespace("shop"), "open", OPEN))
    (kind,) = (
        each["metadata"]["name"]
        for each in definitions()
        if each["spec"]["names"]["kind"] == "PolicyRealization"
    )
    await client.request("DELETE", f"{PATH}/{kind}")
    async with asyncio.timeout(WAIT):
        while not await gone(client):
            await asyncio.sleep(0.05)
    assert await rig.step() == 0
    assert rig.statuses.results["failed"] == 1
    await install(client)
    async with asyncio.timeout(WAIT):
        while not await rig.step(60):
            await asyncio.sleep(0.05)
    assert (await rig.read(name))["status"]["phase"] == "Realized"


async def gone(client: ApiClient) -> bool:
    try:
        await client.request("GET", statuses.PATH)
    except ApiError as error:
        return error.status == 404
    return False


async def test_nodes_of_two_replicas_count_together(plane: Plane, api: Api) -> None:
    """As processes: realized on both; then one agent stands still, and a change is not."""
    nodes = [await api.node(f"n{at}", f"192.0.2.{at}", f"10.{at}.0.0/16") for at in (1, 2)]
    shop = await api.namespace("shop", {"team": "one"})
    for at, node in enumerate(nodes, 1):
        await api.pod(shop, f"p{at}", node=node, labels={"app": "web"}, addresses=[f"10.{at}.0.1"])
    plane.server("r1")
    await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
    plane.server("r2")
    plane.agent(nodes[0], "r1")
    plane.agent(nodes[1], "r2")
    await plane.until(lambda: all(map(plane.committed, nodes)))
    await api.policy(shop, "open", OPEN)
    name = f"{shop}/open"

    async def says(generation: int, phase: str, current: int) -> dict[str, Any]:
        async with asyncio.timeout(WAIT):
            while True:
                try:
                    seen = await read(api, name)
                except ApiError as error:
                    if error.status != 404:
                        raise
                else:
                    status = seen["status"]
                    found = status["phase"], status["currentNodesRealized"]
                    if status["observedGeneration"] == generation and found == (phase, current):
                        return seen
                await asyncio.sleep(0.1)

    seen = await says(1, "Realized", 2)
    assert seen["status"]["desiredNodesRealized"] == 2
    plane.running[nodes[1]].signal(signal.SIGSTOP)
    await api.patch(
        f"/apis/networking.k8s.io/v1/namespaces/{shop}/networkpolicies/open",
        {"spec": {"ingress": [{"from": [{"podSelector": {}}]}]}},
    )
    await says(2, "Realizing", 1)
    plane.running[nodes[1]].signal(signal.SIGCONT)
    await says(2, "Realized", 2)
