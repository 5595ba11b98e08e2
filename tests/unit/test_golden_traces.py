"""The code does what the kept traces of the specs say; no Java is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.formal import golden, itf, suite
from reconciler.testing.replay.evidence import play
from tests.golden_traces import SPECS


@pytest.mark.parametrize(
    "path", golden.files(SPECS), ids=lambda path: path.name.removesuffix(".itf.json")
)
def test_the_code_does_the_same(path: Path) -> None:
    trace = itf.read(path)
    assert len(trace.steps) > 1
    assert play(suite.load(SPECS), trace, str(path)) is None


def test_each_spec_with_an_adapter_has_some() -> None:
    have = {path.parent.name for path in golden.files(SPECS)}
    assert have == {spec.name for spec in suite.load(SPECS).specs if spec.adapter}
