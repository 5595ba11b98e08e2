"""The agent's disk cache: the cuts that were in force, so that a node starts without a server.

One file of frames, each a record of core/dataplane/records.py:

    8 bytes magic, then for each frame: u32 length, 16 bytes SHA-256 (first half), `length` bytes

Appending is followed by fsync, so that a record is durable before the flip that it announces. A
whole cache is written beside the old one and renamed over it. A frame that was cut off by a crash
can only be the last one; it is left out, and cut off before the next append. Anything else that
doesn't fit is a CacheError: the file is moved aside (`<name>.corrupt`), never repaired, and the
agent starts without it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Final

from reconciler.core.dataplane.records import CachedCut, Record, decode_record, replay
from reconciler.errors import CacheError

MAGIC: Final = b"RCCACHE1"
_HEAD: Final = struct.Struct("<I16s")
MAX_RECORD: Final = 1 << 30
"""Bytes; a length beyond it is damage, not a record."""


class CacheFile:
    """Not for use by two threads or processes at once. `load` first, then write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0  # of what is good in the file

    def load(self, node: str, root: bytes | None) -> CachedCut | None:
        """The cut with this root (None: the newest); None if there is no such cut in the cache.

        CacheError: the file can't be read; if it was damaged it is moved aside.
        """
        return replay(self.read(), node, root)

    def read(self) -> tuple[Record, ...]:
        """All records, oldest first."""
        self._size = 0
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise CacheError(f"{self.path}: {error.strerror}") from error
        if not data:
            return ()
        if data[: len(MAGIC)] != MAGIC:
            raise self._damaged("is not a cache of this version")
        records: list[Record] = []
        at = len(MAGIC)
        while at < len(data):
            head = data[at : at + _HEAD.size]
            if len(head) < _HEAD.size:
                break
            length, digest = _HEAD.unpack(head)
            body = data[at + _HEAD.size : at + _HEAD.size + length]
            end = at + _HEAD.size + length
            if length <= MAX_RECORD and end > len(data):
                break  # cut off while it was written
            if _digest(body) != digest:
                if end == len(data):
                    break  # written in part: length and data need not reach the disk in order
                raise self._damaged(f"is damaged at byte {at}")
            record = decode_record(body)
            if record is None:
                raise self._damaged(f"has a record of another format at byte {at}")
            records.append(record)
            at = end
        self._size = at
        return tuple(records)

    def append(self, data: bytes) -> None:
        """Add a record and wait until it is on disk. CacheError when it can't be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self._size
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.ftruncate(descriptor, self._size)
                os.lseek(descriptor, 0, os.SEEK_END)
                frame = (MAGIC if new else b"") + _frame(data)
                _write(descriptor, frame)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                _sync_directory(self.path.parent)
            self._size += len(frame)
        except OSError as error:
            raise CacheError(f"{self.path}: {error.strerror}") from error

    def replace(self, data: bytes) -> None:
        """Make the cache this record alone, in one step. CacheError: it may be as it was."""
        beside = self.path.with_name(self.path.name + ".new")
        frame = MAGIC + _frame(data)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _write(descriptor, frame)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(beside, self.path)
            self._size = len(frame)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise CacheError(f"{self.path}: {error.strerror}") from error

    def _damaged(self, reason: str) -> CacheError:
        aside = self.path.with_name(self.path.name + ".corrupt")
        try:
            os.replace(self.path, aside)
        except OSError as error:
            return CacheError(f"{self.path} {reason}, and can't be moved aside: {error.strerror}")
        return CacheError(f"{self.path} {reason}; moved to {aside}")


def _frame(data: bytes) -> bytes:
    return _HEAD.pack(len(data), _digest(data)) + data


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
