"""Where a leadership begins: above all that any earlier journal of the cluster gave.

A journal that was lost, or restored from a backup, does not know what was given since. Nodes do:
they enforce cuts of those epochs and hold (number, birth) pairs of those revisions. So whoever
opens a journal goes on from what it says or from the wall clock, whichever is higher: the epoch is
at least the seconds since `DAY_ONE`, the revision at least the microseconds.

Assumed where a journal was lost or restored: the clock does not say less than when that journal was
written last, servers began less than once a second, and a write took more than a microsecond. A
clock that is wrong takes nothing from a journal that is whole: it goes on from what it says.
"""

from __future__ import annotations

from typing import Final

import msgspec

DAY_ONE: Final = 1_735_689_600.0
"""2025-01-01, seconds since 1970. Not to be changed: journals would begin below earlier ones."""

LATEST: Final = 2.0**31 - 1
"""Seconds from then on that are believed, until 2093. So an epoch has 31 bits in front of the 32 of
the count in a cut's revision, and a journal's revision stays below 2^53, which JSON can say."""


class Beginning(msgspec.Struct, frozen=True):
    epoch: int
    revision: int


def beginning(epoch: int, revision: int, wall: float) -> Beginning:
    """Of the leadership that opens a journal which is at these. wall: seconds since 1970."""
    since = min(max(wall - DAY_ONE, 0.0), LATEST)
    return Beginning(max(epoch + 1, int(since)), max(revision, int(since * 1_000_000)))
