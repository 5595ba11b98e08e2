"""The source of objects while API server, etcd and network fail, and with objects that are wrong.

What must hold after each: nothing lost, nothing told that has not changed, in particular no object
told as gone that is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from reconciler.core.objects import ObjectKey, ObjectMeta
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.kinds import Kind
from reconciler.server.kubernetes.reflector import Timing
from reconciler.server.kubernetes.source import CORE, NAMESPACES, NODES, PODS
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.gate import Gate, through
from tests.kubernetes.reading import reading, wait_until
from tests.kubernetes.test_source import OPEN


@pytest.fixture
async def gate(cluster: Cluster) -> AsyncIterator[Gate]:
    made = Gate(cluster.port)
    yield made
    await made.stop()


@pytest.fixture
async def gated(cluster: Cluster, gate: Gate) -> AsyncIterator[ApiClient]:
    """A client that reaches the API server through the gate only."""
    config = through(cluster.kubeconfig(), await gate.start())
    connected = await ApiClient.connect(config)
    yield connected
    await connected.close()


async def settled(api: Api, namespace: str) -> str:
    """A pod made now; who has been told of it has been told of all before."""
    made = await api.pod(namespace, f"mark-{next(_marks)}")
    return str(made["metadata"]["resourceVersion"])


_marks = iter(range(1, 1000))


async def test_a_connection_that_is_cut_is_gone_on_with(
    api: Api, gated: ApiClient, gate: Gate
) -> None:
    shop = await api.namespace("shop")
    await api.pod(shop, "web")
    async with reading(gated, CORE) as read:
        await read.caught_up("pods", await settled(api, shop))  # the watch is open
        lists = gated.requests["list", "pods"]
        gate.hold()
        await gate.cut()
        await api.pod(shop, "while-cut")
        await api.delete_pod(shop, "web")
        gate.release()
        await read.caught_up("pods", await settled(api, shop))
        assert set(read.of("Pod", shop)) >= {"while-cut"}
        assert "web" not in read.of("Pod", shop)
        assert gated.requests["list", "pods"] == lists, "the watch goes on from its position"


async def test_the_api_server_is_killed_and_comes_back(
    api: Api, client: ApiClient, cluster: Cluster
) -> None:
    shop = await api.namespace("shop")
    await api.pod(shop, "web", addresses=["10.9.0.1"])
    await api.policy(shop, "open", OPEN)
    async with reading(client, CORE) as read:
        before = set(read.objects)
        cluster.kill_apiserver()
        await wait_until(lambda: all(watch.failure for watch in read.source.status()))
        await asyncio.to_thread(cluster.start_apiserver)
        await api.pod(shop, "after", addresses=["10.9.0.2"])
        await read.until(lambda: "after" in read.of("Pod", shop))
        for resource in ("namespaces", "nodes", "networkpolicies"):
            assert read.positions[resource] > 0
        assert before <= set(read.objects)
        assert not [key for key in before if "gone" in read.history[key]]
        assert read.history[ObjectKey("Pod", shop, "web")] == ["put"], "not told again either"


async def test_compaction_under_a_paused_watch_is_one_difference(
    api: Api, gated: ApiClient, gate: Gate, cluster: Cluster
) -> None:
    """While the watch hangs, history goes: etcd is compacted and the API server starts anew, so
    neither has the events. What has happened meanwhile comes as one batch."""
    shop = await api.namespace("shop")
    for name in ("stays", "changes", "goes"):
        await api.pod(shop, name)
    async with reading(gated, [NAMESPACES, PODS]) as read:
        await read.caught_up("pods", await settled(api, shop))
        lists, told = gated.requests["list", "pods"], len(read.history)
        gate.hold()
        await api.patch(
            f"/api/v1/namespaces/{shop}/pods/changes", {"metadata": {"labels": {"a": "b"}}}
        )
        await api.delete_pod(shop, "goes")
        await api.pod(shop, "comes")
        cluster.kill_apiserver()
        cluster.compact()
        await asyncio.to_thread(cluster.start_apiserver)
        await gate.cut()
        gate.release()
        changes: list[str] = []
        while not changes:
            batch = await read.next()
            changes = sorted(str(change.key) for change in batch.changes)
        assert changes == [f"Pod {shop}/{name}" for name in ("changes", "comes", "goes")]
        assert gated.requests["list", "pods"] == lists + 1
        assert len(read.history) == told + 1
        assert read.history[ObjectKey("Pod", shop, "stays")] == ["put"]
        assert read.history[ObjectKey("Pod", shop, "changes")] == ["put", "put"]


async def test_a_watch_that_dies_silently_is_noticed(
    api: Api, gated: ApiClient, gate: Gate
) -> None:
    """Connections stay open and nothing comes; then the network is back for new ones only."""
    shop = await api.namespace("shop")
    timing = Timing(watch=1.0, spread=0.0, grace=0.5, first=0.05, limit=0.2, request=2.0)
    async with reading(gated, [PODS], timing) as read:
        await read.caught_up("pods", await settled(api, shop))  # the watch is open
        gate.hold()
        await api.pod(shop, "web")
        await wait_until(lambda: bool(read.source.status()[0].failure))
        assert "no answer in time to WATCH /api/v1/pods" in read.source.status()[0].failure
        await gate.cut()
        gate.release()
        await read.until(lambda: "web" in read.of("Pod", shop))
        assert not read.source.status()[0].failure


async def test_a_source_starts_before_its_api_server(
    api: Api, client: ApiClient, cluster: Cluster
) -> None:
    shop = await api.namespace("shop")
    await api.pod(shop, "web")
    cluster.kill_apiserver()
    try:
        async with asyncio.TaskGroup() as tasks:
            entering = reading(client, [PODS])
            first = tasks.create_task(entering.__aenter__())
            await wait_until(lambda: bool(client.requests["list", "pods"]))
            await asyncio.to_thread(cluster.start_apiserver)
    except BaseException:
        cluster.start_apiserver()
        raise
    read = first.result()
    assert "web" in read.of("Pod", shop)
    await entering.__aexit__(None, None, None)


# ------------------------------------------------------------------------------- wrong objects


class Widget(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    size: int


GROUP = "test.reconciler.io"


async def widgets(api: Api) -> Kind[Widget]:
    """A kind of this test's own, of which the API server checks nothing."""
    plural = f"{api.prefix}widgets"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    definition = {
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {"kind": "Widget", "plural": plural},
            "scope": "Cluster",
            "versions": [version],
        },
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await api.create(path, definition)
    return Kind("Widget", plural, f"/apis/{GROUP}/v1/{plural}", Widget)


def widget(name: str, size: Any) -> dict[str, Any]:
    meta = {"name": name}
    return {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": meta, "size": size}


async def test_malformed_objects_hide_no_others(api: Api, client: ApiClient) -> None:
    """The kind may also not be served yet when its watch begins."""
    kind = await widgets(api)
    async with reading(client, [kind]) as read:
        held = read.others.setdefault(kind.resource, {})

        def sizes() -> dict[str, int]:
            return {key.name: each.size for key, each in held.items()}

        for name, size in (("a", 1), ("b", "big"), ("c", 3)):
            await api.create(kind.path, widget(name, size))
        await read.until(lambda: len(read.problems) == 1 and len(held) == 2)
        assert sizes() == {"a": 1, "c": 3}
        expected = (kind.resource, "Widget b", "size", "expected a whole number, got text")
        (problem,) = read.problems
        assert (problem.source, problem.object, problem.path, problem.reason) == expected

        await api.patch(f"{kind.path}/a", {"size": [1]})
        await api.patch(f"{kind.path}/b", {"size": 2})
        await read.until(
            lambda: [p.object for p in read.problems] == ["Widget a"] and "b" in sizes()
        )
        assert sizes() == {"a": 1, "b": 2, "c": 3}, "the last good version of a stays"

        # Who reads only now lists a page with the malformed object in it
        async with reading(client, [kind]) as late:
            assert {key.name for key in late.others[kind.resource]} == {"b", "c"}
            assert [problem.object for problem in late.problems] == ["Widget a"]

        await api.delete(f"{kind.path}/a")
        await read.until(lambda: not read.problems)
        assert sizes() == {"b": 2, "c": 3}


async def test_a_node_whose_address_is_none(api: Api, client: ApiClient) -> None:
    """The API server doesn't look at addresses of nodes."""
    good = await api.node("good", "192.0.2.20")
    async with reading(client, [NODES]) as read:
        status = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.x"}]}}
        await api.patch(f"/api/v1/nodes/{good}/status", status)
        bad = await api.node("bad", "nonsense")
        await read.until(lambda: len(read.problems) == 2)
        assert {(p.source, p.object, p.path) for p in read.problems} == {
            ("nodes", f"Node {bad}", "status.addresses[0].address"),
            ("nodes", f"Node {good}", "status.addresses[0].address"),
        }
        addresses = {
            name: [entry.address for entry in node.status.addresses]
            for name, node in read.of("Node", f"{api.prefix}-*").items()
        }
        # The other one was good before it had an address
        assert addresses == {good: ["192.0.2.20"], bad: []}
        for name in (good, bad):
            await api.delete(f"/api/v1/nodes/{name}")
        await read.until(lambda: not read.of("Node", f"{api.prefix}-*") and not read.problems)
