"""The source of objects against a real API server: what there is, and every way it changes."""

from __future__ import annotations

import msgspec

from reconciler.core.labels import LabelFilter
from reconciler.core.objects import KubeObject, ObjectKey, Upsert, parse_address
from reconciler.core.store import Cluster as Store
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.reflector import Timing
from reconciler.server.kubernetes.source import API_SERVER, NETWORK_POLICIES, NODES, PODS
from reconciler.testing.kubernetes.cluster import ADVERTISED
from tests.kubernetes.api import Api
from tests.kubernetes.reading import FAST, reading

OPEN = {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}


async def test_the_first_batch_is_everything(api: Api, client: ApiClient) -> None:
    shop = await api.namespace("shop", {"team": "red"})
    node = await api.node("n1", "192.0.2.10", "10.1.0.0/24")
    await api.pod(shop, "web", node=node, labels={"app": "web"}, addresses=["10.1.0.5"])
    await api.policy(shop, "open", OPEN)
    async with reading(client) as read:
        assert read.batches == 1
        assert read.of("Namespace", f"{shop}*")[shop].metadata.labels["team"] == "red"
        assert read.of("Node", f"{node}*")[node].spec.pod_cidrs == ("10.1.0.0/24",)
        web = read.of("Pod", shop)["web"]
        assert (web.addresses, web.spec.node_name, web.account) == (("10.1.0.5",), node, "default")
        assert read.of("NetworkPolicy", shop)["open"].spec.effective_types == ("Ingress",)
        assert set(read.positions) == {
            "namespaces",
            "nodes",
            "networkpolicies",
            "pods",
            "endpointslices",
        }
        assert all(position > 0 for position in read.positions.values())
        assert "gone" not in {what for told in read.history.values() for what in told}


async def test_every_change_of_every_kind_is_told(api: Api, client: ApiClient) -> None:
    async with reading(client) as read:
        shop = await api.namespace("shop", {"team": "red"})
        node = await api.node("n1", "192.0.2.10")
        await api.pod(shop, "web", node=node, addresses=["10.1.0.5"])
        made = await api.policy(shop, "open", OPEN)
        await read.until(
            lambda: (
                {"web"} == set(read.of("Pod", shop))
                and read.of("Pod", shop)["web"].addresses == ("10.1.0.5",)
                and {"open"} == set(read.of("NetworkPolicy", shop))
                and bool(read.of("Node", f"{node}*")[node].status.addresses)
            )
        )
        assert read.of("NetworkPolicy", shop)["open"].metadata.uid == made["metadata"]["uid"]

        await api.patch(f"/api/v1/namespaces/{shop}", {"metadata": {"labels": {"team": "blue"}}})
        pod = f"/api/v1/namespaces/{shop}/pods/web"
        await api.patch(pod, {"metadata": {"labels": {"app": "web"}}})
        policies = f"/apis/networking.k8s.io/v1/namespaces/{shop}/networkpolicies"
        await api.patch(f"{policies}/open", {"spec": {"ingress": None}})
        await read.until(
            lambda: (
                read.of("Namespace", f"{shop}*")[shop].metadata.labels["team"] == "blue"
                and read.of("Pod", shop)["web"].metadata.labels == {"app": "web"}
                and not read.of("NetworkPolicy", shop)["open"].spec.ingress
            )
        )

        await api.delete(pod)
        await api.delete(f"{policies}/open")
        await api.delete(f"/api/v1/nodes/{node}")
        await api.delete_namespace(shop)
        await read.until(
            lambda: (
                not read.of("Pod", shop)
                and not read.of("NetworkPolicy", shop)
                and not read.of("Node", f"{node}*")
                and not read.of("Namespace", f"{shop}*")
            )
        )


async def test_a_heartbeat_is_no_change_and_moves_the_position(api: Api, client: ApiClient) -> None:
    node = await api.node("n1", "192.0.2.10")
    async with reading(client, [NODES]) as read:
        condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
        path = f"/api/v1/nodes/{node}/status"
        beat = await api.patch(path, {"status": {"conditions": [condition]}})
        await read.caught_up("nodes", beat["metadata"]["resourceVersion"])
        assert read.history[ObjectKey("Node", "", node)] == ["put"]


async def test_more_objects_than_a_page(api: Api, client: ApiClient) -> None:
    shop = await api.namespace("shop")
    for number in range(20):
        await api.pod(shop, f"web-{number}")
    client.requests.clear()
    async with reading(client, [PODS], msgspec.structs.replace(FAST, page=7)) as read:
        assert set(read.of("Pod", shop)) == {f"web-{number}" for number in range(20)}
        assert read.batches == 1
    assert client.requests["list", "pods"] >= 3


async def test_bookmarks_move_the_position_of_a_kind_where_nothing_happens(
    api: Api, client: ApiClient
) -> None:
    """The API server sends one shortly before it ends a watch, so short watches show it soon."""
    shop = await api.namespace("shop")
    timing = Timing(watch=3.0, spread=0.0, first=0.05, limit=0.5)
    async with reading(client, [NETWORK_POLICIES], timing) as read:
        before = read.positions["networkpolicies"]
        version = (await api.pod(shop, "web"))["metadata"]["resourceVersion"]
        assert int(version) > before
        client.requests.clear()
        policy = (await api.policy(shop, "open", OPEN))["metadata"]["resourceVersion"]
        last = (await api.pod(shop, "web-2"))["metadata"]["resourceVersion"]
        assert int(last) > int(policy)
        await read.caught_up("networkpolicies", last)
        assert client.requests["list", "networkpolicies"] == 0


async def test_a_namespace_is_deleted_with_its_pods(api: Api, client: ApiClient) -> None:
    shop = await api.namespace("shop")
    for number in range(12):
        await api.pod(shop, f"web-{number}", addresses=[f"10.7.0.{number + 1}"])
    await api.policy(shop, "open", OPEN)
    async with reading(client) as read:
        store = _store(read.objects)
        assert len([name for name in store.endpoints if name.startswith(shop)]) == 12
        await api.delete_namespace(shop)
        while read.of("Namespace", f"{shop}*"):
            store.apply((await read.next()).changes)
        await read.until(lambda: not read.of("Pod", shop) and not read.of("NetworkPolicy", shop))
        store = _store(read.objects)
        assert not [name for name in store.endpoints if name.startswith(shop)]
        assert not [name for name in store.policies if name.startswith(shop)]
        keys = [key for key in read.history if shop in (key.namespace, key.name)]
        assert len(keys) == 14
        assert all(read.history[key].count("gone") == 1 for key in keys)


async def test_an_address_goes_to_the_pod_that_has_it_now(api: Api, client: ApiClient) -> None:
    """The first pod ends, and another one gets its address while it is still listed."""
    shop = await api.namespace("shop")
    address = "10.8.0.9"
    await api.pod(shop, "old", labels={"app": "old"}, addresses=[address])
    async with reading(client) as read:
        assert _owner(_store(read.objects), address) == f"{shop}/old"
        path = f"/api/v1/namespaces/{shop}/pods/old/status"
        await api.patch(path, {"status": {"phase": "Succeeded"}})
        await api.pod(shop, "new", labels={"app": "new"}, addresses=[address])
        await read.until(
            lambda: (
                read.of("Pod", shop).get("new") is not None
                and read.of("Pod", shop)["new"].addresses == (address,)
            )
        )
        assert read.of("Pod", shop)["old"].done
        assert _owner(_store(read.objects), address) == f"{shop}/new"
        await api.delete_pod(shop, "old")
        await read.until(lambda: set(read.of("Pod", shop)) == {"new"})
        assert _owner(_store(read.objects), address) == f"{shop}/new"


async def test_where_the_api_server_is(client: ApiClient) -> None:
    async with reading(client, [API_SERVER]) as read:
        found = read.of("EndpointSlice", "default")["kubernetes"]
        assert found.metadata.name == "kubernetes"
        assert (found.address_type, found.addresses) == ("IPv4", (ADVERTISED,))


def _store(objects: dict[ObjectKey, KubeObject]) -> Store:
    store = Store(LabelFilter.default())
    store.apply([Upsert(each) for each in objects.values()])
    return store


def _owner(store: Store, address: str) -> str:
    """namespace/pod of the endpoint that has the address."""
    packed = parse_address(address)
    (owner,) = [name for name, endpoint in store.endpoints.items() if endpoint.ipv4 == packed]
    return owner
