"""What ours can't do without beside sockets and TLS: `python -m bench.xds_floor` measures it.

The bare server (bench/bare.py) says what it has ready. Whoever serves xDS knows besides what each
stream was sent, and that is the core's own time, measured alone in one thread; and stands on
libraries, measured in a process that imports what `reconciler xds serve` has imported of others,
and does nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

import msgspec

from bench import discovery

_STREAMS: Final = 1_000
_TIMEOUT: Final = 120.0

_OTHERS: Final = """
import json, sys
import reconciler.commands.run, reconciler.server.discovery.app, reconciler.server.h2
names = [name for name in sys.modules if name.partition(".")[0] not in ("reconciler", "__main__")]
print(json.dumps(["uvloop", *names]))
"""
"""uvloop: imported where the loop is made."""

_IMPORT: Final = """
import contextlib, importlib, json, sys
for name in json.loads(sys.argv[1]):
    with contextlib.suppress(ImportError):  # one that is there under another name
        importlib.import_module(name)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS:")))
"""


class Floor(msgspec.Struct, frozen=True):
    """core: name of a load → CPU seconds a stream; libraries: bytes, resident; led: of core, what
    comes before a stream is sent a change, one stream after the other"""

    core: dict[str, float]
    libraries: float
    led: dict[str, float] = {}


NO_FLOOR: Final = Floor({}, 0.0)
"""Where it was not measured."""


def measure(runs: int = 3) -> Floor:
    """The least of so many runs of each."""
    rounds = [discovery.spent(_STREAMS) for _ in range(runs)]
    spent = {what: min(each[what] for each in rounds) / _STREAMS for what in rounds[0]}
    answer = spent[discovery.ACK]
    led = {"one": spent[discovery.ONE], "many": spent[discovery.MANY]}
    core = {
        "sync": spent[discovery.SYNC] + answer,
        **{load: seconds + answer for load, seconds in led.items()},
        "storm": spent[discovery.RECONNECT],
    }
    return Floor(core, min(_libraries() for _ in range(runs)), led)


def _libraries() -> float:
    names = json.loads(_python(_OTHERS))
    return 1024.0 * int(_python(_IMPORT, json.dumps(names)))


def _python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_TIMEOUT
    ).stdout


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(measure())).decode())
