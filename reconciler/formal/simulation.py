"""Random behaviours at bounds that are too large to search whole, for as long as there is time.

The time is cut into pieces, each with a seed of its own (the first one's, plus its number), so that
a violation says which seed shows it again within seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from reconciler.formal import tlc
from reconciler.formal.checking import OPEN, PASSED, VIOLATED, Job, Line, Report, report
from reconciler.formal.suite import Kind, Run, Spec, Suite
from reconciler.formal.tlc_output import Progress

DEPTH: Final = 100
_FIRST: Final = 50  # behaviours in the first piece
_PIECE: Final = 30.0  # seconds of a later one


def jobs(suite: Suite, specs: Sequence[Spec], seed: int, seconds: float) -> list[Job]:
    """Behaviours of the largest bounds of each spec; together they take so many seconds, two at a
    time.

    A spec without a deep run has the bounds of its safety runs.
    """
    runs = [
        run for spec in specs for run in spec.of(Kind.DEEP) or spec.of(Kind.SAFETY) or spec.runs
    ]
    share = seconds * 2 / max(2, len(runs))
    return [_job(suite, run, seed, share) for run in runs]


def _job(suite: Suite, run: Run, seed: int, seconds: float) -> Job:
    def work(on_progress: Callable[[Progress], None]) -> Report:
        return simulate(suite, run, seed, seconds, on_progress)

    return Job(f"{run.spec} {run.name} at random", seconds, work)


def simulate(
    suite: Suite,
    run: Run,
    seed: int,
    seconds: float,
    on_progress: Callable[[Progress], None],
) -> Report:
    """Pieces until the time is over or something falls. One row, or those of the violation."""
    started = time.monotonic()
    behaviours, count, states, piece = _FIRST, 0, 0, 0
    while True:
        left = seconds - (time.monotonic() - started)
        if left <= 0:
            break
        result = tlc.simulate(
            run.module,
            run.config,
            libraries=suite.libraries,
            seed=seed + piece,
            runs=behaviours,
            depth=DEPTH,
            timeout=max(left, 10.0),
        )
        states += result.states
        if result.outcome == tlc.TIMED_OUT:
            break
        if not result.passed:
            said = f"seed {seed + piece}, {behaviours} behaviours of {DEPTH} steps"
            return _fell(report(run, result), f"{said}: {result.outcome}: {result.message}")
        count += behaviours
        piece += 1
        on_progress(Progress(DEPTH, states, 0, 0))
        behaviours = max(_FIRST, int(behaviours * min(8.0, _PIECE / result.seconds)))
    seeds = f"seed {seed}" if piece < 2 else f"seeds {seed} to {seed + piece - 1}"
    said = f"{seeds}: {count} behaviours of at most {DEPTH} steps"
    line = Line(
        spec=run.spec,
        run=f"{run.name} at random",
        kind="simulate",
        check="all but liveness",
        states=states,
        seconds=time.monotonic() - started,
        verdict=PASSED if count else OPEN,
        detail=said if count else "no time for the first behaviours",
    )
    return Report((line,))


def _fell(found: Report, said: str) -> Report:
    lines = tuple(
        Line(
            spec=line.spec,
            run=f"{line.run} at random",
            kind="simulate",
            check=line.check,
            states=line.states,
            seconds=line.seconds,
            verdict=line.verdict,
            detail=f"{line.detail}; {said}" if line.verdict == VIOLATED else said,
        )
        for line in found.lines
    )
    return Report(lines, found.trace)
