"""A behaviour of a spec: states, and the action with its arguments that led to each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from reconciler.formal.values import Record, Value, to_tla

State = Record


class Step(msgspec.Struct, frozen=True):
    """A state and what led to it.

    action: the operator's name; "" for an initial state
    args:   its arguments, None where they are not known
    """

    action: str
    args: tuple[Value, ...] | None
    state: State

    def __str__(self) -> str:
        if self.args is None:
            return f"{self.action}(…)"
        return f"{self.action}({', '.join(map(to_tla, self.args))})" if self.args else self.action


class Trace(msgspec.Struct, frozen=True):
    """A behaviour, and where it comes from.

    loop:      the steps behind this index repeat for ever: the last state is that one again (for
               a behaviour that stays in its last state, the last index). None if it just ends
    property:  what it violates, "" if nothing
    """

    steps: tuple[Step, ...]
    spec: str = ""
    config: str = ""
    property: str = ""
    constants: Mapping[str, Value] = {}
    loop: int | None = None
