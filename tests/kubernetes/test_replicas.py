"""Two replicas of the server and two agents as processes, against a real API server."""

from __future__ import annotations

import asyncio
import signal

import yaml

from reconciler.formal import suite
from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from reconciler.testing.replay.evidence import judge
from reconciler.tracefile import read
from tests.golden_traces import SPECS
from tests.kubernetes.api import Api
from tests.kubernetes.deployed import RBAC_FILE, collection
from tests.kubernetes.identities import identities, journal
from tests.kubernetes.plane import WAIT, Plane


async def test_a_leader_that_is_killed_has_a_successor_and_nothing_is_renumbered(
    plane: Plane, client: ApiClient, api: Api
) -> None:
    nodes = [await api.node(f"n{at}", f"192.0.2.{at}", f"10.{at}.0.0/16") for at in (1, 2)]
    shop = await api.namespace("shop", {"team": "one"})
    for at in range(8):
        await api.pod(
            shop, f"p{at}", node=nodes[at % 2], labels={"app": f"a{at % 4}"},
            addresses=[f"10.{at % 2 + 1}.0.{at + 1}"],
        )  # fmt: skip
    plane.server("r1", "--record-trace", f"{plane.directory}/r1.jsonl")
    await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
    plane.server("r2", "--record-trace", f"{plane.directory}/r2.jsonl")
    for node in nodes:
        plane.agent(node, "r1", "r2")
    await plane.until(lambda: all(map(plane.committed, nodes)))
    before = await identities(client)
    await plane.until(lambda: len(plane.identities("r2", shop)) == 4)

    rows = await plane.asked("r1", "/v1/nodes")
    moving = [row["name"] for row in rows if row["state"] == "in-sync"]
    plane.kill("r1")
    # They say what they hold to the other replica, and are sent the commit of it and no more.
    await plane.until(lambda: all(plane.state_of(node, "r2") == "in-sync" for node in nodes))
    sent = {row["name"]: row["resources"] for row in await plane.asked("r2", "/v1/nodes")}
    assert [sent[node] for node in moving] == [1] * len(moving)
    # The relabel meets a cluster without a leader; the successor finishes it.
    await api.patch(f"/api/v1/namespaces/{shop}", {"metadata": {"labels": {"team": "two"}}})
    await plane.until(
        lambda: (
            {
                row["number"]
                for row in plane.ask("r2", "/v1/identities")
                if row["pods"] and "team=two" in row["label_set"]
            }.__len__()
            == 4
        )
    )
    await plane.until(lambda: all(plane.state_of(node, "r2") == "in-sync" for node in nodes))
    rows = await plane.asked("r2", "/v1/identities")
    numbers = [row["number"] for row in rows]
    assert len(numbers) == len(set(numbers))
    label_sets = [row["label_set"] for row in rows]
    assert len(label_sets) == len(set(label_sets)), "one label set has two numbers"
    for row in rows:
        if "team=one" in row["label_set"]:
            assert row["number"] in before
    spec = await journal(client, plane.name)
    assert spec is not None

    # What both recorded, of their leading and of their following, is what the specs allow.
    await asyncio.to_thread(plane.stop, "r2")
    lives = {
        name: life for name in ("r1", "r2") for life in read(plane.directory / f"{name}.jsonl")
    }
    judged = await asyncio.to_thread(judge, suite.load(SPECS), lives)
    refused = [str(each.verdict) for each in judged if not each.verdict.passed]
    assert not refused, "\n".join(refused)
    leaderships = {(each.life, each.part) for each in judged if each.spec == "Allocation"}
    assert {life for life, _ in leaderships} == {"r1", "r2"}
    assert len(leaderships) == 2
    assert ("r2", f"epoch {spec['epoch']}") in leaderships
    streams = {each.life for each in judged if each.spec == "XdsStream"}
    assert {"r2"} <= streams <= {"r1", "r2"}, "agents begin with any of the two"


async def test_a_number_is_kept_while_a_node_of_another_replica_uses_it(
    plane: Plane, client: ApiClient, api: Api
) -> None:
    nodes = [await api.node(f"n{at}", f"192.0.2.{at}", f"10.{at}.0.0/16") for at in (1, 2)]
    shop = await api.namespace("shop", {"team": "one"})
    for at, node in enumerate(nodes, 1):
        address = f"10.{at}.0.1"
        await api.pod(shop, f"p{at}", node=node, labels={"app": f"a{at}"}, addresses=[address])
    grace = ("--absent-grace", "4")
    plane.server("r1", *grace)
    await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
    plane.server("r2", *grace)
    plane.agent(nodes[0], "r1")
    plane.agent(nodes[1], "r2")
    await plane.until(lambda: all(map(plane.committed, nodes)))
    plane.running[nodes[1]].signal(signal.SIGSTOP)  # connected, and enforces what it did
    await api.delete_pod(shop, "p1")

    def retiring() -> list[int]:
        rows = plane.identities("r1", shop)
        return [row["number"] for row in rows if row["phase"] == "retiring"]

    def gone() -> bool:
        return [plane.state_of(node, "r1") for node in nodes] == ["in-sync", "gone"]

    await plane.until(retiring)
    (number,) = await asyncio.to_thread(retiring)
    await plane.until(gone)  # the leader has never heard of it, and waits for it no more
    await api.pod(shop, "p3", node=nodes[0], labels={"app": "a3"}, addresses=["10.1.0.3"])
    await plane.until(lambda: len(plane.identities("r1", shop)) == 3)
    # It has written since, and did not take the number back.
    assert await asyncio.to_thread(retiring) == [number]
    plane.running[nodes[1]].signal(signal.SIGCONT)
    await plane.until(lambda: not retiring())


async def test_a_leader_that_slept_writes_nothing_when_it_wakes_up(
    plane: Plane, client: ApiClient, api: Api
) -> None:
    node = await api.node("n1", "192.0.2.1", "10.1.0.0/16")
    shop = await api.namespace("shop", {"team": "one"})
    await api.pod(shop, "p1", node=node, labels={"app": "a1"}, addresses=["10.1.0.1"])
    plane.server("r1")
    await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
    plane.server("r2")
    plane.agent(node, "r1", "r2")
    await plane.until(lambda: plane.committed(node))
    before = await journal(client, plane.name)
    assert before is not None

    plane.running["r1"].signal(signal.SIGSTOP)
    # It has not seen this when it sleeps, and means to give a number when it wakes up.
    await api.patch(f"/api/v1/namespaces/{shop}", {"metadata": {"labels": {"team": "two"}}})

    def relabelled(name: str) -> list[int]:
        rows = plane.identities(name, shop)
        return [row["number"] for row in rows if "team=two" in row["label_set"]]

    await plane.until(lambda: relabelled("r2"))
    spec = await journal(client, plane.name)
    assert spec is not None
    assert spec["epoch"] > before["epoch"]
    plane.running["r1"].signal(signal.SIGCONT)
    await plane.until(lambda: "stands down" in (plane.directory / "r1.log").read_text())
    await plane.until(lambda: relabelled("r1") == relabelled("r2"))
    after = await journal(client, plane.name)
    assert after is not None
    assert after["epoch"] == spec["epoch"]
    assert after["writer"]["holder"] == spec["writer"]["holder"]
    await plane.until(lambda: plane.state_of(node, "r1") == "in-sync")  # its stream outlived that


async def test_the_role_that_is_shipped_is_enough(
    cluster: Cluster, plane: Plane, client: ApiClient, api: Api
) -> None:
    objects = list(yaml.safe_load_all(RBAC_FILE.read_text()))
    for object in objects:
        await api.create(collection(object), object)
    account = "system:serviceaccount:reconciler:reconciler-server"
    groups = ("system:serviceaccounts", "system:authenticated")
    plane.kubeconfig = cluster.kubeconfig(account, groups)
    node = await api.node("n1", "192.0.2.1", "10.1.0.0/16")
    shop = await api.namespace("shop", {"team": "one"})
    await api.pod(shop, "p1", node=node, labels={"app": "a1"}, addresses=["10.1.0.1"])
    plane.server("r1", "--absent-grace", "1", namespace="reconciler")
    plane.agent(node, "r1")
    await plane.until(lambda: plane.committed(node))
    (row,) = await asyncio.to_thread(plane.identities, "r1", shop)

    async def objects_of() -> bool:
        return row["number"] in await identities(client)

    async with asyncio.timeout(WAIT):
        while not await objects_of():
            await asyncio.sleep(0.05)
    # Given, taken back, and its object with it; the Lease is given back at the end.
    await api.delete_pod(shop, "p1")
    async with asyncio.timeout(WAIT):
        while await objects_of():
            await asyncio.sleep(0.05)
    await asyncio.to_thread(plane.stop, "r1")
    log = (plane.directory / "r1.log").read_text()
    assert "forbidden" not in log.lower(), log
    for object in reversed(objects):
        await api.delete(f"{collection(object)}/{object['metadata']['name']}")
