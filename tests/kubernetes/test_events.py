"""Events on a real API server: taken, found as `kubectl describe` looks for them, few."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from reconciler.server.kubernetes import events
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.events import Recorder, Subject
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.reading import wait_until
from tests.kubernetes.roles import granted

RULES = [
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["pods", "nodes", "namespaces"], "verbs": ["get"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get"]},
]
OPEN = {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}


@pytest.fixture
async def recorder(cluster: Cluster, api: Api) -> AsyncIterator[Recorder]:
    """Runs as a user who may do what the module says, and no more."""
    async with granted(cluster, api, "test-event-recorder", RULES) as kubeconfig:
        client = await ApiClient.connect(kubeconfig)
        yield Recorder(client, instance="server-0", log=structlog.get_logger())
        await client.close()


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[Callable[..., Any]]:
    """Gives what waits until so many Events were created, or results else are as said."""
    task = asyncio.create_task(recorder.run())

    async def until(**results: int) -> None:
        def there() -> bool:
            return all(recorder.results[name] >= count for name, count in results.items())

        await wait_until(there)

    try:
        yield until
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def described(api: Api, object: dict[str, Any]) -> list[dict[str, Any]]:
    """The Events that `kubectl describe` prints below the object."""
    meta = object["metadata"]
    selector = f"involvedObject.uid={meta['uid']},involvedObject.name={meta['name']}"
    answer = await api.client.request("GET", "/api/v1/events", params={"fieldSelector": selector})
    items: list[dict[str, Any]] = json.loads(answer.body)["items"]
    return items


async def test_each_kind_of_object(api: Api, recorder: Recorder) -> None:
    shop = await api.namespace("shop")
    node = await api.node("n1")
    pod = await api.pod(shop, "web", node=node)
    policy = await api.policy(shop, "open", OPEN)
    objects = {
        Subject("Namespace", "", shop): await api.get(f"/api/v1/namespaces/{shop}"),
        Subject("Node", "", node): await api.get(f"/api/v1/nodes/{node}"),
        Subject("Pod", shop, "web"): pod,
        Subject("NetworkPolicy", shop, "open"): policy,
    }
    async with running(recorder) as until:
        for subject in objects:
            recorder.record(subject, "Refused", "Read", f"of {subject.kind}")
        await until(created=4)
    for subject, object in objects.items():
        (event,) = await described(api, object)
        assert (event["reason"], event["message"]) == ("Refused", f"of {subject.kind}")
        assert (event["type"], event["action"]) == ("Warning", "Read")
        assert event["reportingComponent"] == events.CONTROLLER
        assert event["metadata"]["namespace"] == (subject.namespace or "default")
        assert event["involvedObject"]["kind"] == subject.kind
    assert dict(recorder.results) == {"created": 4}


async def test_a_series(api: Api, recorder: Recorder) -> None:
    shop = await api.namespace("shop")
    policy = await api.policy(shop, "open", OPEN)
    subject = Subject("NetworkPolicy", shop, "open")
    async with running(recorder) as until:
        recorder.record(subject, "Refused", "Read", "wrong")
        await until(created=1)
        for _ in range(1000):
            recorder.record(subject, "Refused", "Read", "wrong")
        await until(updated=1)
    (event,) = await described(api, policy)
    assert event["series"]["count"] == 1001
    assert dict(recorder.results) == {"created": 1, "updated": 1}


async def test_what_the_api_server_refuses_holds_nothing_up(api: Api, recorder: Recorder) -> None:
    """An object that is gone, a namespace that is being deleted, and then a good one."""
    shop, ending = await api.namespace("shop"), await api.namespace("ending")
    await api.pod(shop, "web")
    await api.pod(ending, "web")
    await api.delete(f"/api/v1/namespaces/{ending}")
    async with running(recorder) as until:
        recorder.record(Subject("Pod", shop, "gone"), "Refused", "Read", "x")
        recorder.record(Subject("Pod", ending, "web"), "Refused", "Read", "x")
        recorder.record(Subject("Pod", shop, "web"), "Refused", "Read", "ü" * 3000)
        await until(created=1, refused=2)


async def test_an_api_server_that_is_away_gets_them_later(
    api: Api, recorder: Recorder, cluster: Cluster
) -> None:
    shop = await api.namespace("shop")
    pod = await api.pod(shop, "web")
    async with running(recorder) as until:
        cluster.kill_apiserver()
        try:
            recorder.record(Subject("Pod", shop, "web"), "Refused", "Read", "wrong")
            await wait_until(lambda: recorder._paused_until > 0)
        finally:
            cluster.start_apiserver()
        await until(created=1)
    assert len(await described(api, pod)) == 1
