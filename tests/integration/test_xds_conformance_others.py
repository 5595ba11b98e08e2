"""The suite on go-control-plane's caches: what they do otherwise is what the page says, no more.

Builds the Go programs, so the longer profile only.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import xds_build
from bench.xds_conformance import PAGE, THEIRS, failing, theirs
from reconciler.testing.conformance import language
from reconciler.testing.conformance.runner import Outcome, run_all


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
async def test_what_fails_elsewhere_is_on_the_page(name: str, tmp_path: Path) -> None:
    known = failing(PAGE.read_text(), name)
    failed, passed = set(), 0
    async with theirs(name, str(tmp_path), xds_build.programs()) as target:
        async for result in run_all(target, language.load(), types=("CDS", "EDS")):
            passed += result.outcome is Outcome.PASS
            if result.outcome is Outcome.FAIL:
                failed.add(result.scenario)
    assert failed
    assert failed <= known
    assert passed > 200
