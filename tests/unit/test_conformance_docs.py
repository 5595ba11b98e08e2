"""The page about conformance is about the scenarios that there are."""

from __future__ import annotations

import pytest

from bench.xds_conformance import OURS, PAGE, failing, page
from reconciler.probe.services import Variant
from reconciler.testing.conformance.language import load
from reconciler.testing.conformance.runner import Outcome, Result


def test_the_page_lists_every_scenario_as_it_is() -> None:
    text = PAGE.read_text()
    for scenario in load():
        row = f"| {scenario.name} | {scenario.says} ({scenario.section}) |"
        assert row in text, "python -m bench.xds_conformance writes it anew"
    assert f"{len(load())} scenarios." in text


def test_what_a_target_fails_is_read_from_its_own_column() -> None:
    first, second, third = load()[:3]

    def result(name: str, outcome: Outcome) -> Result:
        return Result(name, Variant.SOTW, "ads", "CDS", outcome, "", 0.0)

    made = {
        "one": [result(first.name, Outcome.PASS), result(second.name, Outcome.FAIL)],
        "other": [result(first.name, Outcome.FAIL), result(second.name, Outcome.PASS)],
    }
    text = page([first, second, third], made)
    assert failing(text, "one") == {second.name}
    assert failing(text, "other") == {first.name}
    with pytest.raises(KeyError):
        failing(text, "nobody")


def test_ours_fails_nothing_on_the_page() -> None:
    assert all(failing(PAGE.read_text(), name) == set() for name in OURS)
