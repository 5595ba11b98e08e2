"""What the drivers of both cores have in common: what they send by, and the time of a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol


class Streams(Protocol):
    """What carries streams, to a driver."""

    def send(self, stream: int, frame: bytes) -> None: ...

    def grouped(self, streams: Sequence[int]) -> Iterable[Sequence[int]]:
        """How they are best sent something, all of them: group by group."""

    def flush(self) -> bool:
        """What was sent may go: a group is complete. False: it goes by the end of this turn."""

    def close(self, stream: int, status: str, reason: str) -> None: ...


class Timed:
    """A driver of a core that is told the time of a clock of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def unix(self, seconds: float) -> float:
        """The core's time as Unix time."""
        return time.time() - (self._clock() - seconds)
