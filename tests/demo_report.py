"""What `reconciler demo --json` printed, of any demo, and what is left of one."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from reconciler.commands.demo_cluster import BPFFS, PREFIX

_STARTED_SECONDS: Final = 20.0


def held(out: str, errors: str) -> dict[str, Any]:
    """The report, all of whose checks must have held. errors: what to show where one did not."""
    assert out, errors
    found: dict[str, Any] = json.loads(out)
    failed = [
        f"{part['title']}: {check['what']}: {check['detail']}"
        for part in found["parts"]
        for check in part["checks"]
        if not check["ok"]
    ]
    assert failed == [], errors
    return found


def left_after_a_kill(pid: int) -> list[str]:
    """What stays: a process that was just being started finds its parent gone, and ends too."""
    end = time.monotonic() + _STARTED_SECONDS
    while (found := left(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def left(pid: int) -> list[str]:
    """Files, pins, and processes that know of a file of that demo's or of its cluster's."""
    places = (Path(tempfile.gettempdir()), BPFFS)
    known = re.compile(rf"({PREFIX}{pid}|reconciler-cluster-{pid}-)(?!\d)")
    found = [str(path) for place in places for path in place.iterdir() if known.match(path.name)]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if known.search(line):
            found.append(line)
    return found
