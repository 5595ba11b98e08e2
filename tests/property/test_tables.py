"""R3 below the flip: after every single map write, every verdict is the one of the cut in force.

Random cuts are staged in random portions, rolled back, flipped, settled; the agent crashes between
any two writes and adopts what it finds. The maps are evaluated as bytes (`raw_maps`), the cuts by
walking their rules (`meaning`), so neither side knows the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.dataplane.adopt import audit, recognise_cut
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import MapId
from reconciler.core.dataplane.ops import Op
from reconciler.core.dataplane.tables import Tables
from reconciler.core.dataplane.values import Change
from reconciler.errors import MapFull, Refusal
from tests.property.cuts import (
    NODE,
    PODS,
    PROBES,
    SERVICES,
    Cut,
    World,
    changes_between,
    first_cut,
    verdicts,
)
from tests.property.raw_maps import RawMaps, single_writes

ROOMY = {
    MapId.ADDRESSES: 1 << 16,
    MapId.ENDPOINTS: 64,
    MapId.GROUPS: 1 << 12,
    MapId.POLICIES: 1 << 16,
}


class Node:
    """Tables over raw maps, with every verdict checked after every write."""

    def __init__(self, random: Random, limits: dict[MapId, int]) -> None:
        self.random = random
        self.limits = limits
        self.raw = RawMaps(limits)
        self.cut: Cut = {}
        self.revision = 0
        self.distrust = False
        self.expected = [False] * len(PROBES)
        self.tables = Tables(NODE, limits, SERVICES)
        self.connect_links()

    def connect_links(self) -> None:
        for pod, ifindex in PODS.items():
            self.tables.endpoints.add(Link(ifindex, pod=pod))
            self.tables.endpoints.answered(ifindex, "attached")
        self.run(self.tables.links_changed())

    def actual(self) -> list[bool]:
        return [self.raw.allowed(PODS[pod], *rest) for pod, *rest in PROBES]  # type: ignore[arg-type]

    def check(self, after: object) -> None:
        for probe, got, want in zip(PROBES, self.actual(), self.expected, strict=True):
            assert got == want, f"{probe}: is {got}, the cut in force says {want}, after {after}"

    def run(self, ops: Sequence[Op], stop: int | None = None) -> bool:
        """Carry out writes one by one; False if stopped (a crash) before the end."""
        for count, write in enumerate(single_writes(ops)):
            if count == stop:
                return False
            self.raw.write(write)
            self.check(write)
        return True

    def portions(self, changes: list[Change]) -> list[list[Change]]:
        changes = list(changes)
        self.random.shuffle(changes)
        cuts = sorted(self.random.randint(0, len(changes)) for _ in range(2))
        return [
            changes[: cuts[0]],
            changes[cuts[0] : cuts[1]],
            changes[cuts[1] :],
        ]

    def stage(self, new: Cut, distrust: bool = False) -> bool:
        """False: refused by the tables or by a map, and rolled back."""
        for portion in self.portions(changes_between(self.cut, new)):
            ops = self.tables.stage(portion, distrust=distrust)
            if isinstance(ops, Refusal):
                assert ops.needed > ops.limit > 0
                assert ops.reason
                self.run(self.tables.rollback())
                return False
            try:
                self.run(ops)
            except MapFull:
                self.run(self.tables.rollback())
                return False
        return True

    def commit(self, new: Cut, distrust: bool = False) -> None:
        self.revision += 1
        ops = self.tables.commit(self.revision, self.revision.to_bytes(32, "big"))
        self.distrust = distrust
        self.cut, self.expected = new, verdicts(new, distrust)
        self.run(ops)

    def adopt(self, cut: Cut | None) -> None:
        """A new process finds the maps; `cut` is what its cache says, None: nothing."""
        kernel = self.raw.dump(list(PODS.values()))
        self.tables = Tables(NODE, self.limits, SERVICES)
        self.tables.load(kernel.active, kernel.maps, kernel.attached)
        if cut is None:
            return
        changes = changes_between({}, cut)
        recognise_cut(self.tables, kernel, changes)
        ops = self.tables.stage(changes, distrust=self.distrust)
        assert not isinstance(ops, Refusal)
        self.run(ops)
        self.run(self.tables.commit(kernel.revision, kernel.root))
        self.run(self.tables.settle())
        assert audit(self.tables, self.raw.dump(())) == []
        self.connect_links()

    def assert_clean(self) -> None:
        """Nothing is left of anything but the cut: as if it had been built from nothing."""
        fresh = Tables(NODE, self.limits, SERVICES)
        for pod, ifindex in PODS.items():
            fresh.endpoints.add(Link(ifindex, pod=pod))
            fresh.endpoints.answered(ifindex, "attached")
        fresh.stage(changes_between({}, self.cut), distrust=self.tables.view.distrust)
        fresh.commit(1, bytes(32))
        fresh.settle()
        assert self.tables.usage() == fresh.usage()
        assert {each: len(held) for each, held in self.raw.maps.items()} == fresh.usage()


def drive(node: Node, world: World, steps: int) -> None:
    random = node.random
    new = first_cut(world)
    for _ in range(steps):
        crash_at = random.randint(0, 40) if random.random() < 0.3 else None
        if crash_at is not None and node.raw.revision:
            ops = node.tables.stage(changes_between(node.cut, new))
            if not isinstance(ops, Refusal):
                node.run(ops, stop=crash_at)
            node.adopt(node.cut)
            node.assert_clean()
        distrust = random.random() < 0.2
        if node.stage(new, distrust):
            if random.random() < 0.25:
                node.run(node.tables.rollback())
                assert audit(node.tables, node.raw.dump(())) == []
            else:
                node.commit(new, distrust)
                ops = node.tables.settle()
                if not node.run(ops, stop=random.choice((None, None, random.randint(0, 20)))):
                    if random.random() < 0.5:
                        node.run(ops)  # a write failed: the same ones again
                    else:
                        node.adopt(node.cut)
                assert audit(node.tables, node.raw.dump(())) == []
                node.assert_clean()
        new = world.mutated(node.cut)


@given(st.integers(min_value=0))
def test_every_write_but_the_flip_is_invisible(seed: int) -> None:
    random = Random(seed)
    drive(Node(random, dict(ROOMY)), World(random), 7)
