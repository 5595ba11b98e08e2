"""Rows of the server process with a client of the protocol for each node, over gRPC and TLS.

The clients check roots and acknowledge, and hold no maps; so this is the server's part of the
budgets, with real sockets, and with both sharing this machine's cores.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from bench import cluster
from bench.fleet import alarms, certificates, profiled, relabel, running
from bench.rows import Context, Row, measured, shown

GROUP: Final = "clients"


def run(context: Context) -> list[Row]:
    context.say("building the cluster")
    built = cluster.Cluster(cluster.QUICK if context.quick else cluster.FULL)
    objects = built.listed()
    nodes = built.nodes
    keys = certificates(context, nodes)
    starts: list[dict[str, Any]] = []
    relabels: list[dict[str, Any]] = []
    generation = 0
    for attempt in range(context.runs(3)):
        half = len(nodes) // 2
        with running(context, "clients", (nodes[:half], nodes[half:]), keys) as fleet:
            context.say(f"cold start {attempt + 1}")
            before = fleet.used()[0]
            start = profiled(
                context, "server-cold-start", fleet.server, lambda: fleet.start(objects)
            )
            after = fleet.used()[0]
            start["cpu"] = after["cpu"] - before["cpu"]
            start["resident"] = after["resident"]
            starts.append(start)
            for _ in range(3):
                generation += 1
                context.say(f"relabel {generation}")
                relabels.append(
                    profiled(
                        context,
                        "server-relabel",
                        fleet.server,
                        partial(relabel, fleet, built, generation),
                    )
                )
    count = f"{len(nodes)} protocol clients"
    first = starts[len(starts) // 2]
    return [
        measured(
            GROUP,
            f"cold start, {built.size.pods:,} pods: until {count} are in sync",
            [one["seconds"] for one in starts],
            limit=5.0,
            beside=f"reading JSON {shown(first['read'] - first['began'], 's')}, listening after "
            f"{shown(first['listening'] - first['began'], 's')}; "
            f"{shown(max(first['bytes'].values()), 'B')} to one node{alarms(first)}",
        ),
        measured(
            GROUP,
            "cold start: CPU of the server",
            [one["cpu"] for one in starts],
            beside=f"server afterwards {shown(first['resident'], 'B')} resident",
        ),
        measured(
            GROUP,
            f"relabel: until {count} acked",
            [one["acked"] for one in relabels],
            limit=1.0,
            beside=f"published after {shown(relabels[-1]['published'], 's')}, 20 ms of it debounce",
        ),
        measured(
            GROUP,
            "relabel: bytes to one node",
            [one["bytes"] for one in relabels],
            "B",
            limit=64 << 10,
        ),
        measured(GROUP, "relabel: CPU of the server", [one["cpu"] for one in relabels]),
        measured(
            GROUP,
            "relabel: CPU of one client",
            [sum(one["peers"]) / len(nodes) for one in relabels],
        ),
    ]
