"""How long to wait before trying again. Pure; randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Doubling waits with full jitter in their upper half, so that replicas don't march in step.

    first, limit: seconds; random: gives a number of [0, 1)
    """

    def __init__(self, first: float, limit: float, random: Callable[[], float]) -> None:
        self._first, self._limit, self._random = first, limit, random
        self._failures = 0

    def failed(self, asked: float = 0.0) -> float:
        """Seconds to wait after one more failure; never less than the server asked for."""
        base = min(self._limit, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return asked + base * (0.5 + self._random() / 2)

    def worked(self) -> None:
        self._failures = 0
