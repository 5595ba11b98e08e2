"""Server and agent as processes, over a Unix socket, on the datapath in memory: no root needed."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler import tracefile
from reconciler.agent import status as agent_status
from reconciler.commands.ask import query
from reconciler.errors import ConfigError, UnavailableError
from reconciler.server import certs
from reconciler.server import status as server_status
from tests.command import cli_here

SHOP = Path(__file__).parents[2] / "demo" / "shop"


class Processes:
    def __init__(self, directory: Path, manifests: Path = SHOP) -> None:
        self.directory = directory
        self.manifests = manifests
        self.transport = "grpc"
        self.server_status = f"unix:{directory}/server.sock"
        self.agent_status = f"unix:{directory}/agent.sock"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def server(self, *options: str) -> None:
        self._start("server", "--listen", f"unix:{self.directory}/xds.sock", "--status",
                    self.server_status, "--manifests", str(self.manifests), "--state-dir",
                    str(self.directory / "state"), "--transport", self.transport,
                    "--record-trace", str(self.directory / "server.jsonl"), *options)  # fmt: skip

    def agent(self, node: str = "node-1", *options: str) -> None:
        self._start("agent", "--node", node, "--server", f"unix:{self.directory}/xds.sock",
                    "--status", self.agent_status, "--datapath", "memory", "--cache-dir",
                    str(self.directory / "cache"), "--cni-socket", "", "--record-trace",
                    str(self.directory / "agent.jsonl"), *options)  # fmt: skip

    def _start(self, command: str, *options: str) -> None:
        with open(self.directory / f"{command}.log", "ab") as log:
            self.running[command] = subprocess.Popen(
                [sys.executable, "-m", "reconciler.cli", command, "--insecure", *options],
                stdout=log,
                stderr=log,
            )

    def stop(self, command: str, number: int = signal.SIGTERM) -> int:
        process = self.running.pop(command)
        process.send_signal(number)
        return process.wait(20)

    def wait(self, condition: Callable[[], bool]) -> None:
        end, pause = time.monotonic() + 30, threading.Event()
        while True:
            try:
                if condition():
                    return
            except UnavailableError:
                pass
            dead = [name for name, process in self.running.items() if process.poll() is not None]
            if dead or time.monotonic() > end:
                logs = [path.read_text() for path in sorted(self.directory.glob("*.log"))]
                raise AssertionError("\n".join([f"ended: {dead}", *logs]))
            pause.wait(0.05)

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in query(self.server_status, "/v1/nodes")}

    def in_sync(self) -> bool:
        node = self.nodes().get("node-1", {})
        return bool(
            (node.get("state"), node.get("streams")) == ("in-sync", 1)
            and all(
                row["state"] == "enforcing" for row in query(self.agent_status, "/v1/endpoints")
            )
        )

    def end(self) -> None:
        for name in list(self.running):
            self.stop(name, signal.SIGKILL)


class World(Processes):
    """A server and an agent that tests share: starting them is most of what such a test costs.

    A test leaves it as it found it, or closes it with `end`: then the next one gets a new one.
    """

    def __init__(self, directory: Path, transport: str) -> None:
        super().__init__(directory)
        self.transport = transport
        self.server_metrics = f"unix:{directory}/server-metrics.sock"
        self.agent_metrics = f"unix:{directory}/agent-metrics.sock"
        self._new: dict[str, Any] = {}

    def server(self, *options: str) -> None:
        super().server("--metrics", self.server_metrics, *options)

    def agent(self, node: str = "node-1", *options: str) -> None:
        super().agent(node, "--metrics", self.agent_metrics, *options)

    def begin(self) -> None:
        self.server()
        self.agent()
        self.wait(self.in_sync)
        self._new = self._standing()

    def check(self) -> None:
        """It is as it was when it was new."""
        self.wait(self.in_sync)
        assert self._standing() == self._new, "a test has changed the world that others share"

    def _standing(self) -> dict[str, Any]:
        """What is served, to whom, and how it is enforced."""
        node = self.nodes()["node-1"]
        return {
            "running": sorted(self.running),
            "node": {key: node[key] for key in ("state", "rollout", "nack", "alarms")},
            "enforced": query(self.agent_status, "/v1/endpoints"),
            "filling": query(self.agent_status, "/v1/status")["filling"],
            **{
                kind: query(self.server_status, f"/v1/{kind}")
                for kind in ("identities", "groups", "policies", "endpoints")
            },
        }


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, World]]:
    """Those that stand, by transport."""
    made: dict[str, World] = {}
    yield made
    for each in made.values():
        each.end()


@pytest.fixture
def world(
    worlds: dict[str, World],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[World]:
    """In sync. One that a test has left changed is an error of that test, and of no other."""
    transport = getattr(request, "param", "grpc")
    found = worlds.pop(transport, None) or World(tmp_path_factory.mktemp(transport), transport)
    try:
        if found.running:
            found.check()
        else:
            found.begin()
        yield found
        if found.running:
            found.check()
            worlds[transport] = found
    finally:
        if transport not in worlds:
            found.end()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Of this test alone; nothing runs yet."""
    found = Processes(tmp_path)
    yield found
    found.end()


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("world", ["grpc", "http2"], indirect=True)
def test_a_cluster_is_served_and_can_be_asked(world: World) -> None:
    server = ("--server", world.server_status)
    status = query(world.server_status, "/v1/status")
    assert status["pods"] == 12
    assert status["identities"] == 11
    assert status["problems"] == []
    rows = json.loads(cli("get", "identities", *server, "-o", "json").stdout)
    assert [row["number"] for row in rows] == list(range(256, 267))
    for kind in ("groups", "policies", "endpoints", "nodes", "status"):
        done = cli_here("get", kind, *server)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) > 3
    shop = json.loads(cli_here("get", "policies", "-n", "shop", *server, "-o", "json").stdout)
    assert {row["namespace"] for row in shop} == {"shop"}
    metrics = cli_http(world.server_status, "/metrics")
    assert 'reconciler_nodes{state="in-sync"} 1.0' in metrics
    assert "reconciler_map_entries" in cli_http(world.agent_status, "/metrics")
    for address in (world.server_status, world.agent_status):
        assert query(address, "/readyz") == {"status": "ok"}


def test_prometheus_gets_metrics_and_nothing_else(world: World) -> None:
    """Every documented family is on the page, on a port of its own, and no way to more."""
    pages = (
        (world.server_metrics, server_status.METRICS),
        (world.agent_metrics, agent_status.METRICS),
    )
    for address, families in pages:
        page = cli_http(address, "/metrics")
        for family in families:
            assert f"\n# TYPE {family.exposed} {family.kind}\n" in page
        assert "\nreconciler_build_info{version=" in page
        assert "\nprocess_resident_memory_bytes " in page
        for path in ("/healthz", "/readyz"):
            assert query(address, path) == {"status": "ok"}
        for path in ("/v1/status", "/v1/endpoints", "/v1/probe", "/", "/metrics/x"):
            with pytest.raises(ConfigError, match="Not Found"):
                query(address, path)


def cli_http(address: str, path: str) -> str:
    import asyncio

    from reconciler.config import parse_address
    from reconciler.local import Client

    return asyncio.run(Client(parse_address(address)).get(path)).decode()


def test_explain_and_the_datapath_agree(world: World) -> None:
    options = ("--server", world.server_status, "--agent", world.agent_status, "--node")
    allowed = cli("explain", "--from", "203.0.113.7", "--to", "shop/frontend-1",
                  "--port", "8080/tcp", *options)  # fmt: skip
    assert "NetworkPolicy shop/frontend#spec.ingress[0]" in allowed.stdout
    assert "kernel   ingress: allowed (probe)" in allowed.stdout
    denied = cli_here("explain", "--from", "203.0.113.200", "--to", "shop/frontend-1",
                      "--port", "8080/tcp", *options)  # fmt: skip
    assert "verdict  8080/tcp: deny" in denied.stdout
    assert "kernel   ingress: no-rule (probe)" in denied.stdout
    unknown = cli_here("explain", "--from", "shop/nobody", "--to", "shop/frontend-1", *options)
    assert unknown.returncode == 2
    assert "shop/nobody" in unknown.stderr


def test_numbers_survive_a_server_that_is_killed(world: World) -> None:
    before = query(world.server_status, "/v1/identities")
    whole = world.nodes()["node-1"]["sent_bytes"]
    world.stop("server", signal.SIGKILL)
    world.server()
    world.wait(world.in_sync)
    assert query(world.server_status, "/v1/identities") == before
    assert world.nodes()["node-1"]["sent_bytes"] < whole / 10


def test_a_second_server_on_one_journal_is_refused(world: World) -> None:
    done = cli("server", "--insecure", "--listen", f"unix:{world.directory}/other.sock",
               "--status", f"unix:{world.directory}/other-status.sock",
               "--state-dir", str(world.directory / "state"))  # fmt: skip
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("reconciler: ")]) == 1
    assert "journal" in done.stderr


def test_a_map_that_fills_is_said_before_it_is_full(world: World) -> None:
    row = query(world.agent_status, "/v1/status")
    assert row["filling"] == {}
    used = row["usage"]["addresses"]
    assert used >= 16
    world.stop("agent")
    world.agent("node-1", "--max-addresses", str(used + 1))
    world.wait(world.in_sync)
    row = query(world.agent_status, "/v1/status")
    assert row["filling"] == {"addresses": 90}
    assert row["refusal"] == ""
    text = f"{used} of {used + 1} entries are in use, which is 90 % or more"
    assert (world.directory / "agent.log").read_text().count(text) == 1
    assert "reconciler_alarms_total 1.0" in cli_http(world.agent_status, "/metrics")
    world.end()  # its agent has another limit now


def test_a_manifest_directory_that_is_not_there(tmp_path: Path) -> None:
    done = cli("server", "--insecure", "--listen", f"unix:{tmp_path}/x.sock", "--state-dir",
               str(tmp_path), "--status", f"unix:{tmp_path}/s.sock", "--manifests",
               str(tmp_path / "nothing"))  # fmt: skip
    assert done.returncode == 2
    assert "nothing is not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_logs_are_json_with_the_objects_names(tmp_path: Path) -> None:
    """Each line, also while peers without TLS break the handshake, which gRPC would tell."""
    now = datetime.datetime.now(datetime.UTC)
    certs.init(tmp_path, cluster="test", now=now)
    certs.issue_server(tmp_path, names=("127.0.0.1",), now=now)
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "bad.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: web, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Sideways]}\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = Processes(tmp_path, manifests)
    options = ("--listen", f"127.0.0.1:{port}", "--tls-cert", str(tmp_path / "server.crt"),
               "--tls-key", str(tmp_path / "server.key"), "--tls-ca", str(tmp_path / "ca.crt"),
               "--log-json", "--no-insecure")  # fmt: skip
    processes.server(*options)
    try:
        processes.wait(lambda: bool(query(processes.server_status, "/v1/status")))
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(b"no TLS" * 10)
            while peer.recv(1000):
                pass
    finally:
        processes.stop("server")
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    (problem,) = (line for line in lines if line["event"] == "problem")
    assert problem["object"] == "NetworkPolicy shop/web"
    assert problem["path"].startswith("spec.policyTypes")
    assert (problem["source"], problem["severity"]) == ("bad.yaml#1", "error")


def test_stopping_is_orderly(processes: Processes) -> None:
    processes.server()
    processes.agent()
    processes.wait(processes.in_sync)
    assert processes.stop("agent") == 0
    assert processes.stop("server") == 0
    left = [path.name for path in processes.directory.iterdir() if path.is_socket()]
    assert [name for name in left if name != "xds.sock"] == []
    for log in ("server.log", "agent.log"):
        assert "Traceback" not in (processes.directory / log).read_text()
    for process in ("server", "agent"):
        (life,) = tracefile.read(processes.directory / f"{process}.jsonl")
        assert (life.process, life.torn) == (process, False)


def test_the_environment_configures_it_too(tmp_path: Path) -> None:
    environ = {**os.environ, "RECONCILER_DEBOUNCE_MS": "never"}
    done = subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "server"],
        capture_output=True,
        text=True,
        env=environ,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("reconciler: RECONCILER_DEBOUNCE_MS: ")
