"""Spec → code: every step of each spec's state graph, allowed or not, on the classes that do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.formal import itf, suite
from reconciler.formal.graph import Graph, explore
from reconciler.formal.replay import replay_graph
from reconciler.formal.simulate import simulate
from reconciler.formal.suite import Kind, Run, Spec
from reconciler.testing.replay import adapter
from reconciler.testing.replay.evidence import golden, play
from tests.golden_traces import SPECS

SUITE = suite.load(SPECS)
PLAYED = [spec for spec in SUITE.specs if spec.adapter]
RUNS, DEPTH, SEED = 60, 60, 1


def _graph(run: Run) -> Graph:
    return explore(run.module, run.config, SUITE.libraries, run.seconds)


@pytest.mark.parametrize("spec", PLAYED, ids=lambda spec: spec.name)
def test_every_edge_and_every_other_step(spec: Spec) -> None:
    runs = spec.of(Kind.GRAPH)
    assert runs, "a spec with an adapter has a run of kind graph"
    for run in runs:
        graph = _graph(run)
        report = replay_graph(adapter(spec.adapter), graph)
        print(f"{run.name}: {report}")
        assert report.passed, str(report)
        assert report.unreached == 0
        assert report.non_edges > 0
        _kept_traces_are_of_it(spec, run, graph)


def _kept_traces_are_of_it(spec: Spec, run: Run, graph: Graph) -> None:
    """What is kept in git is still what the spec says."""
    number = {state: at for at, state in enumerate(graph.states)}
    edges = {(edge.source, edge.action, edge.args, edge.target) for edge in graph.edges}
    for path in golden(SPECS):
        trace = itf.read(path)
        if (trace.spec, trace.config) != (spec.name, run.name):
            continue
        stale = f"{path} is of an earlier spec: run python -m tests.golden_traces {spec.name}"
        at = [number.get(step.state, -1) for step in trace.steps]
        assert at[0] in graph.initial, stale
        for source, target, step in zip(at, at[1:], trace.steps[1:], strict=False):
            assert (source, step.action, step.args, target) in edges, stale


@pytest.mark.parametrize(
    "run",
    [run for spec in PLAYED for run in spec.of(Kind.SAFETY)],
    ids=lambda run: run.name,
)
def test_long_behaviours_at_larger_constants(run: Run, tmp_path: Path) -> None:
    """What the first visitor of a state does not show, another way into it may."""
    traces = simulate(
        run.module, run.config, SUITE.libraries, seed=SEED, runs=RUNS, depth=DEPTH, timeout=100
    )
    for number, trace in enumerate(traces, 1):
        mismatch = play(SUITE, trace, run.name)
        if mismatch is not None:
            itf.write(trace, tmp_path / "differs.itf.json")
        assert mismatch is None, f"seed {SEED}, behaviour {number}: {mismatch}"
