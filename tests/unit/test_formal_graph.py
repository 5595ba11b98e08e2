"""Graphs: the generated module, and what is read of TLC's dump. TLC itself: integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ConfigError
from reconciler.formal import graph, module
from reconciler.formal.graph import Edge, Graph, together
from reconciler.formal.values import ModelValue, Record

COUNTER = """---- MODULE Counter ----
EXTENDS Naturals
CONSTANTS Nodes, Max
VARIABLES at, note
Init == at = [n \\in Nodes |-> 0] /\\ note = "a \\"b\\" \\\\ /\\\\ x = 1"
Step(n, k) == at[n] < Max /\\ at' = [at EXCEPT ![n] = @ + k] /\\ UNCHANGED note
Stay == UNCHANGED <<at, note>>
Next ==
    \\/ \\E n \\in Nodes, k \\in 1..2 : Step(n, k)
    \\/ Stay
Spec == Init /\\ [][Next]_<<at, note>>
====
"""
FIRST = (
    r'-11 [label="/\\ x = 0\n/\\ act__ = <<\"\", <<>>>>\n'
    r'/\\ s = \"a\\\\n \\\"q\\\" \\n/\\\\ y = 2\"",style = filled]'
)
DOT = r"""strict digraph DiskGraph {
nodesep=0.35;
subgraph cluster_graph {
color="white";
@FIRST@
-11 -> 22 [label="Go",color="black",fontcolor="black"];
22 [label="/\\ x = 1\n/\\ act__ = <<\"Go\", <<n1, 1>>>>\n/\\ s = \"t\""];
-11 -> 33 [label="Go",color="black",fontcolor="black"];
33 [label="/\\ x = 1\n/\\ act__ = <<\"Jump\", <<>>>>\n/\\ s = \"t\""];
22 -> 33 [label="Jump",color="black",fontcolor="black"];
33 -> 33 [label="Jump",color="black",fontcolor="black"];
{rank = same; -11;}
{rank = same; 22;33;}
}
}""".replace("@FIRST@", FIRST)


def test_dot() -> None:
    found = graph.parse_dot(DOT)
    assert found.states == (
        Record(x=0, s='a\\n "q" \n/\\ y = 2'),
        Record(x=1, s="t"),
    )
    assert found.initial == (0,)
    assert found.edges == (
        Edge(0, "Go", (ModelValue("n1"), 1), 1),
        Edge(0, "Jump", (), 1),
        Edge(1, "Jump", (), 1),
    )


def test_wrapping(tmp_path: Path) -> None:
    path = tmp_path / "Counter.tla"
    path.write_text(COUNTER)
    text = graph.wrapping("G", module.family(path), "Init", "Next")
    assert text.splitlines() == [
        "---- MODULE G ----",
        "EXTENDS Counter, TLC",
        "VARIABLE act__",
        'Init__ == PrintT(<<"constants__", [Nodes |-> Nodes, Max |-> Max]>>) /\\ '
        'Init /\\ act__ = <<"", <<>>>>',
        "Next__ ==",
        '    \\/ \\E n \\in Nodes, k \\in 1..2 : Step(n, k) /\\ act__\' = <<"Step", <<n, k>>>>',
        '    \\/ Stay /\\ act__\' = <<"Stay", <<>>>>',
        "====",
    ]


@pytest.mark.parametrize("keyword", ["SYMMETRY", "VIEW"])
def test_what_hides_edges_is_refused(tmp_path: Path, keyword: str) -> None:
    (tmp_path / "Counter.tla").write_text(COUNTER)
    config = tmp_path / "Counter.cfg"
    config.write_text(f"SPECIFICATION Spec\nCONSTANTS Nodes = {{n1}} Max = 1\n{keyword} Some\n")
    with pytest.raises(ConfigError, match=f"{keyword} leaves edges out"):
        graph.explore(tmp_path / "Counter.tla", config)


def test_graphs_side_by_side() -> None:
    first = Graph((Record(at=1), Record(at=2)), (0,), (Edge(0, "Go", (), 1),), {"N": 1})
    second = Graph((Record(at=7),), (0,), (Edge(0, "Stay", (3,), 0),), {})
    both = together([first, second])
    assert [state["at"] for state in both.states] == [1, 2, 7]
    assert both.initial == (0, 2)
    assert both.edges == (Edge(0, "Go", (), 1), Edge(2, "Stay", (3,), 2))
