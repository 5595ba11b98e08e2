"""How soon streams are led to the next change, without IO: times are passed in.

The first change after a while is brought to all streams at once. Those that follow it closely wait
for each other, so that a burst is sent a few times and not change by change: until the work of the
last one is done, on both sides, and a little longer. That the event loop has other things to do is
seen from how late it calls, and that clients have from what they leave unanswered; so where one of
both can't keep up less is sent, each time the newest state. Neither is waited for for long.
"""

from __future__ import annotations

from typing import Final

PAUSE_SECONDS: Final = 0.02
"""Between two changes that streams are led to, at least."""

_BUSY, _CALM_SECONDS = 9, 0.1
"""While changes come one by one, streams are led to them for a tenth of the time; but none waits
longer for that than so many seconds, unless leading streams takes longer itself."""

_LATE_SECONDS: Final = 0.01
"""A loop that calls later than this has other things to do."""

_UNANSWERED: Final = 0.1
"""Part of the streams; while more of them have not answered there is no use in sending more."""

_LONGEST, _LONGEST_SECONDS = 2, 0.2
"""So many times what leading took, and at least so long, is waited for either beyond the pause: a
loop may be late for other things, and clients may never answer."""


def pause_after(took: float) -> float:
    """Seconds until streams are led again, after it took so many."""
    return max(PAUSE_SECONDS, min(_BUSY * took, _CALM_SECONDS), took)


class Pace:
    def __init__(self) -> None:
        self._due = self._end = self._step = 0.0

    def led(self, began: float, now: float) -> float:
        """Streams were led; seconds until `again` is to be asked."""
        took = now - began
        pause = pause_after(took)
        self._due = now + pause
        self._end = self._due + max(_LONGEST_SECONDS, _LONGEST * took)
        self._step = max(PAUSE_SECONDS, min(took, _CALM_SECONDS))
        return pause

    def again(self, now: float, unanswered: float) -> float | None:
        """None: they may be led now; else seconds until it is to be asked again.

        unanswered: the part of the streams that has yet to answer
        """
        busy = now - self._due > _LATE_SECONDS or unanswered > _UNANSWERED
        if not busy or now >= self._end:
            return None
        self._due = now + self._step
        return self._step
