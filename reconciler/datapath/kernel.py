"""The kernel datapath: pinned maps, tc programs and their attachments, through libbpf.

Enforcement does not need this process: maps, programs and attachments are pinned, and go on as
they are when it ends. The next one adopts them: the cut in force, its entries, the attached
devices, whose programs it replaces in place.

One object for one pin directory and one network namespace: indices of devices are those of the
namespace that the calling thread is in, and every call has to come from there. Calls may block:
a large Put for tenths of a second, Grace for about ten milliseconds; libbpf calls release the
interpreter lock. Not for two threads at once.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from reconciler.core.dataplane.layout import (
    CUT_VALUE,
    METRIC_VALUE,
    MapId,
    MapSpec,
    Reason,
    map_specs,
)
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.datapath import features, pins
from reconciler.datapath.base import CutWord, Event
from reconciler.datapath.events import EventRing
from reconciler.datapath.links import Links
from reconciler.datapath.maps import ArrayMap, CacheMap, KernelMap, TableMap, owner, read_percpu
from reconciler.datapath.objects import OBJECT, Programs, check, ffi, lib
from reconciler.errors import DatapathError

# Machines on which a load never passes an earlier load: there, whoever sees the flip sees what was
# stored before it. On others the running programs are waited for before the flip.
_ORDERED_LOADS: Final = platform.machine() in ("x86_64", "i686")
_HALF: Final = (CUT_VALUE.size - 8) // 2  # bytes of one half of the cut word


def wait_for_programs() -> None:
    """Return when every program that runs now has ended (an RCU grace period; ~10 ms)."""
    code = lib.rk_membarrier()
    if code in (-errno.EINVAL, -errno.ENOSYS):  # switched off, as with nohz_full
        code = lib.rk_synchronize()
    check(code, "wait for", "running programs")


class KernelDatapath:
    """See `base.Datapath`.

    pin_dir:  directory of this node, on a BPF file system (mounted if it is not: pins.py)
    specs:    maps and their capacities, `layout.map_specs()` by default
    attach:   "auto" takes TCX where the kernel has it
    recreate: pinned maps of another layout are made anew, empty (then every packet of an attached
              device drops until endpoints are written); else they are a DatapathError. Of another
              size they are copied into new ones, unseen by any packet
    """

    name = "kernel"

    def __init__(
        self,
        pin_dir: Path | str,
        specs: Mapping[MapId, MapSpec] | None = None,
        *,
        attach: Literal["auto", "tcx", "clsact"] = "auto",
        recreate: bool = False,
        object_path: Path = OBJECT,
    ) -> None:
        if sys.byteorder != "little":
            raise DatapathError("open", "datapath", errno.ENOTSUP, "needs a little-endian machine")
        self.pin_dir = Path(pin_dir)
        self.specs = dict(specs or map_specs())
        self._limits = {id: spec.max_entries for id, spec in self.specs.items()}
        self._cpus = check(lib.rk_possible_cpus(), "count", "CPUs")
        if attach == "tcx":
            features.require("tcx")
        self.tcx = attach == "tcx" or (attach == "auto" and features.available("tcx"))
        with ExitStack() as stack:
            self._open(stack, recreate, object_path)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack, recreate: bool, object_path: Path) -> None:
        pins.ensure_bpffs(self.pin_dir)
        stack.callback(os.close, pins.lock(self.pin_dir))
        batch = features.available("lpm-batch")
        pinned = pins.open_maps(self.pin_dir, self.specs, recreate=recreate, batch=batch)
        fds, self.adopted = pinned.fds, pinned.adopted
        for resized in pinned.resized:
            stack.callback(resized.close)
        owners: dict[MapId, KernelMap] = {}
        left = dict(fds)
        try:
            for id, fd in fds.items():
                map = owner(self.specs[id], fd, batch=batch, grace=wait_for_programs)
                owners[id] = map
                stack.callback(map.close)
                del left[id]
        except BaseException:
            for fd in left.values():
                os.close(fd)
            raise
        self._maps = owners
        cut, groups = owners[MapId.CUT], owners[MapId.GROUPS]
        assert isinstance(cut, ArrayMap)
        assert isinstance(groups, ArrayMap)
        self._cut = cut
        self._active = ffi.cast("uint32_t *", cut.address)
        programs = Programs.load(fds, object_path)
        stack.callback(programs.close)
        self._object_path = object_path
        self._probes: Programs | None = None
        self._ring = EventRing(fds[MapId.EVENTS])
        stack.callback(self._ring.close)
        self._links = Links(self.pin_dir / pins.LINKS, programs, tcx=self.tcx)
        self._links.adopt()
        for resized in pinned.resized:
            resized.take_over()

    @property
    def limits(self) -> Mapping[MapId, int]:
        return self._limits

    # --- maps ---------------------------------------------------------------------------------

    def apply(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if isinstance(op, Put):
                self._writable(op.map).put(op.entries)
            elif isinstance(op, Remove):
                self._writable(op.map).remove(op.keys)
            elif isinstance(op, Flip):
                self._flip(op)
            else:
                assert isinstance(op, Grace)
                self._grace()

    def dump(self, map: MapId) -> dict[bytes, bytes]:
        found = self._maps[map]
        if not isinstance(found, TableMap | CacheMap | ArrayMap):
            raise DatapathError("dump", map, errno.EINVAL, "has no entries to dump")
        return found.dump()

    def cut(self) -> CutWord:
        active = lib.rk_load_acquire(self._active)
        _, _, first, first_root, second, second_root = CUT_VALUE.unpack_from(self._cut.memory)
        return CutWord(active & 1, (first, second), (first_root, second_root))

    def _writable(self, map: MapId) -> TableMap | CacheMap | ArrayMap:
        found = self._maps[map]
        if map is MapId.CUT or not isinstance(found, TableMap | CacheMap | ArrayMap):
            raise DatapathError("update", map, errno.EINVAL, "is not written by entries")
        return found

    def _flip(self, op: Flip) -> None:
        if op.half not in (0, 1) or len(op.root) != 32:
            raise DatapathError("flip", "cut", errno.EINVAL, "half or root out of range")
        if not _ORDERED_LOADS:
            self._grace()
        word = op.revision.to_bytes(8, "little") + op.root
        at = 8 + op.half * _HALF
        self._cut.memory[at : at + _HALF] = word
        lib.rk_store_release(self._active, op.half)

    def _grace(self) -> None:
        wait_for_programs()
        for map in self._maps.values():
            if isinstance(map, TableMap):
                map.grace_passed()

    # --- devices ------------------------------------------------------------------------------

    def attach(self, ifindex: int) -> None:
        self._links.attach(ifindex)

    def detach(self, ifindex: int) -> None:
        self._links.detach(ifindex)

    def attached(self) -> set[int]:
        return self._links.attached()

    # --- packets ------------------------------------------------------------------------------

    def probe(self, packet: bytes, *, ifindex: int, direction: Direction) -> Reason:
        """By PROG_TEST_RUN, which refuses (EINVAL) frames without a whole Ethernet header, and on
        newer kernels IP frames without a whole IP header; a device would carry such frames."""
        return self._test_run(packet, ifindex, direction, effects=False)[0]

    def run(self, packet: bytes, *, ifindex: int, direction: Direction) -> Reason:
        return self._test_run(packet, ifindex, direction, effects=True)[0]

    def bench_run(
        self,
        packet: bytes,
        *,
        ifindex: int,
        direction: Direction,
        repeat: int,
        effects: bool = True,
    ) -> int:
        """Mean nanoseconds for one packet over `repeat` runs in the kernel (hot caches)."""
        return self._test_run(packet, ifindex, direction, effects=effects, repeat=repeat)[1]

    def _test_run(
        self, packet: bytes, ifindex: int, direction: Direction, *, effects: bool, repeat: int = 1
    ) -> tuple[Reason, int]:
        if self._probes is None:  # an agent may never need them
            fds = {id: map.fd for id, map in self._maps.items()}
            self._probes = Programs.load(fds, self._object_path, probes=True)
            self._stack.callback(self._probes.close)
        probes = self._probes
        program = probes.from_pod if direction is Direction.EGRESS else probes.to_pod
        reason, nanoseconds = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        code = lib.rk_test_run(
            program, packet, len(packet), ifindex, effects, repeat, reason, nanoseconds
        )
        if code == -errno.EINVAL:
            raise DatapathError(
                "test run",
                f"frame of {len(packet)} bytes",
                errno.EINVAL,
                "the kernel runs no program on frames without whole Ethernet and IP headers",
            )
        check(code, "test run", f"{direction.name.lower()} of {len(packet)} bytes")
        return Reason(reason[0]), nanoseconds[0]

    # --- what happened ------------------------------------------------------------------------

    def metrics(self) -> dict[tuple[Reason, Direction], tuple[int, int]]:
        out = {}
        for index, data in read_percpu(self._maps[MapId.METRICS], self._cpus).items():
            counts = list(METRIC_VALUE.iter_unpack(data))
            packets, size = sum(count[0] for count in counts), sum(count[1] for count in counts)
            if packets:
                out[Reason(index // 2), Direction(index % 2 + 1)] = (packets, size)
        return out

    @property
    def events_fd(self) -> int:
        return self._ring.fd

    def drain(self) -> list[Event]:
        return self._ring.drain()

    # --- end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Release everything of this process; the datapath goes on. A second call does nothing."""
        self._stack.close()

    def unpin_all(self) -> None:
        """Close, and take the whole datapath of this pin directory away."""
        self.close()
        pins.unpin_all(self.pin_dir)

    def __enter__(self) -> KernelDatapath:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
