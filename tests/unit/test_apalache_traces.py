"""Recorded counterexamples as typed steps; expected values are from the specs in data/…/input."""

from __future__ import annotations

import json

import pytest

from reconciler.errors import ConfigError
from reconciler.formal import itf, story
from reconciler.formal.apalache import judge
from reconciler.formal.apalache.traces import decode
from reconciler.formal.trace import Trace
from reconciler.formal.values import ModelValue, Record
from tests.apalache_runs import RUNS, load


def counterexample(run: str) -> Trace:
    return judge(load(run).output).counterexamples[0]


def test_every_value_shape() -> None:
    first, second = counterexample("violation_kinds").steps
    assert dict(first.state) == {
        "small": 1,
        "big": 10**24,
        "flag": True,
        "str": "hello",
        "uninterp": "p1",
        "intset": frozenset({1, 2, 3}),
        "nested": frozenset({frozenset({"a"}), frozenset({"a", "b"}), frozenset()}),
        "seq": (1, 2, 3),
        "emptyseq": (),
        "tup": (1, "two", True),
        "rec": Record(a=-5, b=frozenset({"x"})),
        "fun": Record(p=1, q=2),
        "intfun": Record({0: False, 1: True, 2: True}),
        "pairfun": Record({(1, 1): "v", (2, 1): "v"}),
        "var": Record(tag="Some", value=7),
        "emptyset": frozenset(),
        # funset, powset and inf are no values in ITF
    }
    assert isinstance(first.state["uninterp"], ModelValue)
    assert second.state == first.state.replaced(
        small=2, var=Record(tag="None", value=ModelValue("U"))
    )


def test_actions_come_from_the_specs_own_variable() -> None:
    trace = counterexample("labels")
    assert [step.action for step in trace.steps] == ["", "Inc", "Inc", "Inc"]
    assert [step.state["x"] for step in trace.steps] == [0, 1, 2, 3]
    assert trace.property == "Inv.below"
    assert [step.args for step in trace.steps] == [(), None, None, None]


def test_lasso() -> None:
    trace = counterexample("temporal_violation")
    assert [dict(step.state) for step in trace.steps] == [{"x": x} for x in (0, 1, 2, 3, 1)]
    assert trace.loop == 1
    assert "this is state 1 again" in story.as_text(trace)
    stutter = counterexample("temporal_stutter")
    assert [step.state["x"] for step in stutter.steps] == [0, 0, 0]
    assert stutter.loop == 1
    assert counterexample("labels").loop is None


def test_deadlock() -> None:
    trace = counterexample("deadlock")
    assert [step.state["x"] for step in trace.steps] == [0, 1, 2, 3]
    assert trace.property == "deadlock"
    # no state satisfies Init: the tool shows one without variables
    assert [dict(step.state) for step in counterexample("vacuous_init").steps] == [{}]


def test_several_counterexamples_are_in_order() -> None:
    traces = judge(load("max_error").output).counterexamples
    assert len({trace.steps for trace in traces}) == 4
    assert [trace.steps[-1].state["x"] for trace in traces] == [4, 5, 4, 4]


def test_examples_violate_nothing() -> None:
    answer = judge(load("simulate_ok").output)
    assert [trace.property for trace in answer.examples] == ["", "", ""]
    assert answer.counterexamples == ()
    for trace in answer.examples:
        for before, after in zip(trace.steps, trace.steps[1:], strict=False):
            assert after.state["x"] == before.state["x"] + after.state["y"]  # type: ignore[operator]


def test_every_recorded_trace_can_be_kept_and_told() -> None:
    count = 0
    for run in RUNS:
        for name, text in load(run).output.traces.items():
            trace = decode(text, name)
            assert itf.decode(itf.encode(trace)).steps[0].state == trace.steps[0].state
            assert story.as_text(trace)
            count += 1
    assert count == 20


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"states": []}', '{"states": [1]}', '{"states": [{"x": null}]}']
)
def test_what_is_no_trace(text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.itf\.json"):
        decode(text, "a.itf.json")


def test_constants_are_no_variables() -> None:
    state = {"N": {"#bigint": "4"}, "P": {"#set": ["p1_OF_PROC"]}, "x": {"#bigint": "0"}}
    trace = decode(json.dumps({"params": ["N", "P"], "vars": ["x"], "states": [state]}))
    assert trace.constants == {"N": 4, "P": frozenset({"p1"})}
    assert dict(trace.steps[0].state) == {"x": 0}
