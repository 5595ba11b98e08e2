"""The specs hold, and lose a property when one of their guards is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.formal import tlc

SPECS = Path(__file__).resolve().parents[2] / "specs"
MODULE = SPECS / "mc" / "MCStageCommit.tla"


@pytest.mark.parametrize("config", sorted((SPECS / "mc").glob("*.cfg")), ids=lambda path: path.stem)
def test_spec_holds(config: Path) -> None:
    result = tlc.run(MODULE, config, libraries=(SPECS,), timeout=100)
    assert result.passed, result.output
    assert result.distinct > 1000, "the bounds leave nothing to search"


@pytest.mark.parametrize(
    ("guard", "without", "falls"),
    [
        ("RootMatches(n, rev) == held[n] = content[rev]", "RootMatches(n, rev) == TRUE", "OneCut"),
        (
            '<<Message("report", AnyType, 0, cut[n])>>',
            '<<Message("report", AnyType, 0, target[n])>>',
            "BeliefIsPast",
        ),
    ],
    ids=["commit-without-root-check", "report-what-was-staged"],
)
def test_guard_is_needed(tmp_path: Path, guard: str, without: str, falls: str) -> None:
    text = (SPECS / "StageCommit.tla").read_text()
    assert text.count(guard) == 1
    (tmp_path / "StageCommit.tla").write_text(text.replace(guard, without))
    config = SPECS / "mc" / "MCStageCommit.cfg"
    result = tlc.run(MODULE, config, libraries=(tmp_path,), timeout=100)
    assert result.outcome == "violated"
    assert result.fell == falls
