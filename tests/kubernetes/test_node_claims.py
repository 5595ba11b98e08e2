"""A node that claims another node's name, to a server at a real API server: it is served what its
certificate or its token proves it to be, and the node that it claims to be notices nothing."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from reconciler import tls
from reconciler.config import parse_address
from reconciler.core.resources.encode import parse_commit_version
from reconciler.core.resources.types import COMMIT, ENDPOINT, POLICY
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import decode_response
from reconciler.server import certs
from tests.integration.grpc_rig import Listener, client_of
from tests.kubernetes.api import Api
from tests.kubernetes.plane import Plane
from tests.kubernetes.test_auth import AUDIENCE, World

Cut = dict[str, dict[str, str]]
"""Type URL → name → version, of all that was served for one cut."""


class Rig:
    """Two nodes with a pod each, two policies, and a server that takes certificates and tokens."""

    def __init__(self, plane: Plane, api: Api) -> None:
        self.plane, self.api = plane, api
        self.nodes: list[str] = []
        self.pods: dict[str, dict[str, Any]] = {}  # node → its agent's
        self.shop = ""
        self.ca = b""

    async def begin(self) -> None:
        api, plane = self.api, self.plane
        self.nodes = [await api.node(f"n{at}", f"192.0.2.{at}", f"10.{at}.0.0/16") for at in (1, 2)]
        self.shop = await api.namespace("shop")
        for at, node in enumerate(self.nodes, 1):
            labels = {"app": f"a{at}"}
            address = f"10.{at}.0.1"
            await api.pod(self.shop, f"p{at}", node=node, labels=labels, addresses=[address])
            rule = {"ports": [{"port": 8000 + at}]}
            spec = {"podSelector": {"matchLabels": labels}, "ingress": [rule]}
            await api.policy(self.shop, f"p{at}", spec)
        agents = await api.namespace("agents")
        accounts = f"/api/v1/namespaces/{agents}/serviceaccounts"
        await api.create(accounts, {"metadata": {"name": "agent"}})
        for node in self.nodes:
            self.pods[node] = await api.pod(
                agents, f"on-{node}", node=node, serviceAccountName="agent", hostNetwork=True
            )
        self.world = World(api, agents)
        plane.server(
            "r1", "--token-listen", plane.xds("r1-token"), "--token-audience", AUDIENCE,
            "--agent-service-account", f"{agents}/agent", "--scope", "selected",
        )  # fmt: skip
        await plane.until(lambda: plane.ask("r1", "/v1/status")["revision"])
        self.ca = (plane.directory / "ca.crt").read_bytes()

    @asynccontextmanager
    async def certified(self, node: str, claim: str) -> AsyncIterator[tuple[Cut, Listener]]:
        now = datetime.datetime.now(datetime.UTC)
        if not (self.plane.directory / f"node-{node}.crt").exists():
            certs.issue_node(self.plane.directory, node, now=now)
        at = self.plane.directory
        keys = tls.load(f"{at}/node-{node}.crt", f"{at}/node-{node}.key", f"{at}/ca.crt")
        async with self._served("r1", keys, claim) as found:
            yield found

    @asynccontextmanager
    async def with_token(self, node: str, claim: str) -> AsyncIterator[tuple[Cut, Listener]]:
        token = await self.world.token(self.pods[node])
        keys = tls.KeyPair(b"", b"", self.ca)
        async with self._served("r1-token", keys, claim, lambda: token) as found:
            yield found

    @asynccontextmanager
    async def _served(
        self, name: str, keys: tls.KeyPair, claim: str, token: Callable[[], str] | None = None
    ) -> AsyncIterator[tuple[Cut, Listener]]:
        """A stream whose first request says `claim`, and the first cut that it is served."""
        address = parse_address(self.plane.xds(name))
        client_for = client_of(address, keys, token=token, server_name="localhost")
        async with client_for as (client, seen):
            client.connect()
            await seen.wait(lambda: bool(seen.up or seen.reasons))
            assert seen.reasons == []
            agent = Client(claim, 0.0)
            agent.tick(0.0)
            for frame in agent.opened(Report(), 0.0):
                client.send(frame)
            cut: Cut = {}
            while COMMIT not in cut:
                await seen.wait(lambda: bool(seen.frames or seen.reasons))
                assert seen.reasons == []
                response = decode_response(seen.frames.pop(0))
                of_type = cut.setdefault(response.type_url, {})
                of_type |= {each.name: each.version for each in response.resources}
                client.send(Client.ack(response.type_url, response.nonce))
            yield cut, seen


def content(cut: Cut) -> tuple[Cut, bytes]:
    """All but which revision it is: resources, and the root over them."""
    (version,) = cut[COMMIT].values()
    said = parse_commit_version(version)
    assert said is not None
    return {type_url: held for type_url, held in cut.items() if type_url != COMMIT}, said[1]


async def test_a_node_that_claims_another_nodes_name_gets_its_own_cut(
    plane: Plane, api: Api
) -> None:
    rig = Rig(plane, api)
    await rig.begin()
    one, two = rig.nodes
    async with AsyncExitStack() as stack:
        theirs, victim = await stack.enter_async_context(rig.certified(two, two))
        async with rig.certified(one, one) as (own, _):
            pass
        assert set(own[ENDPOINT]) == {f"{rig.shop}/p1"}
        assert set(theirs[ENDPOINT]) == {f"{rig.shop}/p2"}
        assert not own[POLICY].keys() & theirs[POLICY].keys()
        for proof in (rig.certified, rig.with_token):
            async with proof(one, two) as (found, _):
                assert content(found) == content(own)
                await plane.until(lambda: plane.state_of(one, "r1") == "in-sync")
        async with rig.with_token(one, one) as (found, _):
            assert content(found) == content(own)
        assert victim.reasons == [], "a stream in its name would have taken the place of its own"
        await plane.until(lambda: plane.state_of(one, "r1") == "disconnected")
        await plane.until(lambda: plane.state_of(two, "r1") == "in-sync")
