"""How the demo's parts look: tables for people, plain values for machines.

A part keeps `Table` values and lines of text, so that `--json` has the same content; only here are
they drawn. Without a terminal there are no colours and no spinner, and what would spin is a line on
standard error.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from reconciler.commands.output import working
from reconciler.testing.traffic import Way

WIDTH: Final = 118  # of tables where there is no terminal whose width could be asked


class Table(msgspec.Struct, frozen=True):
    """columns: names, with a leading ">" for numbers; rows: as many cells each."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Screen:
    """Where the demo is shown; `quiet` for --json, which prints nothing before its end."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        width = None if sys.stdout.isatty() else WIDTH
        self._quiet = quiet
        self._ended = False
        self._out = Console(highlight=False, width=width, soft_wrap=False, quiet=quiet)

    def say(self, text: str = "", style: str = "") -> None:
        self._out.print(text, style=style or None, markup=False)
        self._out.file.flush()

    def end(self, *_: object) -> None:
        """Of a signal. Where something swallows the interruption (a task that ends although it is
        cancelled, a library's `except`), the next thing that is done begins with it."""
        self._ended = True
        raise KeyboardInterrupt

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What goes on, while it takes time."""
        if self._ended:
            raise KeyboardInterrupt
        if not self._quiet and not sys.stderr.isatty():
            print(f"... {what}", file=sys.stderr, flush=True)
        with working(what):
            yield

    def progress(self, text: str) -> None:
        """How far something is, that takes minutes; where a spinner can't say it."""
        if not self._quiet and not sys.stderr.isatty():
            print(f"... {text}", file=sys.stderr, flush=True)

    def show(self, part: Any) -> None:
        from rich.padding import Padding
        from rich.text import Text

        self.say()
        took = f"  ({part.seconds:.1f} s)" if part.seconds else ""
        self._out.rule(f"[bold]{part.title}[/bold]{took}", align="left")
        for line in part.lines:
            if isinstance(line, Table):
                self._draw(line)
            else:
                self._out.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
        for check in part.checks:
            detail = f": {check.detail}" if check.detail and not check.ok else ""
            mark, style = ("ok  ", "green") if check.ok else ("FAIL", "bold red")
            self._out.print(f"  [{style}]{mark}[/{style}]", end=" ")
            self.say(f"{check.what}{detail}")

    def _draw(self, table: Table) -> None:
        from rich import box
        from rich.padding import Padding
        from rich.table import Table as Drawn
        from rich.text import Text

        self.say(f"  {table.title}", "italic")
        drawn = Drawn(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
        for name in table.columns:
            right = name.startswith(">")
            drawn.add_column(
                name.removeprefix(">"), justify="right" if right else "left", no_wrap=right
            )
        for row in table.rows:
            drawn.add_row(*(Text(cell, _style(cell)) for cell in row))
        self._out.print(Padding(drawn, (0, 0, 1, 2), expand=False))


def _style(cell: str) -> str:
    if cell.endswith("!"):
        return "bold red"
    return {".": "dim", "in-sync": "green", "held": "yellow", "syncing": "yellow"}.get(cell, "")


def port_text(protocol: str, port: int) -> str:
    return f"{port}/udp" if protocol == "UDP" else str(port)


def matrix(
    names: Sequence[str], ports: int, found: Mapping[Way, bool], expected: Mapping[Way, bool]
) -> Table:
    """How many ports are open for each pair (IPv4): "." for none, "!" where that is wrong."""
    cells = _by_pair(found)
    rows = []
    for number, source in enumerate(names, 1):
        row = [str(number), source]
        for destination in names:
            ways = cells.get((source, destination))
            count = sum(found[way] for way in ways or ())
            wrong = "!" if any(found[way] != expected[way] for way in ways or ()) else ""
            row.append("" if ways is None else f"{count or '.'}{wrong}")
        rows.append(tuple(row))
    numbers = tuple(f">{number}" for number in range(1, len(names) + 1))
    title = f"Who reaches whom: open ports of the {ports} that were tried, from row to column"
    return Table(title, (">", "from", *numbers), tuple(rows))


def reaches(names: Sequence[str], ports: int, found: Mapping[Way, bool]) -> Table:
    """The same on which ports; destinations with the same ones share a row."""
    cells = _by_pair(found)
    rows = []
    for source in names:
        shared: dict[str, list[str]] = {}
        for destination in names:
            ways = [way for way in cells.get((source, destination), ()) if found[way]]
            if ways:
                text = " ".join(port_text(way.protocol, way.port) for way in ways)
                shared.setdefault("every port" if len(ways) == ports else text, []).append(
                    destination
                )
        first = source
        for text, destinations in shared.items():
            rows.append((first, ", ".join(destinations), text))
            first = ""
        if not shared:
            rows.append((source, ".", "."))
    return Table("On which ports (IPv4)", ("from", "reaches", "on"), tuple(rows))


def _by_pair(found: Mapping[Way, bool]) -> dict[tuple[str, str], list[Way]]:
    cells: dict[tuple[str, str], list[Way]] = {}
    for way in found:
        if way.family == socket.AF_INET:
            cells.setdefault((way.source, way.destination), []).append(way)
    return cells


def open_ways(found: Mapping[Way, bool]) -> list[dict[str, Any]]:
    """The same for machines, both families: pairs with the ports that are open."""
    rows: dict[tuple[str, str, int], list[str]] = {}
    for way, passed in found.items():
        if passed:
            key = (way.source, way.destination, 6 if way.family == socket.AF_INET6 else 4)
            rows.setdefault(key, []).append(f"{way.port}/{way.protocol.lower()}")
    return [
        {"from": source, "to": destination, "ip": version, "ports": ports}
        for (source, destination, version), ports in rows.items()
    ]
