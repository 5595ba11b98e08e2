"""What this kernel can do: a name, the first kernel version that has it, and a probe.

A probe asks the kernel by doing the thing, never by its version: distributions port features
back and switch them off. The version says what a test may make of a missing feature: it may be
skipped on an older kernel, and fails on one that should have it (`missing`).
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from reconciler.datapath.objects import ENOTSUPP, ffi, lib
from reconciler.errors import DatapathError

_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_LOOPBACK: Final = 1  # ifindex of lo in every network namespace
_LPM, _RINGBUF, _NO_PREALLOC = 11, 27, 1


class Feature(msgspec.Struct, frozen=True):
    name: str
    since: tuple[int, int]
    used_for: str
    probe: Callable[[], bool]


def kernel_version() -> tuple[int, int]:
    """(major, minor) of the running kernel."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def capabilities() -> frozenset[str]:
    """Those of this process, among the ones that matter here."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    return frozenset(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def may_use_bpf() -> bool:
    """Whether this process may load programs and attach them."""
    held = capabilities()
    return "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"} <= held


def _map(kind: int, key_size: int, value_size: int, entries: int, flags: int) -> int:
    fd: int = lib.rk_map_create(kind, b"rk_probe", key_size, value_size, entries, flags)
    return fd


def _has_lpm_batch() -> bool:
    fd = _map(_LPM, 8, 4, 1, _NO_PREALLOC)
    if fd < 0:
        return False
    try:
        count, scratch = ffi.new("uint32_t *", 1), ffi.new("char[64]")
        code = lib.rk_map_lookup_batch(
            fd, ffi.NULL, scratch, scratch + 16, scratch + 32, count
        )  # an empty trie: ENOENT
        return code not in (-ENOTSUPP, -errno.EINVAL)
    finally:
        os.close(fd)


def _has_ringbuf() -> bool:
    fd = _map(_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"), 0)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def _has_bpffs() -> bool:
    lines = Path("/proc/filesystems").read_text().splitlines()
    return any(line.split()[-1] == "bpf" for line in lines if line)


FEATURES: Final = {
    feature.name: feature
    for feature in (
        Feature("bpffs", (4, 4), "pins", _has_bpffs),
        Feature("ringbuf", (5, 8), "events", _has_ringbuf),
        Feature("lpm-batch", (5, 13), "staging in one call", _has_lpm_batch),
        Feature(
            "tcx",
            (6, 6),
            "attachment by pinned links",
            lambda: bool(lib.rk_tcx_supported(_LOOPBACK)),
        ),
        Feature(
            "membarrier",
            (4, 16),
            "grace periods without a map-in-map",
            lambda: lib.rk_membarrier_supported() == 1,
        ),
    )
}


@functools.cache
def available(name: str) -> bool:
    """Whether the kernel has it; probed once. Needs the privileges of `may_use_bpf`."""
    return FEATURES[name].probe()


def require(name: str) -> None:
    if not available(name):
        feature = FEATURES[name]
        raise DatapathError(
            "probe",
            name,
            errno.EOPNOTSUPP,
            f"needed for {feature.used_for}; Linux has it since "
            f"{feature.since[0]}.{feature.since[1]}, this is {os.uname().release}",
        )


def missing(name: str) -> str:
    """For tests: "" if it is there, else why one may skip. Raises on a kernel that is new enough
    to have it."""
    if available(name):
        return ""
    if kernel_version() >= FEATURES[name].since:
        require(name)
    since = FEATURES[name].since
    return f"{name} needs Linux {since[0]}.{since[1]}"
