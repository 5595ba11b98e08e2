"""The network of a cluster on one machine, without any agent: everything reaches everything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.agent.links import devices
from reconciler.testing.topology import NodeSpec, PodSpec, Spec, Topology
from reconciler.testing.traffic import Traffic, Way
from tests.root import need_root

pytestmark = pytest.mark.kernel

WORLD = ("203.0.113.7", "203.0.113.200", "2001:db8::7")


def spec(nodes: int = 2, pods: int = 2) -> Spec:
    return Spec(
        nodes=tuple(
            NodeSpec(
                f"node-{i}",
                (f"172.18.0.{i}", f"fd18::{i}"),
                (f"10.244.{i}.0/24", f"fd00:244:{i}::/64"),
            )
            for i in range(1, nodes + 1)
        ),
        pods=tuple(
            PodSpec(
                f"ns/p{i}-{j}", f"node-{i}", (f"10.244.{i}.{10 + j}", f"fd00:244:{i}::{10 + j:x}")
            )
            for i in range(1, nodes + 1)
            for j in range(pods)
        ),
        world=WORLD,
        fabric=("172.18.0.254", "fd18::fe"),
    )


@pytest.fixture(scope="module")
def network() -> Iterator[Topology]:
    need_root()
    with Topology(spec()) as topology:
        yield topology


def ways(topology: Topology, family: int, protocol: str, port: int) -> list[Way]:
    outside = [a for a in WORLD if (":" in a) == (family == socket.AF_INET6)]
    pods = [pod.name for pod in topology.spec.pods]
    pairs = [(a, b) for a in pods for b in pods if a != b]
    pairs += [(a, b) for a in pods for b in outside] + [(b, a) for a in pods for b in outside]
    return [Way(a, b, protocol, port, family) for a, b in pairs]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_everybody_reaches_everybody(network: Topology, family: int, protocol: str) -> None:
    with Traffic(network, [(protocol, 8080)]) as traffic:
        found = traffic.matrix(ways(network, family, protocol, 8080))
    assert [way for way, passed in found.items() if not passed] == []


def test_what_nobody_answers_is_not_passed(network: Topology) -> None:
    """A port without a server is answered by its host; a host that is down is not."""
    a, b = (pod.name for pod in network.spec.pods[:2])
    with Traffic(network, [("TCP", 8080)]) as traffic:
        missing = Way(a, "10.244.2.99", "TCP", 8080)
        silent = Way(a, "10.244.2.99", "UDP", 53)
        closed = Way(a, b, "TCP", 8081)
        found = traffic.matrix([missing, silent, closed])
    assert found == {missing: False, silent: False, closed: True}


def test_flows_count_what_is_lost(network: Topology) -> None:
    a, b, *_ = (pod.name for pod in network.spec.pods)
    far = network.spec.pods[-1].name
    with Traffic(network, [("TCP", 8080), ("UDP", 53)]) as traffic:
        numbers = [
            traffic.flow(Way(a, far, "TCP", 8080)),
            traffic.flow(Way(a, far, "UDP", 53, socket.AF_INET6)),
            traffic.flow(Way(b, "203.0.113.7", "UDP", 53)),
        ]
        cut = traffic.flow(Way(b, "10.244.2.99", "UDP", 53))
        end = time.monotonic() + 10
        while min(traffic.answered()[n] for n in numbers) < 20 and time.monotonic() < end:
            pass
        reports = traffic.stop_flows()
    assert [(r.lost, r.failure) for r in reports[:3]] == [(0, "")] * 3
    assert all(r.answered >= 20 and r.arrived == r.sent for r in reports[:3])
    assert reports[cut - 1].answered == 0
    assert reports[cut - 1].lost == reports[cut - 1].sent > 0


def test_a_nodes_devices_are_found_with_their_addresses(network: Topology) -> None:
    with network.namespaces["node-1"].entered():
        found = {device.name: device.addresses for device in devices().values()}
        found = {name: each for name, each in found.items() if name.startswith("pod")}
    expected = {
        network.devices[pod.name]: frozenset(
            socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a)
            for a in pod.addresses
        )
        for pod in network.spec.pods
        if pod.node == "node-1"
    }
    assert found == expected


def test_nothing_is_left_of_a_topology_that_is_killed() -> None:
    """Its process is killed; a process it had started inside goes too."""
    need_root()
    program = (
        "import sys\n"
        "from tests.integration.test_topology import spec, Topology\n"
        "with Topology(spec(1, 1)) as t:\n"
        "    inside = t.start('node-1', ['sleep', '1000'])\n"
        "    print(inside.pid, t.namespaces['node-1'].path, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    pid, path = process.stdout.readline().split()
    assert Path(path).exists()
    identity = os.stat(path).st_ino
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    process.stdin.close()
    end = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < end:
        pass
    assert not _alive(pid)
    assert identity not in _namespaces()


def _alive(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _namespaces() -> set[int]:
    """Inodes of the network namespaces that some process is in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.stat(entry / "ns/net").st_ino)
            except OSError:
                continue
    return found
