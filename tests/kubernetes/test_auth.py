"""Tokens of a real API server, as kubelets ask for them, verified by its TokenReview.

The server's own client may do nothing but reviews: it runs under RBAC, not as the administrator.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from reconciler import tls
from reconciler.commands.ask import query
from reconciler.config import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.server import certs
from reconciler.server.kubernetes import auth
from reconciler.server.kubernetes.auth import TokenReviewer
from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from reconciler.testing.kubernetes.cluster import ISSUER
from tests.integration.grpc_rig import client_of, keys_of, request, serving
from tests.integration.test_processes import SHOP
from tests.kubernetes.api import Api
from tests.kubernetes.reading import WAIT
from tests.kubernetes.roles import granted

AUDIENCE = "reconciler"
REVIEWS = ("create", "tokenreviews")
RULES = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
]


class World:
    """A namespace with the agent's ServiceAccount and another one, pods on nodes, their tokens."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def pod(self, name: str, node: str, account: str = "agent") -> dict[str, Any]:
        return await self.api.pod(self.namespace, name, node=node, serviceAccountName=account)

    async def token(
        self,
        pod: dict[str, Any] | None = None,
        *,
        account: str = "agent",
        audiences: tuple[str, ...] = (AUDIENCE,),
    ) -> str:
        """What a kubelet would project into that pod; without a pod, what a person asks for."""
        spec: dict[str, Any] = {"audiences": audiences, "expirationSeconds": 600}
        if pod is not None:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": meta["name"],
                "uid": meta["uid"],
            }
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        made = await self.api.create(path, {"spec": spec})
        return str(made["status"]["token"])


@pytest.fixture
async def world(api: Api) -> World:
    namespace = await api.namespace("agents")
    for account in ("agent", "other"):
        await api.create(
            f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": account}}
        )
    return World(api, namespace)


@pytest.fixture
async def kubeconfig(cluster: Cluster, api: Api) -> AsyncIterator[str]:
    """Of a user who may create TokenReviews and nothing else."""
    async with granted(cluster, api, "test-reviewer", RULES) as path:
        yield path


class Clock:
    """Both clocks of a reviewer, ahead of the machine's by `ahead`."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.wall_ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def wall(self) -> float:
        return time.time() + self.wall_ahead


class Rig:
    def __init__(self, client: ApiClient, world: World) -> None:
        self.client, self.clock = client, Clock()
        self.reviewer = TokenReviewer(
            client,
            audience=AUDIENCE,
            service_account=f"{world.namespace}/agent",
            log=structlog.get_logger(),
            monotonic=self.clock.monotonic,
            wall=self.clock.wall,
        )

    @property
    def reviews(self) -> int:
        return self.client.requests[REVIEWS]

    async def status(self, token: str) -> str:
        """The node, or the status of the refusal."""
        try:
            return (await self.reviewer.prove(token)).node
        except ProtocolError as error:
            return error.status


@pytest.fixture
async def rig(kubeconfig: str, world: World) -> AsyncIterator[Rig]:
    client = await ApiClient.connect(kubeconfig)
    made = Rig(client, world)
    yield made
    await made.reviewer.close()
    await client.close()


async def until(condition: Callable[[], Awaitable[bool]], pause: float = 0.05) -> None:
    """For what only asking tells; TimeoutError after WAIT."""
    async with asyncio.timeout(WAIT):
        while not await condition():
            await asyncio.sleep(pause)


# -------------------------------------------------------------------------------------- the claims


async def test_a_pods_token_names_its_node(rig: Rig, world: World) -> None:
    token = await world.token(await world.pod("agent-1", "node-1"))
    before = time.time()
    proof = await rig.reviewer.prove(token)
    assert (proof.node, proof.by) == ("node-1", "token")
    assert before + 500 < proof.expires <= time.time() + 600
    assert tls.token_node(token) == "node-1"  # as the agent reads its own


async def test_a_token_of_another_audience_is_refused(rig: Rig, world: World) -> None:
    pod = await world.pod("agent-1", "node-1")
    for audiences in (("vault",), (), (ISSUER,)):  # another service's, the API server's own twice
        assert await rig.status(await world.token(pod, audiences=audiences)) == "UNAUTHENTICATED"
    both = await world.token(pod, audiences=(AUDIENCE, "vault"))
    assert await rig.status(both) == "node-1"


async def test_another_pod_of_the_node_is_refused(rig: Rig, world: World) -> None:
    """It has a token for our audience, and of its own ServiceAccount."""
    thief = await world.pod("thief", "node-1", account="other")
    token = await world.token(thief, account="other")
    assert tls.token_node(token) == "node-1"
    assert await rig.status(token) == "PERMISSION_DENIED"


async def test_an_account_of_the_same_name_elsewhere_is_refused(
    rig: Rig, world: World, api: Api
) -> None:
    elsewhere = World(api, await api.namespace("elsewhere"))
    await api.create(
        f"/api/v1/namespaces/{elsewhere.namespace}/serviceaccounts", {"metadata": {"name": "agent"}}
    )
    token = await elsewhere.token(await elsewhere.pod("agent-1", "node-1"))
    assert await rig.status(token) == "PERMISSION_DENIED"


async def test_a_token_without_a_node_is_refused(rig: Rig, world: World) -> None:
    assert await rig.status(await world.token()) == "PERMISSION_DENIED"
    unscheduled = await world.pod("waiting", "")
    assert await rig.status(await world.token(unscheduled)) == "PERMISSION_DENIED"


async def test_forged_and_expired_tokens_are_refused(
    rig: Rig, world: World, cluster: Cluster
) -> None:
    token = await world.token(await world.pod("agent-1", "node-1"))
    claims: Any = tls.token_claims(token)
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    key: Any = serialization.load_pem_private_key(
        (cluster.folder / "tokens.key").read_bytes(), None
    )
    assert await rig.status(signed(header, claims, key)) == "node-1"  # the signing works

    other = json.loads(json.dumps(claims))
    other["kubernetes.io"]["node"]["name"] = "node-2"
    strange = ec.generate_private_key(ec.SECP256R1())
    assert await rig.status(signed(header, other, strange)) == "UNAUTHENTICATED"
    head, _, signature = token.split(".")
    assert await rig.status(f"{head}.{encoded(other)}.{signature}") == "UNAUTHENTICATED"
    unsigned = f"{encoded({'alg': 'none'})}.{encoded(other)}."
    assert await rig.status(unsigned) == "UNAUTHENTICATED"

    old = claims | {"iat": claims["iat"] - 7200, "nbf": claims["nbf"] - 7200}
    old |= {"exp": claims["exp"] - 7200}
    reviews = rig.reviews
    assert await rig.status(signed(header, old, key)) == "UNAUTHENTICATED"
    assert rig.reviews == reviews  # seen without asking
    rig.clock.wall_ahead = -7200.0  # our clock is wrong: the API server's counts
    assert await rig.status(signed(header, old, key)) == "UNAUTHENTICATED"
    assert rig.reviews == reviews + 1


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def signed(header: dict[str, Any], claims: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    text = f"{encoded(header)}.{encoded(claims)}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{text}.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"


# --------------------------------------------------------------------------------------- over time


async def test_a_deleted_pods_token_is_refused(rig: Rig, world: World) -> None:
    """At once where nobody asked before, else when our answer and the API server's own (10 s) are
    too old."""
    first = await world.pod("agent-1", "node-1")
    second = await world.pod("agent-2", "node-2")
    known, unknown = await world.token(first), await world.token(second)
    assert await rig.status(known) == "node-1"
    for name in ("agent-1", "agent-2"):
        await world.api.delete_pod(world.namespace, name)
    assert await rig.status(unknown) == "UNAUTHENTICATED"
    assert await rig.status(known) == "node-1"

    async def refused() -> bool:
        rig.clock.ahead += auth.KEEP_SECONDS
        return await rig.status(known) == "UNAUTHENTICATED"

    await until(refused)
    await world.pod("agent-1", "node-1")  # the name again, another pod
    rig.clock.ahead += auth.KEEP_SECONDS
    assert await rig.status(known) == "UNAUTHENTICATED"


async def test_without_the_api_server_known_tokens_go_on(
    rig: Rig, world: World, cluster: Cluster
) -> None:
    known = await world.token(await world.pod("agent-1", "node-1"))
    new = await world.token(await world.pod("agent-2", "node-2"))
    stolen = await world.token(audiences=("vault",))
    assert await rig.status(known) == "node-1"
    cluster.kill_apiserver()
    try:
        assert await rig.status(known) == "node-1"
        assert await rig.status(new) == "UNAVAILABLE"
        assert await rig.status(stolen) == "UNAVAILABLE"
    finally:
        cluster.start_apiserver()
    rig.clock.ahead += auth.LONGEST_PAUSE_SECONDS

    async def again() -> bool:
        rig.clock.ahead += auth.LONGEST_PAUSE_SECONDS
        return await rig.status(new) == "node-2"

    await until(again)
    assert await rig.status(stolen) == "UNAUTHENTICATED"


async def test_a_server_without_the_right_to_review_refuses_nobody(
    world: World, cluster: Cluster
) -> None:
    token = await world.token(await world.pod("agent-1", "node-1"))
    client = await ApiClient.connect(cluster.kubeconfig("nobody", ("system:authenticated",)))
    try:
        assert await Rig(client, world).status(token) == "UNAVAILABLE"
    finally:
        await client.close()


# ------------------------------------------------------------------------------------- whole paths


@asynccontextmanager
async def xds(rig: Rig, folder: Path) -> AsyncIterator[tuple[Any, Address, tls.KeyPair]]:
    now = datetime.datetime.now(datetime.UTC)
    certs.init(folder, cluster="test", now=now)
    keys = keys_of(folder, certs.issue_server(folder, names=("127.0.0.1",), now=now))
    async with serving(Address("127.0.0.1", 0), keys, tokens=rig.reviewer) as (hub, server):
        yield hub, Address("127.0.0.1", server.port), tls.KeyPair(b"", b"", keys.ca)


async def test_a_storm_of_reconnects_is_one_review(rig: Rig, world: World, tmp_path: Path) -> None:
    token = await world.token(await world.pod("agent-1", "node-1"))
    async with xds(rig, tmp_path) as (hub, address, keys), AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(client_of(address, keys, token=lambda: token))
            for _ in range(50)
        ]
        for storm in (1, 2):
            for client, _ in clients:
                client.connect()
            await hub.wait(lambda storm=storm: len(hub.nodes) == 50 * storm)
            for client, _ in clients:
                client.close("comes back")
            await hub.wait(lambda storm=storm: len(hub.closed) == 50 * storm)
            assert set(hub.nodes.values()) == {"node-1"}
    assert rig.client.requests == {REVIEWS: 1}


async def test_a_refused_peer_is_told_no_more_than_that(
    rig: Rig, world: World, tmp_path: Path
) -> None:
    thief = await world.pod("thief", "node-1", account="other")
    tokens = {
        await world.token(thief, account="other"): "PERMISSION_DENIED: the token is not of the "
        "agent's account",
        await world.token(thief, account="other", audiences=("vault",)): "UNAUTHENTICATED: the "
        "token is not good for audience reconciler",
    }
    async with xds(rig, tmp_path) as (hub, address, keys):
        for token, reason in tokens.items():
            async with client_of(address, keys, token=lambda token=token: token) as (client, seen):
                client.connect()
                await seen.wait(lambda: seen.up == 1)
                client.send(request("node-1"))
                await seen.wait(lambda: bool(seen.reasons))
                assert seen.reasons == [reason]
        assert hub.nodes == {}


async def test_server_and_agent_as_processes(
    rig: Rig, world: World, kubeconfig: str, tmp_path: Path
) -> None:
    """The agent is given nothing but its token and the CA; its name comes out of the token."""
    now = datetime.datetime.now(datetime.UTC)
    certs.init(tmp_path, cluster="test", now=now)
    certs.issue_server(tmp_path, names=("127.0.0.1",), now=now)
    (tmp_path / "token").write_text(await world.token(await world.pod("agent-1", "node-1")))
    status = f"unix:{tmp_path}/server.sock"
    ca, port = str(tmp_path / "ca.crt"), free_port()
    server = [
        "server", "--listen", f"127.0.0.1:{port}", "--status", status, "--manifests", str(SHOP),
        "--state-dir", str(tmp_path), "--tls-cert", str(tmp_path / "server.crt"), "--tls-key",
        str(tmp_path / "server.key"), "--node-auth", "token", "--agent-service-account",
        f"{world.namespace}/agent",
    ]  # fmt: skip
    agent = [
        "agent", "--server", f"127.0.0.1:{port}", "--tls-ca", ca, "--token-file",
        str(tmp_path / "token"), "--datapath", "memory", "--cache-dir", str(tmp_path), "--status",
        f"unix:{tmp_path}/agent.sock", "--cni-socket", "",
    ]  # fmt: skip
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    log = tmp_path / "log"
    processes = []
    try:
        with open(log, "ab") as out:
            for arguments in (server, agent):
                command = [sys.executable, "-m", "reconciler.cli", *arguments]
                processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment))

        async def in_sync() -> bool:
            assert [each.poll() for each in processes] == [None, None], log.read_text()
            try:
                rows = await asyncio.to_thread(query, status, "/v1/nodes")
            except UnavailableError:
                return False
            return ("node-1", "in-sync") in {(row["name"], row["state"]) for row in rows}

        await until(in_sync)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    assert "Traceback" not in log.read_text()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])
