"""Replicas of the server and agents as processes, against a real API server."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reconciler.commands.ask import query
from reconciler.errors import UnavailableError
from reconciler.server import certs
from reconciler.testing.places import Places
from reconciler.testing.process import Process

WAIT = 30.0
LEASE_SECONDS = "3"


class Plane(Places):
    """Replicas and agents of one test, with a small CA of their own."""

    def __init__(self, directory: Path, kubeconfig: str, name: str) -> None:
        self.directory, self.kubeconfig, self.name = directory, kubeconfig, name
        self.running: dict[str, Process] = {}
        now = datetime.datetime.now(datetime.UTC)
        certs.init(directory, cluster=name, now=now)
        certs.issue_server(directory, names=("localhost",), now=now)

    def start(self, command: str, name: str, *options: str, network: str = "") -> None:
        """network: path of the network namespace to start it in."""
        line = [sys.executable, "-m", "reconciler.cli", command, *options]
        if network:
            line = [str(shutil.which("nsenter")), f"--net={network}", *line]
        self.running[name] = Process(line, self.directory / f"{name}.log")

    def server(self, name: str, *options: str, namespace: str = "default") -> None:
        self.start(
            "server", name, "--kubernetes", "--kubeconfig", self.kubeconfig, "--replica", name,
            "--cluster-name", self.name, "--lease", self.name, "--namespace", namespace,
            "--lease-seconds", LEASE_SECONDS, "--listen", self.xds(name),
            "--status", self.status(name), "--drain-seconds", "1", *self.tls("server"), *options,
        )  # fmt: skip

    def agent(
        self,
        node: str,
        *servers: str,
        datapath: Sequence[str] = ("--datapath", "memory"),
        network: str = "",
    ) -> None:
        now = datetime.datetime.now(datetime.UTC)
        if not (self.directory / f"node-{node}.crt").exists():
            certs.issue_node(self.directory, node, now=now)
        self.start(
            "agent", node, "--server", ",".join(map(self.xds, servers)), "--status",
            self.status(node), *datapath, "--cni-socket", "", "--cache-dir",
            str(self.directory / f"cache-{node}"), "--tls-server-name", "localhost",
            *self.tls(f"node-{node}"), network=network,
        )  # fmt: skip

    def ask(self, name: str, path: str) -> Any:
        return query(self.status(name), path)

    async def asked(self, name: str, path: str) -> Any:
        return await asyncio.to_thread(self.ask, name, path)

    def identities(self, name: str, namespace: str) -> list[dict[str, Any]]:
        """What a replica knows of those of a namespace."""
        of = f"k8s:io.kubernetes.pod.namespace={namespace};"
        return [row for row in self.ask(name, "/v1/identities") if of in row["label_set"]]

    def state_of(self, node: str, replica: str) -> str:
        """Of a node, as a replica sees it."""
        (found,) = (row for row in self.ask(replica, "/v1/nodes") if row["name"] == node)
        return str(found["state"])

    def kill(self, name: str) -> None:
        self.running.pop(name).end(signal.SIGKILL)

    def kill_all(self) -> None:
        for name in list(self.running):
            self.kill(name)

    def stop(self, name: str) -> None:
        """As its supervisor would: it has time to end."""
        assert self.running.pop(name).end(seconds=WAIT) == 0

    async def until(self, condition: Callable[[], object], seconds: float = WAIT) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await asyncio.to_thread(_holds, condition):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = [f"== {p.name}\n{p.read_text()[-3000:]}" for p in self.directory.glob("*.log")]
            said = [await asyncio.to_thread(self._said, name) for name in self.running]
            raise AssertionError("\n".join([*logs, *said])) from None

    def _said(self, name: str) -> str:
        try:
            return str(self.ask(name, "/v1/status"))
        except UnavailableError as error:
            return str(error)

    def committed(self, node: str) -> int:
        """Revision that an agent says it enforces."""
        return int(self.ask(node, "/v1/status")["committed"])


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except UnavailableError:
        return False  # it is not there yet
