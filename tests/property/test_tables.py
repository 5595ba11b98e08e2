"""R3 below the flip: after every single map write, every verdict is the one of the cut in force.

Random cuts are staged in random portions, rolled back, flipped, settled; the agent crashes between
any two writes and adopts what it finds. The maps are evaluated as bytes (`raw_maps`), the cuts by
walking their rules (`meaning`), so neither side knows the tables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.dataplane.adopt import audit, recognise_cut
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import ADDRESS_VALUE, POLICY_KEY, MapId
from reconciler.core.dataplane.ops import Op
from reconciler.core.dataplane.prefixes import prefix_key
from reconciler.core.dataplane.tables import Tables
from reconciler.core.dataplane.values import Change
from reconciler.core.policy.ir import Prefix
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

    def __init__(
        self,
        random: Random,
        limits: dict[MapId, int],
        raw_limits: dict[MapId, int] | None = None,
    ) -> None:
        self.random = random
        self.limits = limits
        self.raw = RawMaps(raw_limits or limits)
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

    def adopt(self) -> None:
        """A new process finds the maps, and the cut in its cache."""
        kernel = self.raw.dump(list(PODS.values()))
        self.tables = Tables(NODE, self.limits, SERVICES)
        self.tables.load(kernel.active, kernel.maps, kernel.attached)
        changes = changes_between({}, self.cut)
        recognise_cut(self.tables, kernel, changes, distrust=self.distrust)
        ops = self.tables.stage(changes, distrust=self.distrust)
        assert not isinstance(ops, Refusal)
        self.run(ops)
        self.connect_links()
        ops = self.tables.commit(kernel.revision, kernel.root)
        self.expected = verdicts(self.cut, self.distrust)
        self.run(ops)
        self.run(self.tables.settle())
        assert audit(self.tables, self.raw.dump(())) == []

    def forget(self) -> None:
        """A new process finds the maps, but no cache: it does not know what they mean."""
        kernel = self.raw.dump(list(PODS.values()))
        self.tables = Tables(NODE, self.limits, SERVICES)
        self.tables.load(kernel.active, kernel.maps, kernel.attached)
        self.connect_links()
        self.cut, self.distrust = {}, False

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


def crash(node: Node, next_cut: Cut) -> None:
    """Die between two writes of a staging, and start again with the cached cut."""
    ops = node.tables.stage(changes_between(node.cut, next_cut))
    if not isinstance(ops, Refusal):
        with contextlib.suppress(MapFull):
            node.run(ops, stop=node.random.randint(0, 40))
    node.adopt()
    node.assert_clean()


def settle(node: Node) -> None:
    """Settle; perhaps with a failed write on the way, perhaps with a crash."""
    ops = node.tables.settle()
    if not node.run(ops, stop=node.random.choice((None, None, node.random.randint(0, 20)))):
        if node.random.random() < 0.5:
            node.run(node.tables.repeat(ops))
        else:
            node.adopt()
    assert audit(node.tables, node.raw.dump(())) == []
    node.assert_clean()


def drive(node: Node, world: World, steps: int, *, forgetful: bool = False) -> int:
    """Cut after cut; returns how many came into force."""
    random = node.random
    new = first_cut(world)
    committed = 0
    for _ in range(steps):
        if node.cut and random.random() < 0.3:
            crash(node, new)
        if forgetful and random.random() < 0.4:
            node.forget()
        distrust = random.random() < 0.2
        if node.stage(new, distrust):
            if random.random() < 0.25:
                node.run(node.tables.rollback())
            else:
                node.commit(new, distrust)
                settle(node)
                committed += 1
        new = world.mutated(new)
    return committed


seeds = given(st.integers(min_value=0, max_value=2**32))


@seeds
def test_every_write_but_the_flip_is_invisible(seed: int) -> None:
    random = Random(seed)
    drive(Node(random, ROOMY), World(random), 7)


@seeds
def test_maps_of_an_unknown_cut_stay_in_force_until_the_first_flip(seed: int) -> None:
    random = Random(seed)
    drive(Node(random, ROOMY), World(random), 5, forgetful=True)


@seeds
def test_a_cut_that_does_not_fit_leaves_nothing(seed: int) -> None:
    """Limits that the tables know, and lower ones that only the maps have."""
    random = Random(seed)
    small = {
        MapId.ADDRESSES: random.randint(12, 24),
        MapId.ENDPOINTS: 2,
        MapId.GROUPS: random.randint(20, 30),
        MapId.POLICIES: random.randint(20, 120),
    }
    node = Node(random, small if random.random() < 0.6 else ROOMY, small)
    drive(node, World(random), 9)


@seeds
def test_an_audit_finds_what_differs_and_repairs_it_by_one_flip(seed: int) -> None:
    random = Random(seed)
    node, world = Node(random, ROOMY), World(random)
    cut = first_cut(world)
    for _ in range(3):
        cut = world.mutated(cut)
    assert node.stage(cut)
    node.commit(cut)
    node.run(node.tables.settle())
    before = {map_id: dict(held) for map_id, held in node.raw.maps.items()}
    for _ in range(random.randint(1, 4)):
        damage(node.raw, random)
    damaged = {
        (map_id, key)
        for map_id, held in node.raw.maps.items()
        for key in held.keys() | before[map_id].keys()
        if held.get(key) != before[map_id].get(key)
    }
    found = audit(node.tables, node.raw.dump(()))
    assert {(each.map, each.key) for each in found} == damaged
    node.expected = node.actual()
    node.adopt()
    node.assert_clean()


def damage(raw: RawMaps, random: Random) -> None:
    """Change, remove or add one entry."""
    map_id = random.choice((MapId.ADDRESSES, MapId.GROUPS, MapId.POLICIES, MapId.ENDPOINTS))
    held = raw.maps[map_id]
    if not held:
        return
    key, value = random.choice(sorted(held.items()))
    kind = random.choice(("change", "remove", "add"))
    if kind == "remove" and map_id is not MapId.ENDPOINTS:
        raw.write((map_id, key, None))
    elif kind == "add" and map_id is MapId.POLICIES:
        _, number, index, direction, _, _ = POLICY_KEY.unpack(key)
        key = POLICY_KEY.pack(80, number, index, direction, 99, bytes(2))
        raw.write((map_id, key, value))
    elif kind == "add" and map_id is MapId.ADDRESSES:
        key = prefix_key(Prefix(bytes([10, 1, random.randint(0, 3), 0]), 28))
        raw.write((map_id, key, ADDRESS_VALUE.pack(*[random.randint(1, 20)] * 2)))
    else:
        at = random.randrange(4 if map_id is MapId.POLICIES else 0, len(value))
        if map_id is MapId.ENDPOINTS:
            at = random.randrange(4, len(value))  # the id stays: connections are known by it
        raw.write((map_id, key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]))
