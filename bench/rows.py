"""What a benchmark hands back, and how numbers are written.

Every number is a median of several runs; the range stands beside it. A budget is text, so that it
can say what it is for; whether a number is inside it is shown, never enforced.
"""

from __future__ import annotations

import contextlib
import cProfile
import io
import pstats
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

Unit = Literal["s", "B", "n"]
"""Seconds, bytes, or a plain count."""

OUT: Final = Path(__file__).parent / "out"
PROFILE_LINES: Final = 60


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """value, lowest, highest are in `unit`; None when `why` says why there is no number.

    limit:  budget in `unit`, None where there is none
    beside: what else was measured for comparison, in words
    """

    group: str
    what: str
    unit: Unit = "s"
    value: float | None = None
    lowest: float | None = None
    highest: float | None = None
    runs: int = 0
    limit: float | None = None
    beside: str = ""
    why: str = ""


def measured(
    group: str,
    what: str,
    samples: Sequence[float],
    unit: Unit = "s",
    *,
    limit: float | None = None,
    beside: str = "",
) -> Row:
    return Row(
        group=group,
        what=what,
        unit=unit,
        value=statistics.median(samples),
        lowest=min(samples),
        highest=max(samples),
        runs=len(samples),
        limit=limit,
        beside=beside,
    )


def shown(value: float, unit: Unit) -> str:
    """With three digits that matter and a unit that fits."""
    steps: tuple[tuple[float, str], ...]
    if unit == "s":
        steps = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
    elif unit == "B":
        steps = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
    else:
        return f"{value:,.0f}"
    size, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    scaled = value / size
    digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    return f"{scaled:.{digits}f} {name}"


class Context:
    """What a group of benchmarks is told.

    say: shows progress, one line, replaced by the next; page: where a comparison is to be written;
    seconds: after which no more is begun by what can end early (`over`)
    """

    def __init__(
        self,
        *,
        quick: bool,
        streams: tuple[int, ...],
        transports: tuple[str, ...],
        profile: str,
        say: Callable[[str], None],
        page: Path | None = None,
        seconds: float | None = None,
    ) -> None:
        self.quick = quick
        self.streams = streams
        self.transports = transports
        self.profile = profile
        self.say = say
        self.page = page
        self.written: list[Path] = []
        self._end = None if seconds is None else time.monotonic() + seconds

    def over(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def runs(self, usual: int) -> int:
        return 1 if self.quick else usual

    @contextlib.contextmanager
    def profiled(self, name: str) -> Iterator[None]:
        """Profile this part if `--profile` asks for it by this name. Times taken meanwhile are not
        worth printing."""
        if not name or name != self.profile:
            yield
            return
        profiler = cProfile.Profile()
        profiler.enable()
        try:
            yield
        finally:
            profiler.disable()
            self.keep(name, summary(profiler))

    def keep(self, name: str, text: str) -> None:
        OUT.mkdir(exist_ok=True)
        path = OUT / f"{name}.txt"
        path.write_text(text)
        self.wrote(path)

    def wrote(self, path: Path) -> None:
        """Say at the end that it is there."""
        if path not in self.written:
            self.written.append(path)


def summary(profiler: cProfile.Profile) -> str:
    """The most expensive functions by their own time, then by that of what they call."""
    text = io.StringIO()
    stats = pstats.Stats(profiler, stream=text)
    for order in ("tottime", "cumulative"):
        stats.sort_stats(order).print_stats(PROFILE_LINES)
    written = text.getvalue().replace(f"{OUT.parent.parent}/", "")
    return re.sub(r"\S*/site-packages/|\S*/lib/python3[.0-9]*/", "", written)


Group = Callable[[Context], list[Row]]
