"""What a server in Python can't do without: `python -m bench.xds_floor`.

With a TLS connection for each stream, three servers in turn under the loads of `bench.xds`: one
that only says what it has ready (`bench.bare`), ours on http2, and go-control-plane's linear cache.
The first shows what the event loop, the TLS library and the kernel take, whatever the server
thinks; where that alone is more than a goal of `bench.xds`, no change of ours reaches it there.

Medians of the rounds; each round starts every server anew, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Final

from bench import machine, xds, xds_build, xds_case, xds_rig
from bench.xds_case import Case, Number
from bench.xds_rig import Kind
from reconciler.errors import ReconcilerError

_KINDS: Final[dict[Kind, str]] = {
    "bare": "bare",
    "http2": "ours on http2",
    "linear": "linear",
}
_LOADS: Final = ("sync", "one", "many", "storm")
_NUMBERS: Final[dict[str, tuple[Number, float]]] = {
    "wall": (xds_case.wall, xds.WALL),
    "CPU": (xds_case.cpu, xds.CPU),
    "memory": (xds_case.memory, xds.MEMORY),
}
_LAYOUT: Final = xds.LAYOUTS[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.xds_floor", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    case = Case(_LAYOUT, options.streams, {}, {})
    try:
        if why := xds_rig.refused(options.streams):
            raise RuntimeError(why)
        programs = xds_build.programs()
        for _ in range(options.rounds):
            for kind in _KINDS:
                _round(kind, programs, case)
    except (ReconcilerError, RuntimeError, OSError) as error:
        print(f"bench.xds_floor: {error}", file=sys.stderr)
        return 1
    print("\n".join(_text(case, options.rounds)))
    return 0


def _round(kind: Kind, programs: Path, case: Case) -> None:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(machine.scratch(disk=True))
        loads = xds.loads(stack, programs, directory, kind, case)
        for name in _LOADS:
            once, times = loads[name]
            for _ in range(times):
                report = once()
                if case.lost_by(report):
                    raise RuntimeError(f"{kind}, {name}: {case.lost_by(report)} streams were lost")
                case.found.setdefault(kind, {}).setdefault(name, []).append(report)


def _text(case: Case, rounds: int) -> list[str]:
    found = {**machine.describe(), **xds_build.versions()}
    lines = [f"{what}: {value}" for what, value in found.items()]
    lines += [f"{case.streams:,} streams, {case.layout.title}, {rounds} rounds", ""]
    for name in _LOADS:
        lines.append(xds.LOADS[name])
        for kind, title in _KINDS.items():
            parts = [f"  {title:<14}"]
            for what, (of, goal) in _NUMBERS.items():
                value = xds_case.median(case.runs(kind, name), of)
                theirs = xds_case.median(case.runs("linear", name), of)
                beside = "" if kind == "linear" else f" ({value / theirs:.2f}, goal {goal})"
                shown = f"{value / (1 << 20):.0f} MiB" if what == "memory" else f"{value:.3f} s"
                parts.append(f"{what} {shown}{beside}")
            lines.append("  ".join(parts))
    return lines


if __name__ == "__main__":
    sys.exit(main())
