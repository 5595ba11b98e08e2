"""Rows of the kernel datapath: staging, the flip, and what a packet costs. Needs root and BPF.

Maps have their usual capacities and a pin directory of this process alone, which is taken away at
the end. Nothing is attached to any device: packets are run by PROG_TEST_RUN.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import floor
from bench.rows import Context, Row, measured, shown
from reconciler.core.dataplane.layout import (
    ADDRESS_KEY,
    ADDRESS_STATIC_BITS,
    ADDRESS_VALUE,
    ENDPOINT_KEY,
    ENDPOINT_VALUE,
    FAMILY_V4,
    FAMILY_V6,
    GROUP_VALUE,
    POLICY_KEY,
    POLICY_STATIC_BITS,
    POLICY_VALUE,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.policy.ir import Direction, Verdict
from reconciler.errors import ReconcilerError
from reconciler.testing import packets

if TYPE_CHECKING:
    from reconciler.datapath.kernel import KernelDatapath

GROUP: Final = "kernel"
BPFFS: Final = Path("/sys/fs/bpf")
ADDRESSES: Final = 20_000
GROUPS: Final = 50
REPEAT: Final = 1_000_000
"""Runs of one packet in the kernel: about half a second, so that the clock's grain is nothing."""

_POD_INTERFACE, _POD_GROUP, _PEER_GROUP, _RULE_SET = 101, 20, 21, 100
_POD: Final = {4: packets.address("10.77.0.10"), 6: packets.address("fd77::a")}
_PEER: Final = {4: packets.address("10.1.0.1"), 6: packets.address("fd00:1::1")}
_ZERO: Final = bytes(16)

Entry = tuple[bytes, bytes]


def unavailable() -> str:
    """Why this machine can't run the kernel rows; "" when it can."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        from reconciler.datapath import features

        if not features.may_use_bpf():
            return "this process may not load BPF programs"
        gone = [name for name in ("bpffs", "ringbuf", "membarrier") if not features.available(name)]
    except (ImportError, ReconcilerError) as error:
        return str(error)
    return f"the kernel lacks {', '.join(gone)}" if gone else ""


@contextlib.contextmanager
def opened(name: str) -> Iterator[KernelDatapath]:
    """A datapath with pins of its own; afterwards nothing of it is left."""
    from reconciler.datapath.kernel import KernelDatapath

    path = BPFFS / f"reconciler-bench-{os.getpid()}-{name}"
    try:
        with KernelDatapath(path) as datapath:
            yield datapath
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(context: Context) -> list[Row]:
    why = unavailable()
    if why:
        return [Row(group=GROUP, what="maps, flip and packets", why=why)]
    with opened("rows") as datapath, context.profiled("kernel"):
        return [*_maps(context, datapath), *_packets(context, datapath)]


def timed(datapath: KernelDatapath, *ops: Op) -> float:
    began = time.perf_counter()
    datapath.apply(ops)
    return time.perf_counter() - began


def _maps(context: Context, datapath: KernelDatapath) -> list[Row]:
    rows = []
    for family, limit in ((4, 60e-3), (6, None)):
        context.say(f"{ADDRESSES:,} IPv{family} addresses")
        entries = tuple(_address(_nth(family, index), _PEER_GROUP) for index in range(ADDRESSES))
        put = Put(MapId.ADDRESSES, entries)
        gone = Remove(MapId.ADDRESSES, tuple(key for key, _ in entries))
        staged, single = [], []
        for _ in range(context.runs(7)):
            staged.append(timed(datapath, put))
            datapath.apply([gone])
            single.append(_one_by_one(datapath, entries))
            datapath.apply([gone])
        beside = f"a system call for each: {shown(sorted(single)[len(single) // 2], 's')}"
        rows.append(
            measured(
                GROUP, f"{ADDRESSES:,} IPv{family} addresses staged", staged,
                limit=limit, beside=beside,
            )
        )  # fmt: skip
    context.say("groups, flip and grace")
    groups = Put(
        MapId.GROUPS,
        tuple(
            (index.to_bytes(4, "little"), GROUP_VALUE.pack(index, 1, 1, index, 1, 1))
            for index in range(1000, 1000 + GROUPS)
        ),
    )
    many = context.runs(1000) + 20
    rows.append(
        measured(
            GROUP, f"{GROUPS} groups staged", [timed(datapath, groups) for _ in range(many)],
            limit=100e-6,
        )
    )  # fmt: skip
    flips = [timed(datapath, Flip(at & 1, at, bytes(32))) for at in range(many)]
    rows.append(measured(GROUP, "the flip", flips, limit=10e-6))
    graces = [timed(datapath, Grace()) for _ in range(context.runs(29) + 1)]
    rows.append(measured(GROUP, "grace (off the critical path)", graces))
    return rows


def _one_by_one(datapath: KernelDatapath, entries: tuple[Entry, ...]) -> float:
    """Seconds for the same entries by bpf_map_update_elem, as most agents write them; without the
    promise that all are written or none."""
    from reconciler.datapath.objects import lib

    fd = lib.rk_get(str(datapath.pin_dir / MapId.ADDRESSES).encode())
    try:
        began = time.perf_counter()
        for key, value in entries:
            lib.rk_map_update(fd, key, value)
        return time.perf_counter() - began
    finally:
        os.close(fd)


def _packets(context: Context, datapath: KernelDatapath) -> list[Row]:
    """With a full address map, and a policy that is looked up for every packet."""
    for family in (4, 6):
        entries = (_address(_nth(family, index), _PEER_GROUP) for index in range(ADDRESSES))
        datapath.apply([Put(MapId.ADDRESSES, tuple(entries))])
    datapath.apply([*_world(), Flip(0, 1, bytes(32))])
    rows = []
    for family in (4, 6):
        out = packets.Flow(_POD[family], _PEER[family])
        into = packets.Flow(_PEER[family], _POD[family])
        payload = bytes(64)
        for what, direction, frame, wanted in (
            ("from the pod", Direction.EGRESS, out.frame(flags=packets.ACK, payload=payload),
             Reason.ALLOWED),
            ("reply to the pod", Direction.INGRESS, out.answer(flags=packets.ACK),
             Reason.REPLY),
            ("to the pod", Direction.INGRESS, into.frame(flags=packets.ACK, payload=payload),
             Reason.ALLOWED),
        ):  # fmt: skip
            context.say(f"IPv{family} packets, {what}")
            opener = into if what == "to the pod" else out
            first = Direction.INGRESS if opener is into else Direction.EGRESS
            datapath.run(opener.frame(), ifindex=_POD_INTERFACE, direction=first)
            got = datapath.run(frame, ifindex=_POD_INTERFACE, direction=direction)
            title = f"IPv{family} packet, established, {what}"
            if got is not wanted:
                rows.append(Row(group=GROUP, what=title, why=f"the packet was {got.name}"))
                continue
            whole, empty = [], []
            for _ in range(context.runs(5)):
                empty.append(floor.nanoseconds(frame, REPEAT))
                whole.append(
                    datapath.bench_run(
                        frame, ifindex=_POD_INTERFACE, direction=direction, repeat=REPEAT
                    )
                )
            base = sorted(empty)[len(empty) // 2]
            beside = f"whole run {sorted(whole)[len(whole) // 2]} ns, empty program {base} ns"
            added = [max(0, one - base) * 1e-9 for one in whole]
            rows.append(measured(GROUP, title, added, limit=500e-9, beside=beside))
    return rows


def _nth(family: int, index: int) -> bytes:
    if family == 4:
        return bytes((10, 1 + index // 100, 0, 1 + index % 100))
    return packets.address(f"fd00:{1 + index // 100:x}::{1 + index % 100:x}")


def _address(data: bytes, group: int) -> Entry:
    family = FAMILY_V4 if len(data) == 4 else FAMILY_V6
    key = ADDRESS_KEY.pack(ADDRESS_STATIC_BITS + 8 * len(data), family, data)
    return key, ADDRESS_VALUE.pack(group, group)


def _world() -> Iterator[Op]:
    """One pod whose rule sets allow one peer group to and from port 80 over TCP."""
    pod = (1, 0, *(_POD_GROUP, _POD[4], _POD[6]) * 2)
    yield Put(
        MapId.GROUPS,
        tuple(
            (index.to_bytes(4, "little"), GROUP_VALUE.pack(*(index, _RULE_SET, _RULE_SET) * 2))
            for index in (_POD_GROUP, _PEER_GROUP)
        ),
    )
    yield Put(
        MapId.POLICIES,
        tuple(
            (
                POLICY_KEY.pack(
                    POLICY_STATIC_BITS + 24, _RULE_SET, _PEER_GROUP, direction, packets.TCP,
                    (80).to_bytes(2, "big"),
                ),
                POLICY_VALUE.pack(Verdict.ALLOW, 1),
            )
            for direction in Direction
        ),
    )  # fmt: skip
    yield Put(MapId.ADDRESSES, tuple(_address(one, _POD_GROUP) for one in _POD.values()))
    yield Put(MapId.ENDPOINTS, ((ENDPOINT_KEY.pack(_POD_INTERFACE), ENDPOINT_VALUE.pack(*pod)),))
