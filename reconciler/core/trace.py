"""What a core did, as the actions of a spec: recorded at the points where a step takes effect.

A core that is given a `Trace` calls it once for each step that the spec has too, in the order in
which they take effect; one that is given none does nothing and costs nothing. What is recorded is
checked against the spec by `reconciler check trace`.

The lowest layer of the core: everything may use it, it uses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of one process.

    spec:   the module that has the action
    action: its name there
    args:   its arguments, and what was seen of the state after it; JSON values
    """

    spec: str
    action: str
    args: Mapping[str, Any] = {}


Trace = Callable[[Event], None]


def about(trace: Trace | None, **args: Any) -> Trace | None:
    """The same trace for a part that does not know whose it is: `args` go into each event."""
    if trace is None:
        return None

    def record(event: Event) -> None:
        trace(Event(event.spec, event.action, {**args, **event.args}))

    return record


def cut(revision: int) -> dict[str, int]:
    """The revision of a cut in two arguments: TLC's integers have 32 bits."""
    return {"server": revision >> 32, "cut": revision & 0xFFFFFFFF}
