"""An address that goes from one pod to a pod of other labels, at a real API server: the agent's
datapath is asked all the time meanwhile.

Of a packet from that address its own device is asked first, then the pod that it goes to. Once the
device is the new pod's, every verdict on the address is by the new pod's labels; before, the old
pod is judged by its own rules to the last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.kubernetes.api import Api
from tests.kubernetes.gate import Gate, through
from tests.kubernetes.plane import WAIT, Plane

SERVER, CLIENT, SHARED = "10.1.0.2", "10.1.0.3", "10.1.0.9"
ALLOWED, DENIED = "a", "b"
"""Apps: one may talk to the server and is reached by the client, the other does neither."""

LONG_GRACE: Final = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 600}


class Verdict(msgspec.Struct, frozen=True):
    """pod: whose device has the address; own, other: whether its rules let the packet pass, and
    those of the other end."""

    pod: str
    own: bool
    other: bool


class World:
    """One node, one agent, a server and a client that stay, and whoever has the address."""

    def __init__(self, plane: Plane, api: Api, gate: Gate) -> None:
        self.plane, self.api, self.gate = plane, api, gate
        self.node = self.namespace = self.holder = ""
        self.pods = 0

    async def begin(self) -> None:
        api = self.api
        self.node = await api.node("n1", "192.0.2.1", "10.1.0.0/16")
        self.namespace = await api.namespace("shop")
        for name, spec in {
            "server": _rules("server", ingress=ALLOWED),
            "client": _rules("client", egress=ALLOWED),
            ALLOWED: _rules(ALLOWED, ingress="client", egress="server"),
            DENIED: _rules(DENIED),
        }.items():
            await api.policy(self.namespace, name, spec)
        for app, address in (("server", SERVER), ("client", CLIENT)):
            await self.pod(app, app, address)

    async def pod(self, name: str, app: str, address: str = SHARED) -> None:
        await self.api.pod(
            self.namespace, name, node=self.node, labels={"app": app}, addresses=[address]
        )

    async def ask(self, source: str, to: str) -> Verdict | None:
        """On a TCP packet between the shared address and another one; None: no pod has it, or one
        that is closed."""
        path = f"/v1/probe?from={source}&to={to}&protocol=6&port=80"
        said = await self.plane.asked(self.node, path)
        own, other = ("egress", "ingress") if source == SHARED else ("ingress", "egress")
        if said[own] is None or said[own]["reason"] == "closed":
            return None
        pod = str(said[own]["pod"]).partition("/")[2]
        return Verdict(pod, bool(said[own]["passed"]), bool(said[other]["passed"]))

    async def goes_to(self, app: str, change: Change) -> None:
        """`change` gives the address to a new pod; ask until all of it is done and enforced."""
        old, self.pods = self.holder, self.pods + 1
        self.holder = new = f"{app}-{self.pods}"
        arrived = asyncio.Event()
        changing = asyncio.create_task(change(self, old, new, app, arrived))
        asked: list[str] = []
        try:
            async with asyncio.timeout(WAIT):
                while not (changing.done() and arrived.is_set() and await self.settled()):
                    seen = await self.ask(SHARED, SERVER)
                    if seen is None:
                        assert not arrived.is_set(), "the new pod is closed again"
                        continue
                    asked.append(seen.pod)
                    assert seen.pod in (old, new)
                    assert seen.own == (seen.pod.partition("-")[0] == ALLOWED), "another's rules"
                    if seen.pod == new:
                        arrived.set()
                        assert seen.other == (app == ALLOWED), "judged by who had the address"
                        back = await self.ask(CLIENT, SHARED)
                        assert back == Verdict(new, app == ALLOWED, app == ALLOWED)
                    else:
                        assert not arrived.is_set(), "the old pod has it again"
        finally:
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
        await changing
        assert asked[-1] == new

    async def settled(self) -> bool:
        """The agent enforces the newest cut, and that has the address's pod and the two others."""
        plane = self.plane
        if await asyncio.to_thread(plane.state_of, self.node, "r1") != "in-sync":
            return False
        rows = await plane.asked(self.node, "/v1/endpoints")
        return {row["pod"] for row in rows} == {"server", "client", self.holder}


Change = Callable[[World, str, str, str, asyncio.Event], Coroutine[Any, Any, None]]
"""(world, old pod, new pod, its app, set when the new one has the address)"""


async def at_once(world: World, old: str, new: str, app: str, arrived: asyncio.Event) -> None:
    """As a runtime does that gives an address again when it has it back."""
    await world.api.delete_pod(world.namespace, old)
    await world.pod(new, app)


async def in_one_batch(world: World, old: str, new: str, app: str, arrived: asyncio.Event) -> None:
    """The server hears of neither before both have happened."""
    world.gate.hold()
    try:
        await at_once(world, old, new, app, arrived)
    finally:
        world.gate.release()


async def new_one_first(world: World, old: str, new: str, app: str, arrived: asyncio.Event) -> None:
    """The old pod is on its way out, and goes when the new one has the address already."""
    path = f"/api/v1/namespaces/{world.namespace}/pods/{old}"
    await world.api.delete(path, LONG_GRACE)
    await world.pod(new, app)
    await arrived.wait()
    await world.api.delete_pod(world.namespace, old)


def _rules(app: str, *, ingress: str = "", egress: str = "") -> dict[str, Any]:
    """A policy that isolates an app both ways, but for one app in and one out."""

    def peers(name: str) -> list[dict[str, Any]]:
        return [{"podSelector": {"matchLabels": {"app": name}}}]

    return {
        "podSelector": {"matchLabels": {"app": app}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers(ingress)}] if ingress else [],
        "egress": [{"to": peers(egress)}] if egress else [],
    }


@pytest.fixture
async def world(plane: Plane, api: Api) -> AsyncIterator[World]:
    gate = Gate(_port(plane.kubeconfig))
    plane.kubeconfig = through(plane.kubeconfig, await gate.start())
    made = World(plane, api, gate)
    await made.begin()
    yield made
    plane.kill_all()
    await gate.stop()


def _port(kubeconfig: str) -> int:
    server: str = json.loads(Path(kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    return int(server.rpartition(":")[2])


async def test_who_gets_an_address_is_never_judged_by_who_had_it(world: World) -> None:
    world.holder = f"{ALLOWED}-0"
    await world.pod(world.holder, ALLOWED)
    world.plane.server("r1")
    world.plane.agent(world.node, "r1")
    await world.plane.until(lambda: world.plane.committed(world.node))
    async with asyncio.timeout(WAIT):
        while await world.ask(SHARED, SERVER) != Verdict(world.holder, True, True):
            await asyncio.sleep(0.05)
    for change in (at_once, in_one_batch, new_one_first):
        await world.goes_to(DENIED, change)
        await world.goes_to(ALLOWED, change)
