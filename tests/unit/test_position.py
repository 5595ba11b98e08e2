"""Positions: which of two covers the other, and their text."""

from __future__ import annotations

import pytest

from reconciler.core.resources.position import Position, parse_position, position_of

HERE = position_of(5, {"pods": 20, "nodes": 10})


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        (HERE, True),
        (position_of(5, {"pods": 19, "nodes": 10}), True),
        (position_of(4, {"pods": 20, "nodes": 10}), True),
        (position_of(6, {"pods": 20, "nodes": 10}), False),
        (position_of(5, {"pods": 21, "nodes": 10}), False),
        (position_of(4, {"pods": 0, "nodes": 11}), False),
        # Of a server of another version, which reads a kind less, or one more.
        (position_of(5, {"pods": 20}), True),
        (position_of(5, {"pods": 20, "nodes": 10, "widgets": 99}), True),
        (position_of(5, {"pods": 21, "widgets": 1}), False),
    ],
)
def test_covers(other: Position, covered: bool) -> None:
    assert HERE.covers(other) is covered


def test_text() -> None:
    assert str(HERE) == "journal=5,nodes=10,pods=20"
    assert parse_position(str(HERE)) == HERE
    assert HERE.revision == 35


@pytest.mark.parametrize(
    "text", ["", "pods=1", "journal=1,", "journal=1,pods=1,pods=2", "journal=-1", "journal=1" * 200]
)
def test_what_is_no_position(text: str) -> None:
    assert parse_position(text) is None
