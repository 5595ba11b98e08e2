"""Kernel maps: every operation, all-or-nothing, adoption, and what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from reconciler.core.dataplane.layout import (
    CONNTRACK_KEY,
    CONNTRACK_VALUE,
    ENDPOINT_VALUE,
    MapId,
    MapSpec,
    Reason,
)
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import Datapath
from reconciler.errors import DatapathError, MapFull
from tests.integration.frames import TCP, ip, tcp
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    Entry,
    Pod,
    address_entry,
    group_entry,
    policy_entry,
    small_specs,
    world,
)

pytestmark = pytest.mark.kernel

Open = Callable[..., Datapath]
OUT = Direction.EGRESS


def addresses(count: int, group: int = 20) -> tuple[Entry, ...]:
    return tuple(address_entry(f"10.1.{i // 256}.{i % 256}", group) for i in range(count))


ENTRIES: dict[MapId, tuple[Entry, Entry, Entry]] = {  # new, its key with another value, another
    MapId.ADDRESSES: (
        address_entry("10.0.0.0/8", 1),
        address_entry("10.0.0.0/8", 2),
        address_entry("fd00::/8", 1),
    ),
    MapId.ENDPOINTS: (
        POD_A.endpoint(),
        POD_A.endpoint(flags=1),
        POD_B.endpoint(),
    ),
    MapId.GROUPS: (
        group_entry(20, 1, 2, 3),
        group_entry(20, 4, 5, 6),
        group_entry(255, 1, 1, 1),
    ),
    MapId.POLICIES: (
        policy_entry(100, 0, OUT),
        policy_entry(100, 0, OUT, 2),
        policy_entry(100, 0, OUT, protocol=TCP),
    ),
    MapId.CONNTRACK: (
        (CONNTRACK_KEY.pack(1, 1, 6, b"ab", b"cd", 1, bytes(16), bytes(16)), bytes(16)),
        (
            CONNTRACK_KEY.pack(1, 1, 6, b"ab", b"cd", 1, bytes(16), bytes(16)),
            CONNTRACK_VALUE.pack(7, 1),
        ),
        (CONNTRACK_KEY.pack(2, 1, 6, b"ab", b"cd", 1, bytes(16), bytes(16)), bytes(16)),
    ),
}


@pytest.mark.parametrize("id", list(ENTRIES))
def test_put_overwrite_remove_dump(emptied: Datapath, id: MapId) -> None:
    datapath = emptied
    one, other_value, two = ENTRIES[id]
    assert datapath.dump(id) == {}
    datapath.apply([Put(id, ()), Remove(id, ()), Remove(id, (two[0],))])
    datapath.apply([Put(id, (one, two))])
    assert datapath.dump(id) == dict([one, two])
    datapath.apply([Put(id, (one, other_value))])
    assert datapath.dump(id) == dict([other_value, two]), "the last of a key wins"
    missing = bytes(len(one[0]) - 1) + b"\x01"
    datapath.apply([Remove(id, (missing, one[0], one[0]))])
    assert datapath.dump(id) == dict([two])
    datapath.apply([Put(id, (one,)), Remove(id, (one[0], two[0]))])
    assert datapath.dump(id) == {}


@pytest.mark.parametrize("id", [MapId.CUT, MapId.METRICS, MapId.EVENTS])
def test_what_is_not_written_by_entries(emptied: Datapath, id: MapId) -> None:
    datapath = emptied
    ops: tuple[Op, ...] = (Put(id, ((bytes(4), bytes(16)),)), Remove(id, (bytes(4),)))
    for op in ops:
        with pytest.raises(DatapathError, match=f"update {id}"):
            datapath.apply([op])


@pytest.mark.parametrize("id", list(ENTRIES))
def test_wrong_sizes_are_refused(emptied: Datapath, id: MapId) -> None:
    datapath = emptied
    (key, value), _, (other, _) = ENTRIES[id]
    for bad in ((key + b"\0", value), (key, value[:-1])):
        with pytest.raises(DatapathError, match="bytes long"):
            # Sizes that only add up to the right total are no better.
            datapath.apply([Put(id, ((other[: len(other) - len(bad[0]) + len(key)], value), bad))])
    assert datapath.dump(id) == {}


@pytest.mark.parametrize("flip", [Flip(2, 1, bytes(32)), Flip(0, 1, bytes(31))])
def test_wrong_flips_are_refused(emptied: Datapath, flip: Flip) -> None:
    datapath = emptied
    with pytest.raises(DatapathError, match="flip cut"):
        datapath.apply([flip])
    assert datapath.cut().revisions == (0, 0)


def test_a_full_map(emptied: Datapath) -> None:
    """A Put that has no room writes nothing, names need and limit; overwriting always has room."""
    datapath = emptied
    limit = datapath.limits[MapId.ADDRESSES]
    assert limit == 64
    datapath.apply([Put(MapId.ADDRESSES, addresses(limit))])
    before = datapath.dump(MapId.ADDRESSES)
    with pytest.raises(MapFull) as caught:
        datapath.apply([Put(MapId.ADDRESSES, addresses(limit + 3, group=21))])
    assert (caught.value.map, caught.value.needed, caught.value.limit) == ("addresses", 67, 64)
    assert datapath.dump(MapId.ADDRESSES) == before
    datapath.apply([Put(MapId.ADDRESSES, addresses(limit, group=22))])
    assert datapath.dump(MapId.ADDRESSES) == dict(addresses(limit, group=22))
    datapath.apply([Remove(MapId.ADDRESSES, (addresses(1)[0][0],))])
    datapath.apply([Put(MapId.ADDRESSES, (address_entry("10.9.9.9", 1),))])
    with pytest.raises(MapFull):
        datapath.apply([Put(MapId.GROUPS, (group_entry(5, 1, 1, 1), group_entry(256, 1, 1, 1)))])
    assert datapath.dump(MapId.GROUPS) == {}


def test_operations_before_a_failing_one_stay_done(emptied: Datapath) -> None:
    datapath = emptied
    ops: list[Op] = [
        Put(MapId.POLICIES, (policy_entry(1, 0, OUT),)),
        Put(MapId.ADDRESSES, addresses(65)),
        Flip(1, 5, bytes(32)),
    ]
    with pytest.raises(MapFull):
        datapath.apply(ops)
    assert len(datapath.dump(MapId.POLICIES)) == 1
    assert datapath.cut().active == 0


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("id", [MapId.ADDRESSES, MapId.ENDPOINTS])
def test_a_put_that_fails_half_way_is_undone(pin_dir: Path, id: MapId, batch: bool) -> None:
    """The kernel refuses in the middle (somebody else filled the map): nothing is left behind."""
    from reconciler.datapath import maps

    spec = msgspec.structs.replace(small_specs()[id], max_entries=10)

    def entry(number: int, group: int) -> Entry:
        if id is MapId.ADDRESSES:
            return address_entry(f"10.0.0.{number}", group)
        return Pod(number, number, f"10.0.0.{number}").endpoint(groups=(group, group))

    table = maps.TableMap(spec, maps.create(spec), batch=batch)
    try:
        before = dict(entry(number, 1) for number in range(5))
        table.put(tuple(before.items()))
        other = maps.TableMap(spec, os.dup(table.fd), batch=batch)
        foreign = dict(entry(number, 9) for number in range(100, 104))
        other.put(tuple(foreign.items()))
        other.close()
        with pytest.raises(DatapathError, match=r"after \d+ of 10 entries") as caught:
            table.put(tuple(entry(number, 2) for number in range(10)))
        assert caught.value.errno in (errno.ENOSPC, errno.E2BIG)
        assert table.dump() == before | foreign
        assert len(table) == 5
    finally:
        table.close()


@pytest.mark.parametrize("id", [MapId.ADDRESSES, MapId.POLICIES, MapId.ENDPOINTS])
def test_single_calls_do_what_batches_do(pin_dir: Path, id: MapId) -> None:
    from reconciler.datapath import maps

    spec = small_specs()[id]
    table = maps.TableMap(spec, maps.create(spec), batch=False)
    try:
        one, other_value, two = ENTRIES[id]
        table.put((one, two))
        table.put((other_value,))
        assert table.dump() == dict([other_value, two])
        table.remove((one[0], one[0]))
        assert table.dump() == dict([two])
    finally:
        table.close()


def test_an_endpoint_is_not_written_twice_without_a_grace_period(
    pin_dir: Path,
) -> None:
    """The reader relies on it: a replaced hash element may be recycled while it looks."""
    from reconciler.datapath import maps

    graces: list[int] = []
    spec = small_specs()[MapId.ENDPOINTS]
    table = maps.TableMap(spec, maps.create(spec), grace=lambda: graces.append(len(table)))
    try:
        table.put((POD_A.endpoint(), POD_B.endpoint()))
        assert graces == []
        table.put((POD_A.endpoint(flags=1),))
        assert graces == [2]
        table.remove((POD_A.endpoint()[0], POD_B.endpoint()[0]))
        assert graces == [2, 2]
        table.grace_passed()
        table.put((POD_A.endpoint(),))
        assert graces == [2, 2], "a grace period has passed"
    finally:
        table.close()


def test_large_puts_and_dumps(opened: Open) -> None:
    from reconciler.core.dataplane.layout import map_specs

    datapath = opened(specs=map_specs(addresses=100_000))
    many = tuple(address_entry(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", i) for i in range(80_000))
    datapath.apply([Put(MapId.ADDRESSES, many)])
    assert datapath.dump(MapId.ADDRESSES) == dict(many)
    datapath.apply([Remove(MapId.ADDRESSES, tuple(key for key, _ in many[10:]))])
    assert datapath.dump(MapId.ADDRESSES) == dict(many[:10])
    flows = tuple(
        (CONNTRACK_KEY.pack(i, 1, 6, b"ab", b"cd", 1, bytes(16), bytes(16)), bytes(16))
        for i in range(20_000)
    )
    datapath.apply([Put(MapId.CONNTRACK, flows)])
    assert datapath.dump(MapId.CONNTRACK) == dict(flows)
    gone = tuple(key for key, _ in flows[::2])
    datapath.apply([Remove(MapId.CONNTRACK, gone + gone)])
    assert datapath.dump(MapId.CONNTRACK) == dict(flows[1::2])


def test_grace_waits_for_programs(emptied: Datapath) -> None:
    from reconciler.datapath.objects import lib

    emptied.apply([Grace()])
    assert lib.rk_synchronize() == 0, "the way without membarrier"


def lived(opened: Open) -> tuple[Datapath, bytes, dict[MapId, dict[bytes, bytes]]]:
    """A process that has let a packet through: the packet, and what its maps hold then."""
    first = opened()
    policies = (policy_entry(POD_A.egress, 0, OUT),)
    first.apply([*world((POD_A, POD_B), policies), Flip(1, 9, b"r" * 32)])
    frame = ip(POD_A.ipv4, POD_B.ipv4, TCP, tcp(1, 80))
    first.run(frame, ifindex=POD_A.ifindex, direction=OUT)
    before = {id: first.dump(id) for id in ENTRIES}
    assert all(before.values())
    return first, frame, before


def test_adoption(opened: Open) -> None:
    """A second process finds the cut, its entries and its conntrack as the first left them."""
    first, frame, before = lived(opened)
    first.close()
    second = opened()
    assert second.adopted  # type: ignore[attr-defined]
    assert {id: second.dump(id) for id in before} == before
    assert second.cut().revisions == (0, 9)
    assert second.metrics() == {(Reason.ALLOWED, OUT): (1, len(frame))}
    assert len(second.drain()) == 1
    # What was adopted counts for the room.
    with pytest.raises(MapFull) as caught:
        second.apply([Put(MapId.ADDRESSES, addresses(64))])
    assert caught.value.needed == 64 + len(before[MapId.ADDRESSES])


def test_one_process_at_a_time(opened: Open) -> None:
    opened()
    with pytest.raises(DatapathError, match="another process") as caught:
        opened()
    assert caught.value.errno == errno.EBUSY


def with_sizes(**sizes: int) -> dict[MapId, MapSpec]:
    specs = small_specs()
    for name, size in sizes.items():
        specs[MapId(name)] = msgspec.structs.replace(specs[MapId(name)], max_entries=size)
    return specs


def test_pins_of_another_size_are_copied_into_maps_of_the_new_one(
    pin_dir: Path, opened: Open
) -> None:
    first, frame, before = lived(opened)
    descriptors = len(os.listdir("/proc/self/fd"))
    first.close()
    sizes = {
        "addresses": 128, "endpoints": 100, "groups": 1000, "policies": 200, "conntrack": 500,
        "fragments": 64, "events": 1 << 17, "metrics": 100,
    }  # fmt: skip
    larger = with_sizes(**sizes)
    second = opened(specs=larger)
    assert second.adopted  # type: ignore[attr-defined]
    assert {id: second.dump(id) for id in before} == before
    assert second.cut().revisions == (0, 9)
    assert second.run(frame, ifindex=POD_A.ifindex, direction=OUT) is Reason.ALLOWED
    assert len(os.listdir("/proc/self/fd")) == descriptors, "the old maps are let go"
    second.apply([Put(MapId.ADDRESSES, addresses(100))])
    with pytest.raises(MapFull):
        second.apply([Put(MapId.ADDRESSES, addresses(129))])
    held = second.dump(MapId.ADDRESSES)
    second.close()
    third = opened(specs=larger)
    assert third.dump(MapId.ADDRESSES) == held, "they are the pinned ones now"
    third.close()
    assert not list(pin_dir.glob("*-new"))
    with pytest.raises(DatapathError) as caught:
        opened()
    said = f"map addresses: {len(held)} entries are in use, too many for 64"
    assert said in str(caught.value)
    assert f"remove {pin_dir}" in str(caught.value)
    fourth = opened(specs=with_sizes(**sizes | {"endpoints": 16}))
    assert fourth.dump(MapId.ENDPOINTS) == before[MapId.ENDPOINTS], "smaller, with room enough"
    assert fourth.limits[MapId.ENDPOINTS] == 16


def test_a_start_that_ends_while_it_copies_leaves_the_old_maps(
    pin_dir: Path, opened: Open, tmp_path: Path
) -> None:
    first = opened()
    first.apply([*world((POD_A,)), Flip(1, 9, b"r" * 32)])
    before = {id: first.dump(id) for id in ENTRIES}
    first.close()
    with pytest.raises(DatapathError, match=r"open .*none\.o"):
        opened(specs=with_sizes(addresses=128), object_path=tmp_path / "none.o")
    again = opened()
    assert {id: again.dump(id) for id in ENTRIES} == before
    assert again.cut().revisions == (0, 9)


def test_connections_that_come_while_maps_are_copied_are_kept(pin_dir: Path, opened: Open) -> None:
    """Programs of the process before note them in the old map until they are replaced."""
    from reconciler.datapath import maps, resize

    def flow(number: int, seen: int) -> Entry:
        key = CONNTRACK_KEY.pack(number, 1, 6, b"ab", b"cd", 1, bytes(16), bytes(16))
        return key, CONNTRACK_VALUE.pack(seen, 0)

    spec = small_specs()[MapId.CONNTRACK]
    opened().close()
    path = pin_dir / MapId.CONNTRACK
    old = maps.CacheMap(spec, maps.open_pin(path))
    old.put((flow(1, 1), flow(2, 1), flow(4, 1)))
    larger = msgspec.structs.replace(spec, max_entries=2 * spec.max_entries)
    resized = resize.Resized(larger, maps.open_pin(path), path, batch=True)
    new = maps.CacheMap(larger, resized.fd)
    try:
        old.put((flow(2, 2), flow(3, 2), flow(4, 2)))
        new.put((flow(2, 9),))  # a packet that a new program saw
        resized.take_over()
        assert new.dump() == dict((flow(1, 1), flow(2, 9), flow(3, 2), flow(4, 2)))
        assert resized._copied == {}, "a whole table, for as long as the agent lives"
        pinned = maps.CacheMap(larger, maps.open_pin(path))
        assert pinned.dump() == new.dump()
        pinned.close()
    finally:
        old.close()
        resized.close()
        new.close()


def test_pins_of_another_layout(opened: Open) -> None:
    first = opened()
    first.apply(world((POD_A,)))
    first.close()
    specs = small_specs()
    kind = msgspec.structs.replace(specs[MapId.ADDRESSES], kind="hash", max_entries=128)
    specs[MapId.ADDRESSES] = kind
    with pytest.raises(DatapathError) as caught:
        opened(specs=specs)
    assert "map addresses: type 11 instead of 1, max_entries 65 instead of 128" in str(caught.value)
    again = opened()
    assert len(again.dump(MapId.ENDPOINTS)) == 1, "a refusal changes nothing"
    again.close()
    few = with_sizes(endpoints=1, policies=32)
    other = opened()
    other.apply(world((POD_A, POD_B)))
    other.close()
    last = opened(specs=few, recreate=True)
    assert not last.adopted  # type: ignore[attr-defined]
    assert last.dump(MapId.GROUPS) == {}, "a cut's maps are made anew together"
    assert (last.limits[MapId.ENDPOINTS], last.limits[MapId.POLICIES]) == (1, 32)
    last.apply(world((POD_A,)))
    last.close()
    assert len(opened(specs=few).dump(MapId.ENDPOINTS)) == 1


def test_an_unfinished_first_start_is_started_over(pin_dir: Path, opened: Open) -> None:
    first = opened()
    first.apply(world((POD_A,)))
    first.close()
    (pin_dir / "cut").unlink()  # it is pinned last
    second = opened()
    assert not second.adopted  # type: ignore[attr-defined]
    assert second.dump(MapId.ENDPOINTS) == {}
    second.close()
    (pin_dir / "groups").unlink()
    with pytest.raises(DatapathError, match="map groups: not there"):
        opened()


def test_unpin_all(pin_dir: Path, opened: Open) -> None:
    datapath = opened()
    datapath.unpin_all()  # type: ignore[attr-defined]
    assert not pin_dir.exists()
    datapath.close()


def test_a_file_system_is_mounted_where_there_is_none(kernel: None, tmp_path: Path) -> None:
    """In a mount namespace of its own, so that nothing stays mounted."""
    code = (
        "import sys; from pathlib import Path;"
        "from reconciler.datapath.kernel import KernelDatapath;"
        "from tests.integration.kernel_world import small_specs;"
        "KernelDatapath(sys.argv[1], small_specs()).close();"
        "second = KernelDatapath(sys.argv[1], small_specs());"
        "assert second.adopted;"
        "mounts = Path('/proc/mounts').read_text().splitlines();"
        "assert sum(m.split()[1:3] == [sys.argv[1], 'bpf'] for m in mounts) == 1, mounts;"
        "print('mounted')"
    )
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-W", "error", "-c", code, str(tmp_path / "pins")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "mounted\n", done.stderr
    assert list((tmp_path / "pins").iterdir()) == [], "gone with the mount namespace"


def test_a_program_that_the_kernel_refuses(pin_dir: Path, opened: Open) -> None:
    """The error carries the end of the verifier's log; nothing else is logged."""
    specs = small_specs()
    spec = specs[MapId.ENDPOINTS]
    specs[MapId.ENDPOINTS] = msgspec.structs.replace(spec, value_size=ENDPOINT_VALUE.size - 8)
    with pytest.raises(DatapathError, match=r"load datapath\.bpf\.o") as caught:
        opened(specs=specs)
    assert "invalid access to map value" in str(caught.value)


def test_a_missing_object_file(pin_dir: Path, opened: Open, tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match=r"open .*none\.o"):
        opened(object_path=tmp_path / "none.o")
    assert opened().cut().active == 0, "descriptors and the lock were given back"


def test_no_descriptor_leaks(opened: Open) -> None:
    opened().close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        datapath = opened()
        datapath.run(bytes(60), ifindex=1, direction=OUT)
        datapath.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_bench_run(emptied: Datapath) -> None:
    datapath = emptied
    datapath.apply(world((POD_A,), (policy_entry(POD_A.egress, 0, OUT),)))
    frame = ip(POD_A.ipv4, POD_B.ipv4, TCP, tcp(1, 80))
    start = time.perf_counter_ns()
    mean = datapath.bench_run(  # type: ignore[attr-defined]
        frame, ifindex=POD_A.ifindex, direction=OUT, repeat=1000
    )
    assert 0 < mean * 1000 < time.perf_counter_ns() - start
    assert datapath.metrics()[Reason.ALLOWED, OUT][0] == 1000
