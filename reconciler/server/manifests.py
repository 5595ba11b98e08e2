"""Kubernetes objects from files: a directory that is watched, or paths that are read once.

Every `*.yaml`, `*.yml` and `*.json` under the directory counts; names that begin with a dot don't
(so that of a mounted ConfigMap only the links are read, not what they lead to). Promises:

* what can't be read changes nothing. Of a file that doesn't parse, all last good objects stay; of
  one with a bad object, that object's last good version does; a directory that can't be listed, or
  is gone, removes nothing. Policies lost by a typing error would open what they close;
* a NetworkPolicy that can't be read and of which no good version was held, as when the server
  starts, closes the pods that it may select (`core.objects.closed`). Of a file that doesn't parse
  nobody can say which those are;
* an object in two files is taken from the first file by path, and reported;
* a file that is removed removes its objects; an empty one has none.

Files are best replaced (renamed into place), not rewritten: half a file may be a valid one. Changes
are seen by inotify and by looking every few seconds, which also finds what lies behind links out of
the directory.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from reconciler.core.objects import (
    Change,
    Closed,
    Decoded,
    Delete,
    KubeObject,
    ObjectKey,
    Upsert,
    Workload,
    decode,
    explained,
    key_of,
)
from reconciler.errors import ConfigError, Rejected
from reconciler.server.watching import below, list_files, looks, settled, signature_of


class Loaded(msgspec.Struct, frozen=True):
    """What some paths hold. Each object comes with its source, "shop.yaml#3".

    ignored: "apiVersion Kind" of objects that don't matter here
    """

    objects: tuple[tuple[str, KubeObject], ...] = ()
    workloads: tuple[tuple[str, Workload], ...] = ()
    problems: tuple[Rejected, ...] = ()
    ignored: tuple[str, ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """changes: sorted by object, one each; problems: all that stand now, not only new ones."""

    changes: tuple[Change, ...] = ()
    problems: tuple[Rejected, ...] = ()
    ignored: tuple[str, ...] = ()


# --------------------------------------------------------------------------------- read once


def load(paths: Sequence[str | Path], stdin: BinaryIO | None = None) -> Loaded:
    """Files, directories, and "-" for standard input, in the order given; first of a key wins."""
    objects: dict[ObjectKey, tuple[str, KubeObject]] = {}
    workloads: dict[ObjectKey, tuple[str, Workload]] = {}
    problems: list[Rejected] = []
    ignored: set[str] = set()
    for source, data in _contents(paths, stdin, problems):
        decoded = decode(data, source)
        problems.extend(decoded.problems)
        ignored.update(decoded.ignored)
        for where, object in decoded.objects:
            _first(objects, where, object, problems)
        for where, workload in decoded.workloads:
            _first(workloads, where, workload, problems)
    return Loaded(
        tuple(objects.values()), tuple(workloads.values()), tuple(problems), tuple(sorted(ignored))
    )


_Item = TypeVar("_Item", KubeObject, Workload)


def _first(
    found: dict[ObjectKey, tuple[str, _Item]],
    source: str,
    object: _Item,
    problems: list[Rejected],
) -> None:
    key = key_of(object)
    held = found.setdefault(key, (source, object))
    if held[1] is not object:
        problems.append(_duplicate(key, source, held[0]))


def _duplicate(key: ObjectKey, source: str, holder: str) -> Rejected:
    return Rejected(source, str(key), "", f"is in {holder} already, which is taken")


def _contents(
    paths: Sequence[str | Path], stdin: BinaryIO | None, problems: list[Rejected]
) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    for given in paths:
        if str(given) == "-":
            yield "-", (stdin or sys.stdin.buffer).read()
            continue
        files = [str(given)]
        if os.path.isdir(given):
            listing = list_files(Path(given))
            problems.extend(
                Rejected(os.path.join(given, where), "", "", reason)
                for where, reason in listing.unreadable.items()
            )
            files = [os.path.join(given, name) for name in listing.files]
            files = [file for file in files if os.path.isfile(file)]
        for file in files:
            if os.path.realpath(file) in seen:
                continue
            seen.add(os.path.realpath(file))
            try:
                yield file, Path(file).read_bytes()
            except OSError as error:
                problems.append(Rejected(file, "", "", f"can't be read: {error.strerror}"))


# -------------------------------------------------------------------------------- directories


class _File(msgspec.Struct):
    """What is held of one file.

    objects: the last good ones, with their sources; closed: those that stand for refused policies
    """

    signature: tuple[int, ...] = ()
    data: bytes = b""
    objects: dict[ObjectKey, tuple[str, KubeObject]] = {}
    closed: frozenset[ObjectKey] = frozenset()
    problems: tuple[Rejected, ...] = ()
    ignored: tuple[str, ...] = ()


class Directory:
    """The objects of all files under a directory; `scan` says what changed since the last one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, _File] = {}
        self._holders: dict[ObjectKey, dict[str, tuple[str, KubeObject]]] = {}
        self._shared: set[ObjectKey] = set()  # in more than one file
        self._in_force: dict[ObjectKey, KubeObject] = {}
        self._last: tuple[tuple[Rejected, ...], tuple[str, ...]] | None = None

    def scan(self) -> Batch | None:
        """Reads what is new. None when nothing changed, neither objects nor problems; the first
        scan always gives a batch."""
        listing = list_files(self.root)
        touched: set[ObjectKey] = set()
        for name in listing.files:
            touched |= self._read(name)
        for name in sorted(set(self._files).difference(listing.files)):
            if not below(name, listing.unreadable):
                touched |= self._hold(name, None)
        changes = tuple(self._settle(touched))
        problems = [
            Rejected(where if where != "." else str(self.root), "", "", reason)
            for where, reason in sorted(listing.unreadable.items())
        ]
        ignored: set[str] = set()
        for _, file in sorted(self._files.items()):
            problems.extend(file.problems)
            ignored.update(file.ignored)
        problems.extend(self._duplicates())
        standing = tuple(problems), tuple(sorted(ignored))
        if not changes and standing == self._last:
            return None
        self._last = standing
        return Batch(changes, *standing)

    def _read(self, name: str) -> set[ObjectKey]:
        """Reads a file if it changed; the keys of objects that it has or had."""
        path = self.root / name
        held = self._files.get(name, _File())
        try:
            before = signature_of(path)
            if before == held.signature:
                return set()
            data = path.read_bytes()
        except FileNotFoundError:
            return self._hold(name, None)  # removed since it was listed, or a link to nowhere
        except OSError as error:
            # Not remembered by its signature: it is tried again at every scan.
            problem = Rejected(name, "", "", f"can't be read: {error.strerror}")
            self._files[name] = _File((), b"", held.objects, held.closed, (problem,), held.ignored)
            return set()
        # Taken before the file was read: a later change has another one, if the clock has moved on.
        signature = settled(before)
        if data == held.data and held.signature:
            held.signature = signature
            return set()
        return self._hold(name, _merge(name, signature, data, held))

    def _hold(self, name: str, file: _File | None) -> set[ObjectKey]:
        held = self._files.pop(name, None)
        touched: set[ObjectKey] = set(held.objects) if held else set()
        for key in touched:
            del self._holders[key][name]
        if file is not None:
            self._files[name] = file
            touched.update(file.objects)
            for key, value in file.objects.items():
                self._holders.setdefault(key, {})[name] = value
        return touched

    def _settle(self, touched: Iterable[ObjectKey]) -> Iterator[Change]:
        for key in sorted(touched):
            holders = self._holders.get(key)
            if not holders:
                self._holders.pop(key, None)
                self._shared.discard(key)
                if self._in_force.pop(key, None) is not None:
                    yield Delete(key)
                continue
            if len(holders) > 1:
                self._shared.add(key)
            else:
                self._shared.discard(key)
            source, object = holders[min(holders)]
            if self._in_force.get(key) != object:
                self._in_force[key] = object
                yield Upsert(object, source)

    def _duplicates(self) -> Iterator[Rejected]:
        for key in sorted(self._shared):
            holders = self._holders[key]
            first, *others = sorted(holders)
            for name in others:
                yield _duplicate(key, holders[name][0], holders[first][0])


def _merge(name: str, signature: tuple[int, ...], data: bytes, held: _File) -> _File:
    """The new content of a file, with the last good version of what is bad in it."""
    decoded = decode(data, name)
    problems = list(decoded.problems)
    objects: dict[ObjectKey, tuple[str, KubeObject]] = {}
    for source, object in decoded.objects:
        _first(objects, source, object, problems)
    refused = _refused(decoded)
    kept = {
        key: value
        for key, value in held.objects.items()
        if key not in objects and (None in refused or str(key) in refused)
    }
    objects |= kept
    closed = set(kept.keys() & held.closed)
    good = {key for key in kept if key.kind == "NetworkPolicy"} - closed
    for each in decoded.closed:
        key = key_of(each.policy)
        if (key in objects and key not in closed) or (good and not each.named):
            continue  # its last good version stays, or one that may be it
        objects[key] = each.source, each.policy
        closed.add(key)
        problems = _explained(problems, each)
    return _File(signature, data, objects, frozenset(closed), tuple(problems), decoded.ignored)


def _explained(problems: list[Rejected], closed: Closed) -> list[Rejected]:
    """With what it means that this policy is refused."""
    return [
        said
        for problem in problems
        for said in (
            explained((problem,), closed.policy)
            if (problem.source, problem.object) == (closed.source, closed.problem)
            else (problem,)
        )
    ]


def _refused(decoded: Decoded) -> set[str | None]:
    """Names of refused objects; None among them when one of them can't be told.

    One that can't be told may be any that was in the file, so all of them stay.
    """
    return {
        problem.object if " " in problem.object else None
        for problem in decoded.problems
        if problem.severity == "error"
    }


# --------------------------------------------------------------------------------- watching


def watch(
    directory: str | Path,
    stop: asyncio.Event,
    *,
    force_polling: bool = False,
    rescan_seconds: float = 5.0,
) -> AsyncGenerator[Batch, None]:
    """Everything in the directory as the first batch, then what changes, until `stop` is set.

    rescan_seconds, force_polling: of `watching.looks`. ConfigError: there is no such directory.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ConfigError(f"manifests: {root} is not a directory")
    scan = Directory(root).scan
    return looks(root, scan, stop, rescan_seconds=rescan_seconds, force_polling=force_polling)
