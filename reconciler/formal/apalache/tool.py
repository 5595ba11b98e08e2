"""The installed tool and one run of it: where it is, what it may see, what it left behind.

A run promises: nothing of it stays on the disk, nothing that lies about in the environment or the
current folder decides what it does, and it ends by its limit. So each run has folders of its own
(specs, output, run, temporary files), a configuration file of its own, an environment without the
variables that the tool reads by their bare names, and a process group of its own, the only one
that is ever signalled.

The sources are copied: the tool looks for modules in the current folder and then in the spec's,
which is not enough for a wrapper module in one folder and what it extends in another.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from reconciler.errors import ConfigError, UnavailableError

VARIABLE: Final = "APALACHE_MC"
COMMAND: Final = "apalache-mc"
INSTALL: Final = (
    "Apalache: not found. Install Java 21 or newer and a release of Apalache "
    "(github.com/apalache-mc/apalache/releases), then put its bin folder on PATH "
    f"or set {VARIABLE} to the path of {COMMAND}"
)
# Read by the tool by these bare names; whatever they mean to others, here they would change a run.
BARE_VARIABLES: Final = (
    "OUT_DIR",
    "RUN_DIR",
    "CONFIG_FILE",
    "PROFILING",
    "WRITE_INTERMEDIATE",
    "SMT_ENCODING",
    "SMT_SOLVER",
    "PORT",
)
GRACE: Final = 5.0  # seconds between asking a run to end and ending it
_POLL: Final = 0.05  # seconds; only while a run can be cancelled

Ended = Literal["exited", "timed out", "cancelled"]


class Output(msgspec.Struct, frozen=True):
    """What one run left behind.

    exit:   as a shell shows it: 128 + signal for a run that a signal ended
    traces: file name → text of every ITF file in the run folder that bears a number (the ones
            without are copies of the latest)
    """

    command: tuple[str, ...]
    ended: Ended
    exit: int
    stdout: str
    stderr: str
    traces: Mapping[str, str] = {}
    seconds: float = 0.0


def find(environ: Mapping[str, str] = os.environ) -> Path:
    """Path of the tool: APALACHE_MC, or the first `apalache-mc` on PATH.

    Raises UnavailableError that says what to install; ConfigError if APALACHE_MC is no program.
    """
    given = environ.get(VARIABLE)
    if given:
        if not (os.path.isfile(given) and os.access(given, os.X_OK)):
            raise ConfigError(f"{VARIABLE}: {given} is not a program")
        return Path(given).absolute()
    found = shutil.which(COMMAND, path=environ.get("PATH", os.defpath))
    if found is None:
        raise UnavailableError(INSTALL)
    return Path(found).absolute()


def environment(base: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """What a run sees: all of base but the bare names, and a temporary folder of its own."""
    seen = {name: value for name, value in base.items() if name not in BARE_VARIABLES}
    # The start script makes a folder in it and never deletes it; without it, in the current one.
    seen["TMPDIR"] = str(temporary)
    return seen


def run(
    tool: Path,
    command: str,
    options: Sequence[str] = (),
    module: Path | None = None,
    *,
    libraries: Iterable[Path] = (),
    timeout: float,
    cancel: threading.Event | None = None,
    grace: float = GRACE,
    environ: Mapping[str, str] = os.environ,
) -> Output:
    """Run `tool command options module`; options are `--name=value` (the tool takes no others).

    libraries are folders of modules that `module` may extend, searched before its own.
    timeout is in seconds. Raises ConfigError for a missing module, UnavailableError for a tool
    that can't be started.
    """
    with tempfile.TemporaryDirectory(prefix="apalache-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        for name in ("specs", "out", "run", "tmp"):
            (scratch / name).mkdir()
        arguments = [command]
        if module is not None:
            _copy_sources(module, libraries, scratch / "specs")
            config = scratch / "config.json"
            config.write_text(json.dumps({"out-dir": str(scratch / "out")}))
            arguments += [
                f"--config-file={config}",
                f"--out-dir={scratch / 'out'}",
                f"--run-dir={scratch / 'run'}",
                *options,
                module.name,
            ]
        else:
            arguments += options
        started = time.monotonic()
        ended, code = _execute(
            [str(tool), *arguments],
            scratch,
            environment(environ, scratch / "tmp"),
            timeout,
            cancel,
            grace,
        )
        return Output(
            command=(COMMAND, command, *options, *([module.name] if module is not None else [])),
            ended=ended,
            exit=code if code >= 0 else 128 - code,
            stdout=_text(scratch / "stdout"),
            stderr=_text(scratch / "stderr"),
            traces=_traces(scratch / "run"),
            seconds=time.monotonic() - started,
        )


def _copy_sources(module: Path, libraries: Iterable[Path], target: Path) -> None:
    if not module.is_file():
        raise ConfigError(f"{module}: no such file")
    for folder in (*libraries, module.absolute().parent):
        for source in sorted(folder.glob("*.tla")):
            copy = target / source.name
            if not copy.exists():
                shutil.copyfile(source, copy)
    shutil.copyfile(module, target / module.name)


def _execute(
    command: list[str],
    scratch: Path,
    environ: Mapping[str, str],
    timeout: float,
    cancel: threading.Event | None,
    grace: float,
) -> tuple[Ended, int]:
    """Run to the end, the limit or the cancellation, whichever is first."""
    deadline = time.monotonic() + timeout
    # Files, not pipes: nobody has to read them for the run to go on.
    with open(scratch / "stdout", "wb") as out, open(scratch / "stderr", "wb") as err:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=scratch / "specs",
                env=environ,
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"{command[0]}: can't be started: {error.strerror}") from error
    ended: Ended = "exited"
    try:
        while True:
            left = deadline - time.monotonic()
            try:
                process.wait(max(0.0, left if cancel is None else min(left, _POLL)))
                break
            except subprocess.TimeoutExpired:
                if cancel is not None and cancel.is_set():
                    ended = "cancelled"
                    break
                if time.monotonic() >= deadline:
                    ended = "timed out"
                    break
    finally:
        _end(process, grace)
    return ended, process.returncode


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End the run if it has not ended: asked first, then killed, with its own children."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    if process.poll() is None:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Its number is its own as long as it was not waited for: it leads the group of that number.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _traces(folder: Path) -> dict[str, str]:
    found = folder.glob("*.itf.json")
    return {path.name: _text(path) for path in sorted(found) if path.name[-10].isdigit()}
