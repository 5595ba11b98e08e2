"""A behaviour as a story: what each step did, and what changed, instead of whole states.

StageCommit: OneCut is violated
0  initial state
   revision = 1
1  Publish(2)
   revision: 1 → 2
   down[n1]: << >> → <<[kind |-> "stage"]>>
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from rich.text import Text

from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record, Value, is_field, order, to_tla

_MOST: Final = 160  # characters of one value


class Change(msgspec.Struct, frozen=True):
    """One place in the state that a step changed: `down[n1].kind`, from one text to another.

    Sets and sequences say what came and went: `before` is "" for what is only added, `after` is ""
    for what is only gone.
    """

    place: str
    before: str
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"{self.place}: + {self.after}"
        if not self.after:
            return f"{self.place}: - {self.before}"
        return f"{self.place}: {self.before} → {self.after}"


def changes(before: Mapping[Value, Value], after: Mapping[Value, Value]) -> tuple[Change, ...]:
    """What differs between two states, at the smallest places that hold it."""
    return tuple(
        change
        for name in sorted({*before, *after}, key=order)
        for change in _between(str(name), before.get(name), after.get(name))
    )


def _between(place: str, before: Value | None, after: Value | None) -> Iterator[Change]:
    if before == after and type(before) is type(after):
        return
    if before is None or after is None:
        yield Change(place, _short(before), _short(after))
    elif isinstance(before, Record) and isinstance(after, Record) and set(before) & set(after):
        for key in sorted({*before, *after}, key=order):
            inner = f"{place}.{key}" if is_field(key) else f"{place}[{to_tla(key)}]"
            yield from _between(inner, before.get(key), after.get(key))
    elif isinstance(before, frozenset) and isinstance(after, frozenset):
        for item in sorted(before - after, key=order):
            yield Change(place, _short(item), "")
        for item in sorted(after - before, key=order):
            yield Change(place, "", _short(item))
    elif isinstance(before, tuple) and isinstance(after, tuple):
        yield from _sequence(place, before, after)
    else:
        yield Change(place, _short(before), _short(after))


def _sequence(place: str, before: tuple[Value, ...], after: tuple[Value, ...]) -> Iterator[Change]:
    if len(after) > len(before) and after[: len(before)] == before:
        for item in after[len(before) :]:
            yield Change(place, "", f"{_short(item)} at the end")
    elif len(after) < len(before) and before[len(before) - len(after) :] == after:
        for item in before[: len(before) - len(after)]:
            yield Change(place, f"{_short(item)} from the front", "")
    elif len(after) == len(before):
        for at, (old, new) in enumerate(zip(before, after, strict=True), 1):
            yield from _between(f"{place}[{at}]", old, new)
    else:
        yield Change(place, _short(before), _short(after))


def _short(value: Value | None) -> str:
    if value is None:
        return ""
    text = to_tla(value)
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def lines(trace: Trace) -> Iterator[tuple[str, str]]:
    """The story as (kind, text); kinds: "title", "step", "value", "change", "end"."""
    if trace.property:
        verb = "reached" if trace.property == "deadlock" else "is violated"
        yield "title", f"{trace.spec}: {trace.property} {verb}"
    previous: Step | None = None
    for at, step in enumerate(trace.steps):
        if previous is None:
            yield "step", f"{at:>3}  initial state"
            for name in sorted(step.state, key=order):
                yield "value", f"     {name} = {_short(step.state[name])}"
        else:
            yield "step", f"{at:>3}  {step}"
            found = changes(previous.state, step.state)
            for change in found:
                yield "change", f"     {change}"
            if not found:
                yield "change", "     nothing changes"
        previous = step
    last = len(trace.steps) - 1
    if trace.loop == last:
        yield "end", f"     and there it stays for ever (state {last})"
    elif trace.loop is not None:
        yield "end", f"     this is state {trace.loop} again: it goes round for ever"


def as_text(trace: Trace) -> str:
    """The story without colours."""
    return "\n".join(text for _, text in lines(trace))


_STYLES: Final = {"title": "bold red", "step": "bold", "value": "dim", "change": "", "end": "red"}


def as_rich(trace: Trace) -> Text:
    """The story for a terminal."""
    story = Text()
    for kind, text in lines(trace):
        story.append(text + "\n", style=_STYLES[kind])
    return story
