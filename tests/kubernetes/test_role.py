"""The server's role grants what the server does, and nothing else.

A server lives a life under the role that is shipped, and the API server's audit log says which
requests it made: each granted verb has to be among them, and nothing was refused. A verb that
nothing needs any more fails here, as one that is missing does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from reconciler.core.identity import POOL
from reconciler.core.identity.objects import JournalSpec, decode, encode
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.reports import IN_USE, OF
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.deployed import NAMESPACE, RBAC_FILE, collection
from tests.kubernetes.identities import IDENTITIES, JOURNALS, clean, identities, identity, journal
from tests.kubernetes.plane import WAIT, Plane

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:reconciler-server"
GROUPS = ("system:serviceaccounts", "system:authenticated")
POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
REALIZATIONS = "/apis/reconciler.io/v1alpha1/namespaces/{}/policyrealizations"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [ACCOUNT]}, {"level": "None"}],
}
CAPACITY = 16
TOO_MANY = {
    "podSelector": {},
    "policyTypes": ["Ingress"],
    "ingress": [{"ports": [{"port": 1000 + 2 * at} for at in range(CAPACITY * 2)]}],
}
"""Has more entries than a node is said to hold."""

Right = tuple[str, str, str]
"""API group, resource, verb."""


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def cluster(audit: Path) -> Iterator[Cluster]:
    """One of its own, that writes down what the server's account asks of it."""
    (audit / "policy.json").write_text(json.dumps(POLICY))
    flags = (
        f"--audit-policy-file={audit / 'policy.json'}",
        f"--audit-log-path={audit / 'log'}",
        "--audit-log-mode=blocking",
    )
    with Cluster(apiserver_flags=flags) as running:
        yield running


@pytest.fixture
async def plane(cluster: Cluster, client: ApiClient, tmp_path: Path) -> AsyncIterator[Plane]:
    await clean(client)
    made = Plane(tmp_path, cluster.kubeconfig(ACCOUNT, GROUPS), "audited")
    yield made
    made.kill_all()


def granted(objects: list[dict[str, Any]]) -> set[Right]:
    """What the roles among these objects allow; none of them names objects or everything."""
    found = set()
    for object in objects:
        for rule in object.get("rules", ()):
            assert set(rule) == {"apiGroups", "resources", "verbs"}
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        assert "*" not in (group, resource, verb)
                        found.add((group, resource, verb))
    return found


def asked(log: Path) -> tuple[set[Right], list[str]]:
    """(what was asked for, requests that were forbidden). Discovery, which needs no role, is
    nobody's right. An apply that makes its object, a patch that is answered 201, is allowed by the
    API server to who may create as well."""
    rights, refused = set(), []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef")
        if about is None:
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        code = event.get("responseStatus", {}).get("code")
        made = event["verb"] == "patch" and code == 201
        for verb in (event["verb"], *(["create"] if made else [])):
            rights.add((about.get("apiGroup", ""), resource, verb))
        if code == 403:
            refused.append(event["requestURI"])
    return rights, refused


async def test_every_verb_of_the_role_is_used_and_no_other(
    cluster: Cluster, audit: Path, plane: Plane, client: ApiClient, api: Api
) -> None:
    objects = list(yaml.safe_load_all(RBAC_FILE.read_text()))
    for object in objects:
        await api.create(collection(object, NAMESPACE), object)
    node = await api.node("n1", "192.0.2.1", "10.1.0.0/16")
    token = await agent_token(api, node)
    shop = await api.namespace("shop", {"team": "one"})
    await api.pod(shop, "p1", node=node, labels={"app": "a1"}, addresses=["10.1.0.1"])
    await begin(plane, "--absent-grace", "1", "--lease-seconds", "2")

    # A node that proves itself by token gets its cut: two reviews of the journal's first words.
    (plane.directory / "token").write_text(token)
    plane.start(
        "agent", node, "--server", f"unix:{plane.directory}/tokens", "--node", node,
        "--token-file", f"{plane.directory}/token", "--tls-ca", f"{plane.directory}/ca.crt",
        "--tls-server-name", "localhost", "--datapath", "memory", "--cni-socket", "",
        "--status", plane.status(node), "--cache-dir", f"{plane.directory}/cache",
    )  # fmt: skip
    await plane.until(lambda: plane.committed(node))

    # How far a policy is enforced: an object beside it, changed when it has changed.
    await api.policy(shop, "one", {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})
    await until(plane, lambda: realized(api, shop, 1))
    change = {"spec": {"ingress": [{"ports": [{"port": 81}]}]}}
    await api.patch(f"{POLICIES.format(shop)}/one", change)
    await until(plane, lambda: realized(api, shop, 2))
    await api.delete(f"{POLICIES.format(shop)}/one")

    # Identities: written, repaired after a foreign edit, a foreign one said to be none, deleted.
    (row,) = await asyncio.to_thread(plane.identities, "r1", shop)
    number = row["number"]
    await until(plane, lambda: among(client, number))
    await api.patch(f"{IDENTITIES}/{number}", {"security-labels": {"k8s:app": "other"}})
    await until(plane, lambda: labelled(client, number, "a1"))
    await identity(api, "not-a-number", "a9")
    await until(plane, lambda: said(api, "CiliumIdentity"))
    await api.delete(f"{IDENTITIES}/not-a-number")

    # Events: on a policy, again on the same one, on a node, on a pod.
    for times in (1, 2):
        await api.policy(shop, "wide", TOO_MANY)
        await until(plane, lambda times=times: said(api, "NetworkPolicy", times))  # type: ignore[misc]
        await api.delete(f"{POLICIES.format(shop)}/wide")
        await plane.until(lambda: not alarms(plane))
    await api.node("n2", "nonsense")
    await until(plane, lambda: said(api, "Node"))
    await api.pod(shop, "p0", node=node, labels={"app": "a1"}, addresses=["10.1.0.1"])
    await until(plane, lambda: said(api, "Pod"))  # two have one address
    await api.delete_pod(shop, "p0")
    await api.delete_pod(shop, "p1")
    await until(plane, lambda: gone(client, number))

    # A replica that is gone: what it said is taken away some time later.
    report = {"name": "audited-r0", "labels": {OF: "audited"}, "annotations": {IN_USE: "0"}}
    await api.create(LEASES, {"metadata": report})
    await until(plane, lambda: absent_lease(client, "audited-r0"))
    await end(plane)

    # The next one finds every number in use, and says it of the namespace that wants one more.
    await fill(api, client)
    await begin(plane, "--lease-seconds", "15")
    late = await api.namespace("late")
    await api.pod(late, "p2", node=node, labels={"app": "a2"}, addresses=["10.1.0.2"])
    await until(plane, lambda: said(api, "Namespace"))
    await end(plane)

    log = (plane.directory / "r1.log").read_text()
    assert "forbidden" not in log.lower(), log
    used, refused = asked(audit / "log")
    assert not refused
    may = granted(objects)
    assert used - may == set(), "asked for, and not in the role"
    assert may - used == set(), "in the role, and never asked for"


async def begin(plane: Plane, *options: str) -> None:
    """It serves, and leads: only then it says things on objects."""
    before = told(plane, "leading")
    plane.server(
        "r1", "--policy-capacity", str(CAPACITY), "--token-listen",
        f"unix:{plane.directory}/tokens", "--agent-service-account",
        f"{NAMESPACE}/reconciler-agent", *options, namespace=NAMESPACE,
    )  # fmt: skip
    await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
    await plane.until(lambda: told(plane, "leading") > before)


def told(plane: Plane, event: str) -> int:
    """How often the server's log says it."""
    log = plane.directory / "r1.log"
    return log.read_text().count(f"] {event}") if log.exists() else 0


async def end(plane: Plane) -> None:
    await asyncio.to_thread(plane.stop, "r1")


async def agent_token(api: Api, node: str) -> str:
    """What the kubelet of the node would project into the agent's pod there."""
    pod = await api.pod(NAMESPACE, "agent", node=node, serviceAccountName="reconciler-agent")
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "agent", "uid": pod["metadata"]["uid"]}
    spec = {"audiences": ["reconciler"], "expirationSeconds": 600, "boundObjectRef": bound}
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/reconciler-agent/token"
    return str((await api.create(path, {"spec": spec}))["status"]["token"])


async def fill(api: Api, client: ApiClient) -> None:
    """Every number in use, as of pods that are gone."""
    found = await journal(client, "audited")
    assert found is not None
    spec = msgspec.convert(found, JournalSpec)
    ledger = decode(spec)
    rest = {number: ledger.revision for number in POOL if number not in ledger.digests}
    full = msgspec.structs.replace(
        ledger, digests={**ledger.digests, **rest}, retiring=ledger.retiring | rest.keys()
    )
    change = {"spec": msgspec.to_builtins(encode(full, spec.writer))}
    await api.patch(f"{JOURNALS}/audited", change)


# ------------------------------------------------------------------------------- what is waited for


async def until(plane: Plane, condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    try:
        async with asyncio.timeout(WAIT):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError((plane.directory / "r1.log").read_text()) from None


def alarms(plane: Plane) -> list[str]:
    """Of rule sets that no node can hold."""
    return [
        row["text"] for row in plane.ask("r1", "/v1/status")["alarms"] if row["kind"] == "capacity"
    ]


async def among(client: ApiClient, number: int) -> bool:
    return number in await identities(client)


async def gone(client: ApiClient, number: int) -> bool:
    return not await among(client, number)


async def labelled(client: ApiClient, number: int, app: str) -> bool:
    return bool((await identities(client))[number]["security-labels"]["k8s:app"] == app)


async def said(api: Api, kind: str, times: int = 1) -> bool:
    """Whether there are Events on such an object that say something so many times."""
    items = (await api.get("/apis/events.k8s.io/v1/events"))["items"]
    about = [item for item in items if item["regarding"]["kind"] == kind]
    return any((item.get("series") or {"count": 1})["count"] >= times for item in about)


async def realized(api: Api, namespace: str, generation: int) -> bool:
    """Whether it is said that the only policy is enforced as it is by now."""
    items = (await api.get(REALIZATIONS.format(namespace)))["items"]
    return [each["status"]["observedGeneration"] for each in items] == [generation]


async def absent_lease(client: ApiClient, name: str) -> bool:
    answer = await client.request("GET", LEASES)
    names = {each["metadata"]["name"] for each in json.loads(answer.body)["items"]}
    return name not in names
