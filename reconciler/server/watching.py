"""Files under a directory that is watched: which there are, whether one changed, looks at them.

Every `*.yaml`, `*.yml` and `*.json` counts; names that begin with a dot don't (so that of a mounted
ConfigMap only the links are read, not what they lead to).
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from watchfiles import awatch

_Found = TypeVar("_Found")

SUFFIXES: Final = (".yaml", ".yml", ".json")

QUIET_MS: Final = 100
"""A burst of writes is over when nothing happened for this long."""


_BURST_MS: Final = 1_000
"""A burst is read after this long even when it isn't over."""


_SETTLED_NS: Final = 100_000_000
"""A file younger than this is read again: file times are coarse (milliseconds), and a second change
of the same size may have the same time."""


class Listing(msgspec.Struct, frozen=True):
    """files: paths under the directory with "/", sorted; unreadable: directory → reason."""

    files: tuple[str, ...]
    unreadable: dict[str, str]


def list_files(root: Path) -> Listing:
    """Links are followed; only what a directory is in is not looked through again in it."""
    files: list[str] = []
    unreadable: dict[str, str] = {}

    def failed(error: OSError) -> None:
        where = os.path.relpath(error.filename, root)
        unreadable[where] = f"can't be listed: {error.strerror}"

    above: dict[str, frozenset[str]] = {}  # directory to come → where those are that it is in
    for directory, names, found in os.walk(root, onerror=failed, followlinks=True):
        real, reals = os.path.realpath(directory), above.pop(directory, frozenset())
        if real in reals:  # a link back up
            names.clear()
            continue
        names[:] = sorted(name for name in names if not name.startswith("."))
        within = reals | {real}
        above.update((os.path.join(directory, name), within) for name in names)
        for name in found:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                files.append(Path(directory, name).relative_to(root).as_posix())
    return Listing(tuple(sorted(files)), unreadable)


def signature_of(path: Path) -> tuple[int, ...]:
    """Changes whenever the file does; OSError where there is none, or a pipe or the like."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def below(name: str, directories: Iterable[str]) -> bool:
    return any(
        directory == "." or name.startswith(f"{directory}{os.sep}") for directory in directories
    )


def settled(signature: tuple[int, ...]) -> tuple[int, ...]:
    """The signature of a file that was read after it was taken: one that another change will not
    have, or () when it is too young to say."""
    return signature if time.time_ns() - signature[-1] > _SETTLED_NS else ()


async def looks(
    root: Path,
    scan: Callable[[], _Found | None],
    stop: asyncio.Event,
    *,
    rescan_seconds: float,
    quiet_ms: int = QUIET_MS,
    force_polling: bool = False,
) -> AsyncGenerator[_Found, None]:
    """What `scan`, in a thread, says now and after each change under `root`, until `stop` is set.

    scan: None: nothing is new. What it raises ends the looks: the caller's files say what is wrong
    with them by values, so it is a fault of the program.
    rescan_seconds: how often to look without an event
    force_polling: don't use inotify (network file systems); also where inotify has no room left
    """
    # A change between the first look and the moment when inotify listens waits for the next look.
    wake = asyncio.Event()
    watcher = None if force_polling else asyncio.create_task(_wake_on_change(root, wake, quiet_ms))
    try:
        while not stop.is_set():
            found = await asyncio.to_thread(scan)
            if found is not None:
                yield found
            await _wait_or(wake, stop, rescan_seconds)
            wake.clear()
            if watcher is not None and watcher.done():
                watcher.result()
    finally:
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])


async def _wake_on_change(root: Path, wake: asyncio.Event, quiet_ms: int) -> None:
    """Sets `wake` after each burst of changes. Ends where inotify can't serve: looking goes on.

    It is ended by being cancelled only: watchfiles sets the event that it is given to stop by when
    it is cancelled, so that must be nobody else's.
    """
    try:
        async for _ in awatch(root, watch_filter=None, debounce=_BURST_MS, step=quiet_ms):
            wake.set()
    except (OSError, RuntimeError):  # the latter: watchfiles' own, of inotify
        return


async def _wait_or(wake: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    """Until either event is set or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in (wake, stop)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
