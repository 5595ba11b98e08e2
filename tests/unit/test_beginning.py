"""Where a leadership begins: what the clock adds to what a journal says, never takes from it."""

from __future__ import annotations

import pytest

from reconciler.core.identity.beginning import DAY_ONE, Beginning, beginning


@pytest.mark.parametrize(
    ("epoch", "revision", "since", "begun"),
    [
        (0, 0, 0.0, Beginning(1, 0)),
        (0, 0, 7.25, Beginning(7, 7_250_000)),
        (7, 7_250_000, 7.5, Beginning(8, 7_500_000)),
        (7, 7_250_003, 3.0, Beginning(8, 7_250_003)),
        (7, 7_250_003, -DAY_ONE, Beginning(8, 7_250_003)),
    ],
    ids=["on day one", "new", "in the same second", "clock set back", "clock never set"],
)
def test_the_higher_of_journal_and_clock(
    epoch: int, revision: int, since: float, begun: Beginning
) -> None:
    assert beginning(epoch, revision, DAY_ONE + since) == begun


def test_a_clock_far_ahead_leaves_room() -> None:
    """Revisions of cuts stay within 64 bits, those of journals within what JSON can say."""
    begun = beginning(0, 0, 1e12)
    assert begun.epoch << 32 < 1 << 63
    assert begun.revision < 1 << 53
    assert beginning(begun.epoch, begun.revision, 1e12).epoch == begun.epoch + 1
