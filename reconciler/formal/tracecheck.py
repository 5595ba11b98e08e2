"""Code → spec: does a spec explain what a process recorded?

A recorded trace is a list of events, each the action of a spec with its arguments and with what was
seen of the state after it. A hand-written module says how an event is read:

    ---- MODULE AllocationTrace ----
    EXTENDS Allocation
    Explain(e) == CASE e.action = "Bind" -> Bind(e.args.label_set) [] OTHER -> FALSE
    Observe(e) == ...   what the event says of the state after it (primed variables), or TRUE
    Hidden     == ...   steps that are not recorded; FALSE if all are
    TraceInit(e) == ... optional, in place of Init: where a process starts, given its first event

A module is generated that holds the traces as a constant and walks along them, and TLC searches for
a behaviour of the spec that explains all lines of each, in one run for a whole batch. A trace that
has none is refused, and the first line that no behaviour reaches is named.

Refused as well: a trace whose event the spec can't even evaluate (an unknown name, say). Not found:
steps that the code took and did not record, where `Hidden` allows them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.core.trace import Event
from reconciler.errors import ReconcilerError
from reconciler.formal import jvm, tlc
from reconciler.formal import module as modules
from reconciler.formal.values import Record, Value, freeze, parse_prefix, to_tla

SHOWN: Final = 3
LONG: Final = 40
"""Characters from which on a value that occurs again gets a name."""

_INNER: Final = re.compile("\0([0-9]+)\0")
LARGEST: Final = 2**31 - 1

_EXPLAINED: Final = re.compile(r'^<<"explained__", (\d+), (\d+)>>$', re.MULTILINE)
_REACHED: Final = re.compile(r'<<\s*"reached__"')
_EVALUATION: Final = (75, 76)
"""Exit codes of TLC for an expression that has no value."""


class TraceSpec(msgspec.Struct, frozen=True):
    """module: the hand-written one; libraries: where what it extends is searched first."""

    module: Path
    constants: Mapping[str, Value]
    libraries: tuple[Path, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """explained: lines that the spec explains, from the first; all of them, if it `passed`.

    before: states that explain these lines, where they were looked up
    reason: why the line is refused, if TLC said more than that
    """

    name: str
    events: tuple[Event, ...]
    explained: int
    before: tuple[Record, ...] = ()
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.explained == len(self.events)

    @property
    def refused(self) -> Event | None:
        """The first event that the spec can't explain."""
        return None if self.passed else self.events[self.explained]

    def __str__(self) -> str:
        if self.refused is None:
            return f"{self.name}: the spec explains all {self.explained} lines"
        event = self.refused
        text = f"{self.name}: line {self.explained + 1} of {len(self.events)}: "
        text += f"{event.spec} can't explain {event.action} {to_tla(freeze(event.args))}"
        if self.reason:
            text += f"\n{self.reason}"
        for number, state in enumerate(self.before, 1):
            text += f"\nstate {number} before it:" if len(self.before) > 1 else "\nbefore it:"
            text += "".join(f"\n  {name} = {to_tla(value)}" for name, value in state.items())
        return text


def check_traces(
    spec: TraceSpec,
    traces: Mapping[str, Sequence[Event]],
    *,
    timeout: float = 120,
    show: int = SHOWN,
) -> list[Verdict]:
    """A verdict for each trace (name → its events), in their order.

    show: of so many refused ones the last explained states are looked up, a run of TLC each.
    Raises ReconcilerError if TLC does not come to an end in `timeout` seconds a run, or can't read
    the modules; UnavailableError without Java or the jar.
    """
    family = modules.family(spec.module, spec.libraries)
    found = _Batch(spec, family, traces, timeout)
    found.check(list(traces))
    return found.verdicts(show)


class _Batch:
    def __init__(
        self,
        spec: TraceSpec,
        family: Sequence[modules.Module],
        traces: Mapping[str, Sequence[Event]],
        timeout: float,
    ) -> None:
        self._spec, self._family, self._traces, self._timeout = spec, family, traces, timeout
        self._reached = dict.fromkeys(traces, 0)
        self._reasons: dict[str, str] = {}
        self._readable: dict[str, Sequence[Event]] = {}  # up to what TLC can't read
        for name, events in traces.items():
            at = next((at for at, event in enumerate(events) if _too_large(event.args)), None)
            self._readable[name] = events[:at]
            if at is not None:
                self._reasons[name] = f"a number beyond {LARGEST}, the largest of TLC"

    def check(self, names: Sequence[str]) -> None:
        """Note how far each comes. A line that can't be evaluated ends TLC: its trace is refused
        there, and the others are checked without it."""
        while names := [name for name in names if self._unread(name)]:
            chosen = [self._readable[name] for name in names]
            ran = _run(self._spec, self._family, chosen, None, self._timeout)
            for at, line in _EXPLAINED.findall(ran.output):
                name = names[int(at) - 1]
                self._reached[name] = max(self._reached[name], int(line))
            if ran.code == 0:
                return
            if ran.code not in _EVALUATION:
                raise ReconcilerError(f"{self._spec.module}: exit code {ran.code}\n{ran.output}")
            wrong = _where(ran.output)
            if wrong is None and len(names) > 1:
                self.check(names[: len(names) // 2])
                self.check(names[len(names) // 2 :])
                return
            name = names[0 if wrong is None else wrong - 1]
            self._reasons[name] = _error(ran.output)
            names = [each for each in names if each != name]

    def verdicts(self, show: int) -> list[Verdict]:
        looked_up = [name for name in self._traces if self._left(name)][:show]
        return [
            Verdict(
                name=name,
                events=tuple(events),
                explained=self._reached[name],
                before=self._before(name) if name in looked_up else (),
                reason=self._reasons.get(name, ""),
            )
            for name, events in self._traces.items()
        ]

    def _unread(self, name: str) -> int:
        return len(self._readable[name]) - self._reached[name]

    def _left(self, name: str) -> int:
        return len(self._traces[name]) - self._reached[name]

    def _before(self, name: str) -> tuple[Record, ...]:
        """States that explain all lines but the refused one."""
        line = self._reached[name]
        ran = _run(self._spec, self._family, [self._traces[name][:line]], line, self._timeout)
        found: dict[Record, None] = {}
        for match in _REACHED.finditer(ran.output):
            value, _ = parse_prefix(ran.output, match.start())
            assert isinstance(value, tuple)
            assert isinstance(value[1], Record)
            found[value[1]] = None
        return tuple(found)[:SHOWN]


def _run(
    spec: TraceSpec,
    family: Sequence[modules.Module],
    traces: Sequence[Sequence[Event]],
    stop: int | None,
    timeout: float,
) -> jvm.Ran:
    with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
        name = f"{family[0].name}Batch__"
        path = Path(scratch) / f"{name}.tla"
        path.write_text(wrapping(name, family, spec.constants, traces, stop), encoding="utf-8")
        config = path.with_suffix(".cfg")
        config.write_text(
            "INIT Init__\nNEXT Next__\nCONSTRAINT Open__\n"
            + "".join(f"CONSTANT {each} <- {each}__\n" for each in spec.constants),
            encoding="utf-8",
        )
        ran = tlc.invoke(
            path, config, libraries=(*spec.libraries, spec.module.parent), timeout=timeout
        )
    if ran.code == jvm.TIMED_OUT:
        raise ReconcilerError(f"{spec.module.stem}: no verdict within {timeout:g} s")
    return ran


def wrapping(
    name: str,
    family: Sequence[modules.Module],
    constants: Mapping[str, Value],
    traces: Sequence[Sequence[Event]],
    stop: int | None = None,
) -> str:
    """Text of the module that walks along the traces. stop: print the states that reach it.

    Once all lines of a trace are explained, the search goes on with the other traces only.
    Processes do much the same again and again, and to read the text is most of what TLC does here:
    what is the same is written once.
    """
    once = _Once()
    numbers: dict[str, int] = {}
    lines = ",\n".join(
        f"    <<{', '.join(str(_number(numbers, once.add(_event(each)))) for each in events)}>>"
        for events in traces
    )
    named = once.definitions()
    written = ",\n".join(f"    {once.text(event)}" for event in numbers)
    definitions = "\n".join(f"{each}__ == {to_tla(value)}" for each, value in constants.items())
    own = any(module.definition("TraceInit") is not None for module in family)
    shown = ", ".join(f"{each} |-> {each}" for each in modules.variables(family))
    walk = """
    \\/ /\\ line__ < Len(Traces__[trace__])
       /\\ LET event == Events__[Traces__[trace__][line__ + 1]] IN Explain(event) /\\ Observe(event)
       /\\ line__' = line__ + 1
       /\\ trace__' = trace__
       /\\ IF TLCGet(trace__) >= line__' THEN TRUE
          ELSE TLCSet(trace__, line__') /\\ PrintT(<<"explained__", trace__, line__'>>)
    \\/ Hidden /\\ UNCHANGED <<trace__, line__>>"""
    if stop is not None:
        walk += f"""
    \\/ line__ = {stop} /\\ PrintT(<<"reached__", [{shown}]>>) /\\ FALSE"""
    return f"""---- MODULE {name} ----
EXTENDS {family[0].name}, TLC, Naturals, Sequences
VARIABLES trace__, line__
{definitions}
{named}
Events__ == <<
{written}
>>
Traces__ == <<
{lines}
>>
Init__ ==
    /\\ trace__ \\in 1..Len(Traces__)
    /\\ line__ = 0
    /\\ TLCSet(trace__, 0)
    /\\ {"TraceInit(Events__[Traces__[trace__][1]])" if own else "Init"}
Next__ =={walk}
Open__ == {"TRUE" if stop is not None else "TLCGet(trace__) < Len(Traces__[trace__])"}
====
"""


def _event(event: Event) -> Value:
    return freeze({"action": event.action, "args": event.args})


def _number(numbers: dict[str, int], event: str) -> int:
    return numbers.setdefault(event, len(numbers) + 1)


class _Once:
    """Texts of values in which what is long and occurs again is a name."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}  # with numbers of other texts in place of what they are
        self._uses: list[int] = []

    def add(self, value: Value) -> str:
        """What stands for it in `text`."""
        if not isinstance(value, tuple | frozenset | Record):
            return to_tla(value)
        text = to_tla(value, self.add)
        number = self._texts.setdefault(text, len(self._texts))
        if number == len(self._uses):
            self._uses.append(0)
            for inner in _INNER.findall(text):
                self._uses[int(inner)] += 1
        return f"\0{number}\0"

    def definitions(self) -> str:
        """Of the names, each after those that it needs."""
        self._written: list[str] = []
        named = []
        for number, text in enumerate(self._texts):
            written = self.text(text)
            if self._uses[number] > 1 and len(written) > LONG:
                named.append(f"V{number}__ == {written}")
                written = f"V{number}__"
            self._written.append(written)
        return "\n".join(named)

    def text(self, text: str) -> str:
        """TLA+, for what `add` gave. After `definitions`."""
        return _INNER.sub(lambda found: self._written[int(found[1])], text)


def _too_large(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_too_large, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_too_large, value))
    return isinstance(value, int) and abs(value) > LARGEST


def _where(output: str) -> int | None:
    """Number of the trace that TLC was in when it stopped."""
    found = re.findall(r"^(?:/\\ )?trace__ = (\d+)$", output, re.MULTILINE)
    return int(found[-1]) if found else None


def _error(output: str) -> str:
    """What TLC says is wrong, without the behaviour that it prints after it."""
    lines = output[output.index("Error:") :].splitlines()
    said: list[str] = []
    for line in lines:
        if line.startswith(("Error: The behavior up to", "Error: The error occurred")):
            break
        said.append(line.removeprefix("Error: "))
    return "\n".join(said)
