"""Runs the benchmarks and prints the table."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.rows import Context, Group, Row, shown
from reconciler.errors import ReconcilerError

GROUPS: Final = {
    "kernel": "maps, flip and packets in the kernel (root)",
    "core": "the server's core alone, in one thread",
    "agent": "one agent's core alone, on the maps",
    "clients": "protocol clients over gRPC and TLS: the server's part",
    "agents": "whole agents over gRPC and TLS, maps in memory",
    "discovery": "the xDS service for any types: its core alone, in one thread",
    "streams": "many streams: memory and one broadcast",
    "kubernetes": "a server process at a real API server, with KWOK and protocol clients",
    "xds": "xDS servers beside each other: ours and go-control-plane, many streams",
}
USUAL: Final = [name for name in GROUPS if name != "xds"]
"""What has budgets; comparing servers takes longer than all of that."""

PROFILES: Final = {
    "kernel": "kernel",
    "core-cold-start": "core",
    "core-relabel": "core",
    "agent-cold-start": "agent",
    "agent-relabel": "agent",
    "server-cold-start": "clients",
    "server-relabel": "clients",
    "agents-cold-start": "agents",
    "agents-relabel": "agents",
    "streams-open": "streams",
    "streams-broadcast": "streams",
}
"""Name of a profile → the group whose hot part it is."""


def main() -> int:
    options = _options()
    # The table or the JSON alone goes to standard output.
    progress = Console(stderr=True)
    chosen = [PROFILES[options.profile]] if options.profile else options.only or USUAL
    described = machine.describe()
    rows: list[Row] = []
    failed = False
    with progress.status("") as status:
        context = Context(
            quick=options.quick,
            streams=tuple(options.streams),
            transports=tuple(options.transport),
            profile=options.profile or "",
            say=lambda text: status.update(text),
            page=options.page,
            seconds=None if options.minutes is None else 60 * options.minutes,
        )
        for name in chosen:
            began = time.monotonic()
            context.say(f"{name} …")
            context.say = lambda text, name=name: status.update(f"{name}: {text}")  # type: ignore[misc]
            group: Group = importlib.import_module(f"bench.{name}").run
            try:
                rows += group(context)
            except (RuntimeError, OSError, ReconcilerError) as error:
                # The other groups' numbers are not lost for it.
                rows.append(Row(group=name, what="the whole group", why=f"failed: {error}"))
                failed = True
            progress.print(f"{name}: {time.monotonic() - began:.1f} s", style="dim")
    if options.json:
        print(json.dumps({"machine": described, "rows": msgspec.to_builtins(rows)}, indent=1))
    else:
        _print(described, rows)
    for path in context.written:
        progress.print(f"written: {path}")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure each budget on this machine.",
        epilog="groups: " + "; ".join(f"{name}: {what}" for name, what in GROUPS.items()),
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", nargs="+", choices=tuple(GROUPS), metavar="NAME", default=[])
    parser.add_argument("--quick", action="store_true", help="once each, a tenth of the cluster")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[], metavar="N",
        help="how many, for the groups streams and xds; one run for each "
        "(default: 1000 10000 and 200 1000 5000 10000)",
    )  # fmt: skip
    parser.add_argument(
        "--transport", nargs="+", choices=("grpc", "http2"), default=["grpc", "http2"],
        help="what carries the streams, for the groups streams and xds (default: grpc http2)",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, metavar="FILE",
        help="write the group xds as a page there (default: docs/xds-benchmarks.md if it is run "
        "whole, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, metavar="N",
        help="the group xds begins with no other server after that; what is missing is said",
    )  # fmt: skip
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), metavar="NAME",
        help=f"write a profile of one hot part to bench/out/: {', '.join(PROFILES)}",
    )  # fmt: skip
    return parser.parse_args()


def _print(described: dict[str, str], rows: list[Row]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 170)
    for key, value in described.items():
        console.print(f"[bold]{key}[/]: {value}", highlight=False)
    table = Table(show_lines=False)
    table.add_column("what")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("range", justify="right", style="dim", no_wrap=True)
    table.add_column("runs", justify="right", style="dim")
    table.add_column("budget", justify="right", no_wrap=True)
    table.add_column("beside it", style="dim")
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(f"[bold]{group}[/] – {GROUPS[group]}")
        if row.value is None:
            table.add_row(row.what, "–", "", "", "", f"not measured: {row.why}")
            continue
        assert row.lowest is not None
        assert row.highest is not None
        budget = "" if row.limit is None else f"< {shown(row.limit, row.unit)}"
        inside = row.limit is None or row.value < row.limit
        spread = f"{shown(row.lowest, row.unit)} – {shown(row.highest, row.unit)}"
        table.add_row(
            row.what,
            f"[{'green' if inside else 'red'}]{shown(row.value, row.unit)}[/]" if budget
            else shown(row.value, row.unit),
            spread if row.runs > 1 else "",
            str(row.runs),
            budget,
            row.beside,
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
