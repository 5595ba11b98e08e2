"""What Apalache is asked about a suite, as the same rows that TLC's answers make.

Without the tool every row is skipped and says what to install; never passed. An inductive invariant
takes three queries: a violation of the second or third says that the invariant is too weak, the
spec may be right.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from reconciler.errors import ConfigError, UnavailableError
from reconciler.formal.apalache import Answer, Apalache, Typing
from reconciler.formal.checking import FAILED, PASSED, SKIPPED, VIOLATED, Job, Line, Report
from reconciler.formal.suite import Spec, Suite, Symbolic
from reconciler.formal.tlc_output import Progress
from reconciler.formal.trace import Trace

_TYPECHECK = 120.0
"""Seconds for the type checker."""


def jobs(suite: Suite, specs: Sequence[Spec], cancel: threading.Event | None = None) -> list[Job]:
    """The types of each spec, then what its manifest asks. cancel ends what is under way."""
    try:
        tool = Apalache.find(cancel=cancel)
    except UnavailableError as error:
        return [_skipped(spec, str(error)) for spec in specs]
    found: list[Job] = []
    for spec in specs:
        work = functools.partial(_types, suite, spec, tool)
        found.append(Job(f"{spec.name} types", _TYPECHECK, work))
        for entry in spec.symbolic:
            asked = functools.partial(_asked, suite, spec, tool, entry)
            found.append(Job(f"{spec.name} {entry.module.stem}", entry.seconds, asked))
    return found


def version() -> str:
    """The tool that is used: its version and path, or why it has none; "" where it is absent."""
    try:
        tool = Apalache.find()
    except UnavailableError:
        return ""
    answer = tool.version()
    return f"Apalache {answer.version or f'without a version: {answer.reason}'} ({tool.path})"


def _skipped(spec: Spec, reason: str) -> Job:
    def work(on_progress: Callable[[Progress], None]) -> Report:
        asked = [(entry.module.stem, name) for entry in spec.symbolic for name in _checks(entry)]
        lines = [
            _line(spec, run, name, 0.0, SKIPPED, reason)
            for run, name in [("types", "types"), *asked]
        ]
        return Report(tuple(lines))

    return Job(f"{spec.name} types", 0.0, work)


def _checks(entry: Symbolic) -> Iterator[str]:
    if entry.length:
        yield f"{', '.join(entry.invariants)} within {entry.length} steps"
    if entry.inductive:
        yield from (f"{entry.inductive}: init implies it", f"{entry.inductive}: steps keep it")
        if entry.invariants:
            yield f"{entry.inductive}: implies {', '.join(entry.invariants)}"


def _line(spec: Spec, run: str, check: str, seconds: float, verdict: str, detail: str = "") -> Line:
    return Line(spec.name, run, "symbolic", check, 0, seconds, verdict, detail)


def _types(
    suite: Suite, spec: Spec, tool: Apalache, on_progress: Callable[[Progress], None]
) -> Report:
    typing: Typing = tool.typecheck(spec.path, libraries=suite.libraries, timeout=_TYPECHECK)
    detail = "\n".join(map(str, typing.problems)) or typing.reason
    verdict = PASSED if typing.well_typed else FAILED
    line = _line(spec, "types", "types", typing.seconds, verdict, detail)
    return Report((line,))


def _asked(
    suite: Suite,
    spec: Spec,
    tool: Apalache,
    entry: Symbolic,
    on_progress: Callable[[Progress], None],
) -> Report:
    answers: list[Answer] = []
    try:
        if entry.length:
            answers.append(
                tool.check(
                    entry.module,
                    invariants=entry.invariants,
                    length=entry.length,
                    constants=entry.constants,
                    libraries=suite.libraries,
                    timeout=entry.seconds,
                )
            )
        if entry.inductive:
            induction = tool.inductive(
                entry.module,
                invariant=entry.inductive,
                safety=entry.invariants,
                constants=entry.constants,
                libraries=suite.libraries,
                timeout=entry.seconds,
            )
            answers += induction.queries.values()
    except ConfigError as error:
        run = entry.module.stem
        return Report(tuple(_line(spec, run, c, 0.0, FAILED, str(error)) for c in _checks(entry)))
    checks = list(_checks(entry))
    lines = [
        _answered(spec, entry, check, answer) for check, answer in zip(checks, answers, strict=True)
    ]
    trace = next(
        (
            _trace(spec, entry, check, answer)
            for check, answer in zip(checks, answers, strict=True)
            if answer.violated
        ),
        None,
    )
    return Report(tuple(lines), trace)


def _answered(spec: Spec, entry: Symbolic, check: str, answer: Answer) -> Line:
    fell = ", ".join(map(str, answer.fell)) or ("deadlock" if answer.deadlock else "")
    if answer.proved:
        verdict, detail = PASSED, ""
    elif answer.violated:
        verdict, detail = VIOLATED, fell
    else:
        verdict, detail = FAILED, f"no answer: {answer.cause}: {answer.reason}"
    return _line(spec, entry.module.stem, check, answer.seconds, verdict, detail)


def _trace(spec: Spec, entry: Symbolic, check: str, answer: Answer) -> Trace:
    trace = answer.counterexamples[0]
    return msgspec.structs.replace(
        trace, spec=spec.name, config=entry.module.stem, property=trace.property or check
    )
