"""Recorded revisions of the size that a clock gives them, as TLC can read them."""

from __future__ import annotations

from typing import Any

from reconciler.core.trace import Event, cut
from reconciler.testing.replay import shortened

BASE = 60_121_859_456_009


def events(*args: dict[str, Any]) -> list[Event]:
    return [Event("Spec", "Action", each) for each in args]


def test_small_numbers_stay_as_they_are() -> None:
    given = events({"revision": 7, "entries": [{"birth": 3}]}, cut(60 << 32 | 4))
    assert shortened.revisions("revision", "birth")(given) is given
    assert shortened.cuts(given) is given


def test_what_is_next_stays_next_and_wide_gaps_get_narrow() -> None:
    given = events(
        {"epoch": 60_121_859, "revision": BASE, "entries": [{"number": 256, "birth": BASE - 5}]},
        {"revision": BASE + 1, "number": 257},
        {"revision": BASE + 5_000_000},
    )
    assert shortened.revisions("revision", "birth")(given) == events(
        {"epoch": 60_121_859, "revision": 1005, "entries": [{"number": 256, "birth": 1000}]},
        {"revision": 1006, "number": 257},
        {"revision": 2006},
    )


def test_cuts_that_are_named_by_the_journals_revision_are_of_its_numbers() -> None:
    given = events({"revision": BASE}, {**cut(BASE), "node": "n1"}, {"mark": BASE + 1}, cut(0))
    assert shortened.marks("revision", "mark")(given) == events(
        {"revision": 1000}, {"server": 0, "cut": 1000, "node": "n1"}, {"mark": 1001}, cut(0)
    )


def test_a_cut_with_a_part_too_large_is_shortened_and_its_order_stays() -> None:
    large = 13_000 << 32 | 0xF000_0000
    given = events({"newest": {**cut(large), "at": [BASE, 4]}}, {"acked": cut(large + 2)})
    assert shortened.cuts(given) == events(
        {"newest": {"server": 0, "cut": 1000, "at": [BASE, 4]}},
        {"acked": {"server": 0, "cut": 1002}},
    )
    assert shortened.revisions("at")(given)[0].args["newest"]["at"] == [1004, 4]
