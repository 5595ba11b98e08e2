"""TLC, the explicit-state checker of TLA+: run it, read its verdict and its counterexample.

A run is "passed" only if TLC said that it completed without an error; everything else names what
happened. Exit codes are TLC's (EC.java): 0 passed, 10 assumption, 11 deadlock, 12 invariant,
13 property, 75..77 an expression without a value, 150 a module does not parse, 151 and 255 a bad
configuration.

TLC does not say which temporal property fell: where a configuration has several, each is checked
again on its own, on a violation only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.formal import config as configs
from reconciler.formal import jvm, tlc_output
from reconciler.formal import module as modules
from reconciler.formal.explain import explain
from reconciler.formal.tlc_output import Progress
from reconciler.formal.trace import Trace

PASSED: Final = "passed"
VIOLATED: Final = "violated"
DEADLOCK: Final = "deadlock"
TIMED_OUT: Final = "timed out"
_OUTCOMES: Final = {
    10: "assumption false",
    11: DEADLOCK,
    12: VIOLATED,
    13: VIOLATED,
    14: "assertion false",
    75: "no value",
    76: "no value",
    77: "no value",
    150: "does not parse",
    151: "bad configuration",
    152: "state space too large",
    153: "system error",
    255: "bad configuration",
}
_COMPLETED: Final = "Model checking completed. No error has been found."


class TlcResult(msgspec.Struct, frozen=True):
    """What a run gave.

    outcome:  "passed", "violated", "deadlock", "timed out", "does not parse", ...
    fell:     the property that is violated, if known
    states:   generated, and distinct ones (0 for a simulation)
    trace:    the counterexample, if there is one
    message:  TLC's words for what is wrong
    output:   everything that it printed
    """

    module: str
    config: str
    outcome: str
    fell: str
    states: int
    distinct: int
    seconds: float
    output: str
    message: str = ""
    trace: Trace | None = None

    @property
    def passed(self) -> bool:
        return self.outcome == PASSED


def run(
    module: Path,
    config: Path,
    *,
    libraries: Sequence[Path] = (),
    timeout: float,
    deadlock: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    arguments: bool = True,
) -> TlcResult:
    """Check `module` under `config`; `libraries` are searched before the module's own folder.

    timeout is in seconds; a run that passes it has the outcome "timed out". deadlock: whether a
    state without a way out is an error. arguments: find those of a counterexample's actions.
    """
    ran = invoke(
        module,
        config,
        libraries=libraries,
        timeout=timeout,
        deadlock=deadlock,
        options=("-tool",),
        on_line=_told(on_progress),
    )
    result = _read(module, config, ran, completed=_COMPLETED in ran.output)
    if result.outcome != VIOLATED and result.outcome != DEADLOCK:
        return result
    if not result.fell:
        result = _named(result, module, config, libraries, timeout)
    return _explained(result, module, config, libraries) if arguments else result


def simulate(
    module: Path,
    config: Path,
    *,
    libraries: Sequence[Path] = (),
    seed: int,
    runs: int,
    depth: int = 100,
    timeout: float,
) -> TlcResult:
    """Random behaviours of at most `depth` steps; the same seed gives the same ones.

    Invariants and action properties are checked; liveness can't be, on behaviours that end.
    """
    given = configs.read(config)
    family = modules.family(module, libraries)
    steps = [n for n in given.names("PROPERTY") if _is_of_steps(modules.definition(family, n)[1])]
    with tempfile.TemporaryDirectory(prefix="simulate-") as scratch:
        path = Path(scratch) / config.name
        kept = ("SPECIFICATION", "INIT", "NEXT", "CONSTANT", "INVARIANT", "CONSTRAINT")
        text = given.text((*kept, "ACTION_CONSTRAINT"))
        path.write_text(text + "".join(f"PROPERTY {name}\n" for name in steps), encoding="utf-8")
        ran = invoke(
            module,
            path,
            libraries=libraries,
            timeout=timeout,
            options=(
                *("-tool", "-simulate", f"num={runs}"),
                *("-depth", str(depth), "-seed", str(seed)),
            ),
        )
        result = _read(module, config, ran, completed=ran.code == 0)
        return _explained(result, module, path, libraries)


def _is_of_steps(text: str) -> bool:
    return text.strip().startswith("[][") and "<>" not in text and "~>" not in text


def invoke(
    module: Path,
    config: Path,
    *,
    libraries: Sequence[Path] = (),
    timeout: float,
    deadlock: bool = False,
    options: Sequence[str] = (),
    on_line: Callable[[str], None] | None = None,
) -> jvm.Ran:
    """TLC on a module with further options; its raw output."""
    return jvm.invoke(
        "tlc2.TLC",
        [
            *("-workers", "1"),
            *("-metadir", "{scratch}/states"),
            *("-config", str(config.resolve())),
            *(() if deadlock else ("-deadlock",)),  # the option turns the check off
            *options,
            module.stem,
        ],
        folder=module.parent,
        libraries=libraries,
        timeout=timeout,
        on_line=on_line,
    )


def _told(on_progress: Callable[[Progress], None] | None) -> Callable[[str], None] | None:
    if on_progress is None:
        return None

    def on_line(line: str) -> None:
        found = tlc_output.progress(line)
        if found is not None:
            on_progress(found)

    return on_line


def _read(module: Path, config: Path, ran: jvm.Ran, *, completed: bool) -> TlcResult:
    found = tlc_output.messages(ran.output)
    if ran.code == 0 and completed:
        outcome = PASSED
    elif ran.code == jvm.TIMED_OUT:
        outcome = TIMED_OUT
    else:
        outcome = _OUTCOMES.get(ran.code, f"exit code {ran.code}")
    states, distinct = tlc_output.counts(found)
    steps, loop = tlc_output.trace(found)
    fell = tlc_output.fell(found)
    trace = None
    if steps and outcome != PASSED:
        trace = Trace(steps, spec=module.stem, config=config.stem, property=fell, loop=loop)
    return TlcResult(
        module=module.stem,
        config=config.stem,
        outcome=outcome,
        fell=fell,
        states=states,
        distinct=distinct,
        seconds=ran.seconds,
        output=tlc_output.plain(ran.output),
        message="" if outcome == PASSED else tlc_output.errors(found),
        trace=trace,
    )


def _named(
    result: TlcResult, module: Path, config: Path, libraries: Sequence[Path], timeout: float
) -> TlcResult:
    """The result with the name of the property that fell, and a counterexample to that one."""
    given = configs.read(config)
    candidates = given.names("PROPERTY")
    if len(candidates) == 1:
        return _renamed(result, candidates[0])
    kept = ("SPECIFICATION", "INIT", "NEXT", "CONSTANT", "CONSTRAINT", "ACTION_CONSTRAINT")
    with tempfile.TemporaryDirectory(prefix="property-") as scratch:
        for name in candidates:
            path = Path(scratch) / config.name
            path.write_text(f"{given.text(kept)}PROPERTY {name}\n", encoding="utf-8")
            ran = invoke(
                module,
                path,
                libraries=libraries,
                timeout=timeout,
                options=("-tool",),
            )
            alone = _read(module, config, ran, completed=_COMPLETED in ran.output)
            if alone.outcome == VIOLATED:
                return _renamed(msgspec.structs.replace(result, trace=alone.trace), name)
    return result


def _renamed(result: TlcResult, name: str) -> TlcResult:
    trace = result.trace
    if trace is not None:
        trace = msgspec.structs.replace(trace, property=name)
    return msgspec.structs.replace(result, fell=name, trace=trace)


def _explained(
    result: TlcResult, module: Path, config: Path, libraries: Sequence[Path]
) -> TlcResult:
    if result.trace is None:
        return result
    trace = explain(result.trace, module, config, libraries)
    return msgspec.structs.replace(result, trace=trace)
