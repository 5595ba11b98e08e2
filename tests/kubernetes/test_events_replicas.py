"""Events of replicas as processes: what is wrong is said on its objects, by whoever leads."""

from __future__ import annotations

import asyncio
import json

from tests.kubernetes.api import Api
from tests.kubernetes.plane import WAIT, Plane

CAPACITY = 16
TOO_MANY = {
    "podSelector": {},
    "policyTypes": ["Ingress"],
    "ingress": [{"ports": [{"port": 1000 + 2 * at} for at in range(CAPACITY * 2)]}],
}


async def said(api: Api, namespace: str, name: str) -> set[tuple[str, str]]:
    """(reason, who says it) of the Events on an object."""
    answer = await api.client.request(
        "GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    )
    return {
        (event["reason"], event["reportingInstance"])
        for event in json.loads(answer.body)["items"]
        if event["regarding"]["name"] == name
    }


async def until_said(api: Api, namespace: str, names: tuple[str, ...], *event: str) -> None:
    """event: reason and who; on one of these objects."""
    async with asyncio.timeout(WAIT):
        while not any([event in await said(api, namespace, name) for name in names]):
            await asyncio.sleep(0.05)


async def test_a_successor_says_what_stood_already(plane: Plane, api: Api) -> None:
    node = await api.node("n1", "192.0.2.1", "10.1.0.0/16")
    shop = await api.namespace("shop")
    for name in ("p1", "p2"):
        await api.pod(shop, name, node=node, labels={"app": "web"}, addresses=["10.1.0.1"])
    await api.policy(shop, "large", TOO_MANY)
    options = ("--policy-capacity", str(CAPACITY))
    plane.server("r1", *options)
    await until_said(api, shop, ("large",), "TooManyEntries", "r1")
    # Two pods say that they have one address; the younger or the first by name has it.
    await until_said(api, shop, ("p1", "p2"), "Questionable", "r1")
    plane.server("r2", *options)
    await plane.until(lambda: plane.ask("r2", "/v1/status")["revision"])
    plane.kill("r1")
    await until_said(api, shop, ("large",), "TooManyEntries", "r2")
    await until_said(api, shop, ("p1", "p2"), "Questionable", "r2")
