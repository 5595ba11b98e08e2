"""Apalache's traces as the same typed steps as TLC's.

Beyond what every ITF file needs (see `reconciler.formal.itf`):

* a value of an uninterpreted type, "n1_OF_NODE", is the model value n1 that TLC calls it;
* the tool's own variables (`__…`) are left out, and a lasso, of which ITF says nothing, is found in
  them: the loop begins one state before `__InLoop` becomes true;
* a variable that the tool could not write out (`Nat`, `SUBSET S`) is left out of every state.

A step's action is the value of the spec's own variable `action`, if it has one; the tool does not
say it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal import itf
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import ModelValue, Record, Value, function

_UNINTERPRETED: Final = re.compile(r"(\w+?)_OF_[A-Z_][A-Z0-9_]*")
_IN_LOOP: Final = "__InLoop"


def decode(text: str, name: str = "ITF") -> Trace:
    """The trace of an ITF file that the tool wrote. Raises ConfigError."""
    try:
        content = json.loads(text)
        states = content["states"]
        lost = {key for state in states for key, value in state.items() if _unwritten(value)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{name}: not a trace of ITF: {error}") from None
    for state in states:
        for key in lost:
            state.pop(key, None)
    trace = itf.decode(json.dumps(content).encode(), name)
    steps = tuple(
        Step(step.action if at else "", step.args, _state(step.state))
        for at, step in enumerate(trace.steps)
    )
    return msgspec.structs.replace(
        trace,
        steps=steps,
        constants={key: _value(value) for key, value in trace.constants.items()},
        loop=_loop(states, steps),
    )


def _unwritten(value: Any) -> bool:
    if isinstance(value, dict):
        return "#unserializable" in value or any(map(_unwritten, value.values()))
    return isinstance(value, list) and any(map(_unwritten, value))


def _state(state: Record) -> Record:
    return Record({name: _value(value) for name, value in state.items()})


def _value(value: Value) -> Value:
    if isinstance(value, str):
        found = _UNINTERPRETED.fullmatch(value)
        return ModelValue(found[1]) if found else value
    if isinstance(value, tuple):
        return tuple(map(_value, value))
    if isinstance(value, frozenset):
        return frozenset(map(_value, value))
    if isinstance(value, Record):
        return function(_pairs(value))
    return value


def _pairs(record: Record) -> Iterator[tuple[Value, Value]]:
    for key, value in record.items():
        yield _value(key), _value(value)


def _loop(states: list[dict[str, Any]], steps: tuple[Step, ...]) -> int | None:
    """Index of the state that the last one is again; None if the trace just ends."""
    first = next((at for at, state in enumerate(states) if state.get(_IN_LOOP) is True), 0)
    if first == 0 or steps[first - 1].state != steps[-1].state:
        return None
    return first - 1
