"""The pin directory of a node: on a BPF file system, owned by one process at a time.

`<pin dir>/<map>` are the maps, `<pin dir>/links/` the attachments. The process that holds the
directory holds a lock on it (flock), which ends with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from reconciler.core.dataplane.layout import MapId, MapSpec
from reconciler.datapath.links import detach_clsact, detach_link, device_indices, pinned_links
from reconciler.datapath.maps import create, differences, open_pin, pin
from reconciler.datapath.objects import check, lib, path_bytes
from reconciler.datapath.resize import BESIDE, Resized
from reconciler.errors import DatapathError, MapFull

DEFAULT_BPFFS: Final = Path("/sys/fs/bpf")
LINKS: Final = "links"

# Maps that a cut is made of: only together do they mean something.
_STATE: Final = (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.GROUPS, MapId.POLICIES, MapId.CUT)

# Maps that mean nothing to a packet: they begin anew where they are of another kind.
_RESTARTED: Final = (MapId.METRICS, MapId.EVENTS)


def ensure_bpffs(directory: Path) -> None:
    """Make `directory` on a BPF file system. Where it would not be on one, one is mounted: at
    /sys/fs/bpf for directories under it, else at the directory itself."""
    base = directory
    while not base.exists():
        base = base.parent
    if check(lib.rk_is_bpffs(path_bytes(base)), "look at", str(base)) != 1:
        target = DEFAULT_BPFFS if directory.is_relative_to(DEFAULT_BPFFS) else directory
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatapathError(
                "create", str(target), error.errno or 0, error.strerror or ""
            ) from error
        check(lib.rk_mount_bpffs(path_bytes(target)), "mount bpffs at", str(target))
    directory.mkdir(parents=True, exist_ok=True)


def lock(directory: Path) -> int:
    """A descriptor that holds the directory until it is closed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DatapathError(
            "lock", str(directory), errno.EBUSY, "another process drives this datapath"
        ) from error
    return fd


class Pinned(msgspec.Struct, frozen=True):
    """fds: descriptors; adopted: whether the cut was; resized: maps of `fds` that are not pinned
    yet, see there."""

    fds: Mapping[MapId, int]
    adopted: bool
    resized: tuple[Resized, ...]


def open_maps(
    directory: Path, specs: Mapping[MapId, MapSpec], *, recreate: bool, batch: bool
) -> Pinned:
    """Pinned maps are adopted, missing ones made. batch: whether tries have batch calls.

    A pinned map that is of another size is copied. One that differs otherwise, is missing from a
    cut's maps, or holds more than its new size has room for (connections are forgotten instead),
    is an error that names each; with `recreate` those are made anew, and all of a cut's maps with
    any one. Counters and events are made anew in any case.
    `cut` is pinned last: without it the others are what a first start left behind when it ended.
    """
    (directory / LINKS).mkdir(exist_ok=True)
    wrong: dict[MapId, str] = {}
    other_size: list[MapId] = []
    adopted = (directory / MapId.CUT).exists()
    fds: dict[MapId, int] = {}
    resized: dict[MapId, Resized] = {}
    try:
        for id, spec in specs.items():
            path = directory / id
            (directory / f"{id}{BESIDE}").unlink(missing_ok=True)
            if not adopted and id in _STATE:
                path.unlink(missing_ok=True)
            if not path.exists():
                if adopted and id in _STATE:
                    wrong[id] = "not there"
                continue
            fds[id] = open_pin(path)
            differs = differences(fds[id], spec)
            if differs.keys() == {"max_entries"} or (differs and id in _RESTARTED):
                other_size.append(id)
            elif differs:
                wrong[id] = ", ".join(differs.values())
        if not wrong or recreate:
            for id in other_size:
                try:
                    resized[id] = Resized(specs[id], fds.pop(id), directory / id, batch=batch)
                except MapFull as error:
                    wrong[id] = f"{error.needed} entries are in use, too many for {error.limit}"
                else:
                    fds[id] = resized[id].fd
        if wrong and not recreate:
            text = "; ".join(f"map {id}: {what}" for id, what in wrong.items())
            text += f". Start it as before, or empty the node of pods and remove {directory}"
            raise DatapathError("adopt", str(directory), errno.EINVAL, text)
        if wrong.keys() & set(_STATE):
            adopted = False
            wrong.update(dict.fromkeys((*_STATE, MapId.CONNTRACK, MapId.FRAGMENTS), ""))
        if MapId.CUT in wrong:
            (directory / MapId.CUT).unlink(missing_ok=True)
        for id in wrong:
            if id in resized:
                resized.pop(id).close()
            if id in fds:
                os.close(fds.pop(id))
            (directory / id).unlink(missing_ok=True)
        for id in sorted(specs.keys() - fds.keys(), key=lambda id: id == MapId.CUT):
            fds[id] = create(specs[id])
            pin(fds[id], directory / id)
    except BaseException:
        for fd in fds.values():
            os.close(fd)
        for each in resized.values():
            each.close()
        raise
    return Pinned(fds, adopted, tuple(resized.values()))


def unpin_all(directory: Path) -> None:
    """Take everything off: attachments (of this network namespace), maps, the directory."""
    for ifindex in device_indices():
        detach_clsact(ifindex)
    if not directory.is_dir():
        return
    for _, _, path in pinned_links(directory / LINKS):
        detach_link(path)
    for id in MapId:
        (directory / id).unlink(missing_ok=True)
        (directory / f"{id}{BESIDE}").unlink(missing_ok=True)
    for leftover in (directory / LINKS, directory):
        try:
            leftover.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBUSY):  # busy: a mount point
                raise
