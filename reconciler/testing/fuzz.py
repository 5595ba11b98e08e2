"""Fuzzing in process: scenarios by seed until a rule falls, and the shortest story of how it fell.

Everything is decided by the seed. A failing scenario is shrunk by leaving out lines, then labels,
for as long as the same rule falls; what is left is a file that a test plays again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from reconciler.testing.churn import Profile, generate
from reconciler.testing.scenario import Broken, Line, play


class Failure(msgspec.Struct, frozen=True):
    """lines: as short as was found; broken: how it ends; before: lines that it was shrunk from."""

    seed: int
    lines: tuple[Line, ...]
    broken: Broken
    before: int


class Found(msgspec.Struct, frozen=True):
    """Seeds from `first` on were played, `runs` of them; `failure` of the last one, if any."""

    first: int
    runs: int
    lines: int
    failure: Failure | None


Play = Callable[[Sequence[Line]], Broken | None]


def fuzz(
    profile: Profile,
    seed: int,
    steps: int,
    runs: int,
    *,
    until: float | None = None,
    told: Callable[[int, int], None] = lambda run, lines: None,
    shrink_seconds: float = 60.0,
    play: Play = play,
) -> Found:
    """Play `runs` scenarios of `steps` moves, seeds `seed`, `seed + 1`, ...; stop at the first
    failure, or when time.monotonic() passes `until`. told: after each run."""
    lines_played = 0
    run = 0
    while run < runs and (until is None or time.monotonic() < until):
        lines = generate(profile, seed + run, steps)
        broken = play(lines)
        run += 1
        lines_played += len(lines)
        told(run, lines_played)
        if broken is not None:
            end = time.monotonic() + shrink_seconds
            short, how = shrink(lines, broken, end, play)
            failure = Failure(seed + run - 1, short, how, len(lines))
            return Found(seed, run, lines_played, failure)
    return Found(seed, run, lines_played, None)


def shrink(
    lines: Sequence[Line], broken: Broken, end: float, play: Play = play
) -> tuple[tuple[Line, ...], Broken]:
    """Leave out what is not needed for the same rule to fall, until nothing more can go or
    time.monotonic() passes `end`."""
    kept = tuple(lines[: lines.index(broken.line) + 1])

    def falls(candidate: Sequence[Line]) -> Broken | None:
        found = play(candidate)
        return found if found is not None and found.rule == broken.rule else None

    smaller = True
    while smaller and time.monotonic() < end:
        smaller = False
        for candidate in _candidates(kept):
            if time.monotonic() >= end:
                break
            found = falls(candidate)
            if found is not None:
                at = next((i for i, each in enumerate(candidate) if each is found.line), None)
                kept = candidate if at is None else candidate[: at + 1]
                broken, smaller = found, True
                break
    numbered = tuple(
        msgspec.structs.replace(line, number=number) for number, line in enumerate(kept, 1)
    )
    return numbered, play(numbered) or broken


def _candidates(lines: tuple[Line, ...]) -> Iterator[tuple[Line, ...]]:
    """Smaller scenarios, the boldest first: halves, quarters, ... single lines, single labels."""
    size = len(lines) // 2
    while size:
        for start in range(len(lines) - size, -1, -size):
            yield lines[:start] + lines[start + size :]
        size //= 2
    for at, line in enumerate(lines):
        if line.verb == "cluster":
            continue
        for label in line.labels:
            left = tuple(each for each in line.labels if each != label)
            fewer = msgspec.structs.replace(line, labels=left)
            yield (*lines[:at], fewer, *lines[at + 1 :])
