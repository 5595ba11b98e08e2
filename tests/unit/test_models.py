"""Laws that hold for every machine: each state, each event, each answer of its guards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from reconciler.core.machine import Model, Transition, diagram, load, names
from reconciler.core.machine.load import closure
from reconciler.errors import ModelError, ProtocolError

MODELS = [load(name) for name in names()]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)

Answer = Transition | type[ModelError] | type[ProtocolError] | None


class Subject:
    """An object that has every guard and notes every effect."""

    __slots__ = ("done", "guards", "state")

    def __init__(self, state: str, guards: dict[str, bool]) -> None:
        self.state, self.guards = state, guards
        self.done: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name in self.guards:
            return self.guards[name]
        return lambda: self.done.append(name)


def every_case() -> Iterator[tuple[Model, str, str]]:
    for model in MODELS:
        yield from ((model, *pair) for pair in itertools.product(model.states, model.triggers()))


def guard_answers(model: Model) -> Iterator[dict[str, bool]]:
    for values in itertools.product((False, True), repeat=len(model.guards)):
        yield dict(zip(model.guards, values, strict=True))


def stepped(model: Model, state: str, trigger: str, guards: dict[str, bool]) -> Answer:
    try:
        return model.step(state, trigger, guards.__getitem__)
    except (ModelError, ProtocolError) as error:
        return type(error)


def fired(model: Model, subject: Subject, trigger: str) -> Answer:
    try:
        return model.fire(subject, trigger)
    except (ModelError, ProtocolError) as error:
        return type(error)


def test_the_machines_are_there() -> None:
    assert {"identity", "stream", "rollout", "node", "client", "cut", "endpoint"} <= set(names())


@pytest.mark.parametrize(
    ("model", "state", "trigger"),
    [pytest.param(*case, id=f"{case[0].name}-{case[1]}-{case[2]}") for case in every_case()],
)
def test_step_and_fire_answer_alike_and_as_declared(model: Model, state: str, trigger: str) -> None:
    rows = [row for row in model.transitions if (row.source, row.trigger) == (state, trigger)]
    always = rows[0] if rows and rows[0].guard is None else None
    assert model.unguarded().get((state, trigger)) is always
    for guards in guard_answers(model):
        taken = next((row for row in rows if row.guard is None or guards[row.guard]), None)
        unlisted: dict[str, Answer] = {
            "ignore": None,
            "error": ModelError,
            "protocol-error": ProtocolError,
        }
        expected = taken if taken is not None else unlisted[model.unlisted]
        subject = Subject(state, guards)
        assert stepped(model, state, trigger, guards) == expected
        assert fired(model, subject, trigger) == expected
        assert subject.state == (taken.dest if taken else state)
        assert subject.done == list(taken.effects if taken else ())


@every_model
def test_every_state_is_reached_and_has_a_way_on(model: Model) -> None:
    forward: dict[str, set[str]] = {}
    for row in model.transitions:
        forward.setdefault(row.source, set()).add(row.dest)
    assert closure([model.initial], forward) == set(model.states)
    ends = {model.initial} | {name for name, state in model.states.items() if state.final}
    for name, state in model.states.items():
        assert closure([name], forward) & ends
        assert state.final == (name not in forward)


@every_model
def test_everything_named_is_used_and_explained(model: Model) -> None:
    rows = model.transitions
    assert {row.guard for row in rows if row.guard} == set(model.guards)
    assert {effect for row in rows for effect in row.effects} == set(model.effects)
    assert model.where
    assert model.summary.endswith(".")
    assert all(state.meaning for state in model.states.values())
    assert all(action[0].isupper() for row in rows for action in row.actions)


@every_model
@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_diagrams_name_everything(model: Model, format: str) -> None:
    text = diagram(model, "mermaid" if format == "mermaid" else "dot")
    for word in (*model.states, *model.triggers(), *model.guards, *model.effects):
        assert word in text


def edges(name: str) -> set[tuple[str, str, str]]:
    return {(row.source, row.trigger, row.dest) for row in load(name).transitions}


def test_an_identity_that_left_comes_back_with_its_number() -> None:
    path = [("draining", "bind", "active"), ("retiring", "bind", "recalled")]
    assert set(path) <= edges("identity")
    # Only a number that the journal gave back is let go; nothing else leads to absence.
    ways = {(s, t) for s, t, dest in edges("identity") if dest == "absent"}
    assert ways == {
        ("waiting", "release"),
        ("reserving-unwanted", "refused"),
        ("freeing", "written"),
    }


def test_a_node_opens_an_endpoint_only_by_a_commit() -> None:
    ways = {(s, t) for s, t, d in edges("endpoint") if d == "enforcing" and s != d}
    assert ways == {("waiting-policy", "committed"), ("discovered", "adopted")}


def test_a_cut_comes_into_force_only_through_the_root_check() -> None:
    flips = [row for row in load("cut").transitions if "flip" in row.effects]
    assert flips
    assert all(row.guard == "root_matches" for row in flips)


def test_the_server_believes_a_commit_only_when_the_node_acknowledged_it() -> None:
    rows = [row for row in load("rollout").transitions if "record_committed" in row.effects]
    assert {row.trigger for row in rows} == {"commit_acked"}
    assert {row.source for row in rows} == {"committing", "closed-committing"}


def test_losing_the_stream_is_possible_everywhere_in_a_rollout() -> None:
    rows = [row for row in load("rollout").transitions if row.trigger == "disconnect"]
    assert {row.source for row in rows} == set(load("rollout").states)
    assert all(row.effects == ("keep_in_use",) for row in rows)
