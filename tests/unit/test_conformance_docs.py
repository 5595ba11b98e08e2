"""The page about conformance is about the scenarios that there are."""

from __future__ import annotations

from bench.xds_conformance import PAGE
from reconciler.testing.conformance.language import load


def test_the_page_lists_every_scenario_as_it_is() -> None:
    text = PAGE.read_text()
    for scenario in load():
        row = f"| {scenario.name} | {scenario.says} ({scenario.section}) |"
        assert row in text, "python -m bench.xds_conformance writes it anew"
    assert f"{len(load())} scenarios." in text
