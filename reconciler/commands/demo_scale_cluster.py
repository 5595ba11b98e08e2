"""The cluster of `reconciler demo --kubernetes`: API server, KWOK, two replicas, three agents.

    KWOK ─ nodes, pods ─┐
                        ├─ etcd, kube-apiserver ─ two replicas ══xDS══ agents of three nodes
    `Population` ───────┘                                              (the others are KWOK's alone)

A few pods of the three nodes have a network namespace and a device, with the address that KWOK gave
them, so that real packets meet what the API server's objects say. Everything has this process's id
in its name and goes when this process does, or when the next demo starts.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final, TypeVar

import msgspec

from reconciler.commands.ask import query
from reconciler.commands.demo_cluster import BPFFS, PREFIX, DemoFailed, remove_pins
from reconciler.core.objects import Namespace, NetworkPolicy, Pod, decode_as
from reconciler.errors import UnavailableError
from reconciler.server import certs
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.install import install
from reconciler.testing.kubernetes import Cluster
from reconciler.testing.kubernetes.kwok import Kwok
from reconciler.testing.kubernetes.observed import Audit, Buckets, latencies
from reconciler.testing.kubernetes.population import Place, Population, Size
from reconciler.testing.places import Places
from reconciler.testing.process import Process
from reconciler.testing.topology import NodeSpec, PodSpec, Spec, Topology

REPLICAS: Final = ("r1", "r2")
AGENTS: Final = 3
REAL_PODS: Final = 8
"""Of each agent's node, with a namespace and a device."""

LEASE_SECONDS: Final = 4.0
NAME: Final = "demo"
USER: Final = "reconciler-"
JOURNAL: Final = f"/apis/reconciler.io/v1alpha1/allocationjournals/{NAME}"
IDENTITIES: Final = "/apis/cilium.io/v2/ciliumidentities"
LEASE: Final = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{NAME}"

POLL_SECONDS: Final = 0.1
"""Who is asked has better things to do; when something happened is known from elsewhere."""

PODS_SECONDS: Final = 600.0
SYNC_SECONDS: Final = 60.0

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """As `kubectl get ciliumid` has it."""

    number: int
    labels: str

    def has(self, key: str, value: str) -> bool:
        return f"{key}={value}" in self.labels.split(" ")


class ScaleCluster(Places):
    """memory: agents with the datapath in memory, and no network."""

    def __init__(self, size: Size, *, memory: bool) -> None:
        self.size, self.memory = size, memory
        self.directory = Path(tempfile.gettempdir(), f"{PREFIX}{os.getpid()}")
        self.topology: Topology | None = None
        self.spec = Spec((), ())
        self.nodes: tuple[str, ...] = ()
        self.real: tuple[Place, ...] = ()
        self.running: dict[str, Process] = {}
        self._pins = BPFFS / f"{PREFIX}{os.getpid()}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._stack = ExitStack()
        self.api: Cluster
        self.client: ApiClient
        self.population: Population
        self.audit: Audit

    def __enter__(self) -> ScaleCluster:
        """etcd and the API server are ready, our kinds installed, KWOK runs; no object yet."""
        with ExitStack() as stack:
            self.directory.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self._thread.start()
            stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self.audit = Audit(self.directory, [f"{USER}{name}" for name in REPLICAS])
            self.api = stack.enter_context(Cluster(apiserver_flags=self.audit.flags, large=True))
            self.kubeconfig = self.api.kubeconfig()
            self.client = self.run(ApiClient.connect(self.kubeconfig))
            stack.callback(lambda: self.run(self.client.close()))
            self.run(install(self.client))
            self.population = Population(self.client, self.size)
            self.kwok = stack.enter_context(Kwok(self.api))
            self._issue()
            stack.callback(remove_pins, self._pins)
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Do it on the event loop of the API client, and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except BaseException:
            future.cancel()
            raise

    def _issue(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        certs.init(self.directory, cluster=NAME, now=now, days=2)
        certs.issue_server(self.directory, names=("localhost",), now=now, days=2)

    def _stop(self) -> None:
        for process in reversed(self.running.values()):
            process.end()
        self.running.clear()

    # ----------------------------------------------------------------------------------- processes

    def start_replica(self, name: str) -> None:
        user, groups = f"{USER}{name}", ("system:masters",)
        self._start(
            name, None, "server", "--kubernetes",
            "--kubeconfig", self.api.kubeconfig(user, groups), "--replica", name,
            "--cluster-name", NAME, "--lease", NAME, "--namespace", "default",
            "--lease-seconds", str(LEASE_SECONDS), "--listen", self.xds(name),
            "--status", self.status(name), "--drain-seconds", "3600", *self.tls("server"),
        )  # fmt: skip

    def start_agent(self, node: str, replicas: Sequence[str]) -> None:
        now = datetime.datetime.now(datetime.UTC)
        certs.issue_node(self.directory, node, now=now, days=2, stem=node)
        where = None if self.topology is None else node
        self._start(
            node, where, "agent", "--server", ",".join(map(self.xds, replicas)),
            "--status", self.status(node), "--cache-dir", str(self.directory / f"cache-{node}"),
            "--cni-socket", str(self.directory / f"{node}.cni"),
            "--datapath", "memory" if self.memory else "kernel",
            "--pin-dir", str(self._pins / node), "--pod-interfaces", "pod*",
            "--tls-server-name", "localhost", *self.tls(node),
        )  # fmt: skip

    def _start(self, name: str, where: str | None, *words: str) -> None:
        line = [sys.executable, "-m", "reconciler.cli", *words]
        if where is not None and self.topology is not None:
            line = ["nsenter", f"--net={self.topology.namespaces[where].path}", *line]
        if which := shutil.which(line[0]):
            line[0] = which
        self.running[name] = Process(line, self.directory / f"{name}.log")

    def agent_status(self, node: str) -> str:
        return self.status(node)

    def kill(self, name: str) -> None:
        """kill -9."""
        self.running.pop(name).end(SIGKILL)

    # ----------------------------------------------------------------------------------- real pods

    def choose(self) -> None:
        """Nodes with agents, and the pods there that get a device: such that talk to each other."""
        self.nodes = self.population.nodes[:AGENTS]
        there = [place for place in self.population.places() if place.node in self.nodes]
        at: dict[tuple[str, int], list[Place]] = {}
        for place in there:
            at.setdefault((place.namespace, place.deployment), []).append(place)
        room = dict.fromkeys(self.nodes, REAL_PODS)
        chosen: dict[Place, None] = {}
        for place in there:
            callers = self.population.callers(place.deployment)
            for caller in callers:
                for other in at.get((place.namespace, caller), ())[:2]:
                    fresh = [each for each in {place, other} if each not in chosen]
                    wanted = [each.node for each in fresh]
                    if fresh and all(room[node] >= wanted.count(node) for node in wanted):
                        chosen.update(dict.fromkeys(fresh))
                        for node in wanted:
                            room[node] -= 1
        self.real = tuple(chosen)

    def network(self) -> None:
        """Namespaces and devices of the chosen pods, with the addresses that KWOK gave them."""
        pods = {f"{p.metadata.namespace}/{p.metadata.name}": p for p in self.pods()}
        nodes = []
        for name in self.nodes:
            found = json.loads(self.get(f"/api/v1/nodes/{name}"))
            address = found["status"]["addresses"][0]["address"]
            nodes.append(NodeSpec(name, (address,), tuple(found["spec"]["podCIDRs"])))
        self.spec = Spec(
            tuple(nodes),
            tuple(
                PodSpec(name, pod.spec.node_name, tuple(each.ip for each in pod.status.pod_ips))
                for name, pod in pods.items()
            ),
        )
        if not self.memory:
            self.topology = self._stack_before_processes(Topology(self.spec))

    def _stack_before_processes(self, topology: Topology) -> Topology:
        """What ends last is entered first: the network outlives the agents."""
        own = ExitStack()
        entered = own.enter_context(topology)
        rest = self._stack.pop_all()
        self._stack.push(own)
        self._stack.push(rest)
        return entered

    def pods(self) -> list[Pod]:
        """The chosen ones, as the API server has them."""
        return [
            self._typed(f"/api/v1/namespaces/{place.namespace}/pods/{place.name}", Pod)
            for place in self.real
        ]

    def namespaces_and_policies(self) -> tuple[list[Namespace], list[NetworkPolicy]]:
        paths = [f"/api/v1/namespaces/{name}" for name in self.population.namespaces]
        found = [self._typed(path, Namespace) for path in paths]
        listed = json.loads(self.get("/apis/networking.k8s.io/v1/networkpolicies"))
        policies = [_read(json.dumps(each).encode(), NetworkPolicy) for each in listed["items"]]
        return found, policies

    def _typed(self, path: str, kind: type[T]) -> T:
        return _read(self.get(path), kind)

    # ------------------------------------------------------------------------------------- looking

    def get(self, path: str) -> bytes:
        return self.run(self.client.request("GET", path)).body

    def ask(self, name: str, path: str) -> Any:
        return query(self.status(name), path)

    def replicas(self) -> tuple[str, ...]:
        return tuple(name for name in REPLICAS if name in self.running)

    def leader(self) -> str:
        """By the Lease; "" while it is nobody's."""
        return str(json.loads(self.get(LEASE))["spec"].get("holderIdentity") or "")

    def journal(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self.get(JOURNAL))["spec"]
        return spec

    def identities(self) -> list[Identity]:
        """All CiliumIdentity objects."""
        items = json.loads(self.get(IDENTITIES))["items"]
        return [
            Identity(
                int(each["metadata"]["name"]),
                " ".join(
                    f"{key}={value}" for key, value in sorted(each["security-labels"].items())
                ),
            )
            for each in items
        ]

    def count_identities(self) -> int:
        """Of CiliumIdentity objects, at next to no cost."""
        found = json.loads(self.get(f"{IDENTITIES}?limit=1"))
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    def latencies(self) -> Buckets:
        return latencies(self.api.get("/metrics"))

    def wait(
        self, what: str, condition: Callable[[], object], seconds: float = SYNC_SECONDS
    ) -> None:
        """Until it holds; DemoFailed says what did not, and how the logs end."""
        end = time.monotonic() + seconds
        while True:
            for process in self.running.values():
                try:
                    process.check()
                except UnavailableError as error:
                    raise DemoFailed(str(error)) from None
            try:
                if condition():
                    return
            except UnavailableError:
                pass  # not listening yet
            if time.monotonic() > end:
                raise DemoFailed(f"not within {seconds:g} s: {what}\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def nodes_by_name(self, replicas: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The rows of the nodes with agents, of the replica that each is connected to."""
        found: dict[str, dict[str, Any]] = {}
        for replica in replicas:
            for row in self.ask(replica, "/v1/nodes"):
                if row["name"] in self.nodes and row["state"] not in ("unknown", "disconnected"):
                    held = found.get(row["name"])
                    if held is None or row["committed_at"] > held["committed_at"]:
                        found[row["name"]] = row
        return found

    def real_are_enforced(self) -> bool:
        """Every pod with a device is, at its agent."""
        names = {f"{place.namespace}/{place.name}" for place in self.real}
        states = {
            f"{row['namespace']}/{row['pod']}": row["state"]
            for node in self.nodes
            for row in self.ask(node, "/v1/endpoints")
        }
        return all(states.get(name) == "enforcing" for name in names)

    def logs(self, lines: int = 8) -> str:
        found = []
        for path in sorted(self.directory.glob("*.log")):
            if path.name != "audit.log":
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                found += [f"{path.stem}: {line}" for line in tail]
        return "\n".join(found)


def _read(data: bytes, kind: type[T]) -> T:
    found = decode_as(data, kind)
    if not isinstance(found, kind):
        raise UnavailableError(f"the API server's {kind.__name__} can't be read: {found}")
    return found
