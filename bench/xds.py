"""Rows of xDS streams: `reconciler xds serve` beside a go-control-plane server, in one run.

Both are processes of their own, loaded by the same client with the same resources, one after the
other; the client shares their cores. go-control-plane serves from its linear cache (one set for
all nodes) and from its snapshot cache (a snapshot for each node). The goals are factors of the
better one of these two, in each number for itself. Beside them runs a server that only says what it
has ready (bench/bare.py): where that and what else ours can't do without (bench/xds_floor.py) take
more than a goal, no change of ours reaches it.

In a round each server is started anew and put under all loads; rounds of one number of streams
follow each other, so that what the machine does meanwhile meets all servers. What was measured is
kept in bench/out/ after each server. A whole run (every number of streams, both transports) writes
docs/xds-benchmarks.md, and any run the page that `--page` names; one that is cut off has written
what it came to, and the page says what is missing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import machine, xds_build, xds_case, xds_floor, xds_report, xds_rig
from bench.rows import OUT, Context, Row, measured
from bench.xds_case import TITLES, Case, Comparison, wall
from bench.xds_report import summary
from bench.xds_rig import BARE, OURS, THEIRS, Kind, Layout, Load, Report, Server
from reconciler.errors import ReconcilerError

GROUP: Final = "xds"
COUNTS: Final = (200, 1_000, 5_000, 10_000)
QUICK: Final = (200, 1_000)
LAYOUTS: Final = (
    Layout("one connection a stream, mutual TLS", 0, True),
    Layout("200 shared connections", 200, False),
)
WALL, CPU, MEMORY = 0.6, 0.5, 0.2
"""Goals: what ours may take of that which the better cache takes."""

BURST: Final = 50
_FEW: Final = 1_000
_ROUNDS: Final = {200: 9, 1_000: 5, 5_000: 3}
"""Up to so many streams; what is over soon varies most. With more of them one: it takes minutes."""
_ONE, _MANY = 3, 2
"""How often the two short loads are repeated in a round; the others are measured once in each."""

LOADS: Final = {
    "sync": f"initial sync of {xds_rig.IDENTITIES} × 400 B",
    "one": "one resource of 1 KB changes",
    "many": f"{xds_rig.POLICIES} × 600 B and {xds_rig.IDENTITIES} × 400 B change at once",
    "burst": f"one resource of 1 KB changes {BURST} times at once",
    "storm": "all reconnect with equal versions",
}
"""In the order in which they are measured."""


def run(context: Context) -> list[Row]:
    with contextlib.redirect_stdout(sys.stderr):  # the build says how far it is
        programs = xds_build.programs()
    counts = context.streams or (QUICK if context.quick else COUNTS)
    made = Comparison(
        machine={**machine.describe(), **xds_build.versions()},
        loads=dict(LOADS),
        goals=(WALL, CPU, MEMORY),
        planned=[(layout, streams) for streams in counts for layout in LAYOUTS],
        kinds=[*(kind for kind in OURS if kind in context.transports), BARE, *THEIRS],
        rounds={each: context.runs(_rounds(each)) for each in counts},
        cases=[],
        floor=xds_floor.measure(context.runs(3)),
    )
    whole = made.kinds == [*OURS, BARE, *THEIRS] and counts == COUNTS and not context.quick
    page = context.page or (xds_report.PAGE if whole else None)
    results = OUT / ("xds.json" if whole else "xds-part.json")

    def keep() -> None:
        xds_case.save(made, results)
        context.wrote(results)
        if page is not None:
            page.write_text(xds_report.text(made))
            context.wrote(page)

    for layout, streams in made.planned:
        if not context.over():
            made.cases.append(Case(layout, streams, {}, {}))
            _case(context, programs, made, keep)
        keep()
    rows = [row for case in made.cases for row in _rows(case)]
    return rows + [Row(group=GROUP, what=each, why="time was over") for each in made.missing()]


def _rounds(streams: int) -> int:
    return next((rounds for most, rounds in _ROUNDS.items() if streams <= most), 1)


def _case(context: Context, programs: Path, made: Comparison, keep: Callable[[], None]) -> None:
    """Fills in the last one. keep: called after each server"""
    case = made.cases[-1]
    if why := xds_rig.refused(case.streams):
        case.why.update({kind: dict.fromkeys(LOADS, why) for kind in made.kinds})
        return
    for at in range(made.rounds[case.streams]):
        for kind in made.kinds:
            if context.over():
                return
            _round(context, programs, case, kind, f"round {at + 1}")
            keep()


def _round(context: Context, programs: Path, case: Case, kind: Kind, title: str) -> None:
    """One server under all loads. It ends with the load that can't be measured, or that streams
    waited for until the time was over: the same would be so of the next one."""
    left = list(LOADS)
    title = f"{TITLES[kind]}, {case.streams:,} streams, {case.layout.title}, {title}"
    try:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(machine.scratch(disk=True))
            context.say(f"{title}: start")
            found = loads(stack, programs, directory, kind, case)
            while left:
                name = left[0]
                if why := _not_for(kind, name, case.streams):
                    case.why.setdefault(kind, {})[name] = why
                    left.pop(0)
                    continue
                once, times = found[name]
                for at in range(context.runs(times)):
                    context.say(f"{title}: {LOADS[name]} ({at + 1})")
                    report = once()
                    case.found.setdefault(kind, {}).setdefault(name, []).append(report)
                    if report.missing:
                        raise _OverError(f"{report.missing:,} streams were not served in time")
                left.pop(0)
    except _OverError as error:
        why = f"not measured: {error} before ({LOADS[left[0]]})"
        case.why.setdefault(kind, {}).update(dict.fromkeys(left[1:], why))
    except (RuntimeError, OSError, ReconcilerError) as error:
        why = f"failed: {' '.join(str(error).split())}"  # one line, for a table
        case.why.setdefault(kind, {}).update(dict.fromkeys(left, why))


def _not_for(kind: Kind, name: str, streams: int) -> str:
    """Why a load is not measured of a server."""
    if name == "burst" and kind == BARE:
        return "not measured: it would say each change by itself"
    if name == "burst" and kind == "snapshot" and streams > _FEW:
        return "not measured: takes too long"  # a snapshot for each node would be set 50 times
    return ""


class _OverError(Exception):
    """Streams waited until the time was over."""


def loads(
    stack: contextlib.ExitStack, programs: Path, directory: Path, kind: Kind, case: Case
) -> dict[str, tuple[Callable[[], Report], int]]:
    """What measures each load once, and how often it is repeated in a round."""
    home = directory / "server"
    keys = xds_rig.make_keys(directory) if case.layout.tls else None
    server = stack.enter_context(Server(kind, home, programs, keys))
    log, seconds = directory / "load.log", xds_rig.patience(case.streams)
    load = stack.enter_context(Load(server, programs, case.layout, keys, log, seconds=seconds))
    generation = 1

    def one() -> Report:
        nonlocal generation
        generation += 1
        return load.change([server.change(xds_rig.one(generation))], generation, 1)

    def many() -> Report:
        nonlocal generation
        generation += 1
        both = [*xds_rig.identities(generation), *xds_rig.policies(generation)]
        return load.change([server.change(both)], generation, len(both))

    def burst() -> Report:
        nonlocal generation
        first, generation = generation + 1, generation + BURST
        actions = [server.change(xds_rig.one(each)) for each in range(first, generation + 1)]
        return load.change(actions, generation, 1)

    return {
        "sync": (lambda: load.open(case.streams), 1),
        "one": (one, _ONE),
        "many": (many, _MANY),
        "burst": (burst, 1),
        "storm": (load.reconnect, 1),
    }


def _rows(case: Case) -> Iterator[Row]:
    for name, title in LOADS.items():
        best = case.best(name, wall)
        for kind in OURS:
            what = f"{case.streams:,} streams, {case.layout.title}: {title}, {TITLES[kind]}"
            runs = case.runs(kind, name)
            if not runs:
                if why := case.why.get(kind, {}).get(name):
                    yield Row(group=GROUP, what=what, why=why)
                continue
            beside = [
                summary(case, kind, name),
                *(f"{TITLES[each]}: {summary(case, each, name)}" for each in THEIRS),
            ]
            yield measured(
                GROUP,
                what,
                [wall(one) for one in runs],
                limit=WALL * best if best is not None and case.complete(kind, name) else None,
                beside="; ".join(beside),
            )
