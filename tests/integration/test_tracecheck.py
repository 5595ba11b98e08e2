"""Traces of a small process are explained by a small spec, or refused at the right line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.trace import Event
from reconciler.errors import ReconcilerError
from reconciler.formal.tracecheck import TraceSpec, Verdict, check_traces
from reconciler.formal.values import Value

STOCK = r"""
---- MODULE Stock ----
EXTENDS Naturals
CONSTANTS Items, Most
VARIABLES held, moved
vars == <<held, moved>>
Init == held = [i \in Items |-> 0] /\ moved = 0
Put(i, n) == held[i] + n <= Most /\ held' = [held EXCEPT ![i] = @ + n] /\ UNCHANGED moved
Take(i) == held[i] > 0 /\ held' = [held EXCEPT ![i] = @ - 1] /\ UNCHANGED moved
Move(i, j) ==
    /\ i # j
    /\ held[i] > 0 /\ held[j] < Most
    /\ held' = [held EXCEPT ![i] = @ - 1, ![j] = @ + 1]
    /\ moved' = 1 - moved
Next ==
    \/ \E i \in Items, n \in 1..Most : Put(i, n)
    \/ \E i \in Items : Take(i)
    \/ \E i \in Items, j \in Items : Move(i, j)
====
"""
TRACE = r"""
---- MODULE StockTrace ----
EXTENDS Stock
Explain(e) ==
    CASE e.action = "Put" -> Put(e.args.item, e.args.number)
      [] e.action = "Take" -> Take(e.args.item)
      [] OTHER -> FALSE
Observe(e) == "left" \in DOMAIN e.args => held'[e.args.item] = e.args.left
Hidden == \E i \in Items, j \in Items : Move(i, j)
====
"""
STARTS = "TraceInit(e) == held = [i \\in Items |-> e.args.first] /\\ moved = 0\n===="


def put(item: str, number: int) -> Event:
    return Event("Stock", "Put", {"item": item, "number": number})


def take(item: str, left: int | None = None) -> Event:
    args: dict[str, Any] = {"item": item}
    if left is not None:
        args["left"] = left
    return Event("Stock", "Take", args)


@pytest.fixture
def stock(tmp_path: Path) -> TraceSpec:
    (tmp_path / "Stock.tla").write_text(STOCK)
    (tmp_path / "StockTrace.tla").write_text(TRACE)
    constants: dict[str, Value] = {"Items": frozenset(("a", "b")), "Most": 3}
    return TraceSpec(tmp_path / "StockTrace.tla", constants)


def checked(spec: TraceSpec, **traces: Sequence[Event]) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in check_traces(spec, traces, show=0)}


def test_a_batch_is_judged_trace_by_trace(stock: TraceSpec) -> None:
    found = checked(
        stock,
        good=[put("a", 2), take("a", 1), take("a", 0)],
        hidden=[put("a", 2), take("b"), take("b", 0)],
        too_many=[put("a", 3), put("b", 3), take("a", 2), put("b", 1), put("a", 1)],
        seen_wrong=[put("a", 2), take("a", 2), take("a", 1)],
        never_there=[put("a", 1), take("a"), take("b")],
        unknown_action=[Event("Stock", "Steal")],
        empty=[],
    )
    assert {name for name, verdict in found.items() if verdict.passed} == {
        "good",
        "hidden",
        "empty",
    }
    assert found["too_many"].explained == 4, "one moved from b to a unseen: b has room, a has none"
    assert found["seen_wrong"].explained == 1
    assert found["never_there"].explained == 2
    assert found["unknown_action"].explained == 0


def test_a_refusal_shows_line_event_and_the_states_before_it(stock: TraceSpec) -> None:
    (verdict,) = check_traces(stock, {"one": [put("a", 2), take("a", 7)]})
    assert verdict.refused == take("a", 7)
    assert {state["held"]["a"] for state in verdict.before} >= {2, 1}  # type: ignore[index,call-overload]
    text = str(verdict)
    assert 'one: line 2 of 2: Stock can\'t explain Take [item |-> "a", left |-> 7]' in text
    assert "held = [a |-> 2, b |-> 0]" in text


def test_a_line_that_has_no_value_is_refused_and_the_others_are_judged(stock: TraceSpec) -> None:
    found = checked(
        stock,
        good=[put("a", 1), take("a"), put("a", 2)],
        nobody=[put("a", 1), take("nobody"), take("a")],
        no_argument=[put("a", 1), put("a", 1), Event("Stock", "Put")],
        later=[put("b", 1), take("b"), take("b")],
        too_large=[put("b", 1), put("a", 2**32), take("b")],
        too_large_at_once=[put("a", -(2**32))],
    )
    assert [name for name, verdict in found.items() if verdict.passed] == ["good"]
    assert found["nobody"].explained == 1
    assert "nobody" in found["nobody"].reason
    assert found["no_argument"].explained == 2
    assert found["later"].explained == 2
    assert found["too_large"].explained == 1
    assert found["too_large_at_once"].explained == 0
    assert "beyond 2147483647" in found["too_large"].reason


def test_a_trace_may_say_where_its_process_starts(stock: TraceSpec) -> None:
    stock.module.write_text(TRACE.replace("====", STARTS))
    first = {"item": "a", "first": 2}
    found = checked(
        stock,
        two=[Event("Stock", "Take", first), take("a", 0)],
        none=[Event("Stock", "Take", {"item": "a", "first": 0})],
        unsaid=[take("a")],
        unsaid_too=[take("b")],
    )
    assert found["two"].passed
    assert found["none"].explained == 0
    assert not found["unsaid"].passed
    assert "first" in found["unsaid"].reason
    assert not found["unsaid_too"].passed


def test_a_module_that_does_not_parse_is_an_error(stock: TraceSpec) -> None:
    stock.module.write_text(TRACE.replace("Explain(e) ==", "Explain(e) == \\E"))
    with pytest.raises(ReconcilerError, match="StockTrace"):
        check_traces(stock, {"one": [put("a", 1)]})
