"""Rows of one server process with very many streams: its memory, and one change sent to all.

The cluster is small (50 groups of one pod), so that streams are what is measured and not what goes
over them. The clients acknowledge whatever comes. The handshakes of 10,000 streams alone take
minutes on two cores, and the clients need gigabytes; `--streams 1000` alone is a tenth of both.
"""

from __future__ import annotations

import time
from typing import Any, Final

from bench import cluster, machine
from bench.fleet import certificates, profiled, running
from bench.rows import Context, Row, measured, shown

GROUP: Final = "streams"
_SIZE: Final = cluster.Size(namespaces=1, deployments=50, replicas=1, nodes=50)
_COUNTS: Final = (1_000, 10_000)
_SPARE: Final = 200  # descriptors of a process beside its streams
_MANY: Final = 2_000  # beyond this one broadcast is enough to wait for
_FEW: Final = 10
"""Streams that are open when memory is first read: what the first one needs is not per stream."""


def run(context: Context) -> list[Row]:
    counts = (100,) if context.quick else context.streams or _COUNTS
    chosen = [(count, each) for count in counts for each in context.transports]
    return [row for count, transport in chosen for row in _rows(context, count, transport)]


def _rows(context: Context, count: int, transport: str) -> list[Row]:
    what = f"{count:,} streams over {transport}, one TLS connection each"
    limit = machine.raise_descriptor_limit()
    if count + _SPARE > limit:
        why = f"a process may have {limit:,} open files; raise the limit (ulimit -n)"
        return [Row(group=GROUP, what=what, why=why)]
    built = cluster.Cluster(_SIZE)
    nodes = [f"edge-{index}" for index in range(1, count + 1)]
    few, rest = nodes[:_FEW], nodes[_FEW:]
    half = len(rest) // 2
    keys = certificates(context, nodes)
    parts = (few, rest[:half], rest[half:])
    with running(context, "answers", parts, keys, transport=transport) as fleet:
        server, (first, *others) = fleet.server, fleet.children
        server.ask("load", objects=built.listed(), nodes=few)
        first.ask("start")
        server.ask("wait", seconds=60)
        before = server.ask("used")
        context.say(f"opening {count:,} streams")
        server.ask("expect", nodes=rest)
        began = time.monotonic()

        def opening() -> float:
            for child in others:
                child.tell("start")
            for child in others:
                child.answer()
            at: float = server.ask("wait", seconds=1100)["at"]
            return at - began

        opened = profiled(context, "streams-open", server, opening)
        after = server.ask("used")
        broadcasts: list[dict[str, Any]] = []
        times = context.runs(5) if count <= _MANY else 1
        for generation in range(1, times + 1):
            context.say(f"broadcast {generation} to {count:,} streams")
            changes = built.relabel(generation)
            broadcasts.append(
                profiled(
                    context,
                    "streams-broadcast",
                    server,
                    lambda changes=changes: server.ask("change", changes=changes),  # type: ignore[misc]
                )
            )
        last = server.ask("used")
        clients = sum(child.ask("used")["resident"] for child in fleet.children)
    cpu = after["cpu"] - before["cpu"]
    return [
        measured(
            GROUP,
            f"{what}: server memory (RSS) for each",
            [(after["resident"] - before["resident"]) / len(rest)],
            "B",
            limit=100 << 10,
            beside=f"server {shown(after['resident'], 'B')}, after the broadcasts "
            f"{shown(last['resident'], 'B')}; all clients {shown(clients, 'B')}",
        ),
        measured(
            GROUP,
            f"{what}: opened and in sync",
            [opened],
            beside=f"CPU of the server {shown(cpu, 's')}, {shown(cpu / len(rest), 's')} a stream",
        ),
        measured(
            GROUP,
            f"a relabel of one namespace to {count:,} streams: until all acked",
            [one["acked"] for one in broadcasts],
            beside=f"{shown(broadcasts[-1]['bytes'], 'B')} to each, CPU of the server "
            f"{shown(broadcasts[-1]['cpu'], 's')}",
        ),
    ]
