"""`reconciler demo`: a cluster on this machine, and five things that it must not get wrong.

Exit code 0 only if every check of every part held. With root and BPF the packets are real; without,
the same processes run on the datapath in memory, and it says so.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

import reconciler
from reconciler.commands.demo_show import Screen
from reconciler.commands.output import FAILED
from reconciler.errors import ConfigError, ReconcilerError


def register(app: typer.Typer) -> None:
    app.command("demo", help="A cluster on this machine: verdicts, relabels, kills, refusals.")(
        _demo
    )


def _demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, until Ctrl-C.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="The datapath in memory, even where BPF is there.")
    ] = False,
    manifests: Annotated[
        Path | None, typer.Option("--manifests", help="Other manifests than the shop's.")
    ] = None,
    kubernetes: Annotated[
        bool,
        typer.Option(
            "--kubernetes", help="A large cluster at a real API server, its leader killed."
        ),
    ] = False,
    pods: Annotated[int, typer.Option("--pods", help="With --kubernetes: how many.")] = 20_000,
    nodes: Annotated[int, typer.Option("--nodes", help="With --kubernetes: how many.")] = 200,
) -> None:
    source = manifests or Path(reconciler.__file__).parent.parent / "demo" / "shop"
    if not source.is_dir():
        raise ConfigError(f"--manifests: {source} is not a directory")
    screen = Screen(quiet=as_json)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, screen.end)
    reason = "" if not memory else "asked for with --memory"
    reason = reason or _no_kernel()
    begin = time.monotonic()
    if kubernetes:
        results = _run_kubernetes(pods, nodes, reason, screen, keep)
    else:
        results = _run(source, reason, screen, keep)
    took = time.monotonic() - begin
    ok = all(part.ok for part in results)
    if as_json:
        summary = {
            "ok": ok,
            "datapath": "memory" if reason else "kernel",
            "seconds": round(took, 1),
            "parts": [{**msgspec.to_builtins(part), "ok": part.ok} for part in results],
        }
        print(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    else:
        verdict = f"{'ALL HELD' if ok else 'NOT ALL HELD'} ({took:.1f} s)"
        screen.say()
        screen.say(verdict, "bold green" if ok else "bold red")
    if not ok:
        raise typer.Exit(FAILED)


def _no_kernel() -> str:
    """Why the kernel's datapath can't be used here; "" if it can."""
    if os.geteuid() != 0:
        return "not root"
    try:
        from reconciler.datapath import features
    except ImportError as error:
        return f"libbpf is not there: {error}"
    for name in ("bpffs", "ringbuf", "membarrier"):
        if reason := features.missing(name):
            return str(reason)
    return ""


def _run_kubernetes(pods: int, nodes: int, reason: str, screen: Screen, keep: bool) -> list[Any]:
    from reconciler.commands import demo_scale
    from reconciler.commands.demo_cluster import clean_up_after_others
    from reconciler.testing.kubernetes.population import Size

    size = Size(pods, nodes)
    size.check()
    clean_up_after_others()
    if reason:
        screen.say(
            f"The datapath is in memory ({reason}): no real packets, the same maps and verdicts."
        )
    return demo_scale.run(size, reason, screen, keep)


def _run(source: Path, reason: str, screen: Screen, keep: bool) -> list[Any]:
    from contextlib import ExitStack

    from reconciler.commands.demo_cluster import DemoCluster, clean_up_after_others
    from reconciler.commands.demo_parts import PORTS, Demo, Part, Prober
    from reconciler.testing.traffic import Traffic

    clean_up_after_others()
    if reason:
        screen.say(
            f"The datapath is in memory ({reason}): no real packets, the same maps and verdicts."
        )
    results: list[Part] = []
    with ExitStack() as stack:
        begin = time.monotonic()
        with screen.doing("starting a network, a server, and an agent for each node"):
            cluster = stack.enter_context(DemoCluster(source, memory=bool(reason)))
            cluster.start_server()
            cluster.wait("the server answers", lambda: bool(cluster.rows("status")))
            for node in cluster.nodes:
                cluster.start_agent(node)
            prober: Prober
            if cluster.topology is None:
                from reconciler.commands.demo_memory import MemoryProber

                prober = stack.enter_context(MemoryProber(cluster))
            else:
                prober = stack.enter_context(Traffic(cluster.topology, PORTS))
            cluster.wait_in_sync()
        where = "in memory" if reason else "in network namespaces, eBPF on every pod's device"
        screen.say(
            f"{len(cluster.nodes)} nodes, {len(cluster.spec.pods)} pods {where}: a server and "
            f"{len(cluster.nodes)} agents in sync after {time.monotonic() - begin:.1f} s"
        )
        demo = Demo(cluster, prober)
        demo.remember_views()
        for what, run in (
            ("trying every way between all pods", demo.verdicts),
            ("relabelling a namespace under traffic", demo.relabel),
            ("killing an agent under traffic", demo.agent_killed),
            ("killing the server in the middle of a relabel", demo.server_killed),
            ("applying a policy that a node has no room for", demo.too_much),
        ):
            try:
                with screen.doing(what):
                    part = run()
            except ReconcilerError as error:
                part = Part(run.__name__, [], [], {})
                part.check("the part came to its end", False, str(error))
            results.append(part)
            screen.show(part)
        if keep:
            screen.say(f"Still up; Ctrl-C ends it. Status: --server {cluster.server_status}")
            for node in cluster.nodes:
                screen.say(f"  {node}: --agent {cluster.agent_status(node)}")
            try:
                signal.pause()
            except KeyboardInterrupt:
                screen.say("")
    return results
