"""Many xDS streams for long, with a change each second: `python -m bench.xds_soak`.

One resource of 1 KB changes once a second, for all streams. Printed every ten seconds, or each
tenth of a shorter time: memory and CPU time of the server, by how many updates the furthest stream
is behind at that moment, and the longest that any stream was without an update since the line
before. Then memory each minute, and whether it grew: the median of the last quarter of the time
beside that of the second one (the first one is the warm-up).

The exit status is 1 when a stream ended, one was further behind than `--behind`, some had not got
the last update a minute after it, or memory grew by more than `--growth`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bench import machine, xds_build, xds_rig
from bench.rows import shown
from bench.xds import LAYOUTS
from bench.xds_rig import OURS, THEIRS, Lag, Load, Server
from reconciler.errors import ReconcilerError

SECOND: Final = 1.0
SHORTEST: Final = 10
_LINES: Final = 10
"""Seconds between two lines, or a tenth of the whole time if that is less."""
_END: Final = 60.0
"""Seconds in which every stream has the last update."""


class Sample(msgspec.Struct, frozen=True):
    """second: since the first update; lag: since the sample before"""

    second: float
    lag: Lag


class Soak(msgspec.Struct, frozen=True):
    """opened: the server's memory in bytes when all streams were in sync for the first time; last:
    a look after the last update, when all had it or the time was over."""

    streams: int
    seconds: int
    opened: int
    samples: list[Sample]
    last: Sample


def main() -> int:
    options = _options()
    if why := xds_rig.refused(options.streams):
        print(f"xds soak: {why}", file=sys.stderr)
        return 1
    try:
        found = soak(options)
    except (ReconcilerError, RuntimeError, OSError) as error:
        print(f"xds soak: {error}", file=sys.stderr)
        return 1
    failures = failed(found, options.growth, options.behind)
    result = {**told(found), "failed": "; ".join(failures) or "nothing"}
    if options.json:
        head = {"machine": machine.describe(), "server": options.server}
        print(json.dumps({**head, **result, "run": msgspec.to_builtins(found)}, indent=1))
    else:
        for key, value in result.items():
            print(f"{key.replace('_', ' ')}: {value}")
    return int(bool(failures))


def soak(options: argparse.Namespace) -> Soak:
    """RuntimeError when not all streams get in sync to begin with."""
    with contextlib.redirect_stdout(sys.stderr):
        programs = xds_build.programs()
    layout = LAYOUTS[0 if options.connections == 0 else 1]
    layout = msgspec.structs.replace(layout, connections=options.connections)
    every = min(_LINES, options.seconds // 10)
    samples: list[Sample] = []
    with machine.scratch(disk=True) as directory:
        keys = xds_rig.make_keys(directory) if layout.tls else None
        home, log = directory / "server", directory / "load.log"
        seconds = xds_rig.patience(options.streams)
        with (
            Server(options.server, home, programs, keys) as server,
            Load(server, programs, layout, keys, log, seconds=seconds) as load,
        ):
            opened = load.open(options.streams)
            _say(
                f"{options.server}: {opened.in_sync:,} of {options.streams:,} streams in "
                f"{shown(opened.last_ms / 1000, 's')}, {shown(opened.server_rss, 'B')}"
            )
            if opened.in_sync < options.streams:
                raise RuntimeError(f"not all streams are in sync: {opened.errors}")
            began = time.monotonic()

            def look() -> Sample:
                return Sample(time.monotonic() - began, load.lag())

            for second in range(options.seconds):
                # Two to start with: the first resources are of generation 1.
                generation = second + 2
                load.publish([server.change(xds_rig.one(generation))], generation)
                time.sleep(max(0.0, began + (second + 1) * SECOND - time.monotonic()))
                if (second + 1) % every == 0:
                    samples.append(look())
                    _say(_line(samples[-1]))
            last, end = look(), time.monotonic() + _END
            while last.lag.behind_any and time.monotonic() < end:
                time.sleep(0.1)
                last = look()
    return Soak(options.streams, options.seconds, opened.server_rss, samples, last)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _line(sample: Sample) -> str:
    lag = sample.lag
    return (
        f"{sample.second:>5.0f} s  {shown(lag.rss, 'B'):>9}  CPU {shown(lag.cpu_s, 's'):>7}  "
        f"{lag.streams:,} streams, {lag.behind_any:,} behind, furthest {lag.behind} updates, "
        f"longest {shown(lag.longest_ms / 1000, 's')}"
    )


def failed(found: Soak, growth: float, behind: int) -> list[str]:
    """What is not as it has to be, in words. growth: 0.05 is 5 %; behind: updates"""

    def reasons() -> Iterator[str]:
        lost = found.streams - min(each.lag.streams for each in (*found.samples, found.last))
        if lost > 0:
            yield f"{lost:,} streams ended"
        furthest = max(each.lag.behind for each in found.samples)
        if furthest > behind:
            yield f"a stream was {furthest} updates behind, more than {behind}"
        if found.last.lag.behind_any:
            yield f"{found.last.lag.behind_any:,} streams had not got the last update at the end"
        early, late = _memory(found)
        if late / early - 1 > growth:
            yield f"memory grew by {late / early - 1:.1%}, more than {growth:.1%}"

    return list(reasons())


def _memory(found: Soak) -> tuple[float, float]:
    """Medians of the second quarter and of the last one, bytes."""
    quarter = max(1, len(found.samples) // 4)
    sizes = [each.lag.rss for each in found.samples]
    return statistics.median(sizes[quarter : 2 * quarter]), statistics.median(sizes[-quarter:])


def told(found: Soak) -> dict[str, Any]:
    """What the samples come to, in words and numbers."""
    samples, first, last = found.samples, found.samples[0], found.samples[-1]
    early, late = _memory(found)
    longest = [one.lag.longest_ms / 1000 for one in samples]
    used = (last.lag.cpu_s - first.lag.cpu_s) / (last.second - first.second)
    minutes = [each for before, each in _pairs(samples) if each.second // 60 > before // 60]
    return {
        "streams_at_the_end": f"{found.last.lag.streams:,} of {found.streams:,}",
        "updates": f"{last.lag.published - 1} in {last.second:.0f} s",
        "memory_at_the_start": shown(found.opened, "B"),
        "memory_each_minute": ", ".join(shown(each.lag.rss, "B") for each in minutes) or "–",
        "memory_at_the_end": shown(found.last.lag.rss, "B"),
        "growth": f"{shown(early, 'B')}, later {shown(late, 'B')} ({late / early - 1:+.1%})",
        "furthest_behind": f"{max(one.lag.behind for one in samples)} updates at a look",
        "streams_more_than_one_behind": f"{max(one.lag.behind_two for one in samples):,} at a look",
        "longest_without_an_update": f"{shown(max(longest), 's')}, median of "
        f"{len(samples)} looks: {shown(statistics.median(longest), 's')}",
        "all_had_the_last_update": "never"
        if found.last.lag.behind_any
        else f"{max(0.0, found.last.second - last.second):.1f} s after the end",
        "cpu": f"{used:.2f} cores",
    }


def _pairs(samples: list[Sample]) -> Iterator[tuple[float, Sample]]:
    """Each, with the second of the one before."""
    return zip((0.0, *(each.second for each in samples)), samples, strict=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.xds_soak", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000, metavar="N")
    parser.add_argument(
        "--seconds", type=int, default=600, metavar="N",
        help=f"at least {SHORTEST} (default: 600)",
    )  # fmt: skip
    parser.add_argument(
        "--server", choices=(*OURS, *THEIRS), default=OURS[0],
        help=f"ours by its transport, or a cache of go-control-plane (default: {OURS[0]})",
    )  # fmt: skip
    parser.add_argument(
        "--connections", type=int, default=0, metavar="N",
        help="shared by all streams, without TLS; 0: one each, with mutual TLS (default)",
    )  # fmt: skip
    parser.add_argument(
        "--growth", type=float, default=0.05, metavar="PART",
        help="of memory, that is no failure (default: 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--behind", type=int, default=10, metavar="N",
        help="updates that a stream may lack at a look (default: 10)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON to standard output")
    options = parser.parse_args()
    if options.seconds < SHORTEST:
        parser.error(f"--seconds: at least {SHORTEST}")
    if options.streams < 1:
        parser.error("--streams: at least 1")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
