"""What TLC printed in runs of one small module (tlc/*.txt, cut to what follows its parsing)."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.formal import tlc_output
from reconciler.formal.tlc_output import Message, Progress

RECORDED = Path(__file__).parent / "tlc"


def messages(name: str) -> tuple[Message, ...]:
    return tlc_output.messages((RECORDED / f"{name}.txt").read_text())


@pytest.mark.parametrize(
    ("name", "fell", "counts", "steps", "loop"),
    [
        ("act", "Act", (26, 18), ["", "A", "A", "C"], None),
        ("dead", "deadlock", (53, 21), ["", "A", "A", "A"], None),
        ("live", "", (117, 33), ["", "A", "A", "C", "A", "A", "C", "A"], 4),
        ("goes", "", (117, 33), ["", "A"], 1),
        ("init", "InitInv", (0, 0), [""], None),
        ("boom", "Boom", (6, 7), ["", "A", "A"], None),
        ("sim", "Inv", (15, 0), ["", "A", "A", "A"], None),
        ("nocfg", "", (0, 0), [], None),
    ],
)
def test_recorded(
    name: str, fell: str, counts: tuple[int, int], steps: list[str], loop: int | None
) -> None:
    found = messages(name)
    assert tlc_output.fell(found) == fell
    assert tlc_output.counts(found) == counts
    trace, repeats = tlc_output.trace(found)
    assert [step.action for step in trace] == steps
    assert repeats == loop
    if loop is not None:
        assert trace[-1].state == trace[loop].state
    if steps:
        assert trace[0].args == ()
        assert all(step.args is None for step in trace[1:])
        assert set(trace[-1].state) == {"a", "b"}


def test_a_search_that_was_ended_counts_what_it_told_last() -> None:
    lines = [
        f"Progress({depth}) at 2026-01-01 00:00:00: {states} states generated (9 s/min), "
        f"{distinct} distinct states found (9 ds/min), 7 states left on queue."
        for depth, states, distinct in ((5, "1,937", "153"), (9, "2,400,000", "810,000"))
    ]
    told = tuple(Message(tlc_output.PROGRESS, line) for line in lines)
    assert tlc_output.counts(told) == (2_400_000, 810_000)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("boom", 'evaluated to FALSE; the second argument was:\n"boom"'),
        ("nocfg", "The invariant Nope specified in the configuration file"),
        ("parse", "Unknown operator: `nope'."),
        ("live", "Temporal properties were violated."),
    ],
)
def test_errors(name: str, said: str) -> None:
    text = tlc_output.errors(messages(name))
    assert said in text
    assert "@!@!@" not in text
    assert "The behavior" not in text


def test_plain_has_no_marks() -> None:
    text = tlc_output.plain((RECORDED / "act.txt").read_text())
    assert "@!@!@" not in text
    assert "Action property Act is violated." in text


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "Progress(17) at 2026-11-26 07:43:06: 1,117 states generated (4,198 s/min), "
            "1,033 distinct states found (1,184 ds/min), 12 states left on queue.",
            Progress(17, 1117, 1033, 12),
        ),
        (
            "Progress(5) at 2026-11-26 07:43:06: 117 states generated, 33 distinct states found, "
            "0 states left on queue.",
            Progress(5, 117, 33, 0),
        ),
        ("117 states generated, 33 distinct states found, 0 states left on queue.", None),
    ],
)
def test_progress(line: str, found: Progress | None) -> None:
    assert tlc_output.progress(line) == found
