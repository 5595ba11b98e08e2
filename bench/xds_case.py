"""What was measured of xDS servers, and which of it may be compared.

A cache that lost streams did less work than one that served all, so it is never the better one;
that choice is `Case.best`, and is made nowhere else. A run is kept in a file while it lasts
(`save`), so that one which is cut off has what it came to.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.xds_floor import NO_FLOOR, Floor
from bench.xds_rig import THEIRS, Kind, Layout, Report

Number = Callable[[Report], float]

Measured = dict[str, list[Report]]
"""By load, each run of it."""

TITLES: Final[dict[Kind, str]] = {
    "http2": "ours on http2",
    "grpc": "ours on grpc",
    "linear": "linear",
    "snapshot": "snapshot",
    "bare": "bare",
}


class Case(msgspec.Struct, frozen=True):
    """One number of streams in one layout.

    found: by server
    why: by server and load, why it was not measured, or not as often as was planned; one line each
    """

    layout: Layout
    streams: int
    found: dict[Kind, Measured] = {}
    why: dict[Kind, dict[str, str]] = {}

    def runs(self, kind: Kind, load: str) -> Sequence[Report]:
        return self.found.get(kind, {}).get(load, ())

    def complete(self, kind: Kind, load: str) -> bool:
        """Whether it was measured, and every stream got everything each time."""
        runs = self.runs(kind, load)
        return bool(runs) and not any(self.lost_by(one) for one in runs)

    def lost_by(self, one: Report) -> int:
        """How many streams ended or did not get what they waited for: those that were lost in an
        earlier step are none of its own streams any more."""
        return max(self.streams - one.in_sync, one.failed)

    def lost(self, kind: Kind, load: str) -> str:
        """The worst of its runs in words; "" when none lost a stream."""
        worst = max(self.runs(kind, load), key=self.lost_by)
        if not self.lost_by(worst):
            return ""
        why = [f"{text} ({count:,})" for text, count in sorted(worst.errors.items())]
        if worst.missing:
            why.append(f"time was over ({worst.missing:,})")
        if worst.streams < self.streams:
            why.append(f"lost before ({self.streams - worst.streams:,})")
        return f"{self.lost_by(worst):,} of {self.streams:,}: {', '.join(why)}"

    def rivals(self, load: str) -> list[Kind]:
        """The caches that ours is compared with."""
        return [kind for kind in THEIRS if self.complete(kind, load)]

    def best(self, load: str, of: Number) -> float | None:
        """The smallest median of a cache that is complete; None when there is none."""
        return min((median(self.runs(kind, load), of) for kind in self.rivals(load)), default=None)

    def factor(self, kind: Kind, load: str, of: Number) -> float | None:
        """Ours, divided by the best of theirs; None where these are not alike or too small."""
        best = self.best(load, of)
        if not best or not self.complete(kind, load):
            return None
        return median(self.runs(kind, load), of) / best


class Comparison(msgspec.Struct, frozen=True):
    """A whole run. planned: what was to be measured, in that order; rounds: by number of streams"""

    machine: dict[str, str]
    loads: dict[str, str]
    """Name of a load → what it is, in words."""
    goals: tuple[float, float, float]
    """Of wall, CPU and memory: ours, divided by the best of theirs."""
    planned: list[tuple[Layout, int]]
    kinds: list[Kind]
    rounds: dict[int, int]
    cases: list[Case]
    floor: Floor = NO_FLOOR

    def missing(self) -> list[str]:
        """What was planned and was not come to, in words."""
        cases = {(case.layout, case.streams): case for case in self.cases}
        *_, last = self.loads
        found = []
        for layout, streams in self.planned:
            case = cases.get((layout, streams))
            for kind in self.kinds:
                done = len(case.runs(kind, last)) if case else 0
                failed = case is not None and last in case.why.get(kind, {})
                if done < self.rounds[streams] and not failed:
                    of = f"{done} of {self.rounds[streams]} rounds"
                    found.append(f"{TITLES[kind]}, {streams:,} streams, {layout.title}: {of}")
        return found


def save(run: Comparison, path: Path) -> None:
    """As a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    os.replace(part, path)


def load(path: Path) -> Comparison:
    return msgspec.json.decode(path.read_bytes(), type=Comparison)


def median(runs: Sequence[Report], of: Number) -> float:
    return statistics.median(of(one) for one in runs)


def wall(one: Report) -> float:
    """Seconds from the moment before the change to the last stream that is in sync."""
    return one.last_ms / 1000


def from_first(one: Report) -> float:
    """Seconds, likewise, from the first message to any stream."""
    return one.from_first_ms / 1000


def cpu(one: Report) -> float:
    return one.server_cpu_s


def memory(one: Report) -> float:
    return one.server_rss
