"""Rows of a server process at a real API server: etcd, kube-apiserver, KWOK, and a protocol client
for each node.

The server is the product's own, as users start it; only the clients are the bench's. All of them,
and the API server, share this machine's cores. What is written is counted by the API server's audit
log, latencies are those of its metrics, and those that somebody else sees, who reads and writes an
object of his own all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from bench import peers
from bench.fleet import free_port
from bench.processes import Child, Setup
from bench.rows import Context, Row, measured, shown
from reconciler import tls
from reconciler.commands.ask import query
from reconciler.errors import UnavailableError
from reconciler.server import certs
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.install import install
from reconciler.testing.kubernetes import Cluster
from reconciler.testing.kubernetes.kwok import Kwok
from reconciler.testing.kubernetes.observed import Audit, by_kind, latencies, quantile
from reconciler.testing.kubernetes.population import Population, Size
from reconciler.testing.process import Process

GROUP: Final = "kubernetes"
USER: Final = "reconciler"
NAME: Final = "bench"
QUICK: Final = Size(pods=2_000, nodes=20)
IDENTITIES: Final = "/apis/cilium.io/v2/ciliumidentities"
CONFIG_MAPS: Final = "/api/v1/namespaces/default/configmaps"
WAIT_SECONDS: Final = 600.0
POLL_SECONDS: Final = 0.1
"""When a node acknowledged is known from the server; asking costs it time."""

BYSTANDER_SECONDS: Final = 0.02
"""Between two requests of somebody who has nothing to do with it."""

REST_SECONDS: Final = 3.0
"""Before a relabel: nothing of the one before it is under way any more."""

T = TypeVar("T")


def run(context: Context) -> list[Row]:
    size = QUICK if context.quick else Size()
    with _Rig(context, size) as rig:
        starts = [rig.cold_start() for _ in range(context.runs(3))]
        idle = rig.idle()
        synced = rig.clients()
        relabels = [rig.relabel(at) for at in range(1, context.runs(3) + 1)]
    return _rows(size, starts, synced, idle, relabels)


class _Bystander:
    """Reads an object of his own and patches it, in turn, at a steady pace."""

    def __init__(self, rig: _Rig) -> None:
        self._rig = rig
        self.seconds: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._ask())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        count = 0
        while True:
            count += 1
            began = time.monotonic()
            if count % 2:
                await self._rig.client.request("GET", f"{CONFIG_MAPS}/bystander")
            else:
                change = json.dumps({"data": {"count": str(count)}}).encode()
                await self._rig.client.request(
                    "PATCH", f"{CONFIG_MAPS}/bystander", body=change,
                    content_type="application/merge-patch+json",
                )  # fmt: skip
            took = time.monotonic() - began
            self.seconds.append(took)
            await asyncio.sleep(max(0.0, BYSTANDER_SECONDS - took))

    def p99(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]


class _Rig:
    """The whole cluster; `with` makes all objects and waits until every pod runs."""

    def __init__(self, context: Context, size: Size) -> None:
        self._context, self.size = context, size
        self._stack = contextlib.ExitStack()
        self._loop = asyncio.new_event_loop()
        self._server: Process | None = None
        self._known = 0

    def __enter__(self) -> _Rig:
        with contextlib.ExitStack() as stack:
            say = self._context.say
            self.directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-bench-"))
            )
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
            stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            say("starting etcd, an API server and KWOK")
            self.audit = Audit(self.directory, [USER])
            self.cluster = stack.enter_context(
                Cluster(apiserver_flags=self.audit.flags, large=True)
            )
            self.client = self._do(ApiClient.connect(self.cluster.kubeconfig()))
            stack.callback(lambda: self._do(self.client.close()))
            self._do(install(self.client))
            stack.enter_context(Kwok(self.cluster))
            self.population = Population(self.client, self.size)
            self._do(self.population.create(self._every(f"of {self.size.total} pods created")))
            self._do(self.population.running(WAIT_SECONDS, self._every("pods are running")))
            bystander = {"metadata": {"name": "bystander"}}
            self._do(self.client.request("POST", CONFIG_MAPS, body=json.dumps(bystander).encode()))
            now = datetime.datetime.now(datetime.UTC)
            certs.init(self.directory, cluster=NAME, now=now)
            certs.issue_server(self.directory, names=("127.0.0.1",), now=now)
            self._address = f"127.0.0.1:{free_port()}"
            stack.callback(self._stop_server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --------------------------------------------------------------------------------- measuring

    def cold_start(self) -> dict[str, Any]:
        """A server process from its start until it serves all pods. The first gives numbers."""
        self._stop_server()
        self._context.say("cold start of the server")
        began = time.monotonic()
        self._server = self._start_server()
        self._until(
            lambda: (found := self._ask("status"))["revision"] and found["pods"] == self.size.total
        )
        served = time.monotonic() - began
        self._until(lambda: self._objects() == self.size.label_sets)
        self._known = self.size.label_sets
        return {
            "served": served,
            "cpu": self._server.cpu_seconds(),
            "resident": self._server.memory(),
            "most": self._server.memory("VmHWM"),
        }

    def clients(self) -> float:
        """A client of the protocol for each node; seconds until all are in sync."""
        nodes, now = self.population.nodes, datetime.datetime.now(datetime.UTC)
        keys = {}
        for at, node in enumerate(nodes):
            if at % 50 == 0:
                self._context.say(f"certificates: {at} of {len(nodes)}")
            issued = certs.issue_node(self.directory, node, now=now)
            ca = str(self.directory / "ca.crt")
            keys[node] = tls.load(str(issued.certificate), str(issued.key), ca)
        child = self._stack.enter_context(
            Child(peers.main, Setup(self._address, keys, "clients", str(self.directory)))
        )
        child.tell("make", nodes=list(nodes), pods={})
        child.answer()
        self._context.say(f"{len(nodes)} nodes connect")
        began = time.monotonic()
        child.ask("start")
        self._until(lambda: len(self._in_sync()) == len(nodes))
        return float(max(row["committed_at"] for row in self._in_sync())) - began

    def idle(self) -> float:
        """p99 of the bystander's requests while nothing happens."""
        self._context.say("the API server at rest")
        with self._bystander() as bystander:
            time.sleep(REST_SECONDS)
        return bystander.p99()

    def relabel(self, generation: int) -> dict[str, Any]:
        """All namespaces at once, until every node has acknowledged and every object is there."""
        self._context.say(f"relabel {generation}")
        time.sleep(REST_SECONDS)
        assert self._server is not None
        before = {row["name"]: row for row in self._in_sync()}
        self.audit.writes()
        metrics, cpu = latencies(self.cluster.get("/metrics")), self._server.cpu_seconds()
        wanted = f"namespace.labels.release=r{generation};"
        with self._bystander() as bystander:
            began = time.monotonic()
            self._do(self.population.relabel(generation))
            # In the order of what it costs the server to be asked
            self._until(
                lambda: self._newer(before) and self._numbered(wanted) and self._newer(before)
            )
            rows = self._in_sync()
            self._known += self.size.label_sets
            self._until(lambda: self._objects() == self._known)
            objects = time.monotonic() - began
        after = latencies(self.cluster.get("/metrics"))
        counts = by_kind(self.audit.writes())
        p99, requests = quantile(0.99, after, metrics)
        return {
            "acked": max(row["committed_at"] for row in rows) - began,
            "objects": objects,
            "journal": counts["allocationjournals", "update"],
            "created": counts["ciliumidentities", "create"],
            "bytes": max(row["sent_bytes"] - before[row["name"]]["sent_bytes"] for row in rows),
            "p99": p99,
            "requests": requests,
            "bystander": bystander.p99(),
            "cpu": self._server.cpu_seconds() - cpu,
            "resident": self._server.memory(),
        }

    # ------------------------------------------------------------------------------------ inside

    @contextlib.contextmanager
    def _bystander(self) -> Iterator[_Bystander]:
        found = _Bystander(self)
        self._do(found.start())
        try:
            yield found
        finally:
            self._do(found.stop())

    def _start_server(self) -> Process:
        at = self.directory
        return Process(
            [
                sys.executable, "-m", "reconciler.cli", "server", "--kubernetes",
                "--kubeconfig", self.cluster.kubeconfig(USER, ("system:masters",)),
                "--replica", "r1", "--cluster-name", NAME, "--lease", NAME,
                "--namespace", "default", "--listen", self._address, "--status", self._status,
                "--drain-seconds", "3600", "--tls-cert", f"{at}/server.crt",
                "--tls-key", f"{at}/server.key", "--tls-ca", f"{at}/ca.crt",
            ],
            at / "server.log",
        )  # fmt: skip

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.end()
        self._server = None

    @property
    def _status(self) -> str:
        return f"unix:{self.directory}/server.status"

    def _ask(self, what: str) -> Any:
        return query(self._status, f"/v1/{what}")

    def _in_sync(self) -> list[dict[str, Any]]:
        return [row for row in self._ask("nodes") if row["state"] == "in-sync"]

    def _newer(self, before: dict[str, dict[str, Any]]) -> bool:
        rows = self._in_sync()
        return len(rows) == len(before) and all(
            row["committed"] > before[row["name"]]["committed"] for row in rows
        )

    def _numbered(self, wanted: str) -> bool:
        rows = [row for row in self._ask("identities") if row["pods"]]
        return len(rows) == self.size.label_sets and all(wanted in row["label_set"] for row in rows)

    def _objects(self) -> int:
        params = {"limit": "1"}
        found = json.loads(self._do(self.client.request("GET", IDENTITIES, params=params)).body)
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    def _until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while True:
            if self._server is not None:
                self._server.check()
            with contextlib.suppress(UnavailableError):
                if condition():
                    return
            if time.monotonic() > end:
                tail = "" if self._server is None else self._server.tail()
                raise RuntimeError(f"nothing came of it in {WAIT_SECONDS:g} s\n{tail}")
            time.sleep(POLL_SECONDS)

    def _every(self, what: str) -> Callable[[int], None]:
        def say(count: int) -> None:
            if count % 100 == 0:
                self._context.say(f"{count} {what}")

        return say

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _rows(
    size: Size,
    starts: list[dict[str, Any]],
    synced: float,
    idle: float,
    relabels: list[dict[str, Any]],
) -> list[Row]:
    pods, nodes = f"{size.total:,} pods", f"{size.nodes} protocol clients"
    last = relabels[-1]

    def each(name: str) -> list[float]:
        return [float(one[name]) for one in relabels]

    return [
        measured(
            GROUP,
            f"cold start of the server process: from its start until it serves {pods}",
            [one["served"] for one in starts],
            beside=f"{size.label_sets} new numbers in the first of them",
        ),
        measured(
            GROUP,
            "cold start: CPU of the server",
            [one["cpu"] for one in starts],
            beside="interpreter and imports in it",
        ),
        measured(
            GROUP,
            "cold start: memory of the server",
            [one["resident"] for one in starts],
            "B",
            beside=f"at most {shown(max(one['most'] for one in starts), 'B')}",
        ),
        measured(GROUP, f"then: until {nodes} are in sync", [synced], limit=5.0),
        measured(
            GROUP,
            f"relabel of {pods}: until {nodes} acked",
            each("acked"),
            limit=1.0,
            beside=f"{last['requests']} requests to the API server; all objects there after "
            f"{shown(last['objects'], 's')}",
        ),
        measured(GROUP, "relabel: bytes to one node", each("bytes"), "B", limit=64 << 10),
        measured(
            GROUP,
            "relabel: writes of the journal",
            each("journal"),
            "n",
            beside=f"{size.namespaces} namespaces are patched, each by a request of its own: "
            "one for each batch of them that is read at once",
        ),
        measured(
            GROUP,
            "relabel: CiliumIdentities created",
            each("created"),
            "n",
            beside=f"nothing for a pod. Where each node writes its pods' endpoints, as Cilium's "
            f"agents do: {size.total:,} CiliumEndpoints, and at least as many identities",
        ),
        measured(
            GROUP,
            "relabel: p99 of all requests to the API server",
            each("p99"),
            limit=0.040,
            beside="by the buckets of its metrics",
        ),
        measured(
            GROUP,
            "relabel: p99 of somebody else's requests",
            each("bystander"),
            limit=0.040,
            beside=f"at rest {shown(idle, 's')}",
        ),
        measured(GROUP, "relabel: CPU of the server", each("cpu")),
        measured(GROUP, "relabel: memory of the server", each("resident"), "B"),
    ]
