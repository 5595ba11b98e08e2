"""What ties a spec to the code: an adapter one way, how recorded events are read the other way.

Each spec has a module here with two things that specs.toml names:

    Adapter   drives the real classes as the spec's actions (`formal.replay.Adapter`)
    TRACE     a `Recorded`, or a tuple of them
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from reconciler.core.trace import Event
from reconciler.errors import ConfigError
from reconciler.formal.replay import Adapter
from reconciler.formal.values import Value

Parts = Mapping[str, Sequence[Event]]


def whole(events: Sequence[Event]) -> Parts:
    """The trace of a process is one trace of the spec."""
    return {"": events}


def one(events: Sequence[Event]) -> Hashable:
    """All traces are of one group."""
    return None


def by(*fields: str) -> Callable[[Sequence[Event]], Parts]:
    """A trace of the spec for each value of these arguments (a node's, a stream's)."""

    def split(events: Sequence[Event]) -> Parts:
        parts: dict[str, list[Event]] = {}
        for event in events:
            name = "/".join(str(event.args.get(field, "")) for field in fields)
            parts.setdefault(name, []).append(event)
        return parts

    return split


class Recorded(msgspec.Struct, frozen=True):
    """How what a process recorded is held against a spec.

    module:    the hand-written one, specs/trace/<module>.tla
    process:   which process records these events
    constants: the constants of the spec from the events of all traces that are checked together
    spec:      of the events; "" for the spec's own name
    split:     one process's events into traces of the spec, each with a name
    group:     of a trace; those of the same group are checked together, so they have the same
               constants (the bounds of a pool, say; sets of names can be united)
    short:     the events of a trace with numbers that TLC can read (`replay.shortened`)
    exact:     a line that is missing, changed or out of place is refused as such; else a trace is
               judged by what its lines lead to, and a wrong one that leads to nothing passes
    """

    module: str
    process: Literal["server", "agent"]
    constants: Callable[[Sequence[Event]], Mapping[str, Value]]
    spec: str = ""
    split: Callable[[Sequence[Event]], Parts] = whole
    group: Callable[[Sequence[Event]], Hashable] = one
    short: Callable[[Sequence[Event]], Sequence[Event]] = tuple
    exact: bool = True


def adapter(name: str) -> Callable[[], Adapter]:
    """The adapter named "module:attribute". Raises ConfigError."""
    found = _named(name)
    for method in ("start", "step", "observe", "fork"):
        if not callable(getattr(found, method, None)):
            raise ConfigError(f"{name}: an adapter has a method {method!r}")
    made: Callable[[], Adapter] = found
    return made


def recorded(name: str) -> tuple[Recorded, ...]:
    """The `Recorded` named "module:attribute", one or several. Raises ConfigError."""
    found = _named(name)
    several = found if isinstance(found, tuple) else (found,)
    if not several or not all(isinstance(each, Recorded) for each in several):
        raise ConfigError(f"{name}: expected a Recorded, or a tuple of them")
    return several


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name}: {error}") from None
