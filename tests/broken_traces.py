"""Traces with one thing wrong: a line is missing, two have changed places, a field lies."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from reconciler.core.trace import Event

Kind = str
KINDS = ("dropped", "swapped", "changed")

ABOUT = ("type", "node", "label_set")
"""What a line is about: a type of a stream, a node, a label set; nothing of these: its process."""

COMMUTE = (
    # An offer of the very cut that a node enforces changes nothing, so it may as well come before
    # what else was concluded from the node's report.
    {"Stands", "Begin"},
    {"Begin", "InSync"},
)
"""Lines about the same thing that mean the same in either order."""

STALE = {"StaleAck", "StaleNack"}
"""Answers to nothing, which change nothing."""


TOLD = {"Known", "Stood", "Elsewhere"}
"""Lines that say what a replica was told, or knew before it led: no line before them says so, and
others could as well be true."""


def broken(
    events: Sequence[Event], kind: Kind, chance: random.Random
) -> tuple[int, list[Event]] | None:
    """(the first line that is not as it was, the trace); None where nothing can be broken so.

    The first line stays: it says where a process starts, and another start is no broken trace.
    """
    if len(events) < 4:
        return None
    lines = list(events)
    places = [at for at in range(1, len(lines) - 1) if lines[at].action not in TOLD]
    if kind == "swapped":
        places = [at for at in places if not commute(lines[at], lines[at + 1])]
    if not places:
        return None
    at = chance.choice(places)
    match kind:
        case "dropped":
            del lines[at]
        case "swapped":
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        case "changed":
            others = list(_changes(lines[at], events))
            if not others:
                return None
            lines[at] = chance.choice(others)
    return (at, lines) if lines[at] != events[at] else None


def commute(first: Event, second: Event) -> bool:
    """Whether two lines that follow each other mean the same in the other order: those that are the
    same, or about different things, each of which moves by itself; or about different responses,
    where what is seen after them is the same too."""
    actions = {first.action, second.action}
    if actions == {"Moved", "Publish"} and first.args.get("cut") == second.args.get("cut"):
        return True  # read on to the very cut that is published: no news, if its numbers are none
    if first == second or actions in COMMUTE or actions & TOLD:
        return True
    about = [[event.args.get(name) for name in ABOUT] for event in (first, second)]
    if about[0] != about[1]:
        return True
    nonces = [event.args.get("nonce") for event in (first, second)]
    apart = nonces[0] != nonces[1] and first.args.get("state") == second.args.get("state")
    return apart and (None not in nonces or bool({first.action, second.action} & STALE))


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
