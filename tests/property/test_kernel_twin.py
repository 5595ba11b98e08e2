"""Kernel and twin give every packet the same verdict and leave the same traces.

Random maps, random packets, in sequences: each packet is probed and then run by both, while flows
open and expire, rules change and the halves flip. The clock is the same for both.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given

from reconciler.core.dataplane.layout import CONNTRACK_VALUE, MapId, MapSpec, Reason, map_specs
from reconciler.core.dataplane.ops import Flip, Op, Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import Datapath, Event
from reconciler.datapath.twin import TwinDatapath
from tests.property.datapath_worlds import Aged, Changed, Flipped, Sent, Step, steps, worlds
from tests.root import need_root

pytestmark = pytest.mark.kernel

PIN_ROOT = Path("/sys/fs/bpf/reconciler-twin-test")
CONTENTS = (
    MapId.ADDRESSES,
    MapId.ENDPOINTS,
    MapId.GROUPS,
    MapId.POLICIES,
    MapId.CONNTRACK,
    MapId.FRAGMENTS,
)


Metrics = dict[tuple[Reason, Direction], tuple[int, int]]


def specs() -> dict[MapId, MapSpec]:
    # Caches far larger than one example fills: which entry a full one forgets is not agreed on.
    return map_specs(
        addresses=64, endpoints=16, groups=64, policies=128, conntrack=8_192, fragments=8_192,
        events_bytes=1 << 20,
    )  # fmt: skip


def clock() -> int:
    """The kernel's bpf_ktime_get_ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Datapath]:
    """Skips without root. With root the kernel has to be able to: nothing is skipped then."""
    need_root()
    from reconciler.datapath import pins
    from reconciler.datapath.kernel import KernelDatapath

    directory = PIN_ROOT / str(os.getpid())
    pins.ensure_bpffs(PIN_ROOT)
    for stale in PIN_ROOT.iterdir():  # of test processes that were killed
        if not Path("/proc", stale.name).exists():
            shutil.rmtree(stale)
    with KernelDatapath(directory, specs(), recreate=True) as datapath:
        yield datapath
    shutil.rmtree(directory)  # nothing is attached


def emptied(datapath: Datapath) -> Datapath:
    datapath.apply([Remove(each, tuple(datapath.dump(each))) for each in CONTENTS])
    datapath.apply([Flip(0, 0, bytes(32))])
    datapath.drain()
    return datapath


def aged(datapath: Datapath, nanoseconds: int) -> Op:
    entries = []
    for key, value in datapath.dump(MapId.CONNTRACK).items():
        seen, flags = CONNTRACK_VALUE.unpack(value)
        entries.append((key, CONNTRACK_VALUE.pack((seen - nanoseconds) % 2**64, flags)))
    return Put(MapId.CONNTRACK, tuple(entries))


def flows(datapath: Datapath) -> dict[bytes, int]:
    """Flags of each flow; when it was last seen differs by the time between the two runs."""
    entries = datapath.dump(MapId.CONNTRACK)
    return {key: CONNTRACK_VALUE.unpack(value)[1] for key, value in entries.items()}


def events(datapath: Datapath) -> list[Event]:
    return [msgspec.structs.replace(event, time_ns=0) for event in datapath.drain()]


def counted(after: Metrics, before: Metrics) -> Metrics:
    """What the metrics grew by."""
    return {
        key: (packets - before.get(key, (0, 0))[0], size - before.get(key, (0, 0))[1])
        for key, (packets, size) in after.items()
        if before.get(key) != (packets, size)
    }


def both(datapath: Datapath, sent: Sent) -> tuple[Reason, Reason]:
    """What a probe says, and then a run."""
    return (
        datapath.probe(sent.frame, ifindex=sent.ifindex, direction=sent.direction),
        datapath.run(sent.frame, ifindex=sent.ifindex, direction=sent.direction),
    )


def perform(datapath: Datapath, step: Aged | Flipped | Changed) -> None:
    if isinstance(step, Aged):
        datapath.apply([aged(datapath, step.nanoseconds)])
    elif isinstance(step, Flipped):
        datapath.apply([Flip(step.half, 1, bytes(32))])
    else:
        datapath.apply([step.op])


@pytest.mark.timeout(1_200)  # of the long profile
@given(worlds(), steps())
def test_verdicts_and_traces_agree(
    kernel: Datapath, world: tuple[Op, ...], steps: list[Step]
) -> None:
    emptied(kernel)
    twin = TwinDatapath(specs(), clock)
    before = kernel.metrics()
    for datapath in (kernel, twin):
        datapath.apply(world)
    for step in steps:
        if isinstance(step, Sent):
            probed, ran = both(twin, step)
            assert both(kernel, step) == (probed, ran), step
            assert probed is ran, "a probe says what a run does"
        else:
            perform(kernel, step)
            perform(twin, step)
    assert flows(kernel) == flows(twin)
    assert kernel.dump(MapId.FRAGMENTS) == twin.dump(MapId.FRAGMENTS)
    assert events(kernel) == events(twin)
    assert counted(kernel.metrics(), before) == counted(twin.metrics(), {})
