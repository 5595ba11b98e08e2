"""The pods that the chart makes, run as their specifications say against a real API server.

Server and agent, with their users, capabilities, read-only roots, volumes, probes and the accounts'
own tokens: the server leads under the chart's role, the agent proves itself with the token that its
pod projects, and a pod's device is enforced.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import datetime
import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from reconciler.commands.ask import query
from reconciler.errors import UnavailableError
from reconciler.server import certs
from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from tests.integration.conftest import own_pins
from tests.kubernetes.api import Api
from tests.kubernetes.deployed import collection
from tests.kubernetes.identities import clean
from tests.kubernetes.pods import Container, mounts
from tests.kubernetes.reading import WAIT
from tests.kubernetes.rendered import rendered
from tests.root import need_root

DEVICES: Final = "rkpod"
DEVICE: Final = f"{DEVICES}{os.getpid()}"
"""Of this process: others may run the same test."""

ADDRESS: Final = "10.1.0.5"
NEEDED: Final = {"BPF": 39, "NET_ADMIN": 12, "PERFMON": 38}
"""Capabilities and their numbers (linux/capability.h)."""

Json = dict[str, Any]


class Deployed:
    """The chart's objects in a namespace of their own, with the Secret and ConfigMap that they
    name; their pods are started by hand, since nobody schedules."""

    def __init__(self, cluster: Cluster, api: Api, directory: Path, pins: Path) -> None:
        self.cluster, self.api, self.directory = cluster, api, directory
        self.namespace = self.node = ""
        ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.xds, self.server_metrics, self.agent_metrics = (p.getsockname()[1] for p in ports)
        for port in ports:
            port.close()
        self.paths = {"cache": directory / "cache", "run": directory / "run", "bpf": pins}
        self.objects: list[Json] = []
        self.cni_bin, self.cni_conf = directory / "cni-bin", directory / "cni-conf"
        for each in (self.cni_bin, self.cni_conf):
            each.mkdir()
        (self.cni_conf / "10-net.conflist").write_text('{"plugins": [{"type": "ptp"}]}')

    async def apply(self) -> None:
        api = self.api
        self.namespace, self.node = await api.namespace("deploy"), await api.node("n1", "192.0.2.1")
        name = f"reconciler-server.{self.namespace}.svc"
        now = datetime.datetime.now(datetime.UTC)
        certs.init(self.directory, cluster="default", now=now)
        certs.issue_server(self.directory, names=(name,), now=now)
        values = {
            "server": {
                "listenHost": "127.0.0.1", "port": self.xds, "metricsPort": self.server_metrics,
                "clusterCidrs": ["10.1.0.0/16"], "extraArgs": ["--lease-seconds=2"],
            },
            "agent": {
                "listenHost": "127.0.0.1", "metricsPort": self.agent_metrics, "serverName": name,
                "servers": [f"127.0.0.1:{self.xds}"], "podInterfaces": DEVICE,
                "hostPaths": {name: str(path) for name, path in self.paths.items()},
                "cni": {
                    "plugin": "install", "binDir": str(self.cni_bin), "confDir": str(self.cni_conf),
                },
            },
        }  # fmt: skip
        self.objects = rendered(values, namespace=self.namespace)
        for object in self.objects:
            await api.create(collection(object, self.namespace), object)
        at = f"/api/v1/namespaces/{self.namespace}"
        files = {each: (self.directory / each).read_text() for each in ("server.crt", "server.key")}
        data = {
            key: base64.b64encode(files[file].encode()).decode()
            for key, file in (("tls.crt", "server.crt"), ("tls.key", "server.key"))
        }
        secret = {"metadata": {"name": "reconciler-server-tls"}, "type": "kubernetes.io/tls"}
        await api.create(f"{at}/secrets", {**secret, "data": data})
        ca = (self.directory / "ca.crt").read_text()
        listed = {"metadata": {"name": "reconciler-ca"}, "data": {"ca.crt": ca}}
        await api.create(f"{at}/configmaps", listed)

    async def remove(self) -> None:
        for object in self.objects:
            if object["metadata"].get("namespace") != self.namespace:
                path = collection(object, self.namespace)
                await self.api.delete(f"{path}/{object['metadata']['name']}")

    async def pod(self, kind: str, name: str) -> Json:
        """As its controller makes it and a scheduler places it; with what admission adds."""
        (owner,) = (object for object in self.objects if object["kind"] == kind)
        template = copy.deepcopy(owner["spec"]["template"])
        template["metadata"]["name"] = name
        template["spec"]["nodeName"] = self.node
        return await self.api.create(f"/api/v1/namespaces/{self.namespace}/pods", template)

    async def container(self, pod: Json) -> Container:
        at = self.directory / pod["metadata"]["name"]
        at.mkdir()
        found = await mounts(self.api, pod, at, self.cluster.ca)
        service = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.cluster.port),
        }
        return Container(pod, found, directory=self.directory, environment=service)

    def installer(self, pod: Json) -> Container:
        """The init container of the agent's pod, which has directories of the node and no more."""
        spec = {**pod["spec"], "containers": pod["spec"]["initContainers"]}
        name = f"{pod['metadata']['name']}-cni"
        host = {"cni-bin": self.cni_bin, "cni-conf": self.cni_conf}
        alone = {**pod, "spec": spec, "metadata": {**pod["metadata"], "name": name}}
        return Container(alone, host, directory=self.directory)

    def probed(self, pod: Json, probe: str) -> bool:
        """What the kubelet's probe says."""
        (container,) = pod["spec"]["containers"]
        asked = container[probe]["httpGet"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        url = f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def pins() -> Iterator[Path]:
    need_root()
    with own_pins("deploy") as path:
        yield path


@pytest.fixture
async def deployed(
    cluster: Cluster, client: ApiClient, api: Api, tmp_path: Path, pins: Path
) -> AsyncIterator[Deployed]:
    await clean(client)
    made = Deployed(cluster, api, tmp_path, pins)
    await made.apply()
    yield made
    await made.remove()


@pytest.fixture
def device(pins: Path) -> Iterator[None]:
    """The host side of a pod's veth pair, with the route that a CNI plugin leaves. One that was
    left behind, by a test that was killed, is removed."""
    for name in os.listdir("/sys/class/net"):
        owner = name.removeprefix(DEVICES)
        if owner != name and owner.isdecimal() and not Path("/proc", owner).exists():
            ip("link", "delete", name)
    ip("link", "add", DEVICE, "type", "veth", "peer", "name", f"{DEVICE}p")
    try:
        ip("link", "set", DEVICE, "up")
        ip("route", "add", f"{ADDRESS}/32", "dev", DEVICE)
        yield
    finally:
        ip("link", "delete", DEVICE)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


async def until(condition: Callable[[], object], *containers: Container) -> None:
    def holds() -> bool:
        try:
            return bool(condition())
        except UnavailableError:
            return False

    try:
        async with asyncio.timeout(WAIT):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError("\n".join(each.said() for each in containers)) from None


async def test_server_and_agent_run_as_their_pods_say(
    deployed: Deployed, api: Api, device: None
) -> None:
    server_pod = await deployed.pod("Deployment", "server-1")
    agent_pod = await deployed.pod("DaemonSet", "agent-1")
    shop = await api.namespace("shop")
    await api.pod(shop, "web", node=deployed.node, labels={"app": "web"}, addresses=[ADDRESS])
    with deployed.installer(agent_pod) as installer:
        assert await asyncio.to_thread(installer.wait) == 0, installer.said()
    chain = json.loads((deployed.cni_conf / "10-net.conflist").read_text())["plugins"]
    assert [each["type"] for each in chain] == ["ptp", "reconciler-cni"]
    assert chain[1]["socket"] == f"{deployed.paths['run']}/cni.sock"
    with ExitStack() as stack:
        server = stack.enter_context(await deployed.container(server_pod))
        agent = stack.enter_context(await deployed.container(agent_pod))
        both = (server, agent)
        for pod, probe in (
            (server_pod, "startupProbe"), (server_pod, "livenessProbe"),
            (server_pod, "readinessProbe"), (agent_pod, "livenessProbe"),
            (agent_pod, "readinessProbe"),
        ):  # fmt: skip
            await until(lambda pod=pod, probe=probe: deployed.probed(pod, probe), *both)  # type: ignore[misc]

        def enforced() -> bool:
            rows = query(f"unix:{deployed.paths['run']}/agent.sock", "/v1/endpoints")
            return [(row["pod"], row["state"]) for row in rows] == [("web", "enforcing")]

        await until(enforced, *both)
        await until(lambda: "leading" in server.said(), *both)
        check = {
            **chain[1],
            "cniVersion": "1.0.0",
            "prevResult": {"interfaces": [{"name": DEVICE}]},
        }
        asked = subprocess.run(
            [deployed.cni_bin / "reconciler-cni"],
            input=json.dumps(check), text=True, capture_output=True, timeout=30,
            env={**os.environ, "CNI_COMMAND": "CHECK", "CNI_CONTAINERID": "web"},
        )  # fmt: skip
        assert (asked.returncode, asked.stdout) == (0, ""), "the agent has it attached"
        for container, user, capabilities in (
            (server, "65532", 0),
            (agent, "0", sum(1 << bit for bit in NEEDED.values())),
        ):
            assert container.status("Uid").split() == [user] * 4
            assert container.status("NoNewPrivs") == "1"
            for kind in ("CapPrm", "CapEff", "CapBnd"):
                assert int(container.status(kind), 16) == capabilities
        assert [await asyncio.to_thread(each.end) for each in both] == [0, 0]
    assert "forbidden" not in server.said().lower()
    assert {path.name for path in (deployed.paths["bpf"] / "links").iterdir()}, "goes on without it"


@pytest.mark.parametrize("missing", ["BPF", "NET_ADMIN"])
async def test_the_agent_needs_each_of_its_capabilities(deployed: Deployed, missing: str) -> None:
    """Not tried without PERFMON: the verifier then looks at so much more that it gives up, after
    the better part of a minute."""
    pod = await deployed.pod("DaemonSet", "agent-1")
    (container,) = pod["spec"]["containers"]
    container["securityContext"]["capabilities"]["add"].remove(missing)
    with await deployed.container(pod) as agent:
        assert await asyncio.to_thread(agent.wait) == 1
        said = agent.said()
    assert "Operation not permitted" in said
