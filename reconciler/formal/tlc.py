"""TLC, the explicit-state checker of TLA+: run it, read its verdict.

A run is "passed" only if TLC said that it completed without an error; everything else names what
happened. Exit codes are TLC's (EC.java): 0 passed, 10 assumption, 11 deadlock, 12 invariant,
13 property, 150 a module does not parse, 255 a bad configuration.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from reconciler.formal import jvm

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


def run(
    module: Path, config: Path, *, libraries: tuple[Path, ...] = (), timeout: float
) -> TlcResult:
    """Check `module` under `config`; `libraries` are searched before the module's own folder.

    timeout is in seconds; a run that passes it has the outcome "timed out".
    """
    ran = invoke(module, config, libraries=libraries, timeout=timeout)
    return _read(module, config, ran.code, ran.output, ran.seconds)


def invoke(
    module: Path,
    config: Path,
    *,
    libraries: tuple[Path, ...] = (),
    timeout: float,
    options: tuple[str, ...] = (),
) -> jvm.Ran:
    """TLC on a module, with further options; its raw output."""
    return jvm.invoke(
        "tlc2.TLC",
        [
            "-deadlock",  # turns the deadlock check off: these specs end by design
            *("-workers", "1"),
            *("-metadir", "{scratch}/states"),
            *("-config", str(config.resolve())),
            *options,
            module.stem,
        ],
        folder=module.parent,
        libraries=libraries,
        timeout=timeout,
    )


def _read(module: Path, config: Path, code: int, output: str, seconds: float) -> TlcResult:
    completed = "Model checking completed. No error has been found." in output
    if code == 0 and completed:
        outcome = "passed"
    elif code == jvm.TIMED_OUT:
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
