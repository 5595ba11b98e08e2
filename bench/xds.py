"""Rows of xDS streams: `reconciler xds serve` beside a go-control-plane server, in one run.

Both are processes of their own, loaded by the same client with the same resources, one after the
other; the client shares their cores. go-control-plane serves from its linear cache (one set for
all nodes) and from its snapshot cache (a snapshot for each node). The goals are factors of the
better one of these two, in each number for itself.

A full run writes docs/xds-benchmarks.md.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import machine, xds_build, xds_report, xds_rig
from bench.rows import Context, Row, measured
from bench.xds_report import TITLES, median, summary, wall
from bench.xds_rig import OURS, THEIRS, Kind, Layout, Load, Report, Server
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
_MANY: Final = 1_000
"""With more streams than this, a run is repeated less: it takes minutes."""
LOADS: Final = {
    "sync": f"initial sync of {xds_rig.IDENTITIES} × 400 B",
    "one": "one resource of 1 KB changes",
    "many": f"{xds_rig.POLICIES} × 600 B and {xds_rig.IDENTITIES} × 400 B change at once",
    "burst": f"one resource of 1 KB changes {BURST} times at once",
    "storm": "all reconnect with equal versions",
}

Measured = dict[str, list[Report]]
"""By load, each run of it. A burst is not in it where a snapshot for each of many nodes would be
set 50 times: it takes a time that nobody waits for."""


class Case(msgspec.Struct, frozen=True):
    """found: by server; one that failed is in `why` instead, with the reason."""

    layout: Layout
    streams: int
    found: dict[Kind, Measured]
    why: dict[Kind, str]

    def has(self, kind: Kind, load: str) -> bool:
        return load in self.found.get(kind, {})


def run(context: Context) -> list[Row]:
    with contextlib.redirect_stdout(sys.stderr):  # the build says how far it is
        programs = xds_build.programs()
    kinds = (*(kind for kind in OURS if kind in context.transports), *THEIRS)
    counts = context.streams or (QUICK if context.quick else COUNTS)
    described = {**machine.describe(), **xds_build.versions()}
    cases, rows = [], []
    for layout in LAYOUTS:
        for streams in counts:
            if why := xds_rig.refused(streams):
                rows.append(Row(group=GROUP, what=f"{streams:,} streams, {layout.title}", why=why))
                continue
            case = _case(context, programs, kinds, layout, streams)
            cases.append(case)
            rows += _rows(case)
            if not context.quick:  # what is measured is not lost when the rest fails
                xds_report.write(described, LOADS, cases, (WALL, CPU, MEMORY))
    return rows


def _case(
    context: Context, programs: Path, kinds: Sequence[Kind], layout: Layout, streams: int
) -> Case:
    found: dict[Kind, Measured] = {}
    why: dict[Kind, str] = {}
    for kind in kinds:
        title = f"{TITLES[kind]}, {streams:,} streams, {layout.title}"
        try:
            with scratch() as directory:
                found[kind] = _measure(context, programs, directory, kind, layout, streams, title)
        except (RuntimeError, OSError, ReconcilerError) as error:
            why[kind] = " ".join(str(error).split())  # one line, for a table
    return Case(layout, streams, found, why)


def _measure(
    context: Context,
    programs: Path,
    directory: Path,
    kind: Kind,
    layout: Layout,
    streams: int,
    title: str,
) -> Measured:
    keys = xds_rig.make_keys(directory) if layout.tls else None
    runs: Measured = {}
    generation = 1
    with (
        Server(kind, directory / "server", programs, keys) as server,
        Load(server, programs, layout, keys, directory / "load.log") as load,
    ):

        def note(name: str, times: tuple[int, int], once: Callable[[], Report]) -> None:
            runs[name] = []
            for at in range(context.runs(times[streams > _MANY])):
                context.say(f"{title}: {LOADS[name]} ({at + 1})")
                runs[name].append(once())

        def opened() -> Report:
            load.close()
            return load.open(streams)

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

        note("sync", (3, 1), opened)
        note("one", (5, 3), one)
        note("many", (5, 3), many)
        if kind != "snapshot" or streams <= _MANY:
            note("burst", (3, 1), burst)
        note("storm", (3, 1), load.reconnect)
    return runs


def _rows(case: Case) -> Iterator[Row]:
    for name, title in LOADS.items():
        theirs = {kind: case.found[kind][name] for kind in THEIRS if case.has(kind, name)}
        best = min((median(runs, wall) for runs in theirs.values()), default=None)
        for kind in OURS:
            what = f"{case.streams:,} streams, {case.layout.title}: {title}, {TITLES[kind]}"
            if kind in case.why:
                yield Row(group=GROUP, what=what, why=case.why[kind])
            if not case.has(kind, name):
                continue
            ours = case.found[kind][name]
            beside = [
                summary(ours),
                *(f"{TITLES[each]}: {summary(runs)}" for each, runs in theirs.items()),
                *(
                    f"{TITLES[each]} failed: {case.why[each]}"
                    for each in THEIRS
                    if each in case.why
                ),
            ]
            yield measured(
                GROUP,
                what,
                [wall(one) for one in ours],
                limit=None if best is None else WALL * best,
                beside="; ".join(beside),
            )


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """With a folder `server` in it. On a disk: what is renamed there is what a server watches."""
    path = Path(tempfile.mkdtemp(prefix="reconciler-xds-"))
    try:
        (path / "server").mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
