"""Rows of one agent's core alone, in one thread: what a cold start and a relabel cost on a node.

The frames are those that the server's core sends to the first node. The maps are the kernel's where
they can be had, and those in memory; no device is attached and no packet sent.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator
from typing import Final

from bench import cluster, kernel
from bench.drive import Driven
from bench.replay import Replayed, Spent
from bench.rows import Context, Row, measured, shown
from reconciler.core.dataplane.layout import map_specs
from reconciler.datapath.base import Datapath
from reconciler.datapath.twin import TwinDatapath
from reconciler.testing.journal import MemoryJournal

GROUP: Final = "agent"


def run(context: Context) -> list[Row]:
    context.say("building the cluster")
    built = cluster.Cluster(cluster.QUICK if context.quick else cluster.FULL)
    server = Driven(MemoryJournal())
    server.change(built.everything())
    server.connect(built.nodes)
    node = built.nodes[0]
    cold = server.frames(1)
    relabels = []
    for generation in range(1, 3 if context.quick else 6):
        context.say(f"relabel {generation} at the server")
        server.change(built.relabel(generation))
        relabels.append(server.frames(1))
    pods = built.pods_of[node]
    del server
    rows: list[Row] = []
    why = kernel.unavailable()
    for kind in ("kernel", "memory"):
        if kind == "kernel" and why:
            rows.append(Row(group=GROUP, what="cold start and relabel on kernel maps", why=why))
            continue
        starts: list[Spent] = []
        changes: list[Spent] = []
        profiled = kind == "memory" or not why
        for attempt in range(context.runs(3)):
            context.say(f"{kind} maps, {attempt + 1}")
            with _maps(kind, attempt) as datapath:
                replayed = Replayed(node, pods, datapath)
                gc.collect()
                with context.profiled("agent-cold-start" if profiled else ""):
                    starts.append(replayed.feed(cold))
                for frames in relabels:
                    gc.collect()
                    with context.profiled("agent-relabel" if profiled else ""):
                        changes.append(replayed.feed(frames))
        rows += _rows(f"{kind} maps", built.size, starts, changes)
    return rows


@contextlib.contextmanager
def _maps(kind: str, attempt: int) -> Iterator[Datapath]:
    if kind == "memory":
        yield TwinDatapath(map_specs(), time.monotonic_ns)
        return
    with kernel.opened(f"agent-{attempt}") as datapath:
        yield datapath


def _rows(where: str, size: cluster.Size, starts: list[Spent], changes: list[Spent]) -> list[Row]:
    rows = []
    for what, spent, limit in (
        (f"cold start, {size.pods:,} pods", starts, None),
        ("relabel", changes, 50e-3),
    ):
        last = spent[-1]
        wrote = ", ".join(f"{count:,} {name}" for name, count in last.writes.items())
        core, maps, after = (
            shown(statistics.median(samples), "s")
            for samples in (
                [one.core for one in spent],
                [one.maps for one in spent],
                [one.clean_up for one in spent],
            )
        )
        rows.append(
            measured(
                GROUP,
                f"{what}, {where}: CPU until its commit is acked",
                [one.core + one.maps for one in spent],
                limit=limit,
                beside=f"core {core}, maps {maps} ({wrote}); "
                f"clean-up {after}; cache {shown(last.cache_bytes, 'B')}",
            )
        )
    return rows
