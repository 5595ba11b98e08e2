"""Attachments: both programs on each pod's host side device, in a way that outlives the process.

TCX (Linux 6.6): a link for each direction, first in its hook, pinned as
`<pin dir>/links/<ifindex>-<ingress|egress>` (the hook's direction; the policy's is the other one).
A link is updated in place: at every instant one program is attached. When the device vanishes the
link is dead, and its pin is removed at the next look.

clsact: a direct-action filter of a fixed handle at priority 1, replaced in place. A filter of
another handle is never touched.

A device that a former process attached the other way is moved over: the new way is attached before
the old one is taken off, so a packet passes both for a moment, and never none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from reconciler.datapath.maps import open_pin, pin
from reconciler.datapath.objects import Programs, check, lib
from reconciler.errors import DatapathError

_HOOKS: Final = ("ingress", "egress")
_TCX: Final = {"ingress": 46, "egress": 47}
_HANDLE: Final = 0x7265
_PRIORITY: Final = 1
_NO_FILTER: Final = (-errno.ENOENT, -errno.EINVAL, -errno.ENODEV)  # none, no qdisc, no device
_PIN_NAME: Final = re.compile(r"(\d+)-(ingress|egress)")


def detach_clsact(ifindex: int) -> None:
    """Take our filters off a device that may have none."""
    for hook in _HOOKS:
        if _has_filter(ifindex, hook):
            code = lib.rk_tc_detach(ifindex, hook == "egress", _HANDLE, _PRIORITY)
            if code not in _NO_FILTER:
                check(code, "detach from", f"device {ifindex} {hook}")


def pinned_links(directory: Path) -> Iterator[tuple[int, str, Path]]:
    """(ifindex, hook, path) of every pin."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        found = _PIN_NAME.fullmatch(path.name)
        if found:
            yield int(found[1]), found[2], path


def detach_link(path: Path) -> None:
    """Detach a pinned link and remove its pin. Removing the pin alone would end the link some
    time later."""
    try:
        fd = open_pin(path)
    except DatapathError as error:
        if error.errno == errno.ENOENT:
            return
        raise
    try:
        code = lib.rk_link_detach(fd)
    finally:
        os.close(fd)
    if code != -errno.ENOLINK:  # else its device is gone
        check(code, "detach", str(path))
    path.unlink(missing_ok=True)


def device_indices() -> list[int]:
    """Devices of the network namespace that the calling thread is in."""
    return [index for index, _ in socket.if_nameindex()]


def _has_filter(ifindex: int, hook: str) -> bool:
    code = lib.rk_tc_query(ifindex, hook == "egress", _HANDLE, _PRIORITY)
    if code in _NO_FILTER:
        return False
    check(code, "query", f"device {ifindex} {hook}")
    return True


class Links:
    """Keeps the attachments of one pin directory. `tcx`: the way that new ones are made."""

    def __init__(self, directory: Path, programs: Programs, *, tcx: bool) -> None:
        self._directory, self._tcx = directory, tcx
        self._programs = {"ingress": programs.from_pod, "egress": programs.to_pod}

    def adopt(self) -> None:
        """Put the programs of this object in place of a former process's."""
        devices = set()
        for ifindex, hook, path in pinned_links(self._directory):
            if self._linked_device(path) == ifindex:
                devices.add(ifindex)
                if self._tcx:
                    self._attach_tcx(ifindex, hook)
            else:
                path.unlink(missing_ok=True)
        devices |= {
            ifindex
            for ifindex in device_indices()
            if any(_has_filter(ifindex, hook) for hook in _HOOKS)
        }
        for ifindex in sorted(devices):
            try:
                self.attach(ifindex)
            except DatapathError as error:
                if error.errno not in (errno.ENODEV, errno.ENOLINK):
                    raise  # else it vanished meanwhile

    def attach(self, ifindex: int) -> None:
        was_attached = ifindex in self.attached()  # also removes pins of its index's former device
        try:
            for hook in _HOOKS:
                if self._tcx:
                    self._attach_tcx(ifindex, hook)
                else:
                    self._attach_clsact(ifindex, hook)
        except DatapathError:
            if not was_attached:
                with contextlib.suppress(DatapathError):
                    self.detach(ifindex)
            raise
        if self._tcx:
            detach_clsact(ifindex)
        else:
            self._detach_links(ifindex)

    def detach(self, ifindex: int) -> None:
        self._detach_links(ifindex)
        detach_clsact(ifindex)

    def attached(self) -> set[int]:
        """Devices that both programs are on. Pins of vanished devices are removed."""
        hooks: dict[int, set[str]] = {}
        for ifindex, hook, path in pinned_links(self._directory):
            if self._linked_device(path) == ifindex:
                hooks.setdefault(ifindex, set()).add(hook)
            else:
                path.unlink(missing_ok=True)
        if not self._tcx:
            for ifindex in device_indices():
                for hook in _HOOKS:
                    if _has_filter(ifindex, hook):
                        hooks.setdefault(ifindex, set()).add(hook)
        return {ifindex for ifindex, on in hooks.items() if len(on) == len(_HOOKS)}

    def _path(self, ifindex: int, hook: str) -> Path:
        return self._directory / f"{ifindex}-{hook}"

    def _detach_links(self, ifindex: int) -> None:
        for hook in _HOOKS:
            detach_link(self._path(ifindex, hook))

    @staticmethod
    def _linked_device(path: Path) -> int:
        """ifindex that a pinned link is on; 0 if its device is gone."""
        try:
            fd = open_pin(path)
        except DatapathError as error:
            if error.errno == errno.ENOENT:
                return 0
            raise
        try:
            return check(lib.rk_link_ifindex(fd), "read link", str(path))
        finally:
            os.close(fd)

    def _attach_tcx(self, ifindex: int, hook: str) -> None:
        path, program = self._path(ifindex, hook), self._programs[hook]
        where = f"device {ifindex} {hook}"
        if path.exists():
            fd = open_pin(path)
            try:
                code = lib.rk_link_update(fd, program)
            finally:
                os.close(fd)
            check(code, "replace program on", where)
            return
        fd = check(lib.rk_tcx_attach(program, ifindex, _TCX[hook]), "attach to", where)
        try:
            pin(fd, path)
        finally:
            os.close(fd)

    def _attach_clsact(self, ifindex: int, hook: str) -> None:
        code = lib.rk_tc_attach(self._programs[hook], ifindex, hook == "egress", _HANDLE, _PRIORITY)
        check(code, "attach to", f"device {ifindex} {hook}")
