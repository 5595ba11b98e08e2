"""Verdicts on mutants: only the property that a guard is for may fall. TLC: integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.formal import mutants
from reconciler.formal.mutants import Verdict
from reconciler.formal.suite import Kind, Mutant, Run, Suite
from reconciler.formal.tlc import TlcResult

RUN = Run("S", Path("MC.tla"), Path("MC.cfg"), Kind.SAFETY, 1, 1, ("A", "B"))


def mutant(falls: tuple[str, ...] = ("A",), survives: str = "", file: str = "S.tla") -> Mutant:
    return Mutant("S", "m", Path(file), RUN, "guard", "TRUE", falls, survives, False, 1)


def result(outcome: str, fell: str = "", message: str = "") -> TlcResult:
    return TlcResult("MC", "MC", outcome, fell, 9, 5, 0.1, "", message)


@pytest.mark.parametrize(
    ("tried", "of", "verdict", "detail"),
    [
        (mutant(), result("violated", "A"), Verdict.FELL, ""),
        (mutant(("B", "A")), result("violated", "A"), Verdict.FELL, ""),
        (mutant(), result("violated", "B"), Verdict.ANOTHER, "B fell, not A"),
        (mutant(), result("violated"), Verdict.ANOTHER, "a property fell, not A"),
        (mutant(), result("passed"), Verdict.UNEXPLAINED, "A was to fall"),
        (mutant((), "why"), result("passed"), Verdict.SURVIVED, ""),
        (mutant((), "why"), result("violated", "B"), Verdict.NOT_EQUIVALENT, "B fell"),
        (mutant(), result("timed out"), Verdict.BROKEN, "timed out"),
        (mutant(), result("no value", message="x[0]"), Verdict.BROKEN, "no value: x[0]"),
        (mutant((), "why"), result("does not parse"), Verdict.BROKEN, "does not parse"),
    ],
)
def test_judge(tried: Mutant, of: TlcResult, verdict: Verdict, detail: str) -> None:
    judged = mutants.judge(tried, of)
    assert (judged.verdict, judged.detail) == (verdict, detail)
    assert judged.passed == (verdict in (Verdict.FELL, Verdict.SURVIVED))


@pytest.mark.parametrize("text", ["no such", "guard and guard"])
def test_a_text_that_is_not_there_once(tmp_path: Path, text: str) -> None:
    file = tmp_path / "S.tla"
    file.write_text(text)
    tried = mutants.try_one(Suite(tmp_path, (), ()), mutant(file=str(file)))
    assert tried.verdict is Verdict.OUT_OF_DATE
    assert "times in S.tla: 'guard'" in tried.detail
    assert not tried.passed
