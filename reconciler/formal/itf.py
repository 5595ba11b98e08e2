"""Traces as files of ITF, Apalache's JSON format; read as this tool or as Apalache wrote them.

The action and its arguments are in two variables of each state, `action` and `args`, since ITF has
no other place for them; a file without them gives steps whose arguments are not known. Variables
that begin with `__` (Apalache's own) are left out. The values of constants are repeated in every
state, as Apalache does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record, from_itf, to_itf

ACTION: Final = "action"
ARGS: Final = "args"
_FORMAT: Final = "https://apalache-mc.org/docs/adr/015adr-trace.html"


def encode(trace: Trace) -> bytes:
    """The trace as the text of a file: the same for equal traces. Raises ConfigError."""
    first = trace.steps[0].state
    for name in (ACTION, ARGS):
        if name in first:
            raise ConfigError(f"ITF: the variable {name!r} would hide the {name} of each step")
    constants = {name: to_itf(value) for name, value in sorted(trace.constants.items())}
    names = sorted(str(name) for name in first)
    states: list[dict[str, Any]] = []
    for at, step in enumerate(trace.steps):
        state: dict[str, Any] = {"#meta": {"index": at}, ACTION: step.action}
        if step.args is not None:
            state[ARGS] = to_itf(step.args)
        state.update(constants)
        state.update((name, to_itf(step.state[name])) for name in names)
        states.append(state)
    content: dict[str, Any] = {
        "#meta": {
            "format": "ITF",
            "format-description": _FORMAT,
            "spec": trace.spec,
            "config": trace.config,
            "property": trace.property,
        },
        "params": list(constants),
        "vars": [ACTION, ARGS, *names],
        "states": states,
    }
    if trace.loop is not None:
        content["loop"] = trace.loop
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def decode(content: bytes, file: str = "ITF") -> Trace:
    """The trace of a file's content. Raises ConfigError with the file, the state and the reason."""
    try:
        json = msgspec.json.decode(content)
        meta = json.get("#meta", {})
        params = [str(name) for name in json.get("params", ())]
        states = json["states"]
        if not isinstance(states, list) or not states:
            raise ValueError("no states")
    except (msgspec.DecodeError, KeyError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"{file}: not a trace of ITF: {error}") from None
    steps = []
    for at, state in enumerate(states):
        try:
            steps.append(_step(state, params, first=at == 0))
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"{file}: states[{at}]: {error}") from None
    loop = json.get("loop")
    return Trace(
        steps=tuple(steps),
        spec=str(meta.get("spec", "")),
        config=str(meta.get("config", "")),
        property=str(meta.get("property", "")),
        constants={name: from_itf(states[0][name]) for name in params if name in states[0]},
        loop=loop if isinstance(loop, int) else None,
    )


def _step(state: dict[str, Any], params: list[str], *, first: bool) -> Step:
    action, args = state.get(ACTION, ""), state.get(ARGS)
    if not isinstance(action, str):
        raise ValueError(f"{ACTION} is not a string")
    left_out = {ACTION, ARGS, *params}
    values = {
        name: from_itf(value)
        for name, value in state.items()
        if name not in left_out and not name.startswith(("#", "__"))
    }
    known = from_itf(args) if args is not None else () if first else None
    if known is not None and not isinstance(known, tuple):
        raise ValueError(f"{ARGS} is not a sequence")
    return Step(action, known, Record(values))


def write(trace: Trace, path: Path) -> None:
    """Write a trace to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(trace))


def read(path: Path) -> Trace:
    """The trace of a file. Raises ConfigError."""
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
