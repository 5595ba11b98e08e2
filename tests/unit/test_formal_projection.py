"""Projection: rows that only one side has, moves that no row explains, rows that move nothing."""

from __future__ import annotations

import msgspec
import pytest

from reconciler.formal.graph import Edge, Graph
from reconciler.formal.projection import Machine, Row, compare, instances
from reconciler.formal.values import Record, Value, function


def row(on: str, source: str, dest: str, action: str) -> Row:
    return Row("door", on, source, dest, action)


ROWS = frozenset(
    {
        row("push", "open", "ajar", "Push"),
        row("click", "ajar", "shut", "Push"),
        row("knock", "shut", "shut", "Knock"),
        row("pull", "shut", "open", "Pull"),
    }
)
DOOR = Machine("door", "at", frozenset({"open", "ajar", "shut"}), ROWS)


def fired(*rows: tuple[str, str, str]) -> frozenset[Value]:
    return frozenset(
        Record({"machine": "door", "on": on, "from": source, "to": dest})
        for on, source, dest in rows
    )


def state(at: str, *rows: tuple[str, str, str]) -> Record:
    return Record(at=Record(front=at), fired=fired(*rows))


PUSH = (("push", "open", "ajar"), ("click", "ajar", "shut"))
STATES = (
    state("open"),
    state("shut", *PUSH),
    state("shut", ("knock", "shut", "shut")),
    state("open", ("pull", "shut", "open")),
)
EDGES = (
    Edge(0, "Push", (), 1),
    Edge(1, "Knock", (), 2),
    Edge(2, "Knock", (), 2),
    Edge(1, "Pull", (), 3),
    Edge(2, "Pull", (), 3),
    Edge(3, "Push", (), 1),
)
GRAPH = Graph(STATES, (0,), EDGES, {})


def said(graph: Graph, machine: Machine = DOOR) -> list[str]:
    return [str(problem) for problem in compare(graph, [machine])]


def test_equal() -> None:
    assert said(GRAPH) == []


def test_a_machine_that_is_not_compared_may_move_too() -> None:
    ring = Record({"machine": "bell", "on": "ring", "from": "still", "to": "still"})
    pushed = Record(at=Record(front="shut"), fired=fired(*PUSH) | {ring})
    rung = (STATES[0], pushed, *STATES[2:])
    graph = Graph(rung, (0,), EDGES, {})
    assert said(graph) == ["spec: fired after Push names the machine 'bell': not declared"]
    assert not compare(graph, [DOOR], {"bell"})


def test_a_row_that_only_the_model_has() -> None:
    more = msgspec.structs.replace(DOOR, rows=ROWS | {row("slam", "open", "shut", "Slam")})
    assert said(GRAPH, more) == ["only the model: door: slam from open to shut by Slam"]


@pytest.mark.parametrize("missing", sorted(ROWS))
def test_a_row_that_only_the_spec_has(missing: Row) -> None:
    fewer = msgspec.structs.replace(DOOR, rows=ROWS - {missing})
    assert said(GRAPH, fewer) == [f"only the spec: {missing}"]


def test_the_action_counts() -> None:
    graph = msgspec.structs.replace(GRAPH, edges=(*EDGES, Edge(1, "Tug", (), 3)))
    assert said(graph) == ["only the spec: door: pull from shut to open by Tug"]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (state("shut"), 'Push moves at["front"] from open to shut, and fired says nothing'),
        (
            state("shut", ("push", "open", "ajar")),
            'Push moves at["front"] from open to shut, and fired says open→ajar',
        ),
        (
            state("open", ("knock", "shut", "shut")),
            "door: knock from shut to shut by Push: fired, and no instance of door takes it",
        ),
        (
            state("open", ("push", "open", "ajar")),
            "door: push from open to ajar by Push: fired, and no instance of door takes it",
        ),
        (state("gone"), "at is 'gone', which is no state of door"),
        (
            Record(at=Record(front="open"), fired=frozenset({Record(machine="gate")})),
            'fired after Push has [machine |-> "gate"]: not machine, on, from and to',
        ),
        (
            Record(
                at=Record(front="open"),
                fired=frozenset({Record({"machine": "gate", "on": "", "from": "", "to": ""})}),
            ),
            "fired after Push names the machine 'gate': not declared",
        ),
        (Record(at=Record(front="open"), fired=()), "fired is not a set: <<>>"),
        (Record(at=Record(back="open"), fired=frozenset()), "gains or loses the instance"),
    ],
)
def test_steps_that_no_row_explains(target: Record, problem: str) -> None:
    graph = Graph((*STATES, target), (0,), (*EDGES, Edge(0, "Push", (), 4)), {})
    assert any(problem in text for text in said(graph))


ANEW = ("", "", "open")


def test_a_new_instance_may_take_the_place_of_an_old_one() -> None:
    edges = (Edge(1, "Rebuild", (), 4), Edge(2, "Replace", (), 5))
    more = frozenset({row("push", "open", "ajar", "Replace")})
    door = msgspec.structs.replace(DOOR, rows=ROWS | more)
    made, used = state("open", ANEW), state("ajar", ANEW, ("push", "open", "ajar"))
    graph = Graph((*STATES, made, used), (0,), (*EDGES, *edges), {})
    assert said(graph, door) == []


def test_a_new_instance_begins_where_the_step_says() -> None:
    graph = Graph((*STATES, state("shut", ANEW)), (0,), (*EDGES, Edge(2, "Rebuild", (), 4)), {})
    assert said(graph) == []
    graph = Graph((*STATES, state("ajar", ANEW)), (0,), (*EDGES, Edge(2, "Rebuild", (), 4)), {})
    assert any("from shut to ajar" in text for text in said(graph))


def test_an_old_instance_may_end_by_a_row_of_the_step() -> None:
    over = state("open", ANEW, ("knock", "shut", "shut"))
    graph = Graph((*STATES, over), (0,), (*EDGES, Edge(1, "Knock", (), 4)), {})
    assert said(graph) == []
    graph = Graph((*STATES, over), (0,), (*EDGES, Edge(0, "Knock", (), 4)), {})
    assert any("no instance of door takes it" in text for text in said(graph))


def test_a_spec_without_the_variables() -> None:
    graph = Graph((Record(at=1),), (0,), (), {})
    assert said(graph) == ["spec: it has no variable 'fired'"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("open", {"": "open"}),
        (("open", "shut"), {"1": "open", "2": "shut"}),
        (function({"a": ("open",), "b": ()}), {'"a", 1': "open"}),
        (3, {}),
    ],
)
def test_instances(value: Value, found: dict[str, str]) -> None:
    assert instances(value) == found
