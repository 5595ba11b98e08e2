"""What to ask the tool: types, a bounded check, an inductive invariant, a simulation.

Refused before the tool is asked, with the reason in the answer: a temporal property that needs
fairness (the tool can't do it: without fairness it would call a spec wrong that is right). Never
passed together: `--no-deadlock` and `--discard-disabled=false`, which make a spec without any
initial state pass.

Not offered: experimental solvers and encodings, the explorer server, TLC configurations (constants
go through an operator, `cinit`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal.apalache import tool
from reconciler.formal.apalache.reading import Answer, Cause, Problem, Verdict, judge, version_of
from reconciler.formal.source import Source, read_sources

_NAME: Final = re.compile(r"[A-Za-z_]\w*\Z")
LASSO: Final = (
    "only executions up to the bound were looked at: a loop that does not fit was not seen, and "
    "executions stutter only where Next does"
)


class Typing(msgspec.Struct, frozen=True):
    """Answer of the type checker; `problems` has the places."""

    well_typed: bool
    cause: Cause = Cause.NONE
    reason: str = ""
    problems: tuple[Problem, ...] = ()
    version: str = ""
    seconds: float = 0.0


class Induction(msgspec.Struct, frozen=True):
    """An inductive invariant: proved at every depth if all three queries are proved.

    base:   Init implies the invariant
    step:   one step from any state of the invariant ends in it; a counterexample here is a state
            that may or may not be reachable: the invariant is too weak, or the spec is wrong
    safety: the invariant implies each property; None if none was given
    """

    base: Answer
    step: Answer
    safety: Answer | None

    @property
    def queries(self) -> dict[str, Answer]:
        found = {"init implies": self.base, "step preserves": self.step}
        return found if self.safety is None else {**found, "implies safety": self.safety}

    @property
    def verdict(self) -> Verdict:
        """Violated if any of the three is: the *claim* fails, the spec need not."""
        verdicts = {answer.verdict for answer in self.queries.values()}
        if Verdict.VIOLATED in verdicts:
            return Verdict.VIOLATED
        return Verdict.PROVED if verdicts == {Verdict.PROVED} else Verdict.NO_ANSWER

    @property
    def reason(self) -> str:
        """Which queries were not proved, and why."""
        return "; ".join(
            f"{query}: {', '.join(map(str, answer.fell)) or answer.reason or answer.outcome}"
            for query, answer in self.queries.items()
            if not answer.proved
        )


class Simulation(msgspec.Struct, frozen=True):
    """Random executions. One that ends well proves nothing and is never called proved.

    The executions are `answer.examples`, that of a violation is in `answer.counterexamples`.
    """

    answer: Answer

    @property
    def violated(self) -> bool:
        return self.answer.violated

    @property
    def completed(self) -> bool:
        """All runs were made and none broke an invariant."""
        return self.answer.proved


class Apalache:
    """One installed tool.

        apalache = Apalache.find()          # UnavailableError says what to install
        answer = apalache.check(Path("Spec.tla"), invariants=["Safe"], length=8, timeout=300)

    Each call is one run of the tool (an induction is up to three), limited by `timeout` seconds
    and ended early by `cancel`.
    """

    def __init__(
        self,
        path: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        cancel: threading.Event | None = None,
        grace: float = tool.GRACE,
    ) -> None:
        self.path, self._environ, self._cancel, self._grace = path, environ, cancel, grace

    @classmethod
    def find(
        cls, environ: Mapping[str, str] = os.environ, cancel: threading.Event | None = None
    ) -> Apalache:
        return cls(tool.find(environ), environ=environ, cancel=cancel)

    def version(self, timeout: float = 60) -> Answer:
        """`version` of the answer is the tool's, or "" and the reason why it can't run."""
        output = self._run("version", [], None, (), timeout)
        found = version_of(output.stdout) if output.exit == 0 else ""
        return msgspec.structs.replace(judge(output), version=found)

    def typecheck(self, module: Path, *, libraries: Iterable[Path] = (), timeout: float) -> Typing:
        output = self._run("typecheck", [], module, libraries, timeout)
        answer = judge(output)
        passed = re.search(r"^Type checker \[OK\]\s", output.stdout, re.MULTILINE) is not None
        well_typed = answer.cause is Cause.NOTHING_ASKED and passed
        return Typing(
            well_typed=well_typed,
            cause=Cause.NONE if well_typed else answer.cause,
            reason="" if well_typed else answer.reason,
            problems=answer.problems,
            version=answer.version,
            seconds=answer.seconds,
        )

    def check(
        self,
        module: Path,
        *,
        invariants: Sequence[str] = (),
        temporal: Sequence[str] = (),
        length: int,
        init: str = "Init",
        next: str = "Next",
        constants: str = "",
        deadlock: bool = False,
        max_errors: int = 1,
        view: str = "",
        libraries: Iterable[Path] = (),
        timeout: float,
    ) -> Answer:
        """All executions of up to `length` steps.

        constants: the operator that gives the CONSTANTS values (`--cinit`)
        deadlock:  also look for a deadlock; the tool finds one only where *no* execution goes on
        view:      what makes two counterexamples different; needed if max_errors > 1
        """
        libraries = tuple(libraries)
        if temporal and (refusal := _fairness(module, libraries, temporal)):
            return Answer(Verdict.NO_ANSWER, Cause.FAIRNESS, refusal, bound=length)
        options = [
            *_common(init, next, constants, length),
            *_names("inv", invariants),
            *_names("temporal", temporal),
            *([] if deadlock else ["--no-deadlock"]),
        ]
        if max_errors > 1:
            options += [f"--max-error={max_errors}", *_names("view", [view])]
        answer = judge(self._run("check", options, module, libraries, timeout))
        caveat = LASSO if temporal and answer.proved else ""
        return msgspec.structs.replace(answer, bound=length, caveat=caveat)

    def inductive(
        self,
        module: Path,
        *,
        invariant: str,
        safety: Sequence[str] = (),
        init: str = "Init",
        next: str = "Next",
        constants: str = "",
        libraries: Iterable[Path] = (),
        timeout: float,
    ) -> Induction:
        """Is `invariant` inductive, and does it imply `safety`? Up to three runs.

        It must bound each variable (`x \\in S`), or the tool can't start from it. One that no state
        satisfies is no answer (executions too short), not a proof. timeout is for each query.
        """
        libraries = tuple(libraries)

        def query(start: str, goals: Sequence[str], length: int) -> Answer:
            return self.check(
                module,
                invariants=goals,
                length=length,
                init=start,
                next=next,
                constants=constants,
                libraries=libraries,
                timeout=timeout,
            )

        return Induction(
            base=query(init, [invariant], 0),
            step=query(invariant, [invariant], 1),
            safety=query(invariant, safety, 0) if safety else None,
        )

    def simulate(
        self,
        module: Path,
        *,
        invariants: Sequence[str] = (),
        length: int,
        runs: int,
        init: str = "Init",
        next: str = "Next",
        constants: str = "",
        deadlock: bool = False,
        libraries: Iterable[Path] = (),
        timeout: float,
    ) -> Simulation:
        """`runs` random symbolic executions of `length` steps, each with one example trace."""
        options = [
            *_common(init, next, constants, length),
            *_names("inv", invariants),
            f"--max-run={runs}",
            "--output-traces",
            *([] if deadlock else ["--no-deadlock"]),
        ]
        answer = judge(self._run("simulate", options, module, libraries, timeout))
        return Simulation(msgspec.structs.replace(answer, bound=length))

    def _run(
        self,
        command: str,
        options: Sequence[str],
        module: Path | None,
        libraries: Iterable[Path],
        timeout: float,
    ) -> tool.Output:
        return tool.run(
            self.path,
            command,
            options,
            module,
            libraries=libraries,
            timeout=timeout,
            cancel=self._cancel,
            grace=self._grace,
            environ=self._environ,
        )


def _common(init: str, next: str, constants: str, length: int) -> list[str]:
    if length < 0:
        raise ConfigError(f"length {length}: must not be negative")
    return [
        *_names("init", [init]),
        *_names("next", [next]),
        *_names("cinit", [constants] if constants else []),
        f"--length={length}",
    ]


def _names(option: str, names: Sequence[str]) -> list[str]:
    """`--option=A,B`. Refuses what is not the name of an operator: it would be read as more."""
    for name in names:
        if not _NAME.match(name):
            raise ConfigError(f"{option}: {name!r} is not the name of an operator")
    return [f"--{option}={','.join(names)}"] if names else []


def _fairness(module: Path, libraries: tuple[Path, ...], properties: Sequence[str]) -> str:
    """Why these properties need fairness, or "".

    They do if they state it themselves, or if they promise that something happens and the spec
    states fairness anywhere: then it is meant to hold under it only.
    """
    sources = read_sources(module, libraries)
    fair = [name for source in sources for name in _fair_operators(source)]
    for name in properties:
        words = _words(name, sources)
        if words & {"WF_", "SF_"}:
            return f"{name} states fairness, which the tool does not support; check it with TLC"
        if fair and words & {"<>", "~>"}:
            return (
                f"{name} promises progress and {fair[0]} states the fairness that it needs, which "
                "the tool does not support; check it with TLC"
            )
    return ""


def _fair_operators(source: Source) -> list[str]:
    return [
        name
        for name, definition in source.definitions.items()
        if any(token.text.startswith(("WF_", "SF_")) for token in definition.body)
    ]


def _words(name: str, sources: Sequence[Source]) -> set[str]:
    """All tokens that the operator expands to; WF_ and SF_ without what they are of."""
    definitions = {
        key: body for source in reversed(sources) for key, body in source.definitions.items()
    }
    seen: set[str] = set()
    found: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for token in definitions[current].body if current in definitions else ():
            found.add(token.text[:3] if token.text.startswith(("WF_", "SF_")) else token.text)
            if token.text in definitions:
                todo.append(token.text)
    return found
