"""Says that a map fills before anything is refused: at 80 and at 90 % of its entries.

Of the maps that a cut fills. What does not fit is refused as a whole (NACK), so the alarm is the
time to act in. A level is over, and can be said again, once the use is 5 % below it: a map at the
edge does not raise an alarm with each pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

PERCENT: Final = (90, 80)
MARGIN: Final = 5


class Capacity:
    """`standing`: map → percentage that it has reached, while it has."""

    def __init__(self) -> None:
        self.standing: dict[str, int] = {}

    def look(
        self, usage: Mapping[str, int], limits: Mapping[str, int]
    ) -> Iterator[tuple[str, str]]:
        """(map, what to say) for each that has reached a higher level since the last look."""
        for name, used in usage.items():
            limit, before = limits.get(name, 0), self.standing.get(name, 0)
            if not limit:
                continue
            now = next((level for level in PERCENT if used * 100 >= level * limit), 0)
            if now < before and used * 100 >= (before - MARGIN) * limit:
                continue
            self.standing[name] = now
            if not now:
                del self.standing[name]
            if now > before:
                yield name, f"{used} of {limit} entries are in use, which is {now} % or more"
