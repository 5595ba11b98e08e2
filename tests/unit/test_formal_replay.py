"""A state graph is held against code by its edges and its non-edges."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from reconciler.errors import ConfigError
from reconciler.formal.graph import Edge, Graph
from reconciler.formal.replay import Call, Disabled, Report, differences, replay_graph, replay_trace
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record


def counter(top: int) -> Graph:
    """Add(1), Add(2) while it stays within `top`; Clear when it is not 0."""
    edges = [
        Edge(at, "Add", (by,), at + by) for at in range(top) for by in (1, 2) if at + by <= top
    ]
    edges += [Edge(at, "Clear", (), 0) for at in range(1, top + 1)]
    return Graph(
        tuple(Record(count=at, top=top) for at in range(top + 1)), (0,), tuple(edges), {"Top": top}
    )


class Counter:
    """The code under test; faults are planted by the tests."""

    def __init__(self, fault: str = "") -> None:
        self.count = self.top = 0
        self.fault = fault

    def start(self, constants: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.top, self.count = constants["Top"], state.get("count", 0)

    def step(self, action: str, args: tuple[Any, ...]) -> None:
        if action == "Clear":
            if not self.count:
                raise Disabled("nothing to clear")
            self.count = 1 if self.fault == "clear" and self.count == 3 else 0
            return
        if self.fault == "breaks" and self.count == 5:
            raise ValueError("over the top")
        if self.fault == "stuck" and self.count == 2:
            raise Disabled("stuck")
        if self.count + args[0] > self.top and self.fault != "over":
            raise Disabled("full")
        self.count += args[0]

    def observe(self) -> dict[str, Any]:
        return {"count": self.count}

    def fork(self) -> Counter:
        return copy.copy(self)


def replayed(fault: str, **options: Any) -> Report:
    return replay_graph(lambda: Counter(fault), counter(5), **options)


@pytest.mark.parametrize("keep", [2000, 0])
def test_code_that_does_what_the_spec_says_passes(keep: int) -> None:
    report = replayed("", keep=keep)
    assert report.passed, str(report)
    assert (report.states, report.edges, report.unreached) == (6, 9 + 5, 0)
    assert report.non_edges == 6 * 3 - 14
    assert report.variables == ("count",)


@pytest.mark.parametrize("keep", [2000, 0])
def test_a_wrong_result_is_named_with_the_way_to_it(keep: int) -> None:
    report = replayed("clear", keep=keep)
    (mismatch,) = report.mismatches
    assert mismatch.path == (Call("Add", (1,)), Call("Add", (2,)), Call("Clear"))
    assert mismatch.problem == "count: the spec says 0, the code 1"


def test_a_step_that_the_code_refuses_is_named() -> None:
    report = replayed("stuck")
    assert {mismatch.problem for mismatch in report.mismatches} == {
        "the spec allows it, the code refuses: stuck"
    }
    assert {mismatch.path for mismatch in report.mismatches} == {
        (Call("Add", (2,)), Call("Add", (1,))),
        (Call("Add", (2,)), Call("Add", (2,))),
    }


def test_a_step_that_the_spec_does_not_allow_is_named() -> None:
    report = replayed("over")
    problems = [mismatch.problem for mismatch in report.mismatches]
    assert problems == ["the spec does not allow it here, the code does it"] * 3
    assert replayed("over", non_edges=False).passed


def test_it_can_end_when_enough_is_found() -> None:
    assert replayed("over", enough=1).found == 1
    assert replayed("over", enough=1).edges < replayed("over").edges


def test_mismatches_are_counted_beyond_those_shown() -> None:
    report = replayed("over", show=1)
    assert (report.found, len(report.mismatches)) == (3, 1)


def test_code_that_falls_over_is_a_mismatch_too() -> None:
    report = replayed("breaks")
    assert report.found == 2  # both non-edges of the full state
    assert report.mismatches[0].problem == "ValueError: over the top"


class Clean(Counter):
    refuses_cleanly = True

    def step(self, action: str, args: tuple[Any, ...]) -> None:
        try:
            super().step(action, args)
        except Disabled:
            self.count += self.fault == "dirty"
            raise

    def fork(self) -> Clean:
        forks.append(self.count)
        return copy.copy(self)


forks: list[int] = []


def test_one_fork_serves_for_all_that_is_refused_in_a_state() -> None:
    forks.clear()
    report = replay_graph(lambda: Clean(""), counter(5))
    assert report.passed, str(report)
    assert (len(forks), report.edges, report.non_edges) == (14 + 3, 14, 4)


def test_a_refusal_that_leaves_a_trace_is_a_mismatch() -> None:
    report = replay_graph(lambda: Clean("dirty"), counter(5))
    assert "leaves a trace: count: the spec says 0, the code 1" in str(report)


def test_after_a_step_that_was_not_refused_another_fork_is_taken() -> None:
    assert replay_graph(lambda: Clean("over"), counter(5)).found == 3


class Narrow(Counter):
    narrower: Mapping[str, str]

    def __init__(self, never: bool) -> None:
        super().__init__("")
        self.narrower = {"Add": "only by one"}
        self.never = never

    def step(self, action: str, args: tuple[Any, ...]) -> None:
        if action == "Add" and (args[0] == 2 or self.never):
            raise Disabled("by one only")
        super().step(action, args)


def test_a_choice_that_the_spec_leaves_open_may_be_the_codes() -> None:
    report = replay_graph(lambda: Narrow(False), counter(5))
    assert report.passed, str(report)
    assert report.narrowed == {"Add": 4}


def test_a_choice_that_the_code_never_takes_is_a_mismatch() -> None:
    report = replay_graph(lambda: Narrow(True), counter(5))
    assert [str(mismatch.problem) for mismatch in report.mismatches] == [
        "Add: the code never takes it"
    ]


def test_an_action_whose_arguments_leave_the_result_open_is_a_mismatch() -> None:
    states = (Record(count=0, x=0), Record(count=1, x=1), Record(count=1, x=2))
    graph = Graph(states, (0,), (Edge(0, "Add", (1,), 1), Edge(0, "Add", (1,), 2)), {"Top": 1})
    report = replay_graph(Counter, graph)
    assert "leave open" in report.mismatches[0].problem


def test_what_is_seen_must_be_a_variable_of_the_spec() -> None:
    graph = Graph((Record(counter=0),), (0,), (), {"Top": 1})
    report = replay_graph(Counter, graph)
    assert report.mismatches[0].problem == "count is no variable of the spec"
    assert report.mismatches[0].path == ()


def test_a_trace_is_played_to_its_end_or_to_the_first_difference() -> None:
    trace = Trace(
        (
            Step("", (), Record(count=0)),
            Step("Add", (1,), Record(count=1)),
            Step("Add", (2,), Record(count=3)),
            Step("Clear", (), Record(count=0)),
            Step("Add", (2,), Record(count=2)),
        ),
        constants={"Top": 5},
    )
    assert replay_trace(Counter, trace) is None
    wrong = replay_trace(lambda: Counter("clear"), trace)
    assert wrong is not None
    assert len(wrong.path) == 3
    refused = replay_trace(Counter, msgspec.structs.replace(trace, constants={"Top": 2}))
    assert refused is not None
    assert "the code refuses: full" in refused.problem
    unknown = msgspec.structs.replace(trace.steps[1], args=None)
    with pytest.raises(ConfigError, match="step 1, Add"):
        replay_trace(Counter, msgspec.structs.replace(trace, steps=(trace.steps[0], unknown)))


def test_of_a_function_only_what_differs_is_told() -> None:
    state = Record(node=Record(a=Record(at=1, of=2), b=3))
    observed = {"node": Record(a=Record(at=1, of=7), b=3)}
    assert differences(observed, state) == 'node["a"]["of"]: the spec says 2, the code 7'
