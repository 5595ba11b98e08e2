"""Hypothesis rules from a model file: each event of a machine as a rule on what runs it.

A `Subject` wraps a real object and says which events it can be made to see now. The state machine
that `rules_of` builds fires them in any order and holds the object to the declared table: the state
afterwards is the one of the row that the table takes, and an event without a row is answered as the
model says, and changes nothing. So a row that is added to a model is tested without a line of test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from reconciler.core.machine import Model
from reconciler.core.machine.model import Transition
from reconciler.errors import ModelError, ProtocolError


class Subject(Protocol):
    """A real object. Its surroundings (time, a journal, a peer) may be made up, not its state."""

    @property
    def state(self) -> str: ...

    def events(self) -> Mapping[str, Callable[[], object]]:
        """Trigger → what brings it about, for those that can come about now."""

    def guard(self, name: str) -> bool:
        """Whether a guard of the model holds, as the object sees it."""


Row = tuple[str, str, str]
"""Source, trigger, dest."""


def rules_of(
    model: Model, make: Callable[[], Subject], taken: set[Row]
) -> type[RuleBasedStateMachine]:
    """A Hypothesis state machine with a rule for each event of the model.

    taken: collects the rows that were taken, over all runs; see `rows`.
    """

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.subject = make()

    for trigger in model.triggers():
        setattr(Machine, trigger, _rule(model, trigger, taken))
    Machine.__name__ = Machine.__qualname__ = f"{model.name.capitalize()}Rules"
    return Machine


def rows(model: Model) -> set[Row]:
    """All rows of the table, as `taken` holds them."""
    return {(row.source, row.trigger, row.dest) for row in model.transitions}


def _rule(model: Model, trigger: str, taken: set[Row]) -> Any:
    def step(self: Any) -> None:
        subject: Subject = self.subject
        before = subject.state
        expected = _expected(model, before, trigger, subject)
        cause = subject.events()[trigger]
        if expected is None:
            try:
                cause()
            except (ModelError, ProtocolError):
                assert model.unlisted != "ignore", f"{trigger} in {before}: refused, not ignored"
            else:
                assert model.unlisted == "ignore", f"{trigger} in {before}: not refused"
            assert subject.state == before, f"{trigger} in {before}: refused, and changed"
            return
        cause()
        assert subject.state == expected.dest, (
            f"{trigger} in {before}: the model says {expected.dest}, the object is {subject.state}"
        )
        taken.add((before, trigger, expected.dest))

    step.__name__ = trigger
    return rule()(precondition(lambda self: trigger in self.subject.events())(step))


def _expected(model: Model, state: str, trigger: str, subject: Subject) -> Transition | None:
    for row in model.table.get((state, trigger), ()):
        if row.guard is None or subject.guard(row.guard):
            return row
    return None
