"""Rows of the server's core alone: cold start and relabel, in one thread, no sockets.

The journal is in memory, then the SQLite one on the disk under the temporary directory.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import cluster
from bench.drive import Driven, Steps
from bench.rows import Context, Row, measured, shown
from reconciler.core.identity import Journal
from reconciler.core.objects import decode
from reconciler.server.journal import SqliteJournal
from reconciler.testing.journal import MemoryJournal

GROUP: Final = "core"
_JOURNALS: Final = ("memory", "SQLite")


def run(context: Context) -> list[Row]:
    context.say("building the cluster")
    built = cluster.Cluster(cluster.QUICK if context.quick else cluster.FULL)
    rows = _decoding(context, built)
    for journal in _JOURNALS:
        rows += _plane(context, built, journal)
    return rows


def _decoding(context: Context, built: cluster.Cluster) -> list[Row]:
    text = built.listed()
    ours, plain = [], []
    for _ in range(context.runs(3)):
        context.say("decoding JSON")
        gc.collect()
        began = time.perf_counter()
        decoded = decode(text, "all.json")
        ours.append(time.perf_counter() - began)
        if decoded.problems:
            raise RuntimeError(f"the cluster's own objects are refused: {decoded.problems[0]}")
        del decoded
        gc.collect()
        began = time.perf_counter()
        json.loads(text)
        plain.append(time.perf_counter() - began)
    beside = f"json.loads alone, untyped: {shown(statistics.median(plain), 's')}"
    what = f"{built.size.pods:,} pods and the rest read from {shown(len(text), 'B')} of JSON"
    return [measured(GROUP, what, ours, beside=beside)]


@contextlib.contextmanager
def _journal(kind: str) -> Iterator[Journal]:
    if kind == "memory":
        yield MemoryJournal()
        return
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as directory:
        journal = SqliteJournal(Path(directory) / "journal.sqlite")
        try:
            yield journal
        finally:
            journal.close()


def _plane(context: Context, built: cluster.Cluster, kind: str) -> list[Row]:
    size = built.size
    loads: list[Steps] = []
    connects: list[Steps] = []
    relabels: list[Steps] = []
    profiled = kind == _JOURNALS[0]
    for attempt in range(context.runs(3) if profiled else 1):
        context.say(f"cold start {attempt + 1}, {kind} journal")
        built.relabel(0)
        everything = built.everything()
        gc.collect()
        with _journal(kind) as journal:
            with context.profiled("core-cold-start" if profiled else ""):
                server = Driven(journal)
                loads.append(server.change(everything))
                connects.append(server.connect(built.nodes))
            for generation in range(1, 3 if context.quick else 4):
                context.say(f"relabel {generation}, {kind} journal")
                changes = built.relabel(generation)
                with context.profiled("core-relabel" if profiled else ""):
                    relabels.append(server.change(changes))
            del server
    if not profiled:
        return [
            measured(GROUP, f"relabel, SQLite journal: {label}", samples)
            for label, samples in (
                ("to the publication", [one.published for one in relabels]),
                ("of that, the journal's write", [one.journal for one in relabels]),
                ("until all nodes acked", [one.acked for one in relabels]),
            )
        ]
    cold = [load.acked + connect.acked for load, connect in zip(loads, connects, strict=True)]
    middle = relabels[len(relabels) // 2]
    return [
        measured(
            GROUP,
            f"cold start, {size.pods:,} pods: to the first publication",
            [one.published for one in loads],
            beside=f"{size}; {loads[0].writes} journal write, {loads[0].allocated} identities",
        ),
        measured(
            GROUP,
            f"cold start: then views and responses of {size.nodes} nodes",
            [one.staged for one in connects],
            beside=f"{connects[0].responses} different responses, {connects[0].messages} sent, "
            f"{shown(connects[0].node_bytes, 'B')} to one node",
        ),
        measured(
            GROUP,
            f"cold start: all of it, until {size.nodes} nodes acked",
            cold,
            limit=5.0,
            beside=f"CPU {_median_cpu(loads, connects)}; the server's share of the budget",
        ),
        measured(
            GROUP,
            f"relabel of {size.namespaces} namespaces: to the publication",
            [one.published for one in relabels],
            beside=f"{middle.allocated} identities",
        ),
        measured(
            GROUP,
            f"relabel: until the responses of {size.nodes} nodes are joined",
            [one.staged for one in relabels],
            beside=f"{middle.responses} different responses, {middle.messages} sent",
        ),
        measured(
            GROUP,
            f"relabel: until {size.nodes} nodes acked",
            [one.acked for one in relabels],
            limit=1.0,
            beside=f"CPU {_median_cpu(relabels)}; the server's share of the budget",
        ),
        measured(
            GROUP,
            "relabel: bytes to one node",
            [one.node_bytes for one in relabels],
            "B",
            limit=64 << 10,
        ),
        measured(
            GROUP,
            "relabel: journal writes",
            [one.writes for one in relabels],
            "n",
            beside="budget: 1 before serving",
        ),
    ]


def _median_cpu(*parts: list[Steps]) -> str:
    """parts: steps of one run that follow each other."""
    runs = zip(*parts, strict=True)
    return shown(statistics.median(sum(one.cpu for one in run) for run in runs), "s")
