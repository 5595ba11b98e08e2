"""A pinned map that is to have another size: a new one beside it, which takes its place.

The programs that run go on with the old map until those of this process are attached instead; no
packet meets an empty map. Nothing writes what a cut is made of meanwhile, so its copy stays equal.
Connections are noted by the programs all the time: what was noted since the copy is copied too,
once no program uses the old map any more. Before that the new one is pinned, by a rename, since the
programs that run use it from then on: a process that ends before leaves the old one, and the next
begins again. A connection table that gets smaller forgets what it has no room for, whichever that
is; all other maps must have room.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from reconciler.core.dataplane.layout import MapSpec
from reconciler.datapath.maps import (
    ArrayMap,
    CacheMap,
    KernelMap,
    TableMap,
    create,
    limit_of,
    owner,
    pin,
)

BESIDE: Final = "-new"
"""Ends the name of a pin that is to be renamed. (A BPF file system has no names with a dot.)"""


class Resized:
    """fd: the new map, a copy of the pinned one; the caller's to close."""

    def __init__(self, spec: MapSpec, old: int, path: Path, *, batch: bool) -> None:
        """old: descriptor of what is pinned at `path`, closed by `close`, and by an error.

        Raises MapFull: what it holds has no room in the new size (a table of connections forgets
        instead). DatapathError.
        """
        self._path, self._batch, self.spec = path, batch, spec
        with ExitStack() as made:
            made.callback(os.close, old)
            was = msgspec.structs.replace(spec, max_entries=limit_of(old, spec))
            self._old: KernelMap | None = owner(was, old, batch=batch)
            made.pop_all()
            made.callback(self.close)
            self.fd = create(spec)
            made.callback(os.close, self.fd)
            self._copied = _entries(self._old)
            self._write(self._copied)
            made.pop_all()

    def take_over(self) -> None:
        """To be called when the programs of this process are attached everywhere; lets the old map
        go."""
        beside = self._path.with_name(f"{self._path.name}{BESIDE}")
        beside.unlink(missing_ok=True)
        pin(self.fd, beside)
        beside.rename(self._path)
        if isinstance(self._old, CacheMap):
            since = self._old.dump().items() - self._copied.items()
            there, copied = self._read(), self._copied
            # What the new programs have noted meanwhile is newer.
            self._write({k: value for k, value in since if there.get(k) == copied.get(k)})
        self.close()

    def close(self) -> None:
        """Let the old map and what was read of it go, if that is not done."""
        if self._old is not None:
            self._old.close()
            self._old, self._copied = None, {}

    def _write(self, entries: dict[bytes, bytes]) -> None:
        new = owner(self.spec, os.dup(self.fd), batch=self._batch)
        try:
            if isinstance(new, TableMap | CacheMap | ArrayMap):
                new.put(tuple(entries.items()))
        finally:
            new.close()

    def _read(self) -> dict[bytes, bytes]:
        new = owner(self.spec, os.dup(self.fd), batch=self._batch)
        try:
            return _entries(new)
        finally:
            new.close()


def _entries(map: KernelMap) -> dict[bytes, bytes]:
    """Counters and events begin anew: they have none."""
    return map.dump() if isinstance(map, TableMap | CacheMap | ArrayMap) else {}
