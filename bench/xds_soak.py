"""Many xDS streams for long, with a change each second: `python -m bench.xds_soak`.

One resource of 1 KB changes once a second, for all streams. Printed every ten seconds: memory and
CPU time of the server, by how many updates the furthest stream is behind at that moment, and the
longest that any stream was without an update since the line before. The last line says whether
memory grew: the median of the last quarter of the time beside that of the second one (the first
one is the warm-up).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from typing import Any, Final

import msgspec

from bench import machine, xds_build, xds_rig
from bench.rows import shown
from bench.xds import LAYOUTS, scratch
from bench.xds_rig import OURS, THEIRS, Lag, Load, Server
from reconciler.errors import ReconcilerError

SECOND: Final = 1.0
SAMPLE: Final = 10
"""Seconds between two lines."""


def main() -> int:
    options = _options()
    if why := xds_rig.refused(options.streams):
        print(f"xds soak: {why}", file=sys.stderr)
        return 1
    try:
        samples = soak(options)
    except (ReconcilerError, RuntimeError, OSError) as error:
        print(f"xds soak: {error}", file=sys.stderr)
        return 1
    result = verdict(samples, options.streams)
    if options.json:
        told = {"machine": machine.describe(), "server": options.server, **result}
        print(json.dumps({**told, "samples": msgspec.to_builtins(samples)}, indent=1))
    else:
        for key, value in result.items():
            print(f"{key.replace('_', ' ')}: {value}")
    return 0


def soak(options: argparse.Namespace) -> list[Lag]:
    """A sample each ten seconds."""
    with contextlib.redirect_stdout(sys.stderr):
        programs = xds_build.programs()
    layout = LAYOUTS[0 if options.connections == 0 else 1]
    layout = msgspec.structs.replace(layout, connections=options.connections)
    samples: list[Lag] = []
    with scratch() as directory:
        keys = xds_rig.make_keys(directory) if layout.tls else None
        with (
            Server(options.server, directory / "server", programs, keys) as server,
            Load(server, programs, layout, keys, directory / "load.log") as load,
        ):
            opened = load.open(options.streams)
            say = sys.stderr
            print(
                f"{options.server}: {opened.in_sync:,} of {options.streams:,} streams in "
                f"{shown(opened.last_ms / 1000, 's')}, {shown(opened.server_rss, 'B')}",
                file=say,
            )
            began = time.monotonic()
            for second in range(options.seconds):
                # Two to start with: the first resources are of generation 1.
                generation = second + 2
                load.publish([server.change(xds_rig.one(generation))], generation)
                time.sleep(max(0.0, began + (second + 1) * SECOND - time.monotonic()))
                if (second + 1) % SAMPLE == 0:
                    samples.append(load.lag())
                    print(_line(second + 1, samples[-1]), file=say)
    return samples


def _line(second: int, lag: Lag) -> str:
    return (
        f"{second:>5} s  {shown(lag.rss, 'B'):>9}  CPU {shown(lag.cpu_s, 's'):>7}  "
        f"{lag.streams:,} streams, {lag.behind_any:,} behind, furthest {lag.behind}, "
        f"longest {shown(lag.longest_ms / 1000, 's')}"
    )


def verdict(samples: list[Lag], streams: int) -> dict[str, Any]:
    """What the samples come to, in words and numbers. Samples: at least four."""
    quarter = max(1, len(samples) // 4)
    early = statistics.median(one.rss for one in samples[quarter : 2 * quarter])
    late = statistics.median(one.rss for one in samples[-quarter:])
    longest = [one.longest_ms / 1000 for one in samples]
    used = (samples[-1].cpu_s - samples[0].cpu_s) / ((len(samples) - 1) * SAMPLE)
    return {
        "streams_at_the_end": f"{samples[-1].streams:,} of {streams:,}",
        "updates": samples[-1].published - 1,
        "memory": f"{shown(early, 'B')}, later {shown(late, 'B')} ({late / early - 1:+.1%})",
        "furthest_behind": f"{max(one.behind for one in samples)} updates at a look",
        "streams_more_than_one_behind": f"{max(one.behind_two for one in samples):,} at a look",
        "longest_without_an_update": f"{shown(max(longest), 's')}, median of "
        f"{len(samples)} times {SAMPLE} s: {shown(statistics.median(longest), 's')}",
        "cpu": f"{used:.2f} cores",
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.xds_soak", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000, metavar="N")
    parser.add_argument("--seconds", type=int, default=600, help="at least 40 (default: 600)")
    parser.add_argument("--server", choices=(*OURS, *THEIRS), default=OURS[0])
    parser.add_argument(
        "--connections", type=int, default=0, metavar="N",
        help="shared by all streams, without TLS; 0: one each, with mutual TLS (default)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON to standard output")
    options = parser.parse_args()
    if options.seconds < 4 * SAMPLE:
        parser.error(f"--seconds: at least {4 * SAMPLE}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
