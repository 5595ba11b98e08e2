"""The comparison of xDS servers as a page of the documentation.

Everything on it is made from what was measured, its sentences too, so it is true of any run.
`python -m bench.xds_report RESULTS [PAGE]` writes it again from the results of a run
(bench/out/xds.json).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import xds_case
from bench.rows import shown
from bench.xds_case import (
    TITLES,
    Case,
    Comparison,
    Number,
    cpu,
    from_first,
    median,
    memory,
    wall,
)
from bench.xds_rig import BARE, OURS, PENDING, Kind

PAGE: Final = Path(__file__).parent.parent / "docs" / "xds-benchmarks.md"

_HEAD: Final = f"""\
# xDS servers beside each other

Written by `make bench-xds`. *ours* is `reconciler xds serve` with either `--transport`, *linear*
and *snapshot* are a go-control-plane server with that cache; the snapshot cache has a key for each
node. *bare* is what a server in Python can't do without: it has every response ready as bytes, says
them, and of what it is told reads what is asked for and what was accepted, no more (bench/bare.py),
on the event loop and the TLS library of ours on http2. Each is a process of its own with default
settings, one after the other, under the same load client, on the same cores as the client.

* A stream is delta ADS, subscribed to `*` of two types, and acknowledges what it gets at once.
* **wall**: from the moment before the change is made (a request over HTTP, of the same form to all:
  `xds serve --push`, go-control-plane's adapter) until the last stream has it. Reading what changed
  is in it on both sides. For a sync or a reconnect: from the first connection that is begun,
  with at most {PENDING:,} streams under way at a time. **from the first**: the same, from when any
  stream had the first of it.
* **CPU**: user and system time of the server's process, until it is at rest again,
  acknowledgements included. **memory**: resident (VmRSS) then.
* **runs**: how often it was measured; numbers are the medians of these, with the range of the wall.
  **messages**: responses to one stream.
* A reconnect names all that is held with its version, and one resource in each type that never
  was, so that every server has something to answer: one removal a type. The end of the old
  connections is in its CPU time, but not in its wall.
* A step that is not over in time ends there, and the streams that wait are counted as lost. A
  server that lost streams is compared with nobody: its numbers are those of less work.
"""


def text(run: Comparison) -> str:
    return "\n".join(_page(run)) + "\n"


def _page(run: Comparison) -> Iterator[str]:
    yield _HEAD
    yield from _whole(run)
    for key, value in run.machine.items():
        yield f"* {key}: {value}"
    walls, cpus, memories = run.goals
    yield ""
    yield "## Against the better cache"
    yield ""
    yield (
        "Ours divided by the smaller number of the caches that served every stream (named in the "
        "last column), each number for itself. "
        f"Goals: wall {walls}, CPU {cpus}, memory {memories}; what reaches its goal is bold. "
        "†: out of reach, since what a server like ours can't do without does not reach it either."
    )
    yield ""
    yield from _floors(run)
    layouts = dict.fromkeys(case.layout for case in run.cases)
    for layout in layouts:
        yield f"\n### {_capital(layout.title)}\n"
        yield "| load | streams | server | wall | from the first | CPU | memory | beside |"
        yield "|---|--:|---|--:|--:|--:|--:|---|"
        for name, title in run.loads.items():
            for case in run.cases:
                for kind in OURS:
                    if case.layout == layout and case.runs(kind, name):
                        factors = " | ".join(_factors(run, case, kind, name))
                        yield f"| {title} | {case.streams:,} | {TITLES[kind]} | {factors} |"
    for layout in layouts:
        yield f"\n## {_capital(layout.title)}"
        for name, title in run.loads.items():
            yield f"\n### {_capital(title)}\n"
            yield (
                "| streams | server | runs | wall | from the first | p99 | CPU | memory "
                "| messages | not in sync |"
            )
            yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|---|"
            for case in run.cases:
                if case.layout == layout:
                    yield from _lines(case, run.kinds, name)


def _capital(title: str) -> str:
    return title[0].upper() + title[1:]


def _whole(run: Comparison) -> Iterator[str]:
    """What was planned, and what of it is not there."""
    counts = ", ".join(f"{streams:,}" for streams in run.rounds)
    rounds = ", ".join(f"{times} with {streams:,}" for streams, times in run.rounds.items())
    yield (
        f"Streams: {counts}. In a round each server is started anew and put under all loads, one "
        f"server after the other; rounds: {rounds}."
    )
    missing = run.missing()
    if missing:
        yield ""
        yield "**This run did not come to its end.** What was measured of these is below:"
        yield ""
        for each in missing:
            yield f"* {each}"
    yield ""


def _factors(run: Comparison, case: Case, kind: Kind, name: str) -> Iterator[str]:
    walls, cpus, memories = run.goals
    numbers: tuple[tuple[Number, float], ...]
    numbers = ((wall, walls), (from_first, walls), (cpu, cpus), (memory, memories))
    for of, goal in numbers:
        factor, least = case.factor(kind, name, of), _least(run, case, name, of)
        if factor is None:
            yield "–"
        elif factor <= goal:
            yield f"**{factor:.2f}**"
        else:
            yield f"{factor:.2f} †" if least is not None and least > goal else f"{factor:.2f}"
    if not case.complete(kind, name):
        yield "streams were lost"
    else:
        yield (
            ", ".join(TITLES[each] for each in case.rivals(name)) or "no cache served every stream"
        )


def _floors(run: Comparison) -> Iterator[str]:
    """What † means, of each number."""
    floor = run.floor
    yield (
        "* wall: the bare server; of a change also what the stream core takes before a stream is "
        f"sent it, since one comes after the other: of a stream {_each(run, floor.led)}."
    )
    yield (
        "* CPU: the bare server, and what the stream core alone takes to know what each stream was "
        f"sent and has accepted, in one thread, without IO: of a stream {_each(run, floor.core)}."
    )
    yield (
        f"* memory: the libraries that ours on http2 imports, and nothing else: "
        f"{shown(floor.libraries, 'B')}; and what the bare server takes beyond the least that it "
        "has anywhere, which is for its connections; at least what the bare server takes."
    )


def _each(run: Comparison, seconds: dict[str, float]) -> str:
    found = ((run.loads[name], each) for name, each in seconds.items() if name in run.loads)
    return ", ".join(f"{1e6 * each:.1f} µs ({title})" for title, each in found) or "nothing"


def _least(run: Comparison, case: Case, name: str, of: Number) -> float | None:
    """What ours can't do without (`_floors`), divided by the best of theirs; None: not known."""
    best, floor = case.best(name, of), run.floor
    if not best:
        return None
    if of is memory:
        bare = _bare_memory(case, name)
        anywhere = [found for each in run.cases if (found := _bare_memory(each)) is not None]
        if bare is None:
            return None
        return max(bare, floor.libraries + bare - min(anywhere)) / best
    if not case.complete(BARE, name):
        return None
    least = median(case.runs(BARE, name), of)
    own = floor.core if of is cpu else floor.led
    return (least + case.streams * own.get(name, 0.0)) / best


def _bare_memory(case: Case, name: str | None = None) -> float | None:
    """Under a load; where that is not measured or none is named, the least under any."""
    if name is not None and case.complete(BARE, name):
        return median(case.runs(BARE, name), memory)
    loads = case.found.get(BARE, {}).values()
    return min((median(runs, memory) for runs in loads if runs), default=None)


def _lines(case: Case, kinds: Sequence[Kind], name: str) -> Iterator[str]:
    for kind in kinds:
        runs, why = case.runs(kind, name), case.why.get(kind, {}).get(name, "")
        if not runs:
            yield f"| {case.streams:,} | {TITLES[kind]} | 0 | – | | | | | | {why or '–'} |"
            continue
        walls = [wall(one) for one in runs]
        spread = f" ({shown(min(walls), 's')} – {shown(max(walls), 's')})"
        cells = (
            str(len(runs)),
            shown(statistics.median(walls), "s") + (spread if len(walls) > 1 else ""),
            shown(median(runs, from_first), "s"),
            shown(median(runs, lambda one: one.p99_ms / 1000), "s"),
            shown(median(runs, cpu), "s"),
            shown(median(runs, memory), "B"),
            f"{median(runs, lambda one: one.messages_per_stream):.1f}",
            "; ".join(each for each in (case.lost(kind, name), why) if each),
        )
        yield f"| {case.streams:,} | {TITLES[kind]} | {' | '.join(cells)} |"


def summary(case: Case, kind: Kind, name: str) -> str:
    """All numbers of one server in a few words."""
    runs = case.runs(kind, name)
    if not runs:
        return case.why.get(kind, {}).get(name, "not measured")
    numbers = (
        f"{shown(median(runs, wall), 's')} "
        f"({shown(median(runs, from_first), 's')} from the first), "
        f"CPU {shown(median(runs, cpu), 's')}, {shown(median(runs, memory), 'B')}"
    )
    lost = case.lost(kind, name)
    return f"{numbers}, {lost}" if lost else numbers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.xds_report", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path, nargs="?", default=PAGE)
    options = parser.parse_args()
    options.page.write_text(text(xds_case.load(options.results)))
    print(options.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
