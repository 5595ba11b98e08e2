"""Sampled verdicts from the ring buffer: a descriptor to wait on, and everything so far."""

from __future__ import annotations

from typing import Any, Final

from reconciler.core.dataplane.layout import EVENT
from reconciler.datapath.base import Event, unpack_events
from reconciler.datapath.objects import check, failure, ffi, lib

_BATCH: Final = 1024  # samples copied by one call into C


class EventRing:
    """`fd` is readable (epoll) when samples wait. Samples are taken once: drained ones are gone."""

    def __init__(self, map_fd: int) -> None:
        self._ring: Any = lib.rk_ring_open(map_fd, EVENT.size)
        if self._ring == ffi.NULL:
            raise failure(lib.rk_errno(), "open", "events")
        self._buffer = ffi.new("char[]", _BATCH * EVENT.size)
        self.fd: int = lib.rk_ring_fd(self._ring)

    def drain(self, limit: int = 65_536) -> list[Event]:
        """Oldest first; at most about `limit`, so that a flood can't keep the caller here."""
        out: list[Event] = []
        while len(out) < limit:
            got = check(lib.rk_ring_drain(self._ring, self._buffer, _BATCH), "drain", "events")
            out += unpack_events(ffi.buffer(self._buffer, got * EVENT.size)[:])
            if got < _BATCH:
                break
        return out

    def close(self) -> None:
        if self._ring != ffi.NULL:
            lib.rk_ring_close(self._ring)
            self._ring = ffi.NULL
