"""The real TLC: graphs with arguments, verdicts, counterexamples; specs small enough to count."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ReconcilerError
from reconciler.formal import graph, mutants, suite, tlc
from reconciler.formal.sample import sample
from reconciler.formal.trace import Trace
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


ROUND = r"""
---- MODULE Round ----
EXTENDS Naturals
CONSTANTS Nodes
VARIABLES last, count
vars == <<last, count>>
Init == last = [n \in Nodes |-> 0] /\ count = 0
Send(n, k) == count < 3 /\ last' = [last EXCEPT ![n] = k] /\ count' = count + 1
Wrap == count = 3 /\ count' = 1 /\ UNCHANGED last
Next ==
    \/ \E n \in Nodes, k \in 1..2 : Send(n, k)
    \/ Wrap
OnlySend ==
    \/ \E n \in Nodes, k \in 1..2 : Send(n, k)
Spec == Init /\ [][Next]_vars
Fair == Spec /\ WF_vars(Next)
Ends == Init /\ [][OnlySend]_vars
Small == count < 4
Low == count < 2
Started == count > 0
Boom == last[count] = 0
Rises == [][count' > count]_vars
Stays == <>[](count = 3)
Comes == <>(count = 3)
====
"""


def check(folder: Path, text: str, *, deadlock: bool = False) -> tlc.TlcResult:
    (folder / "Round.tla").write_text(ROUND)
    config = folder / "Round.cfg"
    config.write_text(f"CONSTANTS Nodes = {{n1, n2}}\n{text}\n")
    return tlc.run(folder / "Round.tla", config, timeout=60, deadlock=deadlock)


def follow(trace: Trace | None) -> list[str]:
    """What the steps are, each replayed by hand: the arguments are those that make the step."""
    assert trace is not None
    assert trace.constants == {"Nodes": frozenset({"n1", "n2"})}
    for before, step in zip(trace.steps, trace.steps[1:], strict=False):
        last = before.state["last"]
        assert isinstance(last, Record)
        if step.action == "Send":
            assert step.args is not None
            node, value = step.args
            assert step.state["last"] == last.replaced({node: value})
        else:
            assert (step.action, step.args) == ("Wrap", ())
            assert step.state["last"] == last
    return [step.action for step in trace.steps]


def test_passed(tmp_path: Path) -> None:
    result = check(tmp_path, "SPECIFICATION Fair\nINVARIANT Small\nPROPERTY Comes")
    assert (result.outcome, result.fell, result.message) == ("passed", "", "")
    assert result.passed
    assert result.trace is None
    assert result.distinct > 20
    assert result.states > result.distinct


@pytest.mark.parametrize(
    ("text", "fell", "actions"),
    [
        ("SPECIFICATION Spec\nINVARIANT Small Low", "Low", ["", "Send", "Send"]),
        ("SPECIFICATION Spec\nINVARIANT Started", "Started", [""]),
        ("SPECIFICATION Spec\nPROPERTY Rises", "Rises", ["", "Send", "Send", "Send", "Wrap"]),
    ],
)
def test_violated(tmp_path: Path, text: str, fell: str, actions: list[str]) -> None:
    result = check(tmp_path, text)
    assert (result.outcome, result.fell) == ("violated", fell)
    assert follow(result.trace) == actions
    assert result.trace is not None
    assert (result.trace.property, result.trace.loop) == (fell, None)


def test_a_lasso(tmp_path: Path) -> None:
    result = check(tmp_path, "SPECIFICATION Fair\nPROPERTY Comes Stays")
    assert (result.outcome, result.fell) == ("violated", "Stays")
    follow(result.trace)
    assert result.trace is not None
    assert result.trace.loop is not None
    assert result.trace.steps[-1].state == result.trace.steps[result.trace.loop].state
    assert result.trace.loop < len(result.trace.steps) - 1


def test_a_stop(tmp_path: Path) -> None:
    result = check(tmp_path, "SPECIFICATION Spec\nPROPERTY Comes")
    assert result.fell == "Comes"
    assert result.trace is not None
    assert result.trace.loop == len(result.trace.steps) - 1


def test_deadlock_is_looked_for_on_request(tmp_path: Path) -> None:
    text = "SPECIFICATION Ends\nINVARIANT Small"
    assert check(tmp_path, text).passed
    result = check(tmp_path, text, deadlock=True)
    assert (result.outcome, result.fell) == ("deadlock", "deadlock")
    assert follow(result.trace) == ["", "Send", "Send", "Send"]


@pytest.mark.parametrize(
    ("text", "outcome", "said"),
    [
        ("SPECIFICATION Spec\nINVARIANT Boom", "no value", "not in the domain"),
        ("SPECIFICATION Spec\nINVARIANT Nope", "bad configuration", "Nope"),
        ("SPECIFICATION Nope\nINVARIANT Low", "bad configuration", "Nope"),
    ],
)
def test_no_verdict(tmp_path: Path, text: str, outcome: str, said: str) -> None:
    result = check(tmp_path, text)
    assert result.outcome == outcome
    assert not result.passed
    assert said in result.message


def test_a_run_that_takes_too_long(tmp_path: Path) -> None:
    (tmp_path / "Round.tla").write_text(ROUND)
    config = tmp_path / "Round.cfg"
    config.write_text("CONSTANTS Nodes = {n1}\nSPECIFICATION Spec\nINVARIANT Small\n")
    result = tlc.run(tmp_path / "Round.tla", config, timeout=0.2)
    assert result.outcome == "timed out"
    assert not result.passed


def test_simulation_is_the_same_for_a_seed(tmp_path: Path) -> None:
    check(tmp_path, "SPECIFICATION Fair\nINVARIANT Small Low\nPROPERTY Comes")
    module, config = tmp_path / "Round.tla", tmp_path / "Round.cfg"
    first, again = (
        tlc.simulate(module, config, seed=3, runs=50, depth=10, timeout=60) for _ in range(2)
    )
    assert (first.outcome, first.fell) == ("violated", "Low")
    assert first.trace == again.trace
    assert follow(first.trace) == ["", "Send", "Send"]


def test_simulation_that_finds_nothing(tmp_path: Path) -> None:
    check(tmp_path, "SPECIFICATION Fair\nINVARIANT Small\nPROPERTY Stays")
    module, config = tmp_path / "Round.tla", tmp_path / "Round.cfg"
    result = tlc.simulate(module, config, seed=3, runs=50, depth=10, timeout=60)
    assert result.passed
    assert result.states >= 50 * 10


MANIFEST = """
[[spec]]
name = "Round"
[[spec.run]]
module = "MCRound"
kind = "safety"
"""
MUTANTS = """
[[mutant]]
name = "no-end"
run = "MCRound"
find = "count < 3"
replace = "count < 9"
falls = "Small"
[[mutant]]
name = "wraps-early"
run = "MCRound"
find = "count = 3 /\\\\ count' = 1"
replace = "count' = 1"
survives = "count is bounded by Send alone"
"""


def test_mutants(tmp_path: Path) -> None:
    (tmp_path / "Round.tla").write_text(ROUND)
    (tmp_path / "mc").mkdir()
    (tmp_path / "mutants").mkdir()
    (tmp_path / "mc" / "MCRound.tla").write_text("---- MODULE MCRound ----\nEXTENDS Round\n====\n")
    (tmp_path / "mc" / "MCRound.cfg").write_text(
        "CONSTANTS Nodes = {n1}\nSPECIFICATION Spec\nINVARIANT Small\n"
    )
    (tmp_path / "specs.toml").write_text(MANIFEST)
    (tmp_path / "mutants" / "Round.toml").write_text(MUTANTS)
    loaded = suite.load(tmp_path)
    started: list[str] = []
    tried = mutants.try_all(loaded, loaded.mutants, on_start=lambda m: started.append(m.name))
    verdicts = {each.mutant.name: each.verdict.name for each in tried}
    assert verdicts == {"no-end": "FELL", "wraps-early": "SURVIVED"}
    assert sorted(started) == ["no-end", "wraps-early"]
    assert (tmp_path / "Round.tla").read_text() == ROUND


def test_random_behaviours(tmp_path: Path) -> None:
    check(tmp_path, "SPECIFICATION Spec\nINVARIANT Low")
    module, config = tmp_path / "Round.tla", tmp_path / "Round.cfg"
    traces, again, other = (
        sample(module, config, seed=seed, runs=3, depth=8, timeout=60) for seed in (5, 5, 6)
    )
    assert traces == again
    assert traces != other
    for trace in traces:
        assert len(trace.steps) == 8
        assert set(follow(trace)[1:]) == {"Send", "Wrap"}


def test_an_assumption_that_is_false(tmp_path: Path) -> None:
    (tmp_path / "Round.tla").write_text(ROUND.replace("Small ==", "ASSUME Nodes = {}\nSmall =="))
    config = tmp_path / "Round.cfg"
    config.write_text("CONSTANTS Nodes = {n1}\nSPECIFICATION Spec\nINVARIANT Small\n")
    result = tlc.run(tmp_path / "Round.tla", config, timeout=60)
    assert result.outcome == "assumption false"
    assert "Assumption line" in result.message
