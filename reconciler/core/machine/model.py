"""One state machine as a table, and the two ways to run it.

`Model.fire` runs a whole event on an object through one `transitions` machine a model: guards are
read from the object, its `state` is set, its effects are called. `Model.step` only looks the row
up: it is for paths that run once a message, where 12 µs count, and leaves it to the caller to set
the state and to do the effects. Both answer every state and event alike; a test holds them equal.

Objects are not bound to the machine: `add_model` costs 70 to 90 µs and ten attributes an object,
and needs a `__dict__`. Triggering the event on a slotted object needs only its `state`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec
import transitions

from reconciler.errors import ModelError, ProtocolError

Unlisted = Literal["ignore", "error", "protocol-error"]


class HasState(Protocol):
    state: str


class State(msgspec.Struct, frozen=True):
    meaning: str
    final: bool = False


class Transition(msgspec.Struct, frozen=True):
    """One row. `actions` are the TLA+ actions that it stands for; `why` explains what surprises."""

    trigger: str
    source: str
    dest: str
    guard: str | None = None
    effects: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    why: str = ""


def no_guards(name: str) -> bool:
    raise ModelError(f"guard {name}: the caller of step() gave no guards")


class Model(msgspec.Struct, frozen=True, eq=False):
    """A validated machine. Build it with `load` or `parse`, which check it.

    unlisted: the answer to a state and event without a row (or with no row whose guard holds):
              "ignore" returns None, "error" raises ModelError (a bug of ours),
              "protocol-error" raises ProtocolError INVALID_ARGUMENT (the peer's fault)
    table:    (state, trigger) → its rows in the order in which guards are tried
    machine:  the `transitions` machine of the same rows
    """

    name: str
    where: str
    summary: str
    initial: str
    states: dict[str, State]
    transitions: tuple[Transition, ...]
    unlisted: Unlisted
    guards: dict[str, str]
    effects: dict[str, str]
    table: dict[tuple[str, str], tuple[Transition, ...]]
    machine: Any

    def triggers(self) -> tuple[str, ...]:
        """Names of the events in the order in which the file first names them."""
        return tuple(dict.fromkeys(row.trigger for row in self.transitions))

    def edges(self) -> frozenset[tuple[str, str, str, str]]:
        """(trigger, source, dest, TLA+ action) of every row and each of its actions: what the
        state graph of a spec is compared with."""
        return frozenset(
            (row.trigger, row.source, row.dest, action)
            for row in self.transitions
            for action in row.actions
        )

    def step(
        self, state: str, trigger: str, guard: Callable[[str], bool] = no_guards
    ) -> Transition | None:
        """The row that `trigger` takes in `state`; None: unlisted and ignored."""
        for row in self.table.get((state, trigger), ()):
            if row.guard is None or guard(row.guard):
                return row
        self._answer_unlisted(state, trigger)
        return None

    def unguarded(self) -> dict[tuple[str, str], Transition]:
        """(state, trigger) → the row that `step` takes whatever holds, for those that have one."""
        return {key: rows[0] for key, rows in self.table.items() if rows[0].guard is None}

    def fire(self, obj: HasState, trigger: str) -> Transition | None:
        """Run `trigger` on `obj`: its guards, `obj.state`, then `obj.<effect>()` in order.

        A guard is a bool attribute or a method without arguments. If an effect raises, the
        state has changed and later effects have not run.
        """
        if (obj.state, trigger) in self.table:
            taken: list[Transition] = []
            self.machine.events[trigger].trigger(obj, taken)
            if taken:
                return taken[0]
        self._answer_unlisted(obj.state, trigger)
        return None

    def _answer_unlisted(self, state: str, trigger: str) -> None:
        if state not in self.states:
            raise ModelError(f"machine {self.name}: there is no state {state!r}")
        if trigger not in self.machine.events:
            raise ModelError(f"machine {self.name}: there is no event {trigger!r}")
        if self.unlisted == "ignore":
            return
        text = f"machine {self.name}: {trigger} is not allowed in state {state}"
        if self.unlisted == "protocol-error":
            raise ProtocolError("INVALID_ARGUMENT", text)
        raise ModelError(text)


def build(
    *,
    name: str,
    where: str,
    summary: str,
    initial: str,
    states: dict[str, State],
    rows: tuple[Transition, ...],
    unlisted: Unlisted,
    guards: dict[str, str],
    effects: dict[str, str],
) -> Model:
    """Join checked parts with the table and the `transitions` machine made from them."""
    table: dict[tuple[str, str], tuple[Transition, ...]] = {}
    machine = transitions.Machine(
        model=None,
        states=list(states),
        initial=initial,
        auto_transitions=False,
        send_event=True,
        name=name,
    )
    for row in rows:
        table[row.source, row.trigger] = (*table.get((row.source, row.trigger), ()), row)
        machine.add_transition(
            row.trigger,
            row.source,
            row.dest,
            conditions=None if row.guard is None else _condition(row.guard),
            after=_after(row),
        )
    return Model(
        name=name,
        where=where,
        summary=summary,
        initial=initial,
        states=states,
        transitions=rows,
        unlisted=unlisted,
        guards=guards,
        effects=effects,
        table=table,
        machine=machine,
    )


def _condition(guard: str) -> Callable[[Any], bool]:
    def condition(event: Any) -> bool:
        value = getattr(event.model, guard)
        return bool(value() if callable(value) else value)

    return condition


def _after(row: Transition) -> Callable[[Any], None]:
    """Called when the state is set: notes the row for `fire` and runs its effects."""
    effects = row.effects

    def after(event: Any) -> None:
        event.args[0].append(row)
        for effect in effects:
            getattr(event.model, effect)()

    return after
