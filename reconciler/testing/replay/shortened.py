"""Numbers of what was recorded, made small enough for TLC, whose integers have 32 bits.

Revisions of a journal are microseconds (`core.identity.beginning`) and those of cuts in Kubernetes
sums with them. The specs only compare them and count on from them, so wide gaps between those that
occur in a trace may as well be short: equal stays equal, the order stays, and so does what is next.
Where all are small enough, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from reconciler.core.trace import Event, cut
from reconciler.formal.tracecheck import LARGEST

GAP: Final = 1000
"""Of two numbers that are further apart than this so much is left: more than the steps of a spec
between two lines that name a revision."""

Change = Callable[[int], int]


def revisions(*names: str) -> Callable[[Sequence[Event]], Sequence[Event]]:
    """Of the arguments with these names, numbers or lists of them."""
    return lambda events: _shortened(events, frozenset(names), cuts=False)


def marks(*names: str) -> Callable[[Sequence[Event]], Sequence[Event]]:
    """Of these arguments, and of cuts that are named by the journal's revision too."""
    return lambda events: _shortened(events, frozenset(names), cuts=True)


def cuts(events: Sequence[Event]) -> Sequence[Event]:
    """Of cuts, where one of the two parts of a name is too large (`core.trace.cut`)."""
    large = False

    def look(number: int) -> int:
        nonlocal large
        large = large or max(cut(number).values()) > LARGEST
        return number

    for event in events:
        _changed(event.args, look, frozenset(), cuts=True)
    return _shortened(events, frozenset(), cuts=True) if large else events


def _shortened(events: Sequence[Event], names: frozenset[str], *, cuts: bool) -> Sequence[Event]:
    found = {0}

    def note(number: int) -> int:
        found.add(number)
        return number

    for event in events:
        _changed(event.args, note, names, cuts=cuts)
    if max(found) <= LARGEST:
        return events
    short: dict[int, int] = {}
    before = at = min(found)
    for number in sorted(found):
        at += min(number - before, GAP)
        short[number], before = at, number
    return [
        msgspec.structs.replace(
            event, args=_changed(event.args, short.__getitem__, names, cuts=cuts)
        )
        for event in events
    ]


def _changed(value: Any, change: Change, names: frozenset[str], *, cuts: bool) -> Any:
    """The value with other numbers; `change` is asked for each."""
    if isinstance(value, list | tuple):
        return [_changed(each, change, names, cuts=cuts) for each in value]
    if not isinstance(value, Mapping):
        return value
    made = {
        name: _number(each, change) if name in names else _changed(each, change, names, cuts=cuts)
        for name, each in value.items()
    }
    if cuts and "server" in value and "cut" in value:
        made |= cut(change(value["server"] << 32 | value["cut"]))
    return made


def _number(value: Any, change: Change) -> Any:
    return change(value) if isinstance(value, int) else [change(each) for each in value]
