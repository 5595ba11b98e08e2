"""Traces with one thing wrong: a line is missing, two have changed places, a field lies."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from reconciler.core.trace import Event

Kind = str
KINDS = ("dropped", "swapped", "changed")


def broken(
    events: Sequence[Event], kind: Kind, chance: random.Random
) -> tuple[int, list[Event]] | None:
    """(the first line that is not as it was, the trace); None where nothing can be broken so.

    The first line stays: it says where a process starts, and another start is no broken trace.
    """
    if len(events) < 4:
        return None
    lines = list(events)
    at = chance.randrange(1, len(lines) - 1)
    match kind:
        case "dropped":
            del lines[at]
        case "swapped":
            if lines[at] == lines[at + 1]:
                return None
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        case "changed":
            others = list(_changes(lines[at], events))
            if not others:
                return None
            lines[at] = chance.choice(others)
    return (at, lines) if lines[at] != events[at] else None


def _changes(event: Event, events: Sequence[Event]) -> Iterator[Event]:
    """The event with one field as another event has it, or with a number that is off by one."""
    for name, value in event.args.items():
        seen = {
            msgspec.json.encode(other.args[name]): other.args[name]
            for other in events
            if other.args.get(name, value) != value and type(other.args[name]) is type(value)
        }
        if isinstance(value, bool):
            yield _with(event, name, not value)
        elif isinstance(value, int):
            yield _with(event, name, value + 1)
        for other in seen.values():
            yield _with(event, name, other)


def _with(event: Event, name: str, value: Any) -> Event:
    args: Mapping[str, Any] = {**event.args, name: value}
    return Event(event.spec, event.action, args)
