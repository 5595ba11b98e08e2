"""What a run of Apalache said: proved, violated, or no answer and why.

The exit code alone says little: 0 also ends a search that ran out of executions or of the
solver's time, 12 also ends one that broke, 255 is everything else. So

* **proved** takes exit code 0, the outcome `NoError`, no line that speaks of a TIMEOUT, and the
  tool's own last line `EXITCODE: OK`;
* **violated** takes exit code 12, the outcome `Error` or `Deadlock`, the last line
  `EXITCODE: ERROR (12)`, and a counterexample that can be read;
* everything else is **no answer**. It has a cause (for programs) and a reason (for people).

Output that was cut off anywhere is no answer: the last line is the tool's, and is looked for.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal.apalache import traces
from reconciler.formal.apalache.tool import Output
from reconciler.formal.trace import Trace


class Verdict(enum.StrEnum):
    PROVED = "proved"
    VIOLATED = "violated"
    NO_ANSWER = "no answer"


class Cause(enum.StrEnum):
    """Why there is no answer."""

    NONE = ""
    TIMED_OUT = "timed out"  # our limit
    CANCELLED = "cancelled"
    KILLED = "killed"  # by a signal of someone else
    JAVA = "java"  # none, too old, bad options, no jar
    COMMAND_LINE = "command line"
    CONFIGURATION = "configuration"  # an option, an operator's name, a configuration file
    INPUT = "input"  # a constant without a value, or with two
    PARSE = "parse"
    TYPES = "types"
    ASSIGNMENT = "assignment"  # a variable is used before it has a value
    UNSUPPORTED = "unsupported"  # outside the fragment that the tool handles
    FAIRNESS = "fairness"
    TOO_SHORT = "executions too short"
    SOLVER_TIMEOUT = "solver timeout"
    MEMORY = "memory"
    CRASHED = "crashed"  # an exception inside the tool
    BROKE_OFF = "broke off"  # exit code 12 without a counterexample
    CUT_OFF = "cut off"  # the output has no end
    NOTHING_ASKED = "nothing asked"  # the command ran well and checks nothing
    UNKNOWN = "unknown"


class Position(msgspec.Struct, frozen=True):
    """A place in a source. The end is the start where the tool gives none."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Problem(msgspec.Struct, frozen=True):
    """One error that the tool printed; `position` is None where it gave no place."""

    text: str
    position: Position | None = None

    def __str__(self) -> str:
        return self.text if self.position is None else f"{self.position}: {self.text}"


class Conjunct(msgspec.Struct, frozen=True):
    """A conjunct of the invariants that fell.

    kind:      "state" or "action"; conjuncts of each kind are counted from 0 over all invariants
    label:     the conjunct's own label (`below:: x < 3`), "" if it has none
    invariant: the operator it is from, "" where the output leaves that open
    step:      number of the state
    """

    kind: str
    number: int
    label: str
    invariant: str
    step: int

    def __str__(self) -> str:
        name = self.label or self.invariant or f"{self.kind} invariant {self.number}"
        return f"{self.invariant}.{name}" if self.label and self.invariant else name


class Answer(msgspec.Struct, frozen=True):
    """The answer to one query.

    bound:    steps that were looked at, None where the query has no bound of its own
    fell:     the conjuncts that a counterexample breaks; empty for a deadlock
    deadlock: the counterexample ends in a state that has no next one
    traces:   ITF texts by file name, of `counterexamples` and `examples`
    caveat:   what the answer does not say, for people
    """

    verdict: Verdict
    cause: Cause = Cause.NONE
    reason: str = ""
    outcome: str = ""
    deadlock: bool = False
    fell: tuple[Conjunct, ...] = ()
    problems: tuple[Problem, ...] = ()
    traces: dict[str, str] = {}
    bound: int | None = None
    caveat: str = ""
    version: str = ""
    seconds: float = 0.0
    output: Output | None = None

    @property
    def proved(self) -> bool:
        return self.verdict is Verdict.PROVED

    @property
    def violated(self) -> bool:
        return self.verdict is Verdict.VIOLATED

    @property
    def counterexamples(self) -> tuple[Trace, ...]:
        """The behaviours that violate; at least one if `violated`."""
        return self._decoded("violation")

    @property
    def examples(self) -> tuple[Trace, ...]:
        """Behaviours that violate nothing, where they were asked for."""
        return self._decoded("example")

    def _decoded(self, kind: str) -> tuple[Trace, ...]:
        fell = ", ".join(map(str, self.fell)) or ("deadlock" if self.deadlock else "")
        found = [
            traces.decode(text, name)
            for name, text in sorted(self.traces.items(), key=lambda pair: _number(pair[0]))
            if name.startswith(kind)
        ]
        property = fell if kind == "violation" else ""
        return tuple(msgspec.structs.replace(trace, property=property) for trace in found)


def judge(output: Output) -> Answer:
    """Read one finished run; never raises, whatever the output holds."""
    text = output.stdout
    lines = [_bare(line) for line in text.splitlines()]
    outcomes = [line.removeprefix(_OUTCOME).strip() for line in lines if line.startswith(_OUTCOME)]
    outcome = outcomes[0] if len(set(outcomes)) == 1 else ""
    last = next((line for line in reversed(lines) if line), "")
    common = Answer(
        verdict=Verdict.NO_ANSWER,
        outcome=outcome,
        problems=tuple(dict.fromkeys(problems(text))),  # some are printed twice
        traces={name: text for name, text in output.traces.items() if _readable(text)},
        version=version_of(text),
        seconds=output.seconds,
        output=output,
    )
    if output.ended == "exited" and output.exit == 0 and last == "EXITCODE: OK":
        if outcome == "NoError" and "TIMEOUT" not in text:
            return msgspec.structs.replace(common, verdict=Verdict.PROVED)
    elif output.ended == "exited" and output.exit == 12 and last == "EXITCODE: ERROR (12)":
        counterexamples = [name for name in common.traces if name.startswith("violation")]
        if outcome in ("Error", "Deadlock") and counterexamples:
            deadlock = outcome == "Deadlock"
            return msgspec.structs.replace(
                common,
                verdict=Verdict.VIOLATED,
                deadlock=deadlock,
                fell=() if deadlock else tuple(_fallen(lines)),
            )
    cause, reason = _why(output, lines, outcome, last, common.problems)
    return msgspec.structs.replace(common, cause=cause, reason=reason)


def version_of(text: str) -> str:
    """The version in a run's banner or in what `version` prints, without the leading v; or ""."""
    found = re.search(r"^# APALACHE version: v?(\S+)|\A\s*v?(\d+\.\d+\S*)\s*\Z", text, re.MULTILINE)
    return (found.group(1) or found.group(2)) if found else ""


def problems(text: str) -> Iterator[Problem]:
    """The errors in a run's standard output, in order; a message may have many lines."""
    pending: list[str] = []
    for line in text.splitlines():
        found = _LOGGED.search(line)
        if found is None:
            if line.startswith(("#", "Output directory:", "EXITCODE:", "\t")):
                pending.clear()
            elif line.startswith("Configuration error"):  # before the log is set up
                yield _problem(line.strip())
            else:
                pending.append(line.strip())
            continue
        message = [*pending, line[: found.start()].strip()]
        pending.clear()
        if found.group(1) == "E" or message[-1].startswith("Configuration error"):
            yield _problem(" ".join(part for part in message if part))


_OUTCOME: Final = "The outcome is: "
_LOGGED: Final = re.compile(r"\s*([A-Z])@\d\d:\d\d:\d\d\.\d{3}$")
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_PLACES: Final = (
    # [File.tla:7:14-7:23]: text, and the same without brackets after "Assignment error: "
    re.compile(r"\[?\b([\w.-]+\.\w+):(\d+):(\d+)-(\d+):(\d+)\]?:\s*"),
    re.compile(r"\b([\w.-]+\.cfg):(\d+)\.(\d+):\s*"),
    re.compile(
        r"line (?P<l>\d+), col (?P<c>\d+) to line (?P<m>\d+), col (?P<d>\d+) "
        r"of module (?P<f>\w+)\s*"
    ),
)


def _bare(line: str) -> str:
    return _LOGGED.sub("", line).rstrip()


def _problem(text: str) -> Problem:
    for place in _PLACES:
        found = place.search(text)
        if found is None:
            continue
        short = " ".join((text[: found.start()] + text[found.end() :]).split())
        if "f" in place.groupindex:
            numbers = [int(found[name]) for name in "lcmd"]
            return Problem(short, Position(f"{found['f']}.tla", *numbers))
        numbers = [int(number) for number in found.groups()[1:]]
        return Problem(short, Position(found[1], *(numbers * 2)[:4]))
    return Problem(text)


def _readable(text: str) -> bool:
    try:
        traces.decode(text)
    except ConfigError:
        return False
    return True


def _number(name: str) -> int:
    """12 of violation12.itf.json."""
    return int("0" + re.sub(r"\D", "", name.partition(".")[0]))


def _fallen(lines: list[str]) -> Iterator[Conjunct]:
    """Conjuncts reported as violated, each once.

    The number counts conjuncts of its kind over the whole list of invariants. How many conjuncts
    each invariant has is printed, of which kind they are is not; so the name is known if there is
    one invariant, or if all conjuncts are of one kind.
    """
    names: list[str] = []
    kinds: set[str] = set()
    current = ""
    for line in lines:
        if found := re.search(
            r"> Producing verification conditions from the invariant (\S+)", line
        ):
            current = found[1]
        elif found := re.search(r"> VCGen produced (\d+) verification condition", line):
            names += [current] * min(int(found[1]), 10_000)
        elif found := re.match(r"State \d+: Checking \d+ (\w+) invariants", line):
            kinds.add(found[1])
    seen: set[tuple[str, int]] = set()
    for line in lines:
        found = re.match(r"State (\d+): (\w+) invariant (\d+)(?: \[(.*)\])? violated\.", line)
        if found is None or (found[2], int(found[3])) in seen:
            continue
        kind, number = found[2], int(found[3])
        seen.add((kind, number))
        invariant = ""
        if len(set(names)) == 1:
            invariant = names[0]
        elif kinds == {kind} and number < len(names):
            invariant = names[number]
        yield Conjunct(kind, number, found[4] or "", invariant, int(found[1]))


# The beginning of a printed error → its cause; the first error that has one decides.
_ERRORS: Final = (
    ("Parsing error in the type annotation", Cause.TYPES),
    ("Typing input error", Cause.TYPES),
    ("Parsing error", Cause.PARSE),
    ("> Error parsing file", Cause.PARSE),
    ("Configuration error", Cause.CONFIGURATION),
    ("Assignment error", Cause.ASSIGNMENT),
    ("Input error", Cause.INPUT),
    ("<unknown>: type input error", Cause.INPUT),
)
# "Input error (see the manual): Expected a constant integer range in [ .. ], found …" and the like.
_LIMITATION: Final = re.compile(r"constant integer range|(?:in)?finite set|known limitation")


def _why(
    output: Output, lines: list[str], outcome: str, last: str, found: tuple[Problem, ...]
) -> tuple[Cause, str]:
    """Cause and reason of a run that neither proved nor violated anything."""
    text = output.stdout
    said = "; ".join(str(one) for one in found if not one.text.startswith("Check the manual"))
    if output.ended == "timed out":
        return Cause.TIMED_OUT, f"no answer within the limit ({output.seconds:.0f} s)"
    if output.ended == "cancelled":
        return Cause.CANCELLED, "cancelled"
    ended_well = re.fullmatch(r"EXITCODE: (?:OK|ERROR \(\d+\))", last) is not None
    if not ended_well:
        return _unfinished(output, lines)
    if re.search(r"OutOfMemoryError|[Oo]ut of heap", text + output.stderr):
        return Cause.MEMORY, "Java ran out of memory; raise the limit in JVM_ARGS (-Xmx…)"
    if last != ("EXITCODE: OK" if output.exit == 0 else f"EXITCODE: ERROR ({output.exit})"):
        return Cause.UNKNOWN, f"exit code {output.exit}, but the output ends in {last}"
    if output.exit == 0:
        return _no_error(text, outcome)
    if output.exit == 12:
        lost = f"outcome {outcome or 'none'}, and no counterexample that can be read"
        return Cause.BROKE_OFF, "; ".join(part for part in (lost, said) if part)
    if output.exit == 75:
        return Cause.UNSUPPORTED, said or "an expression that the tool refuses"
    if output.exit == 120:
        return Cause.TYPES, said or "a type error"
    exception = re.search(r"^Unhandled exception\s+E@\S+\n(.+)$", text, re.MULTILINE)
    if exception is not None:
        return _exception(exception[1].strip())
    if _LIMITATION.search(said):
        return Cause.UNSUPPORTED, said
    for problem in found:
        for start, cause in _ERRORS:
            if problem.text.startswith(start):
                return cause, said
    return Cause.UNKNOWN, said or f"exit code {output.exit}"


def _no_error(text: str, outcome: str) -> tuple[Cause, str]:
    if outcome == "ExecutionsTooShort":
        return Cause.TOO_SHORT, "every execution ends before the bound, or there is none at all"
    if outcome == "SmtTimeout" or "TIMEOUT" in text:
        return Cause.SOLVER_TIMEOUT, "the solver gave up on a query"
    if outcome:
        return Cause.UNKNOWN, f"unknown outcome: {outcome}"
    if text.count(_OUTCOME) > 1:
        return Cause.UNKNOWN, "more than one outcome"
    return Cause.NOTHING_ASKED, "the command checks nothing"


def _exception(first: str) -> tuple[Cause, str]:
    if "Handling fairness is not supported" in first:
        return Cause.FAIRNESS, "fairness is not supported; check liveness with TLC"
    # Apalache has no exit code for what it can't do: these words in what it says are all there is.
    unsupported = "NotImplementedError" in first or "unsupported" in first.lower()
    return (Cause.UNSUPPORTED if unsupported else Cause.CRASHED), first


def _unfinished(output: Output, lines: list[str]) -> tuple[Cause, str]:
    """The tool's last line is missing: it never began, or the output was cut off."""
    stderr = output.stderr
    if 128 < output.exit <= 192:
        return Cause.KILLED, f"ended by signal {output.exit - 128}"
    if output.exit == 127:
        return Cause.JAVA, f"{_first(stderr) or 'java: not found'}; install Java 21 or newer"
    if "UnsupportedClassVersionError" in stderr:
        return Cause.JAVA, "this Java is too old; install Java 21 or newer"
    if "Unable to access jarfile" in stderr or "Could not create the Java Virtual" in stderr:
        return Cause.JAVA, _first(stderr)
    plain = [_ANSI.sub("", line).strip() for line in lines]
    if output.exit == 1 and "Usage" in plain:
        return Cause.COMMAND_LINE, next((line for line in reversed(plain) if line), "")
    if output.exit == 0 and "Usage" in plain:
        return Cause.NOTHING_ASKED, "the command checks nothing"
    if output.exit == 0 and version_of(output.stdout):
        return Cause.NOTHING_ASKED, "the command checks nothing"
    return Cause.CUT_OFF, f"the output has no end (exit code {output.exit})"


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
