"""CiliumIdentity objects, against a real API server: made, adopted, deleted; crashes."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from reconciler.core.identity import Entry
from reconciler.core.identity.objects import (
    BIRTH,
    DISOWNED,
    CiliumIdentity,
    create_body,
    delete_body,
    is_nobody,
    patch_body,
)
from reconciler.errors import JournalConflict
from reconciler.server.kubernetes.client import ApiError
from reconciler.server.kubernetes.identities import MERGE_PATCH
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.identities import IDENTITIES, identities, identity, journal
from tests.kubernetes.identity_rig import FAST_PACE, Servers, labels, next_second
from tests.kubernetes.reading import wait_until


@pytest.fixture
async def servers(cluster: Cluster, api: Api) -> AsyncIterator[Servers]:
    async with Servers.of(cluster, api.name("default")) as made:
        yield made


# Made and deleted


async def test_relabel_is_one_write_then_its_objects_then_one_more_write(servers: Servers) -> None:
    client = servers.client
    server = await servers.leading(msgspec.structs.replace(FAST_PACE, concurrency=8))
    await server.settled()
    client.requests.clear()
    client.most = 0
    before = await journal(client, servers.name)
    wanted = {300 + n: labels(f"app-{n}") for n in range(250)}
    revision = await server.append(*wanted.items())
    held = await journal(client, servers.name)
    assert before is not None
    assert held is not None
    assert held["writer"]["sequence"] == before["writer"]["sequence"] + 1
    await server.settled()
    writes = {
        what: count
        for what, count in client.requests.items()
        if what[0] not in ("get", "list", "watch")
    }
    assert writes == {("create", "ciliumidentities"): 250}
    assert client.most <= 8 + 2, "so many at once, besides the watch and the question about it"
    found = await identities(client)
    assert found.keys() == wanted.keys()
    assert found[307]["metadata"]["labels"] == {"io.kubernetes.pod.namespace": "shop"}
    assert found[307]["metadata"]["annotations"] == {BIRTH: str(revision)}
    assert found[307]["security-labels"] == {
        "k8s:app": "app-7",
        "k8s:io.kubernetes.pod.namespace": "shop",
    }
    after = await journal(client, servers.name)
    assert after is not None
    assert after["writer"]["sequence"] <= held["writer"]["sequence"] + 3
    assert (after["pending"], after["counts"]["inUse"]) == ([], 250)
    assert not server.reports


async def test_object_is_deleted_when_its_number_is_free_and_not_before(servers: Servers) -> None:
    server = await servers.leading()
    await server.append((300, labels("web")), (301, labels("db")))
    await server.settled()
    before = await identities(servers.client)
    await server.append(retire=(300, 301))
    await server.settled()
    assert await identities(servers.client) == before
    await server.append(revive=(301,))
    await server.append(free=(300,))
    await server.settled()
    assert await identities(servers.client) == {301: before[301]}
    assert not server.reports


async def test_number_that_comes_back_has_a_new_object(servers: Servers) -> None:
    server = await servers.leading()
    await server.append((300, labels("web")))
    await server.settled()
    before = await identities(servers.client)
    await server.append(retire=(300,))
    revision = await server.append((300, labels("db")), free=(300,))
    await server.settled()
    after = (await identities(servers.client))[300]
    assert after["metadata"]["uid"] != before[300]["metadata"]["uid"]
    assert after["metadata"]["annotations"] == {BIRTH: str(revision)}
    assert after["security-labels"]["k8s:app"] == "db"
    assert not server.reports


# Adopted


async def test_two_clusters_worth_of_duplicates_become_one_number_a_label_set(
    servers: Servers, api: Api
) -> None:
    """Objects as two sets of agents left them: each label set up to three times."""
    random_order = random.Random(7)
    numbers = random_order.sample(range(256, 60000), 90)
    for number, app in zip(numbers[:40], range(40), strict=True):
        await identity(api, number, f"app-{app}")
    await next_second()
    for number, app in zip(numbers[40:], [*range(20, 50), *range(20)], strict=True):
        await identity(api, number, f"app-{app}")
    before = await identities(servers.client)
    oldest: dict[str, int] = {}
    for number, each in sorted(
        before.items(), key=lambda item: (item[1]["metadata"]["creationTimestamp"], item[0])
    ):
        oldest.setdefault(each["security-labels"]["k8s:app"], number)
    assert set(oldest.values()) == {*numbers[:40], *numbers[60:70]}

    server = await servers.leading()
    active = {e.label_set: e.number for e in server.state.entries if e.phase == "active"}
    assert active == {labels(app): number for app, number in oldest.items()}
    surplus = {e.number for e in server.state.entries if is_nobody(e.label_set)}
    assert surplus == before.keys() - set(oldest.values())
    assert {e.phase for e in server.state.entries if e.number in surplus} == {"retiring"}
    assert len(server.journal.problems) == len(surplus)

    await server.settled()
    marked = await identities(servers.client)
    assert marked.keys() == before.keys(), "who still uses a duplicate keeps it for now"
    for number, each in marked.items():
        assert each["metadata"]["uid"] == before[number]["metadata"]["uid"]
        assert each["security-labels"] == before[number]["security-labels"]
        assert each["metadata"]["annotations"][BIRTH] == (DISOWNED if number in surplus else "1")
    assert server.objects.done == {"mark": len(active), "disown": len(surplus)}
    held = await journal(servers.client, servers.name)
    assert held is not None
    assert (held["adoptions"], held["pending"], held["counts"]["inUse"]) == ([], [], 90)

    await server.append(free=tuple(sorted(surplus)))
    await server.settled()
    assert (await identities(servers.client)).keys() == set(oldest.values())
    await server.die()
    again = servers.new()
    assert {(e.label_set, e.number) for e in (await again.lead()).entries} == set(active.items())
    assert again.state.revision == server.state.revision, "nothing is left to adopt"


async def test_server_that_dies_while_it_marks_leaves_the_rest_to_the_next(
    servers: Servers, api: Api
) -> None:
    for number in range(300, 340):
        await identity(api, number, f"app-{number}")
    slow = await servers.leading(pace=msgspec.structs.replace(FAST_PACE, rate=1.0, burst=7))
    await wait_until(lambda: slow.objects.done["mark"] >= 5)
    await slow.die()
    found = await identities(servers.client)
    marked = [n for n, each in found.items() if BIRTH in each["metadata"].get("annotations", {})]
    assert 5 <= len(marked) < 40
    server = await servers.leading()
    assert server.state.entries == slow.state.entries
    await server.settled()
    found = await identities(servers.client)
    assert {each["metadata"]["annotations"][BIRTH] for each in found.values()} == {"1"}
    assert not server.reports


# Crashes


@pytest.mark.parametrize("made", [0, 9, 30], ids=["before any", "in between", "after all"])
async def test_crash_between_the_journal_and_the_objects(servers: Servers, made: int) -> None:
    server = servers.new(
        pace=msgspec.structs.replace(FAST_PACE, rate=0.01, burst=made, tidy_seconds=1000)
    )
    await server.lead()
    await server.append(*((300 + n, labels(f"app-{n}")) for n in range(30)))
    if made:
        await server.start()
        await wait_until(lambda: server.objects.done["create"] == made)
    await server.die()
    before = await identities(servers.client)
    assert len(before) == made
    entries = tuple(Entry(300 + n, 1, labels(f"app-{n}"), "active") for n in range(30))
    successor = await servers.leading()
    assert successor.state.entries == entries
    await successor.settled()
    after = await identities(servers.client)
    assert after.keys() == set(range(300, 330))
    assert {number: after[number] for number in before} == before
    held = await journal(servers.client, servers.name)
    assert held is not None
    assert held["pending"] == []
    third = servers.new()
    assert (await third.lead()).entries == entries, "from the objects alone"


async def test_deposed_server_ends_and_its_late_writes_do_nothing(servers: Servers) -> None:
    old = await servers.leading()
    await old.append((300, labels("web")), (301, labels("db")))
    await old.settled()
    stale = {
        number: msgspec.json.decode(json.dumps(each), type=CiliumIdentity)
        for number, each in (await identities(servers.client)).items()
    }
    new = await servers.leading()
    path = f"{IDENTITIES}/300"
    await servers.client.request(
        "PATCH",
        path,
        body=b'{"metadata":{"annotations":{"note":"it is another version now"}}}',
        content_type=MERGE_PATCH,
    )
    before = await identities(servers.client)
    entry = Entry(300, 9, labels("other"), "active")
    for method, where, body, kind in (
        ("DELETE", path, delete_body(stale[300]), "application/json"),
        ("PATCH", path, patch_body(entry, stale[300]), MERGE_PATCH),
        ("POST", IDENTITIES, create_body(entry), "application/json"),
        ("PATCH", f"{IDENTITIES}/301", patch_body(entry, stale[300]), MERGE_PATCH),
        ("DELETE", f"{IDENTITIES}/301", delete_body(stale[300]), "application/json"),
    ):
        with pytest.raises(ApiError) as refused:
            await servers.client.request(method, where, body=body, content_type=kind)
        assert refused.value.status in (409, 422)
    assert await identities(servers.client) == before
    with pytest.raises(JournalConflict):
        await old.append((400, labels("dns")))
    await new.append((400, labels("dns")))
    await new.settled()
    assert (await identities(servers.client)).keys() == {300, 301, 400}


async def test_deposed_server_that_goes_on_watching_touches_nothing_of_the_new_one(
    servers: Servers,
) -> None:
    """What is not in its journal, or other than there, is not somebody's meddling."""
    old = await servers.leading(pace=msgspec.structs.replace(FAST_PACE, tidy_seconds=1000))
    await old.append((300, labels("web")), (301, labels("db")))
    await wait_until(lambda: old.objects.done["create"] == 2)
    new = await servers.leading()
    await new.append(retire=(300,))
    await new.append((300, labels("dns")), (400, labels("job")), free=(300,))
    await new.settled()
    after = await identities(servers.client)
    assert {n: each["security-labels"]["k8s:app"] for n, each in after.items()} == {
        300: "dns",
        301: "db",
        400: "job",
    }
    watching, keeping = old.tasks
    with pytest.raises(JournalConflict, match="another server has taken over"):
        await keeping
    assert await identities(servers.client) == after
    assert not any(new.reports)
    assert old.objects.done == {"create": 2}
    old.tasks = [watching]


async def test_deposed_server_that_only_tidies_notices_it(servers: Servers) -> None:
    old = servers.new()
    await old.lead()
    await old.append((300, labels("web")))
    await servers.new().lead()
    await old.start()
    with pytest.raises(JournalConflict, match="another server has taken over"):
        await old.settled()
    old.tasks.pop()


async def test_api_server_that_goes_away_meanwhile(servers: Servers, cluster: Cluster) -> None:
    server = await servers.leading(pace=msgspec.structs.replace(FAST_PACE, rate=40, burst=10))
    await server.append(*((300 + n, labels(f"app-{n}")) for n in range(60)))
    await wait_until(lambda: server.objects.done["create"] >= 5)
    cluster.kill_apiserver()
    await wait_until(lambda: server.objects.failed > 0)
    await asyncio.to_thread(cluster.start_apiserver)
    await server.settled()
    assert (await identities(servers.client)).keys() == set(range(300, 360))
    held = await journal(servers.client, servers.name)
    assert held is not None
    assert held["pending"] == []


# For people


def kubectl() -> str:
    """The system's, or that of the test dependencies."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    assert found, "kubectl: not there; install the package's `dev` dependencies"
    return found


async def test_kubectl_reads_identities_and_the_journal(servers: Servers, cluster: Cluster) -> None:
    server = await servers.leading()
    await server.append((300, labels("web")), (4711, labels("db")))
    await server.settled()

    async def get(*arguments: str) -> list[list[str]]:
        command = [kubectl(), "--kubeconfig", cluster.kubeconfig(), "get", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    rows = await get("ciliumid")
    assert rows[0] == ["NAME", "NAMESPACE", "AGE"]
    assert [row[:2] for row in rows[1:]] == [["300", "shop"], ["4711", "shop"]]
    rows = await get("ciliumid", "-l", "io.kubernetes.pod.namespace=shop", "-o", "name")
    assert len(rows) == 2
    rows = await get("ciliumid", "4711", "-o", r"jsonpath={.security-labels.k8s:app}")
    assert rows == [["db"]]
    rows = await get("allocationjournals", servers.name)
    assert rows[0] == [
        "NAME",
        "EPOCH",
        "LEADER",
        "REVISION",
        "IN",
        "USE",
        "RETIRING",
        "PENDING",
        "AGE",
    ]
    assert rows[1][:7] == [servers.name, "1", server.journal.holder, "1", "2", "0", "0"]


def test_pace_is_kept() -> None:
    from reconciler.server.kubernetes.identities import _Bucket

    now, slept = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    bucket = _Bucket(10.0, 5, lambda: now, sleep)

    async def take(count: int) -> float:
        for _ in range(count):
            await bucket.take()
        return now

    assert asyncio.run(take(5)) == 0.0
    assert asyncio.run(take(20)) == pytest.approx(2.0)
    now += 100.0
    assert asyncio.run(take(5)) == pytest.approx(102.0), "a rest gives the burst back, and no more"
    assert asyncio.run(take(1)) == pytest.approx(102.1)
