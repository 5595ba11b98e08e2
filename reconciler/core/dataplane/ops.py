"""What the agent's core asks of a datapath: plain values, executed in order by the applier."""

from __future__ import annotations

import msgspec

from reconciler.core.dataplane.layout import MapId


class Put(msgspec.Struct, frozen=True):
    """Write entries (create or overwrite). Fails whole with MapFull if the map has no room."""

    map: MapId
    entries: tuple[tuple[bytes, bytes], ...]


class Remove(msgspec.Struct, frozen=True):
    """Delete keys; a key that is absent is no error."""

    map: MapId
    keys: tuple[bytes, ...]


class Flip(msgspec.Struct, frozen=True):
    """Write revision and root of `half`, then make it active with one release store."""

    half: int
    revision: int
    root: bytes


class Grace(msgspec.Struct, frozen=True):
    """Wait until no packet that read the old `active` is still being handled."""


Op = Put | Remove | Flip | Grace
