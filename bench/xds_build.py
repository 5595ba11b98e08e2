"""Builds the Go programs of bench/xds, once: `python -m bench.xds_build` prints where they are.

`server` is a go-control-plane server, `load` the client that loads any xDS server (bench/xds/load).
They stay in the cache folder that the Kubernetes build uses, under a name made of their sources, so
that a change of these is a new build and what is there is never an old one. About a minute of
processor time when Go's own build cache has nothing of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from reconciler.errors import ReconcilerError
from reconciler.testing.golang import TRIES, Go, alone, find_go, say
from reconciler.testing.kubernetes import binaries

SOURCES: Final = Path(__file__).parent / "xds"
PROGRAMS: Final = ("server", "load")


def programs() -> Path:
    """The folder with both, built first where they are missing. BuildError or ConfigError says what
    failed."""
    root = binaries.cache()
    root.mkdir(parents=True, exist_ok=True)
    target = _target(root)
    if target.is_dir():
        os.utime(target)  # `prune` goes by the last use
        return target
    with alone(root / "xds-bench.lock"):
        if not target.is_dir():
            _build(Go(find_go(root)), target)
            prune(root, target)
    return target


def prune(root: Path, keep: Path) -> None:
    """Removes the builds of other sources, but for the two used last: by other checkouts, maybe."""
    others = [path for path in root.glob("xds-bench-*") if path.is_dir() and path != keep]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-2]:
        shutil.rmtree(path, ignore_errors=True)


def built() -> Path | None:
    """The folder with both, if it is there."""
    target = _target(binaries.cache())
    return target if target.is_dir() else None


def _build(go: Go, target: Path) -> None:
    say("go-control-plane server and load client: compiling")
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    # The sources say exactly what is built: Go must not edit go.mod and go.sum here.
    flags = go.environment["GOFLAGS"].replace("-mod=mod", "-mod=readonly")
    arguments = ("build", "-v", "-ldflags", "-s -w", "-o", f"{part}{os.sep}")
    packages = [f"./{name}" for name in PROGRAMS]
    part.mkdir()
    go.run(*arguments, *packages, at=SOURCES, tries=TRIES, env={"GOFLAGS": flags})
    os.replace(part, target)
    say(f"go-control-plane server and load client: {target}")


def _target(root: Path) -> Path:
    return root / f"xds-bench-{_digest()}"


def _digest() -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(SOURCES)}\n{path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Module → version, of what go.mod names first."""
    lines = (SOURCES / "go.mod").read_text().splitlines()
    named = [line.split() for line in lines if line.startswith("\t") and "//" not in line]
    return {fields[0]: fields[1] for fields in named}


def main() -> int:
    try:
        print(programs())
    except (ReconcilerError, OSError) as error:
        print(f"xds build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
