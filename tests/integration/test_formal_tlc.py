"""The real TLC: graphs with arguments, of a spec that is small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ReconcilerError
from reconciler.formal import graph
from reconciler.formal.values import Record
from tests.unit.test_formal_graph import COUNTER


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    path = tmp_path / "Counter.tla"
    path.write_text(COUNTER)
    path.with_suffix(".cfg").write_text(
        "SPECIFICATION Spec\nCONSTANTS Nodes = {n1, n2}\n Max = 1\nINVARIANT Never\n"
    )
    return path


def test_graph(counter: Path) -> None:
    found = graph.explore(counter, counter.with_suffix(".cfg"))
    # each of two nodes is at 0, 1 or 2; from 0 it steps by 1 or 2, and any state may stay
    values = {(s["at"]["n1"], s["at"]["n2"]) for s in found.states if isinstance(s["at"], Record)}
    assert values == {(a, b) for a in range(3) for b in range(3)}
    assert len(found.states) == 9
    assert [found.states[at]["at"] for at in found.initial] == [Record({"n1": 0, "n2": 0})]
    assert found.states[0]["note"] == 'a "b" \\ /\\ x = 1'
    assert len([e for e in found.edges if e.action == "Stay"]) == 9
    assert all(e.source == e.target for e in found.edges if e.action == "Stay")
    steps = [e for e in found.edges if e.action == "Step"]
    assert len(steps) == 2 * 3 * 2  # which node, where the other is, by how much
    for edge in steps:
        node, by = edge.args
        before, after = found.states[edge.source]["at"], found.states[edge.target]["at"]
        assert isinstance(before, Record)
        assert isinstance(by, int)
        assert after == before.replaced({node: by})
    assert found.constants == {"Nodes": frozenset({"n1", "n2"}), "Max": 1}


def test_what_tlc_says_of_a_broken_module(counter: Path) -> None:
    counter.write_text(counter.read_text().replace("UNCHANGED note", "UNCHANGED nope"))
    with pytest.raises(ReconcilerError, match="nope"):
        graph.explore(counter, counter.with_suffix(".cfg"))
