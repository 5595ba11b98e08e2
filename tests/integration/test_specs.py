"""The specs of this project: every run of the manifest, projections, edges on the code.

One test a run, so that a failure names it. Random behaviours and mutants are in `test_spec_*.py`,
which another worker can run meanwhile.
"""

from __future__ import annotations

import functools

import pytest

from reconciler.commands import check
from reconciler.commands.specs import folder
from reconciler.formal import checking, lint, suite
from reconciler.formal.suite import Kind, Run, Spec

SUITE = suite.load(folder())
RUNS = [run for spec in SUITE.specs for run in spec.runs if run.kind is not Kind.DEEP]
GRAPHS = [spec for spec in SUITE.specs if spec.of(Kind.GRAPH)]
PATIENCE = 900
"""Seconds on the clock: the first test to ask waits for all of them."""


@functools.cache
def reports() -> dict[str, checking.Report]:
    """Of all runs, two at a time."""
    kinds = [kind for kind in Kind if kind is not Kind.DEEP]
    found = checking.jobs(SUITE, SUITE.specs, kinds, check.hooks(), at_random=False)
    done = checking.run_jobs(found, watch=lambda name, progress: None)
    return {f"{report.lines[0].spec} {report.lines[0].run}": report for report in done}


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.spec}-{run.name}")
def test_run(run: Run) -> None:
    report = reports()[f"{run.spec} {run.name}"]
    wrong = [f"{line.check}: {line.verdict}: {line.detail}" for line in report.lines]
    assert all(line.verdict == checking.PASSED for line in report.lines), "\n".join(wrong)
    searched = report.lines[:1] if run.kind is Kind.GRAPH else report.lines
    assert all(line.states >= run.states for line in searched)


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("spec", GRAPHS, ids=lambda spec: spec.name)
def test_every_action_is_in_a_graph(spec: Spec) -> None:
    line = checking.coverage_line(SUITE, spec, list(reports().values()))
    assert line is not None
    assert line.verdict == checking.PASSED, line.detail


def test_every_machine_is_compared_with_a_spec() -> None:
    line = check.models_line(SUITE)
    assert line.verdict == checking.PASSED, line.detail


@pytest.mark.parametrize("spec", SUITE.specs, ids=lambda spec: spec.name)
def test_lint(spec: Spec) -> None:
    assert not [str(finding) for finding in lint.lint(SUITE, spec)]
