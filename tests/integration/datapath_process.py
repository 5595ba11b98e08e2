"""A process that drives a kernel datapath until it is killed: see test_kernel_restart.

Usage: python -m tests.integration.datapath_process PIN_DIR tcx|clsact SCALE IFINDEX...
SCALE: the maps are so many times as large as they are at first.
Adopts (or makes) the datapath, says "ready", then goes on re-attaching, staging and flipping, and
says "round" after each round.
"""

from __future__ import annotations

import sys
from typing import Literal, cast

import msgspec

from reconciler.core.dataplane.layout import GROUP_VALUE, MapId
from reconciler.core.dataplane.ops import Flip, Grace, Put
from reconciler.datapath.kernel import KernelDatapath
from tests.integration.kernel_world import address_entry, small_specs

SCALED = (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.GROUPS, MapId.POLICIES, MapId.CONNTRACK)
SPARE = tuple(address_entry(f"10.200.0.{number}", 200) for number in range(20))


def main(pin_dir: str, mode: str, scale: str, *devices: str) -> None:
    attach = cast(Literal["tcx", "clsact"], mode)
    specs = {
        id: msgspec.structs.replace(spec, max_entries=int(scale) * spec.max_entries)
        if id in SCALED
        else spec
        for id, spec in small_specs().items()
    }
    datapath = KernelDatapath(pin_dir, specs, attach=attach)
    print("ready", datapath.adopted, len(datapath.attached()), flush=True)
    cut = datapath.cut()
    half, revision = cut.active, max(cut.revisions)
    groups = tuple(datapath.dump(MapId.GROUPS).items())
    assert all(len(value) == GROUP_VALUE.size for _, value in groups)
    while True:
        for device in devices:
            datapath.attach(int(device))
        half, revision = 1 - half, revision + 1
        datapath.apply(
            [
                Put(MapId.ADDRESSES, SPARE),
                Put(MapId.GROUPS, groups),
                Put(MapId.ENDPOINTS, tuple(datapath.dump(MapId.ENDPOINTS).items())),
                Flip(half, revision, bytes(32)),
                Grace(),
            ]
        )
        print("round", revision, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
