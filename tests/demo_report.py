"""What `reconciler demo --json` printed, of any demo, and what is left of one."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from reconciler.commands.demo_cluster import BPFFS, PREFIX


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
