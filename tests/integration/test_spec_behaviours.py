"""Random behaviours of the specs, at the largest bounds, on the code."""

from __future__ import annotations

import pytest

from reconciler.commands import check
from reconciler.commands.specs import folder
from reconciler.formal import checking, suite
from reconciler.formal.suite import Spec

SUITE = suite.load(folder())
PLAYED = [spec for spec in SUITE.specs if spec.adapter]


@pytest.mark.parametrize("spec", PLAYED, ids=lambda spec: spec.name)
def test_the_code_does_what_the_spec_does_at_random(spec: Spec) -> None:
    job = checking.behaviours(SUITE, spec, check.hooks(), seed=1)
    (report,) = checking.run_jobs([job], watch=lambda name, progress: None)
    (line,) = report.lines
    assert line.verdict == checking.PASSED, line.detail
    assert line.states > 100, "hardly a step was taken"
