"""Kept traces are ways through the graph that they are of, or said to be stale."""

from __future__ import annotations

from pathlib import Path

import msgspec

from reconciler.formal import golden
from reconciler.formal.graph import Edge, Graph
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record
from tests.golden_traces import compact, traces, ways

STATES = tuple(Record(count=at) for at in range(4))
GRAPH = Graph(
    STATES,
    (0,),
    (
        Edge(0, "Add", (1,), 1),
        Edge(1, "Add", (1,), 2),
        Edge(1, "Clear", (), 0),
        Edge(2, "Close", (), 3),
    ),
    {"Top": 2},
)


def test_a_way_takes_every_action() -> None:
    assert [[edge.action for edge in way] for way in ways(GRAPH)] == [
        ["Add", "Clear", "Add", "Add", "Close"]
    ]


def test_where_one_way_ends_another_begins() -> None:
    one_way = msgspec.structs.replace(
        GRAPH,
        edges=(*GRAPH.edges[:2], GRAPH.edges[3], Edge(0, "Clear", (), 0), Edge(1, "Stop", (), 3)),
    )
    found = [[edge.action for edge in way] for way in ways(one_way)]
    assert len(found) == 2
    assert {action for way in found for action in way} == {"Add", "Clear", "Close", "Stop"}


def test_kept_traces_are_of_the_graph_or_stale(tmp_path: Path) -> None:
    (trace,) = traces("Counter", "MCCounter", GRAPH)
    path = tmp_path / "golden" / "Counter" / "MCCounter-1.itf.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(compact(trace))
    kept = golden.of_run(tmp_path, "Counter", "MCCounter")
    assert kept == {path: trace}
    assert golden.of_run(tmp_path, "Counter", "MCOther") == {}
    assert golden.stale(kept, GRAPH) == []
    other = msgspec.structs.replace(GRAPH, edges=GRAPH.edges[:3])
    assert golden.stale(kept, other) == [
        f"{path}: Close is not of this spec: write the kept traces again"
    ]


def test_a_trace_that_begins_elsewhere_is_stale() -> None:
    late = Trace((Step("", (), STATES[1]), Step("Add", (1,), STATES[2])))
    (problem,) = golden.stale({Path("t"): late}, GRAPH)
    assert "the initial state" in problem
