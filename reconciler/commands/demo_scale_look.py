"""What the large demo looks at, and how it shows it: numbers, cuts, cost, writes, latency."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, Final

from reconciler.commands.demo_parts import Part
from reconciler.commands.demo_scale_cluster import Identity, ScaleCluster
from reconciler.commands.demo_show import Table
from reconciler.commands.output import revision
from reconciler.errors import ReconcilerError
from reconciler.testing.kubernetes.observed import Buckets, Write, by_kind, quantile, verbs
from reconciler.testing.process import Process

SHOWN: Final = 6  # identities in a table
_VERBS: Final = (("reads", ("GET", "LIST")), ("writes", ("POST", "PUT", "PATCH", "DELETE")))


class Look:
    """rows: what was measured, for the table at the end."""

    def __init__(self, cluster: ScaleCluster) -> None:
        self.cluster = cluster
        self.rows: list[tuple[str, str]] = []

    def nodes(self) -> dict[str, dict[str, Any]]:
        return self.cluster.nodes_by_name(self.cluster.replicas())

    def in_sync(self, before: dict[str, int]) -> bool:
        """All agents' nodes, at cuts newer than these."""
        rows = self.nodes()
        return len(rows) == len(self.cluster.nodes) and all(
            row["state"] == "in-sync" and row["committed"] > before.get(name, 0)
            for name, row in rows.items()
        )

    def committed(self) -> dict[str, int]:
        return {name: row["committed"] for name, row in self.nodes().items()}

    def enforced(self, release: str, before: dict[str, int]) -> bool:
        """Every replica has a number for every label set, the nodes have acknowledged cuts with
        them, and the agents say that their pods have these numbers."""
        if not self.in_sync(before):
            return False  # the identities are many, and to be asked for them costs a server time
        numbers: set[int] = set()
        for replica in self.cluster.replicas():
            bound = [row for row in self.identities(replica) if row["pods"]]
            if len(bound) != self.cluster.size.label_sets or not all(
                f"namespace.labels.release={release};" in row["label_set"] for row in bound
            ):
                return False
            numbers |= {row["number"] for row in bound}
        return self.in_sync(before) and all(
            row["number"] in numbers
            for node in self.cluster.nodes
            for row in self.cluster.ask(node, "/v1/endpoints")
        )

    def identities(self, replica: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.ask(replica, "/v1/identities")
        return found

    def numbers(self, replica: str) -> dict[str, tuple[int, int]]:
        """Label set → (number, birth)."""
        rows = self.identities(replica)
        return {row["label_set"]: (row["number"], row["birth"]) for row in rows}

    def pairs(self) -> dict[str, tuple[int, int]]:
        """The same by all replicas that run, which must agree."""
        found: dict[str, tuple[int, int]] = {}
        for replica in self.cluster.replicas():
            for key, pair in self.numbers(replica).items():
                if found.setdefault(key, pair) != pair:
                    raise ReconcilerError(f"{key} is {found[key]} and {pair}")
        return found

    def labelled(self, release: str, identities: list[Identity]) -> list[Identity]:
        key = "k8s:io.cilium.k8s.namespace.labels.release"
        return [each for each in identities if each.has(key, release)]

    def check_numbers(self, part: Part) -> None:
        """Nothing is taken back while the demo runs, so all numbers ever given are there."""
        objects = self.cluster.identities()
        of: dict[str, list[int]] = {}
        for each in objects:
            of.setdefault(each.labels, []).append(each.number)
        twice = [f"{numbers}: {labels}" for labels, numbers in of.items() if len(numbers) > 1]
        part.check(
            f"no label set of {len(of)} has a second number", not twice, "; ".join(twice[:3])
        )
        known = {number for number, _ in self.pairs().values()}
        part.check(
            "replicas and objects have the same numbers", known == {e.number for e in objects}
        )

    # -------------------------------------------------------------------------------------- showing

    def kubectl(self) -> list[str]:
        """Some identities as kubectl shows them, or as the API server has them where it is not."""
        namespace = self.cluster.population.namespaces[0]
        words = ["get", "ciliumid", "-l", f"io.kubernetes.pod.namespace={namespace}"]
        program = shutil.which("kubectl")
        if program is not None:
            line = [program, "--kubeconfig", self.cluster.kubeconfig, *words]
            order = "--sort-by=.metadata.creationTimestamp"
            try:
                said = subprocess.run(
                    [*line, order], capture_output=True, text=True, timeout=30, check=True
                ).stdout.splitlines()
                title = f"$ kubectl {' '.join(words)} {order} | tail -{SHOWN}"
                return [title, *(f"  {row}" for row in (said[0], *said[1:][-SHOWN:]))]
            except (OSError, subprocess.SubprocessError, IndexError):
                pass  # one that can't be used here is as good as none
        found = json.loads(
            self.cluster.get(
                "/apis/cilium.io/v2/ciliumidentities"
                f"?labelSelector=io.kubernetes.pod.namespace%3D{namespace}"
            )
        )["items"]
        found.sort(key=lambda each: each["metadata"]["creationTimestamp"])
        rows = [f"  {each['metadata']['name']}" for each in found[-SHOWN:]]
        return [f"CiliumIdentities of {namespace}, the last {SHOWN} (kubectl is not there):", *rows]

    def show_cost(
        self,
        part: Part,
        rows: dict[str, dict[str, Any]],
        sent: dict[str, int],
        begin: float,
        used: dict[str, float],
    ) -> None:
        nodes = tuple(
            (
                name,
                f"{row['sent_bytes'] - sent[name]}",
                f"{(row['committed_at'] - begin) * 1000:.0f} ms",
                revision(row["committed"]),
            )
            for name, row in sorted(rows.items())
        )
        columns = ("node", ">bytes", ">acknowledged after", ">cut")
        part.lines.append(
            Table("What each agent was sent, and when it enforced it", columns, nodes)
        )
        spent = tuple(
            (name, f"{seconds * 1000:.0f} ms", f"{self.cluster.running[name].memory() >> 20} MB")
            for name, seconds in used.items()
        )
        part.lines.append(Table("What it cost", ("process", ">CPU", ">resident"), spent))
        most = max(row["sent_bytes"] - sent[name] for name, row in rows.items())
        self.rows.append(("relabel: bytes to one agent", f"{most:,}"))

    def show_writes(self, part: Part, writes: Sequence[Write]) -> None:
        rows = tuple(
            (resource, verb, str(count))
            for (resource, verb), count in sorted(by_kind(writes).items())
        )
        title = "Writes of both replicas at the API server (its audit log)"
        part.lines.append(Table(title, ("resource", "verb", ">writes"), rows))

    def show_latency(self, part: Part, after: Buckets, before: Buckets) -> None:
        rows: list[tuple[str, ...]] = []
        for name, of in (("all", ()), *_VERBS):
            value, count = quantile(0.99, after, before, verbs=of)
            middle, _ = quantile(0.5, after, before, verbs=of)
            if not math.isnan(value):
                cells = (f"{middle * 1000:.1f} ms", f"{value * 1000:.1f} ms")
                rows.append((name, str(count), *cells))
                part.data[f"api_{name}_p99_ms"] = round(value * 1000, 1)
                self.rows.append((f"relabel: API server p99, {name}", cells[1]))
        said = ", ".join(f"{count} {verb}" for verb, count in sorted(verbs(after, before).items()))
        part.lines.append(
            Table(
                f"Requests that the API server answered meanwhile ({said})",
                ("requests", ">count", ">p50", ">p99"),
                tuple(rows),
            )
        )


def written(writes: Sequence[Write]) -> str:
    """By kind, as words."""
    found = sorted(by_kind(writes).items())
    return ", ".join(f"{count} {resource} {verb}" for (resource, verb), count in found) or "nothing"


def usage(process: Process) -> str:
    return f"{process.cpu_seconds():.1f} s CPU, {process.memory() >> 20} MB"
