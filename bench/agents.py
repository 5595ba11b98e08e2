"""Rows of whole agents over gRPC and TLS: one for each node, all on this machine's cores.

The first agent has a process of its own, so that its memory and its CPU are those of an agent; the
others share two processes. Maps are in memory: they count as the agent's memory here, while the
kernel's don't. What the machine has to do for all agents is their CPU times their number; nodes of
their own would do it side by side.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from bench import cluster
from bench.fleet import alarms, certificates, profiled, relabel, running
from bench.rows import Context, Row, measured, shown

GROUP: Final = "agents"


def run(context: Context) -> list[Row]:
    context.say("building the cluster")
    built = cluster.Cluster(cluster.QUICK if context.quick else cluster.FULL)
    objects = built.listed()
    nodes = built.nodes
    keys = certificates(context, nodes)
    starts: list[dict[str, Any]] = []
    relabels: list[dict[str, Any]] = []
    generation = 0
    half = len(nodes) // 2
    parts = (nodes[:1], nodes[1:half], nodes[half:])
    for attempt in range(context.runs(1)):
        with running(context, "agents", parts, keys, built.pods_of) as fleet:
            context.say(f"cold start {attempt + 1}")
            before = fleet.used()
            alone = fleet.children[0]
            start = profiled(context, "agents-cold-start", alone, lambda: fleet.start(objects))
            after = fleet.used()
            start["cpu"] = [
                late["cpu"] - early["cpu"] for early, late in zip(before, after, strict=True)
            ]
            start["empty"] = before[1]["resident"]
            for _ in range(3):
                generation += 1
                context.say(f"relabel {generation}")
                relabels.append(
                    profiled(
                        context, "agents-relabel", alone, partial(relabel, fleet, built, generation)
                    )
                )
            start["resident"] = fleet.used()[1]["resident"]
            starts.append(start)
    first = starts[0]
    total = sum(first["cpu"][1:])
    return [
        measured(
            GROUP,
            f"cold start, {built.size.pods:,} pods: until {len(nodes)} agents are in sync",
            [one["seconds"] for one in starts],
            limit=5.0,
            beside=f"CPU: server {shown(first['cpu'][0], 's')}, "
            f"all agents {shown(total, 's')} on these cores{alarms(first)}",
        ),
        measured(
            GROUP,
            "cold start: CPU of one agent",
            [one["cpu"][1] for one in starts],
        ),
        measured(
            GROUP,
            f"relabel: until {len(nodes)} agents acked",
            [one["acked"] for one in relabels],
            limit=1.0,
            beside=f"published after {shown(relabels[-1]['published'], 's')}; CPU of all agents "
            f"{shown(sum(relabels[-1]['peers']), 's')}",
        ),
        measured(
            GROUP,
            "relabel: bytes to one agent",
            [one["bytes"] for one in relabels],
            "B",
            limit=64 << 10,
        ),
        measured(GROUP, "relabel: CPU of the server", [one["cpu"] for one in relabels]),
        measured(
            GROUP,
            "relabel: CPU of one agent, clean-up included",
            [one["peers"][0] for one in relabels],
            limit=50e-3,
        ),
        measured(
            GROUP,
            "memory of one agent's process, maps included (RSS)",
            [one["resident"] for one in starts],
            "B",
            limit=80 << 20,
            beside=f"before its stream: {shown(first['empty'], 'B')}",
        ),
    ]
