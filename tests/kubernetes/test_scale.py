"""Many pods at a real API server with KWOK: made, relabelled, deleted; and more label sets at once
than the journal's object holds.

After each phase: one number a label set and one label set a number, the journal and the objects say
the same, every pod has the identity of its labels, the agents enforce just that, and the servers
have written what the change is worth and nothing else. HYPOTHESIS_PROFILE=long: with 20,000 pods.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from reconciler.core.identity.allocator import MAX_BATCH_BYTES, WAVE_BYTES
from reconciler.core.identity.objects import (
    BIRTH,
    MAX_SPEC_BYTES,
    JournalSpec,
    decode,
    digest,
    label_set_key,
)
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.install import install
from reconciler.testing.kubernetes import Cluster
from reconciler.testing.kubernetes.kwok import Kwok
from reconciler.testing.kubernetes.observed import Audit, by_kind
from reconciler.testing.kubernetes.population import Population, Size
from reconciler.testing.traffic import Way
from tests.conftest import PROFILE
from tests.kubernetes.identities import identities, journal
from tests.kubernetes.plane import Plane
from tests.kubernetes.verdicts import Verdicts

USER: Final = "reconciler"
RELEASE: Final = "k8s:io.cilium.k8s.namespace.labels.release"
REPORTS: Final = ("leases", "policyrealizations")
CALM: Final = ("--lease-seconds", "30", "--absent-grace", "1")
"""On a machine that is busy with all this nobody is to lose the Lease: writes are counted. Most
nodes have no agent, and numbers that are taken back wait for them."""

AGENTS: Final = 2
SECONDS: Final = 600.0 if PROFILE == "long" else 90.0
MANY: Final = Size(pods=5_000, nodes=50, namespaces=5, deployments=1_000)
"""Label sets as they are, more than one object holds. The same with few and large ones:"""

LARGE: Final = Size(pods=240, nodes=5, namespaces=1, deployments=240)
PADDING: Final = {f"padding-{at:02}": "x" * 63 for at in range(60)}

SIZE: Final = Size() if PROFILE == "long" else Size(pods=500, nodes=5, namespaces=2, deployments=25)


class Scale:
    """A cluster of its own, since all that the servers write is counted."""

    def __init__(self, plane: Plane, population: Population, audit: Audit, client: ApiClient):
        self.plane, self.population, self.client = plane, population, client
        self.replicas = ("r1", "r2")
        self.nodes = population.nodes[:AGENTS]
        self.written: Counter[tuple[str, str]] = Counter()
        self.meanings: dict[tuple[int, int], str] = {}
        self._audit = audit

    def rows(self, replica: str = "r1") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.plane.ask(replica, "/v1/identities")
        return found

    def bound(self, release: str, count: int) -> bool:
        """Both replicas know of so many label sets with pods, and all are of this release."""
        for replica in self.replicas:
            rows = [row for row in self.rows(replica) if row["pods"]]
            new = [row for row in rows if f"{RELEASE}={release};" in row["label_set"]]
            if not len(rows) == len(new) == count:
                return False
        return self.in_sync()

    def in_sync(self) -> bool:
        return all(
            any(self.plane.state_of(node, replica) == "in-sync" for replica in self.replicas)
            for node in self.nodes
        )

    def writes(self) -> Counter[tuple[str, str]]:
        """Since the last call, without what is written as time goes by, whatever changes."""
        found = by_kind(self._audit.writes())
        return Counter({key: count for key, count in found.items() if key[0] not in REPORTS})

    async def quiet(self) -> None:
        """Until every entry of the journal is an object, and what has gone is no object."""

        async def once() -> bool:
            spec = await journal(self.client, self.plane.name)
            assert spec is not None
            return not spec["pending"] and spec["counts"]["inUse"] == len(
                await identities(self.client)
            )

        async with asyncio.timeout(SECONDS):
            while not await once():
                await asyncio.sleep(0.1)

    async def check(self) -> None:
        """R1, R2's births, R6, journal against objects, and every pod's identity."""
        rows = await asyncio.to_thread(self.rows)
        assert rows == await asyncio.to_thread(self.rows, "r2")
        numbers = {row["number"]: row for row in rows}
        assert len(numbers) == len({row["label_set"] for row in rows}) == len(rows)
        for row in rows:
            pair = row["number"], row["birth"]
            assert self.meanings.setdefault(pair, row["label_set"]) == row["label_set"]

        spec = await journal(self.client, self.plane.name)
        ledger = decode(msgspec.convert(spec, JournalSpec))
        objects = await identities(self.client)
        assert objects.keys() == ledger.digests.keys() >= numbers.keys()
        for number, each in objects.items():
            labels = label_set_key(each["security-labels"])
            birth = int(each["metadata"]["annotations"][BIRTH])
            assert ledger.digests[number] == digest(number, birth, labels)
            if number in numbers:
                assert (numbers[number]["label_set"], numbers[number]["birth"]) == (labels, birth)

        await self._check_pods(numbers)

    async def _check_pods(self, numbers: dict[int, dict[str, Any]]) -> None:
        """By the API server's own word, not by the plane's groups."""
        namespaces = {
            each["metadata"]["name"]: each["metadata"]["labels"]
            for each in await self._list("/api/v1/namespaces")
        }
        endpoints = {
            (row["namespace"], row["pod"]): row
            for row in await self.plane.asked("r1", "/v1/endpoints")
        }
        agents = {
            (row["namespace"], row["pod"]): row
            for node in self.nodes
            for row in await self.plane.asked(node, "/v1/endpoints")
        }
        pods = await self._list("/api/v1/pods")
        assert len(pods) == len(endpoints)
        here = 0
        for pod in pods:
            meta = pod["metadata"]
            row = endpoints[meta["namespace"], meta["name"]]
            assert row["ipv4"] == pod["status"]["podIP"]
            labels = numbers[row["number"]]["label_set"]
            release = namespaces[meta["namespace"]]["release"]
            for label in (f"k8s:app={meta['labels']['app']};", f"{RELEASE}={release};",
                          f"k8s:io.kubernetes.pod.namespace={meta['namespace']};"):  # fmt: skip
                assert label in labels
            if pod["spec"]["nodeName"] in self.nodes:
                here += 1
                own = agents[meta["namespace"], meta["name"]]
                assert (own["number"], own["state"]) == (row["number"], "enforcing")
        assert here == len(agents)

    def entries(self) -> dict[str, dict[str, int]]:
        """Node → map → entries in use."""
        return {node: self.plane.ask(node, "/v1/status")["usage"] for node in self.nodes}

    def emptied(self, before: dict[str, dict[str, int]]) -> bool:
        """Each node has fewer entries than it had in every map that a namespace fills."""
        return all(
            maps[name] < before[node][name]
            for node, maps in self.entries().items()
            for name in ("addresses", "policies", "groups", "endpoints")
        )

    async def no_object_of(self, namespace: str) -> None:
        """Neither in the replicas, nor at the API server, where they could be made again."""
        for replica in self.replicas:
            for kind in ("policies", "groups", "endpoints"):
                rows = await self.plane.asked(replica, f"/v1/{kind}")
                assert rows, "those of others stay"
                assert not [row for row in rows if row["namespace"] == namespace]
        for path in (
            "/api/v1/pods",
            "/apis/networking.k8s.io/v1/networkpolicies",
            "/apis/reconciler.io/v1alpha1/policyrealizations",
            "/apis/events.k8s.io/v1/events",
        ):
            found = json.loads((await self.client.request("GET", path)).body)["items"]
            assert not [each for each in found if each["metadata"]["namespace"] == namespace]

    async def _list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((await self.client.request("GET", path)).body)[
            "items"
        ]
        return [each for each in found if not _of_the_system(each)]


def _within(way: Way, namespace: str) -> bool:
    return any(end.startswith(f"{namespace}/") for end in (way.source, way.destination))


def _of_the_system(object: dict[str, Any]) -> bool:
    meta = object["metadata"]
    return not meta.get("namespace", meta["name"]).startswith("team-")


@pytest.fixture
async def scale(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scale]:
    """Of the size that the test is parametrized with."""
    audit = Audit(tmp_path, [USER])
    with Cluster(apiserver_flags=audit.flags, large=True) as cluster, Kwok(cluster):
        client = await ApiClient.connect(cluster.kubeconfig())
        await install(client)
        plane = Plane(tmp_path, cluster.kubeconfig(USER, ("system:masters",)), "scale")
        yield Scale(plane, Population(client, request.param), audit, client)
        plane.kill_all()
        await client.close()


@pytest.mark.parametrize("scale", [SIZE], indirect=True, ids=str)
async def test_pods_are_made_relabelled_and_deleted(scale: Scale) -> None:
    plane, population, size = scale.plane, scale.population, scale.population.size
    plane.server("r1", *CALM)
    await plane.until(lambda: plane.ask("r1", "/v1/status")["epoch"], SECONDS)
    plane.server("r2", *CALM)
    for at, node in enumerate(scale.nodes):
        plane.agent(node, *(scale.replicas if at % 2 else scale.replicas[::-1]))

    # They come while everything runs.
    await population.create()
    await population.running(SECONDS)
    await plane.until(lambda: scale.bound("r0", size.label_sets), SECONDS)
    await plane.until(lambda: plane.ask("r1", "/v1/status")["pods"] == size.total, SECONDS)
    await scale.quiet()
    await scale.check()
    writes = scale.writes()
    assert writes["ciliumidentities", "create"] == size.label_sets
    assert writes.keys() == {
        ("allocationjournals", "create"),
        ("allocationjournals", "update"),
        ("ciliumidentities", "create"),
    }

    given = {row["label_set"]: row["number"] for row in await asyncio.to_thread(scale.rows)}
    await population.relabel(1)
    await plane.until(lambda: scale.bound("r1", size.label_sets), SECONDS)
    # Those that nobody has any more are taken back, and their objects deleted.
    await plane.until(lambda: len(scale.rows()) == size.label_sets, SECONDS)
    await scale.quiet()
    await scale.check()
    writes = scale.writes()
    assert writes["ciliumidentities", "create"] == size.label_sets
    assert writes["ciliumidentities", "delete"] == size.label_sets
    # The five PATCHes may be read at once or one by one; then: retired, freed, tidied.
    assert 3 <= writes["allocationjournals", "update"] <= 4 * size.namespaces
    assert len(writes) == 3, writes
    new = {row["number"] for row in await asyncio.to_thread(scale.rows)}
    assert not new & set(given.values()), "a number came back while others were free"

    verdicts = Verdicts(plane, scale.client, population, scale.nodes)
    before = await verdicts.judged()
    filled = await asyncio.to_thread(scale.entries)
    left, gone = size.label_sets - size.deployments, population.namespaces[-1]
    begin = time.monotonic()
    await population.delete_namespace(gone)
    await plane.until(lambda: scale.bound("r1", left), SECONDS)
    lasted = time.monotonic() - begin
    await plane.until(lambda: len(scale.rows()) == left, SECONDS)
    await scale.quiet()
    await scale.check()
    writes = scale.writes()
    assert writes["ciliumidentities", "delete"] == size.deployments
    assert writes["ciliumidentities", "create"] == 0
    assert len(writes) == 2, writes
    print(f"{lasted:.1f} s, {writes}")
    # Its pods go one by one; what is taken back is written for each second of that, and twice more:
    # when no node has it any more, and when its objects are gone.
    assert writes["allocationjournals", "update"] <= 3 * (lasted + 2)
    # The others are judged as before, and nobody as one of those who are gone.
    after = await verdicts.judged()
    stay = {way: passes for way, passes in before.items() if not _within(way, gone)}
    assert after == stay
    assert any(after.values())
    ended = next(way.source for way in before if way.source.startswith(f"{gone}/"))
    receiver = next(iter(after)).destination
    assert not (await verdicts.from_nobody(ended, receiver))["passed"]
    await plane.until(lambda: scale.emptied(filled))
    await scale.no_object_of(gone)


@pytest.mark.parametrize(
    "scale", [MANY if PROFILE == "long" else LARGE], indirect=True, ids=str
)  # fmt: skip
async def test_more_label_sets_at_a_cold_start_than_the_journal_holds(scale: Scale) -> None:
    plane, population, size = scale.plane, scale.population, scale.population.size
    await population.create_nodes()
    await population.create_namespaces(PADDING if size == LARGE else {})
    await population.create_pods(population.places())
    await population.running(SECONDS)

    plane.server("r1", *CALM)
    # It serves nothing before all have their numbers: no node ever sees some pods without one.
    await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"], SECONDS)
    rows = await asyncio.to_thread(scale.rows)
    assert len(rows) == size.label_sets
    births = {row["birth"] for row in rows}
    plane.server("r2", *CALM)
    scale.nodes = population.nodes[:1]
    plane.agent(scale.nodes[0], "r2")
    await plane.until(lambda: scale.bound("r0", size.label_sets), SECONDS)
    await scale.quiet()
    await scale.check()
    held = sum(len(row["label_set"]) for row in rows)
    assert held > MAX_SPEC_BYTES, "the object would have held them all"
    assert len(births) >= held / MAX_BATCH_BYTES
    log = (plane.directory / "r1.log").read_text()
    assert "the most that one object may have" not in log, log
    assert "error" not in log, log
    writes = scale.writes()
    assert writes["ciliumidentities", "create"] == size.label_sets
    assert writes["allocationjournals", "update"] <= 3 + held / WAVE_BYTES
