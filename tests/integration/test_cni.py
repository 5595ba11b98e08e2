"""The CNI plugin with a real agent and devices: closed before it can send, open with its cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.agent.cni_install import NAME, install
from reconciler.commands.ask import query
from reconciler.datapath.links import pinned_links
from reconciler.errors import UnavailableError
from reconciler.testing.topology import NodeSpec, PodSpec, Spec, Topology
from reconciler.testing.traffic import Traffic, Way
from tests.integration.netns import wait_until

pytestmark = pytest.mark.kernel

NODE = """
apiVersion: v1
kind: Node
metadata: { name: n1 }
spec: { podCIDRs: [10.244.1.0/24] }
status: { addresses: [{ type: InternalIP, address: 172.18.0.1 }] }
"""
POD = """
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: ns, labels: {{ app: {name} }} }}
spec: {{ nodeName: n1, containers: [{{ name: main }}] }}
status: {{ phase: Running, podIP: {ip}, podIPs: [{{ ip: {ip} }}] }}
"""
ADDRESSES = {"ns/a": "10.244.1.10", "ns/b": "10.244.1.11", "ns/stranger": "10.244.1.12"}


class Cluster:
    def __init__(self, directory: Path, pins: Path, topology: Topology) -> None:
        self.directory = directory
        self.topology = topology
        self.status = f"unix:{directory}/agent.sock"
        self._log = open(directory / "log", "ab")  # noqa: SIM115
        self._output = {"stdout": self._log, "stderr": self._log}
        for name in ("bin", "conf"):
            (directory / name).mkdir()
        (directory / "conf" / "10-net.conflist").write_text('{"plugins": []}')
        install(directory / "bin", directory / "conf")
        manifests = directory / "manifests"
        manifests.mkdir()
        pods = [POD.format(name=n, ip=ADDRESSES[f"ns/{n}"]) for n in ("a", "b")]
        (manifests / "all.yaml").write_text("".join([NODE, *pods]))
        command = [sys.executable, "-m", "reconciler.cli"]
        server = [*command, "server", "--insecure", "--listen", f"unix:{directory}/xds.sock",
            "--status", f"unix:{directory}/server.sock", "--state-dir", str(directory),
            "--manifests", str(manifests)]  # fmt: skip
        self._server = topology.start("fabric", server, **self._output)
        self._command = [*command, "agent", "--insecure", "--node", "n1", "--server",
            f"unix:{directory}/xds.sock", "--status", self.status, "--cache-dir",
            str(directory), "--cni-socket", f"{directory}/cni.sock", "--pin-dir", str(pins),
            "--pod-interfaces", "none*"]  # fmt: skip
        self._agent = self._start_agent()

    def _start_agent(self) -> subprocess.Popen[Any]:
        return self.topology.start("n1", self._command, **self._output)

    def restart_agent(self) -> None:
        self._agent.terminate()
        self._agent.wait(20)
        self._agent = self._start_agent()
        self.wait_enforced()

    def wait_enforced(self) -> None:
        end, pause = time.monotonic() + 30, threading.Event()
        while True:
            try:
                if query(self.status, "/readyz"):
                    return
            except UnavailableError:
                assert time.monotonic() < end, (self.directory / "log").read_text()
            pause.wait(0.02)

    def cni(self, command: str, pod: str, **config: Any) -> tuple[int, dict[str, Any]]:
        previous = {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": self.topology.devices[pod]},
                {"name": "eth0", "sandbox": "/x"},
            ],
            "ips": [{"address": f"{ADDRESSES[pod]}/24", "interface": 1}],
        }
        stdin = {"cniVersion": "1.0.0", "socket": f"{self.directory}/cni.sock", **config}
        namespace, name = pod.split("/")
        installed = [str(self.directory / "bin" / NAME)]
        done = subprocess.run(
            installed if command == "ADD" else [sys.executable, "-m", "reconciler.cli", "cni"],
            input=json.dumps(stdin | {"prevResult": previous}),
            capture_output=True,
            text=True,
            timeout=30,
            env={
                **os.environ,
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": f"c-{name}",
                "CNI_ARGS": f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}",
            },
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    def states(self) -> dict[str, str]:
        rows = query(self.status, "/v1/endpoints")
        return {f"{row['namespace']}/{row['pod']}": row["state"] for row in rows}

    def stop(self) -> None:
        for process in (self._server, self._agent):
            process.terminate()
            process.wait(20)
        self._log.close()


@pytest.fixture
def cluster(tmp_path: Path, pin_dir: Path) -> Iterator[Cluster]:
    spec = Spec(
        nodes=(NodeSpec("n1", ("172.18.0.1",), ("10.244.1.0/24",)),),
        pods=tuple(PodSpec(name, "n1", (address,)) for name, address in ADDRESSES.items()),
    )
    with Topology(spec) as topology:
        found = Cluster(tmp_path, pin_dir, topology)
        try:
            found.wait_enforced()
            yield found
        finally:
            found.stop()


def test_a_pod_is_closed_until_its_cut_is_in_force(cluster: Cluster) -> None:
    to_a, from_stranger = Way("ns/b", "ns/a", "TCP", 80), Way("ns/stranger", "ns/a", "TCP", 80)
    with Traffic(cluster.topology, [("TCP", 80)]) as traffic:
        # Nothing is attached: the devices' names don't match, and no CNI has spoken.
        assert set(traffic.matrix([to_a, from_stranger]).values()) == {True}

        for pod in ("ns/a", "ns/b"):
            code, answer = cluster.cni("ADD", pod, waitSeconds=10)
            assert (code, answer["interfaces"][0]["name"]) == (0, cluster.topology.devices[pod])
        assert cluster.states() == {"ns/a": "enforcing", "ns/b": "enforcing"}
        assert traffic.matrix([to_a]) == {to_a: True}

        # A pod that no server knows of: attached, and closed.
        code, _ = cluster.cni("ADD", "ns/stranger")
        assert code == 0
        assert cluster.states()["ns/stranger"] == "attached-closed"
        assert traffic.matrix([from_stranger]) == {from_stranger: False}
        code, answer = cluster.cni("ADD", "ns/stranger", waitSeconds=0.2)
        assert code == 1
        assert "ns/stranger is not enforced after 0.2 s" in answer["msg"]


def test_a_restart_keeps_what_the_cni_attached(cluster: Cluster, pin_dir: Path) -> None:
    """The devices' names don't match, and no CNI speaks again."""
    to_a, from_stranger = Way("ns/b", "ns/a", "TCP", 80), Way("ns/stranger", "ns/a", "TCP", 80)
    for pod in ADDRESSES:
        assert cluster.cni("ADD", pod)[0] == 0
    states = ["attached-closed", "enforcing", "enforcing"]
    with Traffic(cluster.topology, [("TCP", 80)]) as traffic:
        before = list(pinned_links(pin_dir / "links"))
        for _ in range(2):
            wait_until(lambda: sorted(cluster.states().values()) == states, "all is as it was")
            assert traffic.matrix([to_a, from_stranger]) == {to_a: True, from_stranger: False}
            assert list(pinned_links(pin_dir / "links")) == before
            cluster.restart_agent()


def test_what_can_not_be_attached_is_refused(cluster: Cluster) -> None:
    cluster.topology.devices["ns/a"] = "nothing0"
    code, answer = cluster.cni("ADD", "ns/a")
    assert code == 1
    assert "no device nothing0" in answer["msg"]
    assert cluster.cni("CHECK", "ns/b")[0] == 1  # not attached
    assert cluster.cni("ADD", "ns/b")[0] == 0
    assert cluster.cni("CHECK", "ns/b")[0] == 0
    assert cluster.cni("DEL", "ns/a")[0] == 0
