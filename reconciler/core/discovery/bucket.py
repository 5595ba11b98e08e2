"""A token bucket: so many a second, and at most those of one second at once."""

from __future__ import annotations


class Bucket:
    def __init__(self, rate: float) -> None:
        """rate: tokens a second, more than 0; the bucket is full at first."""
        self._rate = rate
        self._size = max(1.0, rate)
        self._tokens = self._size
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """One token, if there is one."""
        if self._at is not None:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens -= 1.0
        return True

    @property
    def next_at(self) -> float:
        """When there is one; after a `take`."""
        return (self._at or 0.0) + max(0.0, 1.0 - self._tokens) / self._rate
