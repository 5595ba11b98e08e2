"""Kernel maps: made or adopted from pins, written whole or not at all, dumped in batches.

`TableMap` (LPM tries and hashes that only the agent writes) keeps a mirror of its entries, read
once when a pinned map is adopted: so the room for a Put is known without asking the kernel, and a
Put that fails half way is undone. `CacheMap` (LRU: the programs write it too) has no mirror and
no room to check. `ArrayMap` is written through its memory mapping: no system call.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reconciler.core.dataplane.layout import MapSpec
from reconciler.datapath.objects import check, failure, ffi, lib, path_bytes
from reconciler.errors import DatapathError, MapFull

_KINDS: Final = {"hash": 1, "array": 2, "percpu_array": 6, "lru": 9, "lpm": 11, "ringbuf": 27}
_NO_PREALLOC: Final = 1
_MMAPABLE: Final = 1 << 10
_CHUNK: Final = 8192  # entries of one batch when dumping
_MAX_BATCH: Final = 65_536  # entries of one batch when writing: bounds the time in one call


def kernel_entries(spec: MapSpec) -> int:
    """max_entries as the kernel gets it. Before 6.13 a full LPM trie refuses to overwrite an entry
    that it has, so tries get one entry more than the limit that is kept here."""
    return spec.max_entries + 1 if spec.kind == "lpm" else spec.max_entries


def create(spec: MapSpec) -> int:
    """A new, empty map; its descriptor."""
    flags = (_NO_PREALLOC if spec.no_prealloc else 0) | (_MMAPABLE if spec.mmap else 0)
    fd = lib.rk_map_create(
        _KINDS[spec.kind],
        f"rk_{spec.id}"[:15].encode(),
        spec.key_size,
        spec.value_size,
        kernel_entries(spec),
        flags,
    )
    return check(fd, "create map", spec.id)


def limit_of(fd: int, spec: MapSpec) -> int:
    """The map's own `MapSpec.max_entries`, whatever the specification wants."""
    info = ffi.new("struct rk_map_info *")
    check(lib.rk_map_info(fd, info), "read map", spec.id)
    return int(info.max_entries) - (kernel_entries(spec) - spec.max_entries)


def differences(fd: int, spec: MapSpec) -> dict[str, str]:
    """How a map differs from its specification, by field: "max_entries 10 instead of 20"."""
    info = ffi.new("struct rk_map_info *")
    check(lib.rk_map_info(fd, info), "read map", spec.id)
    flags = (_NO_PREALLOC if spec.no_prealloc else 0) | (_MMAPABLE if spec.mmap else 0)
    expected = {
        "type": _KINDS[spec.kind],
        "key_size": spec.key_size,
        "value_size": spec.value_size,
        "max_entries": kernel_entries(spec),
        "flags": flags,
    }
    return {
        field: f"{field} {getattr(info, field)} instead of {value}"
        for field, value in expected.items()
        if getattr(info, field) != value
    }


def open_pin(path: Path) -> int:
    return check(lib.rk_get(path_bytes(path)), "open pin", str(path))


def pin(fd: int, path: Path) -> None:
    check(lib.rk_pin(fd, path_bytes(path)), "pin", str(path))


class KernelMap:
    """A map's descriptor and what the shim needs to know of it."""

    def __init__(self, spec: MapSpec, fd: int) -> None:
        self.spec, self.fd = spec, fd

    def close(self) -> None:
        os.close(self.fd)

    def _joined(self, parts: Sequence[bytes], size: int, what: str) -> bytes:
        if set(map(len, parts)) - {size}:
            raise DatapathError(
                "update", self.spec.id, errno.EINVAL, f"a {what} is not {size} bytes long"
            )
        return b"".join(parts)


class BatchMap(KernelMap):
    """Batch calls, or single ones where the kernel has no batch for this kind of map."""

    def __init__(self, spec: MapSpec, fd: int, *, batch: bool = True) -> None:
        super().__init__(spec, fd)
        self._batch = batch

    def dump(self) -> dict[bytes, bytes]:
        return self._dump_batch() if self._batch else self._dump_single()

    def _update(self, keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[int, int]:
        """(entries written, 0 or -errno)."""
        spec = self.spec
        key_data = self._joined(keys, spec.key_size, "key")
        value_data = self._joined(values, spec.value_size, "value")
        key_at, value_at = ffi.from_buffer(key_data), ffi.from_buffer(value_data)
        done = 0
        while done < len(keys):
            key, value = key_at + done * spec.key_size, value_at + done * spec.value_size
            if self._batch:
                count = ffi.new("uint32_t *", min(len(keys) - done, _MAX_BATCH))
                code = lib.rk_map_update_batch(self.fd, key, value, count)
                done += count[0]
            else:
                code = lib.rk_map_update(self.fd, key, value)
                done += code == 0
            if code < 0:
                return done, code
        return done, 0

    def _delete(self, keys: Sequence[bytes]) -> None:
        """Keys that are not there are passed over."""
        size = self.spec.key_size
        data = ffi.from_buffer(self._joined(keys, size, "key"))
        done = 0
        while done < len(keys):
            if self._batch:
                count = ffi.new("uint32_t *", min(len(keys) - done, _MAX_BATCH))
                code = lib.rk_map_delete_batch(self.fd, data + done * size, count)
                done += count[0]
                if code == -errno.ENOENT:  # the one after those is missing
                    done, code = done + 1, 0
            else:
                code = lib.rk_map_delete(self.fd, data + done * size)
                done, code = done + 1, 0 if code == -errno.ENOENT else code
            check(code, "delete from", self.spec.id)

    def _dump_batch(self) -> dict[bytes, bytes]:
        spec = self.spec
        chunk = max(1, min(_CHUNK, spec.max_entries))
        cursors = [ffi.new("char[]", max(spec.key_size, 4)) for _ in range(2)]
        count = ffi.new("uint32_t *")
        out: dict[bytes, bytes] = {}
        at: Any = ffi.NULL
        side = 0
        keys = values = None
        while True:
            if keys is None:
                keys = ffi.new("char[]", chunk * spec.key_size)
                values = ffi.new("char[]", chunk * spec.value_size)
            count[0] = chunk
            code = lib.rk_map_lookup_batch(self.fd, at, cursors[side], keys, values, count)
            if code == -errno.ENOSPC:  # a hash bucket that is larger than the chunk
                chunk, keys = chunk * 2, None
                continue
            if code < 0 and code != -errno.ENOENT:
                raise failure(code, "dump", spec.id)
            found = count[0]
            all_keys = ffi.buffer(keys, found * spec.key_size)[:]
            all_values = ffi.buffer(values, found * spec.value_size)[:]
            out.update(
                zip(
                    _cut(all_keys, spec.key_size),
                    _cut(all_values, spec.value_size),
                    strict=True,
                )
            )
            if code == -errno.ENOENT:
                return out
            at, side = cursors[side], 1 - side

    def _dump_single(self) -> dict[bytes, bytes]:
        spec = self.spec
        out: dict[bytes, bytes] = {}
        key, following = (ffi.new("char[]", spec.key_size) for _ in range(2))
        value = ffi.new("char[]", spec.value_size)
        code = lib.rk_map_next_key(self.fd, ffi.NULL, following)
        while code == 0:
            ffi.memmove(key, following, spec.key_size)
            if lib.rk_map_lookup(self.fd, key, value) == 0:
                out[ffi.buffer(key)[:]] = ffi.buffer(value)[:]
            code = lib.rk_map_next_key(self.fd, key, following)
        if code != -errno.ENOENT:
            raise failure(code, "dump", spec.id)
        return out


class CacheMap(BatchMap):
    """LRU hash: makes its own room."""

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        _, code = self._update([key for key, _ in entries], [value for _, value in entries])
        check(code, "update", self.spec.id)

    def remove(self, keys: Sequence[bytes]) -> None:
        self._delete(keys)


class TableMap(BatchMap):
    """LPM trie or hash whose only writer is this object.

    grace: waits for running programs; given where the kernel may hand the memory of a replaced
    element to another key while a program still reads it (hashes since 6.1). Then no key is
    written twice without a grace period in between, which is what the reader relies on.
    """

    def __init__(
        self,
        spec: MapSpec,
        fd: int,
        *,
        batch: bool = True,
        grace: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(spec, fd, batch=batch)
        self._grace = grace
        self._written: set[bytes] = set()  # since the last grace period
        self._mirror = self.dump()

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """All of them, or none and an error."""
        wanted = dict(entries)
        if not wanted:
            return
        needed = len(self._mirror) + len(wanted.keys() - self._mirror.keys())
        if needed > self.spec.max_entries:
            raise MapFull(self.spec.id, needed, self.spec.max_entries)
        keys = list(wanted)
        self._before_writing(keys)
        done, code = self._update(keys, list(wanted.values()))
        if code < 0:
            self._undo(keys[:done], code)
            raise failure(code, "update", self.spec.id, f"after {done} of {len(keys)} entries")
        self._mirror.update(wanted)

    def remove(self, keys: Iterable[bytes]) -> None:
        mirror = self._mirror
        present = [key for key in dict.fromkeys(keys) if key in mirror]
        if not present:
            return
        self._before_writing(present)
        self._delete(present)
        for key in present:
            del mirror[key]

    def grace_passed(self) -> None:
        self._written.clear()

    def __len__(self) -> int:
        return len(self._mirror)

    def _before_writing(self, keys: Iterable[bytes]) -> None:
        if self._grace is None:
            return
        keys = set(keys)
        if not self._written.isdisjoint(keys):
            self._grace()
            self._written.clear()
        self._written |= keys

    def _undo(self, keys: list[bytes], cause: int) -> None:
        """Give back what the first entries of a Put overwrote."""
        self._before_writing(keys)
        fresh = [key for key in keys if key not in self._mirror]
        old = [key for key in keys if key in self._mirror]
        try:
            self._delete(fresh)
            _, code = self._update(old, [self._mirror[key] for key in old])
            check(code, "restore", self.spec.id)
        except DatapathError as error:
            self._mirror = self.dump()
            raise failure(
                cause, "update", self.spec.id, f"and it could not be undone: {error}"
            ) from error


class ArrayMap(KernelMap):
    """Array written through its mapping. Entries are stored one by one; an entry whose half in
    force keeps its value is never seen changed by a program."""

    def __init__(self, spec: MapSpec, fd: int) -> None:
        super().__init__(spec, fd)
        page = os.sysconf("SC_PAGE_SIZE")
        self._stride = (spec.value_size + 7) // 8 * 8
        self._size = (self._stride * spec.max_entries + page - 1) // page * page
        self.address: Any = lib.rk_map_mmap(fd, self._size)
        if self.address == ffi.NULL:
            raise failure(lib.rk_errno(), "map into memory", spec.id)
        self.memory: Any = ffi.buffer(self.address, self._size)

    def close(self) -> None:
        if self.address != ffi.NULL:
            self.memory = None
            check(lib.rk_munmap(self.address, self._size), "unmap", self.spec.id)
            self.address = ffi.NULL
        super().close()

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        self._joined([value for _, value in entries], self.spec.value_size, "value")
        places = self._places([key for key, _ in entries])
        if places and max(places) >= self.spec.max_entries:
            raise MapFull(self.spec.id, max(places) + 1, self.spec.max_entries)
        for place, (_, value) in zip(places, entries, strict=True):
            self._store(place, value)

    def remove(self, keys: Sequence[bytes]) -> None:
        zero = bytes(self.spec.value_size)
        for place in self._places(keys):
            if place < self.spec.max_entries:
                self._store(place, zero)

    def dump(self) -> dict[bytes, bytes]:
        """Entries that are not all zero."""
        size, stride = self.spec.value_size, self._stride
        data = self.memory[: stride * self.spec.max_entries]
        zero = bytes(size)
        return {
            place.to_bytes(4, "little"): data[at : at + size]
            for place, at in enumerate(range(0, len(data), stride))
            if data[at : at + size] != zero
        }

    def _places(self, keys: Sequence[bytes]) -> list[int]:
        self._joined(keys, self.spec.key_size, "key")
        return [int.from_bytes(key, "little") for key in keys]

    def _store(self, place: int, value: bytes) -> None:
        at = place * self._stride
        self.memory[at : at + len(value)] = value


def owner(
    spec: MapSpec, fd: int, *, batch: bool, grace: Callable[[], None] | None = None
) -> KernelMap:
    """The object for this kind of map, which closes `fd`.

    batch: whether the kernel has batch calls for tries; grace: see `TableMap`, for hashes
    """
    if spec.kind == "array":
        return ArrayMap(spec, fd)
    if spec.kind == "lru":
        return CacheMap(spec, fd)
    if spec.kind == "hash":
        return TableMap(spec, fd, grace=grace)
    if spec.kind == "lpm":
        return TableMap(spec, fd, batch=batch)
    return KernelMap(spec, fd)


def read_percpu(map: KernelMap, cpus: int) -> Mapping[int, bytes]:
    """Index → the values of all CPUs back to back, of a per-CPU array."""
    spec = map.spec
    value = ffi.new("char[]", (spec.value_size + 7) // 8 * 8 * cpus)
    out: dict[int, bytes] = {}
    for index in range(spec.max_entries):
        key = index.to_bytes(4, "little")
        check(lib.rk_map_lookup(map.fd, ffi.from_buffer(key), value), "read", spec.id)
        out[index] = ffi.buffer(value)[:]
    return out


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
