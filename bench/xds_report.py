"""The comparison of xDS servers as a page of the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.rows import shown
from bench.xds_rig import OURS, THEIRS, Kind, Report

if TYPE_CHECKING:
    from bench.xds import Case

TITLES: Final[dict[Kind, str]] = {
    "http2": "ours on http2",
    "grpc": "ours on grpc",
    "linear": "linear",
    "snapshot": "snapshot",
}
PAGE: Final = Path(__file__).parent.parent / "docs" / "xds-benchmarks.md"

_HEAD: Final = """\
# xDS servers beside each other

Written by `python -m bench --only xds` (a full run; `--quick` and `--streams N…` show the same as a
table). *ours* is `reconciler xds serve` with either `--transport`, *linear* and *snapshot* are a
go-control-plane server with that cache; the snapshot cache has a key for each node. Each is a
process of its own with default settings, one after the other, under the same load client, on the
same cores as the client.

* A stream is delta ADS, subscribed to `*` of two types, and acknowledges what it gets at once.
* **wall**: from the moment before the change is made (a request over HTTP, of the same form to all:
  `xds serve --push`, go-control-plane's adapter) until the last stream has it. Reading what changed
  is in it on both sides. For a sync or a reconnect: from the first connection that is begun,
  with at most 1,000 streams under way at a time. **from the first**: the same, from when any stream
  had the first of it.
* **CPU**: user and system time of the server's process, until it is at rest again,
  acknowledgements included. **memory**: resident (VmRSS) then.
* **messages**: responses to one stream. Numbers are medians, with the range of the wall beside it;
  with more than 1,000 streams a sync, a burst and a reconnect are measured once.
* A reconnect names all that is held with its version, and one resource in each type that never
  was, so that every server has something to answer: one removal a type. The end of the old
  connections is in its CPU time, but not in its wall.
"""


def write(
    machine: Mapping[str, str],
    loads: Mapping[str, str],
    cases: Sequence[Case],
    goals: tuple[float, float, float],
) -> None:
    """goals: of wall, CPU, memory: ours, divided by the better cache's."""
    PAGE.write_text("\n".join(_page(machine, loads, cases, goals)) + "\n")


def _page(
    machine: Mapping[str, str],
    loads: Mapping[str, str],
    cases: Sequence[Case],
    goals: tuple[float, float, float],
) -> Iterator[str]:
    yield _HEAD
    for key, value in machine.items():
        yield f"* {key}: {value}"
    yield ""
    yield "## Against the better cache"
    yield ""
    yield (
        "Ours divided by the smaller number of the two caches, each number for itself. Goals: wall "
        f"{goals[0]}, CPU {goals[1]}, memory {goals[2]}; what reaches its goal is bold, "
        "if no stream was lost."
    )
    for layout in dict.fromkeys(case.layout for case in cases):
        yield f"\n### {layout.title[0].upper()}{layout.title[1:]}\n"
        yield "| load | streams | server | wall | from the first | CPU | memory |"
        yield "|---|--:|---|--:|--:|--:|--:|"
        for name, title in loads.items():
            for case in cases:
                for kind in OURS:
                    if case.layout == layout and case.has(kind, name):
                        factors = " | ".join(_factors(case, kind, name, goals))
                        yield f"| {title} | {case.streams:,} | {TITLES[kind]} | {factors} |"
    for layout in dict.fromkeys(case.layout for case in cases):
        yield f"\n## {layout.title[0].upper()}{layout.title[1:]}"
        for name, title in loads.items():
            yield f"\n### {title[0].upper()}{title[1:]}\n"
            yield (
                "| streams | server | wall | from the first | p99 | CPU | memory | messages "
                "| not in sync |"
            )
            yield "|--:|---|--:|--:|--:|--:|--:|--:|---|"
            for case in cases:
                if case.layout == layout:
                    yield from _lines(case, name)


def _factors(case: Case, kind: Kind, name: str, goals: tuple[float, float, float]) -> Iterator[str]:
    walls, cpu, memory = goals
    for of, goal in ((wall, walls), (from_first, walls), (_cpu, cpu), (_memory, memory)):
        theirs = [median(case.found[each][name], of) for each in THEIRS if case.has(each, name)]
        if min(theirs, default=0) <= 0:
            yield "–"
            continue
        runs = case.found[kind][name]
        factor = median(runs, of) / min(theirs)
        reached = factor <= goal and not lost(runs)
        yield f"**{factor:.2f}**" if reached else f"{factor:.2f}"


def _lines(case: Case, name: str) -> Iterator[str]:
    for kind, why in case.why.items():
        yield f"| {case.streams:,} | {TITLES[kind]} | – | | | | | | {why} |"
    for kind, runs in case.found.items():
        if name not in runs:
            yield f"| {case.streams:,} | {TITLES[kind]} | – | | | | | | not run: takes too long |"
            continue
        walls = [wall(one) for one in runs[name]]
        spread = f" ({shown(min(walls), 's')} – {shown(max(walls), 's')})"
        cells = (
            shown(statistics.median(walls), "s") + (spread if len(walls) > 1 else ""),
            shown(median(runs[name], from_first), "s"),
            shown(median(runs[name], lambda one: one.p99_ms / 1000), "s"),
            shown(median(runs[name], _cpu), "s"),
            shown(median(runs[name], _memory), "B"),
            f"{median(runs[name], lambda one: one.messages_per_stream):.1f}",
            lost(runs[name]),
        )
        yield f"| {case.streams:,} | {TITLES[kind]} | {' | '.join(cells)} |"


def summary(runs: Sequence[Report]) -> str:
    """All numbers of one server in a few words."""
    numbers = (
        f"{shown(median(runs, wall), 's')} "
        f"({shown(median(runs, from_first), 's')} from the first), "
        f"CPU {shown(median(runs, _cpu), 's')}, {shown(median(runs, _memory), 'B')}"
    )
    return f"{numbers}, {lost(runs)}" if lost(runs) else numbers


def lost(runs: Sequence[Report]) -> str:
    """How many streams ended or did not get what they waited for, and why; "" for none."""
    worst = max(runs, key=_lost)
    if not _lost(worst):
        return ""
    why = ", ".join(f"{text} ({count:,})" for text, count in sorted(worst.errors.items()))
    return f"{_lost(worst):,} of {worst.streams:,}: {why or 'time was over'}"


def _lost(one: Report) -> int:
    return max(one.streams - one.in_sync, one.failed)


def wall(one: Report) -> float:
    """Seconds from the moment before the change to the last stream that is in sync."""
    return one.last_ms / 1000


def from_first(one: Report) -> float:
    """Seconds, likewise, from the first message to any stream."""
    return one.from_first_ms / 1000


def _cpu(one: Report) -> float:
    return one.server_cpu_s


def _memory(one: Report) -> float:
    return one.server_rss


def median(runs: Sequence[Report], of: Callable[[Report], float]) -> float:
    return statistics.median(of(one) for one in runs)
