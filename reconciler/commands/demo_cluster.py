"""The demo's cluster: real processes – one server, an agent for each node – over a real network.

Everything it makes has this process's id in its name and goes when this process does: network
namespaces and child processes by the kernel, files and pinned maps here, or at the start of the
next demo if this one was killed.
"""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import yaml

from reconciler.commands.ask import query
from reconciler.core.objects import Node, Pod
from reconciler.errors import ConfigError, ReconcilerError, UnavailableError
from reconciler.server import certs
from reconciler.server.manifests import load
from reconciler.testing.process import bound
from reconciler.testing.topology import NodeSpec, PodSpec, Spec, Topology

PREFIX: Final = "reconciler-demo-"
BPFFS: Final = Path("/sys/fs/bpf")
SERVER_ADDRESSES: Final = ("172.18.0.254", "fd18::fe")
PORT: Final = 18000
WORLD: Final = (
    "203.0.113.7",  # a customer
    "203.0.113.200",  # on the abuse list
    "198.51.100.10",  # the bank
    "198.51.100.13",  # the bank's machine out of service
    "2001:db8::7",
    "2001:db8:bad::1",
)
SMALL_NODE: Final = "node-3"
SMALL_POLICIES: Final = 2_048
"""Policy entries that this node's kernel can hold: less than what part 5 asks of it."""

SYNC_SECONDS: Final = 20.0


class DemoFailed(ReconcilerError):
    """Something did not come about in time; what it was, and what the logs say."""


def clean_up_after_others() -> None:
    """Files and pins of demos whose process is gone."""
    for directory in (Path(tempfile.gettempdir()), BPFFS):
        if not directory.is_dir():
            continue
        for path in directory.glob(f"{PREFIX}*"):
            owner = path.name.removeprefix(PREFIX)
            if not owner.isdigit() or Path("/proc", owner).exists():
                continue
            if directory == BPFFS:
                remove_pins(path)
            else:
                shutil.rmtree(path, ignore_errors=True)


def remove_pins(path: Path) -> None:
    """What each node pinned below, and the directory, if there is one."""
    from reconciler.datapath import pins

    if not path.is_dir():
        return
    for node in path.iterdir():
        pins.unpin_all(node)
    shutil.rmtree(path, ignore_errors=True)


def topology_of(manifests: Path) -> Spec:
    """The network that the manifests describe."""
    objects = [item for _, item in load([manifests]).objects]
    nodes = [item for item in objects if isinstance(item, Node)]
    pods = [item for item in objects if isinstance(item, Pod) and item.status.pod_ips]
    if not nodes or not pods:
        raise ConfigError(f"--manifests: {manifests} has no nodes or no pods")
    return Spec(
        nodes=tuple(
            NodeSpec(
                node.metadata.name,
                tuple(each.address for each in node.status.addresses if each.type == "InternalIP"),
                node.spec.pod_cidrs,
            )
            for node in nodes
        ),
        pods=tuple(
            PodSpec(
                f"{pod.metadata.namespace}/{pod.metadata.name}",
                pod.spec.node_name,
                tuple(each.ip for each in pod.status.pod_ips),
            )
            for pod in pods
        ),
        world=WORLD,
        fabric=SERVER_ADDRESSES,
    )


class DemoCluster:
    """memory: agents with the datapath in memory and no network; else the kernel's."""

    def __init__(self, source: Path, *, memory: bool) -> None:
        self.memory = memory
        self.spec = topology_of(source)
        self.nodes = tuple(node.name for node in self.spec.nodes)
        self.directory = Path(tempfile.gettempdir(), f"{PREFIX}{os.getpid()}")
        self.manifests = self.directory / "manifests"
        self.journal = self.directory / "server" / "journal.sqlite"
        self.server_status = f"unix:{self.directory}/server.sock"
        self.topology: Topology | None = None
        self._source = source
        self._pins = BPFFS / f"{PREFIX}{os.getpid()}"
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> DemoCluster:
        with ExitStack() as stack:
            self.directory.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            shutil.copytree(self._source, self.manifests)
            if not self.memory:
                stack.callback(remove_pins, self._pins)
                self.topology = stack.enter_context(Topology(self.spec))
                self._issue()
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _issue(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        pki = self.directory / "pki"
        certs.init(pki, cluster="demo", now=now, days=2)
        certs.issue_server(pki, names=SERVER_ADDRESSES, now=now, days=2)
        for node in self.nodes:
            certs.issue_node(pki, node, now=now, days=2, stem=node)

    def _stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    # --------------------------------------------------------------------------- processes

    def agent_status(self, node: str) -> str:
        return f"unix:{self.directory}/{node}.sock"

    def start_server(self) -> None:
        options = {
            "--manifests": self.manifests,
            "--journal": self.journal,
            "--status": self.server_status,
            "--closed-grace": 600,  # part 5 is to be seen, not healed
            "--drain-seconds": 1,
        }
        listen = f"{SERVER_ADDRESSES[0]}:{PORT}" if not self.memory else self._socket
        self._start("server", "fabric", "server", {"--listen": listen, **options}, "server")

    def start_agent(self, node: str) -> None:
        options: dict[str, Any] = {
            "--node": node,
            "--server": f"{SERVER_ADDRESSES[0]}:{PORT}" if not self.memory else self._socket,
            "--status": self.agent_status(node),
            "--cache-dir": self.directory / node,
            "--cni-socket": self.directory / f"{node}.cni",
            "--datapath": "memory" if self.memory else "kernel",
            "--pin-dir": self._pins / node,
            "--pod-interfaces": "pod*",
        }
        if node == SMALL_NODE:
            options["--max-policies"] = SMALL_POLICIES
        self._start(node, node, "agent", options, node)

    @property
    def _socket(self) -> str:
        return f"unix:{self.directory}/xds.sock"

    def _start(
        self, name: str, where: str, command: str, options: Mapping[str, Any], stem: str
    ) -> None:
        line = [sys.executable, "-m", "reconciler.cli", command]
        for flag, value in options.items():
            line += [flag, str(value)]
        if self.memory:
            line.append("--insecure")
        else:
            pki = self.directory / "pki"
            line += ["--tls-cert", f"{pki}/{stem}.crt", "--tls-key", f"{pki}/{stem}.key"]
            line += ["--tls-ca", f"{pki}/ca.crt"]
        with open(self.directory / f"{name}.log", "ab") as log:
            files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            if self.topology is not None:
                process = self.topology.start(where, line, **files)
            else:
                process = subprocess.Popen(bound(line), **files)
        self._processes[name] = process

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    # ----------------------------------------------------------------------------- manifests

    def put(self, name: str, text: str) -> float:
        """Replace or add a manifest in one step; the time at which it was there."""
        fresh = self.directory / "fresh.yaml"
        fresh.write_text(text)
        os.rename(fresh, self.manifests / name)
        return time.monotonic()

    def remove(self, name: str) -> float:
        (self.manifests / name).unlink()
        return time.monotonic()

    def label_namespace(self, namespace: str, key: str, value: str) -> float:
        """Set one label of a namespace, as `kubectl label namespace` would."""
        path = self.manifests / "namespaces.yaml"
        objects = list(yaml.safe_load_all(path.read_text()))
        for each in objects:
            if each["metadata"]["name"] == namespace:
                each["metadata"].setdefault("labels", {})[key] = value
        return self.put(path.name, yaml.safe_dump_all(objects))

    # ------------------------------------------------------------------------------- waiting

    def rows(self, kind: str) -> Any:
        return query(self.server_status, f"/v1/{kind}")

    def nodes_by_name(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.rows("nodes")}

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = SYNC_SECONDS) -> None:
        """Until it holds; DemoFailed says what did not, and how the logs end."""
        end = time.monotonic() + seconds
        while True:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise DemoFailed(f"{name} ended with {process.returncode}\n{self.logs()}")
            try:
                if condition():
                    return
            except UnavailableError:
                pass  # not listening yet
            if time.monotonic() > end:
                raise DemoFailed(f"not within {seconds:g} s: {what}\n{self.logs()}")
            time.sleep(0.02)

    def wait_in_sync(self, newer_than: int = 0, *, nodes: tuple[str, ...] = ()) -> None:
        """Until these nodes (default: all) enforce the newest view, and every pod on them does."""
        wanted = nodes or self.nodes

        def in_sync() -> bool:
            rows = self.nodes_by_name()
            return all(
                node in rows
                and rows[node]["state"] == "in-sync"
                and rows[node]["committed"] > newer_than
                for node in wanted
            ) and all(
                row["state"] == "enforcing"
                for node in wanted
                for row in query(self.agent_status(node), "/v1/endpoints")
            )

        self.wait(f"{', '.join(wanted)} in sync", in_sync)

    def logs(self, lines: int = 8) -> str:
        """The last lines of each process's log."""
        found = []
        for path in sorted(self.directory.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            found += [f"{path.stem}: {line}" for line in tail]
        return "\n".join(found)
