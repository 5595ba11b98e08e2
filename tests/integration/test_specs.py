"""The specs of this project: every run of the manifest, projections, edges on the code, mutants.

One test a run, so that a failure names it; the mutants that are marked `ci` show that the checks
can fail (`reconciler check --mutants` tries all).
"""

from __future__ import annotations

import functools

import pytest

from reconciler.commands import check
from reconciler.commands.specs import folder
from reconciler.formal import checking, lint, mutants, suite
from reconciler.formal.suite import Kind, Mutant, Run, Spec

SUITE = suite.load(folder())
RUNS = [run for spec in SUITE.specs for run in spec.runs if run.kind is not Kind.DEEP]
GRAPHS = [spec for spec in SUITE.specs if spec.of(Kind.GRAPH)]
PLAYED = [spec for spec in SUITE.specs if spec.adapter]
PATIENCE = 900
"""Seconds on the clock: the first test to ask waits for all of them."""
MUTANTS = [mutant for mutant in SUITE.mutants if mutant.ci]


@functools.cache
def reports() -> dict[str, checking.Report]:
    """Of all runs, two at a time."""
    kinds = [kind for kind in Kind if kind is not Kind.DEEP]
    found = checking.jobs(SUITE, SUITE.specs, kinds, check.hooks())
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


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("spec", PLAYED, ids=lambda spec: spec.name)
def test_the_code_does_what_the_spec_does_at_random(spec: Spec) -> None:
    (report,) = (
        report
        for name, report in reports().items()
        if name.startswith(f"{spec.name} ") and name.endswith(" at random")
    )
    (line,) = report.lines
    assert line.verdict == checking.PASSED, line.detail
    assert line.states > 100, "hardly a step was taken"


@functools.cache
def tried() -> dict[tuple[str, str], mutants.Tried]:
    """All that are marked, two at a time."""
    return {(each.mutant.spec, each.mutant.name): each for each in mutants.try_all(SUITE, MUTANTS)}


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.spec}-{mutant.name}")
def test_mutant(mutant: Mutant) -> None:
    found = tried()[mutant.spec, mutant.name]
    assert found.passed, f"{found.verdict}: {found.detail}"


def test_each_spec_has_a_mutant_here() -> None:
    assert {mutant.spec for mutant in MUTANTS} >= {mutant.spec for mutant in SUITE.mutants}
