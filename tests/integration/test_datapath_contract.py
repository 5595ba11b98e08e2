"""Laws of every datapath, held by the kernel and by the twin alike: maps, flips, events, metrics.

`test_datapath_flows` has what packets leave behind for others, `test_datapath_steps` the verdicts
on single packets.
"""

from __future__ import annotations

import pytest

from reconciler.core.dataplane.layout import (
    CONNTRACK_KEY,
    CONNTRACK_VALUE,
    ENDPOINT_CLOSED,
    FRAGMENT_KEY,
    FRAGMENT_VALUE,
    POLICY_KEY,
    POLICY_VALUE,
    GroupIndex,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Flip, Grace, Put, Remove
from reconciler.core.policy.ir import Verdict
from reconciler.datapath.base import Datapath
from reconciler.errors import DatapathError, MapFull
from reconciler.testing.packets import (
    ACK,
    TCP,
    UDP,
    Flow,
)
from tests.integration.datapath_pod import (
    ANY,
    BOTH,
    OUT,
    Make,
    in_from_b,
    out_to_b,
)
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    Entry,
    address_entry,
    group_entry,
    policy_entry,
)

# --- maps ---------------------------------------------------------------------------------------

FLOW = CONNTRACK_KEY.pack(1, OUT, TCP, b"\0\1", b"\0\2", 1, bytes(16), bytes(16))
PIECE = FRAGMENT_KEY.pack(1, 2, bytes(16), bytes(16))
SAMPLES: dict[MapId, tuple[Entry, Entry]] = {
    MapId.ADDRESSES: (address_entry("10.0.0.0/9", 1, 2), address_entry("fd00::/61", 3)),
    MapId.ENDPOINTS: (POD_A.endpoint(), POD_B.endpoint(flags=ENDPOINT_CLOSED)),
    MapId.GROUPS: (group_entry(3, 1, 2, 3, 4, 5, 6), group_entry(255, 7, 8, 9)),
    MapId.POLICIES: (out_to_b(), in_from_b(port=None)),
    MapId.CONNTRACK: ((FLOW, CONNTRACK_VALUE.pack(5, 1)), (bytes(44), CONNTRACK_VALUE.pack(6, 2))),
    MapId.FRAGMENTS: (
        (PIECE, FRAGMENT_VALUE.pack(b"\0\1", b"\0\2", UDP)),
        (bytes(40), FRAGMENT_VALUE.pack(b"\0\3", b"\0\4", TCP)),
    ),
}


@pytest.mark.parametrize("map", SAMPLES)
def test_what_is_put_is_dumped_until_it_is_removed(datapath: Datapath, map: MapId) -> None:
    first, second = SAMPLES[map]
    assert datapath.dump(map) == {}
    datapath.apply([Put(map, (first, second))])
    assert datapath.dump(map) == dict((first, second))
    datapath.apply([Put(map, ((first[0], second[1]),))])
    assert datapath.dump(map) == {first[0]: second[1], second[0]: second[1]}
    datapath.apply([Remove(map, (first[0],))])
    assert datapath.dump(map) == dict((second,))
    datapath.apply([Remove(map, (first[0], second[0], first[0]))])
    assert datapath.dump(map) == {}


@pytest.mark.parametrize("map", SAMPLES)
def test_the_last_of_two_entries_with_one_key_wins(datapath: Datapath, map: MapId) -> None:
    first, second = SAMPLES[map]
    datapath.apply([Put(map, (first, (first[0], second[1])))])
    assert datapath.dump(map) == {first[0]: second[1]}


@pytest.mark.parametrize("map", SAMPLES)
@pytest.mark.parametrize("wrong", ["key", "value"])
def test_entries_of_a_wrong_size_are_refused_whole(
    datapath: Datapath, map: MapId, wrong: str
) -> None:
    first, (key, value) = SAMPLES[map]
    entry = (key + b"\0", value) if wrong == "key" else (key, value[:-1])
    with pytest.raises(DatapathError, match=map):
        datapath.apply([Put(map, (first, entry))])
    assert datapath.dump(map) == {}


@pytest.mark.parametrize("map", [MapId.ADDRESSES, MapId.POLICIES])
def test_a_prefix_longer_than_its_key_is_refused_whole(datapath: Datapath, map: MapId) -> None:
    first, (key, value) = SAMPLES[map]
    with pytest.raises(DatapathError, match=map):
        datapath.apply([Put(map, (first, ((len(key) * 8).to_bytes(4, "little") + key[4:], value)))])
    assert datapath.dump(map) == {}


@pytest.mark.parametrize("map", [MapId.CUT, MapId.METRICS, MapId.EVENTS])
def test_maps_that_are_not_written_by_entries(datapath: Datapath, map: MapId) -> None:
    with pytest.raises(DatapathError, match=map):
        datapath.apply([Put(map, ((bytes(4), bytes(88)),))])
    with pytest.raises(DatapathError, match=map):
        datapath.apply([Remove(map, (bytes(4),))])


def many(map: MapId, count: int) -> tuple[Entry, ...]:
    if map is MapId.ADDRESSES:
        return tuple(address_entry(f"10.1.0.{i}", i + 16) for i in range(count))
    if map is MapId.ENDPOINTS:
        return tuple((i.to_bytes(4, "little"), POD_A.endpoint()[1]) for i in range(1, count + 1))
    return tuple(policy_entry(i + 16, ANY, OUT) for i in range(count))


@pytest.mark.parametrize("map", [MapId.ADDRESSES, MapId.ENDPOINTS, MapId.POLICIES])
def test_a_full_map_refuses_a_put_whole_and_names_the_need(datapath: Datapath, map: MapId) -> None:
    limit = datapath.limits[map]
    entries = many(map, limit + 1)
    datapath.apply([Put(map, entries[: limit - 1])])
    before = datapath.dump(map)
    changed = (before.popitem()[0], entries[-1][1])
    before = datapath.dump(map)
    with pytest.raises(MapFull) as raised:
        datapath.apply([Put(map, (changed, *entries[limit - 1 :]))])
    assert (raised.value.map, raised.value.needed, raised.value.limit) == (map, limit + 1, limit)
    assert datapath.dump(map) == before
    datapath.apply([Put(map, entries[limit - 1 : limit])])
    datapath.apply([Put(map, (changed,))])  # what it has, it can always overwrite
    assert datapath.dump(map) == before | dict(entries[limit - 1 : limit]) | dict((changed,))
    datapath.apply([Remove(map, (changed[0],)), Put(map, entries[limit:])])
    assert len(datapath.dump(map)) == limit


def test_the_array_of_groups_has_every_index_and_no_other(datapath: Datapath) -> None:
    limit = datapath.limits[MapId.GROUPS]
    last, beyond = group_entry(limit - 1, 1, 2, 3), group_entry(limit, 1, 2, 3)
    with pytest.raises(MapFull) as raised:
        datapath.apply([Put(MapId.GROUPS, (last, beyond))])
    assert (raised.value.needed, raised.value.limit) == (limit + 1, limit)
    assert datapath.dump(MapId.GROUPS) == {}
    datapath.apply([Put(MapId.GROUPS, (last,)), Remove(MapId.GROUPS, (beyond[0],))])
    assert datapath.dump(MapId.GROUPS) == dict((last,))
    datapath.apply([Put(MapId.GROUPS, (group_entry(limit - 1, 0, 0, 0),))])
    assert datapath.dump(MapId.GROUPS) == {}


@pytest.mark.parametrize("map", [MapId.CONNTRACK, MapId.FRAGMENTS])
def test_a_cache_makes_room(datapath: Datapath, map: MapId) -> None:
    limit = datapath.limits[map]
    key, value = SAMPLES[map][0]
    for i in range(limit + 50):
        datapath.apply([Put(map, ((i.to_bytes(4, "little") + key[4:], value),))])
    held = datapath.dump(map)
    assert 0 < len(held) <= limit
    assert (limit + 49).to_bytes(4, "little") + key[4:] in held


def test_operations_run_in_order_up_to_the_one_that_fails(datapath: Datapath) -> None:
    first, second = SAMPLES[MapId.POLICIES]
    full = Put(MapId.GROUPS, (group_entry(datapath.limits[MapId.GROUPS], 1, 1, 1),))
    with pytest.raises(MapFull):
        datapath.apply([Put(MapId.POLICIES, (first,)), full, Put(MapId.POLICIES, (second,))])
    assert datapath.dump(MapId.POLICIES) == dict((first,))


def test_flip_writes_its_half_and_makes_it_active(datapath: Datapath) -> None:
    datapath.apply([Flip(1, 7 << 32 | 5, b"r" * 32), Grace()])
    word = datapath.cut()
    assert (word.active, word.revisions[1], word.roots[1]) == (1, 7 << 32 | 5, b"r" * 32)
    datapath.apply([Flip(0, 9, b"s" * 32)])
    word = datapath.cut()
    assert word.active == 0
    assert word.revisions == (9, 7 << 32 | 5)
    assert word.roots == (b"s" * 32, b"r" * 32)


@pytest.mark.parametrize(("half", "root"), [(2, bytes(32)), (-1, bytes(32)), (0, bytes(31))])
def test_a_flip_that_means_nothing_is_refused(datapath: Datapath, half: int, root: bytes) -> None:
    before = datapath.cut()
    with pytest.raises(DatapathError):
        datapath.apply([Flip(half, 1, root)])
    assert datapath.cut() == before


# --- halves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("map", [MapId.ADDRESSES, MapId.GROUPS, MapId.ENDPOINTS])
def test_what_is_staged_shows_at_the_flip(make: Make, map: MapId) -> None:
    """Each two-sided map: an idle half changes nothing, the flip everything, and back again."""
    pod = make(out_to_b(), policy_entry(POD_A.egress, 40, OUT, Verdict.DENY))
    staged = {
        MapId.ADDRESSES: address_entry(POD_B.ipv4, POD_B.group, 40),
        MapId.GROUPS: group_entry(
            POD_B.group, POD_B.group, POD_B.ingress, POD_B.egress, 40, POD_B.ingress, POD_B.egress
        ),
        MapId.ENDPOINTS: POD_A.endpoint(groups=(POD_A.group, GroupIndex.NONE)),
    }[map]
    pod.put(MapId.GROUPS, group_entry(40, 40, 0, 0))
    frame = Flow(*BOTH[0], TCP, 1000, 80).frame()
    assert pod.sends(frame) is Reason.ALLOWED
    pod.put(map, staged)
    assert pod.sends(frame) is Reason.ALLOWED
    pod.datapath.apply([Flip(1, 2, bytes(32))])
    assert pod.sends(frame) is (Reason.CLOSED if map is MapId.ENDPOINTS else Reason.DENIED)
    pod.datapath.apply([Flip(0, 3, bytes(32))])
    assert pod.sends(frame) is Reason.ALLOWED


@pytest.mark.parametrize(("a", "b"), BOTH)
def test_a_flow_goes_on_over_a_flip_that_allows_it(make: Make, a: str, b: str) -> None:
    pod = make(out_to_b(), policy_entry(50, POD_B.group, OUT, protocol=TCP))
    pod.put(
        MapId.GROUPS,
        group_entry(POD_A.group, POD_A.group, POD_A.ingress, POD_A.egress, POD_A.group, 51, 50),
    )
    flow = Flow(a, b, TCP, 1000, 80)
    assert pod.sends(flow.frame()) is Reason.ALLOWED
    assert pod.gets(flow.answer()) is Reason.REPLY
    pod.datapath.apply([Flip(1, 2, bytes(32))])
    assert pod.gets(flow.answer(flags=ACK)) is Reason.REPLY
    assert pod.sends(flow.frame(flags=ACK)) is Reason.ALLOWED


# --- traces -------------------------------------------------------------------------------------


def test_a_probe_leaves_no_trace(make: Make) -> None:
    pod = make(policy_entry(POD_A.egress, ANY, OUT))
    before = pod.datapath.metrics()
    flow = Flow(*BOTH[0], UDP, 1000, 80)
    frames = [flow.frame(), flow.frame()[:30], *flow.fragments(size=64, payload=bytes(100))]
    for frame in (frame for frame in frames if len(frame) >= 34):
        pod.datapath.probe(frame, ifindex=POD_A.ifindex, direction=OUT)
    assert pod.datapath.dump(MapId.CONNTRACK) == pod.datapath.dump(MapId.FRAGMENTS) == {}
    assert pod.datapath.metrics() == before
    assert pod.datapath.drain() == []


def test_events_and_metrics(make: Make) -> None:
    allow, deny = POLICY_VALUE.pack(Verdict.ALLOW, 71), POLICY_VALUE.pack(Verdict.DENY, 72)
    keys = [
        POLICY_KEY.pack(96, POD_A.egress, POD_B.group, OUT, TCP, port.to_bytes(2, "big"))
        for port in (80, 81)
    ]
    pod = make((keys[0], allow), (keys[1], deny))
    before = pod.datapath.metrics()
    a, b = BOTH[1]
    frame, denied = Flow(a, b, TCP, 1000, 80).frame(), Flow(a, b, TCP, 1000, 81).frame()
    assert [pod.sends(each) for each in (frame, frame, denied)] == [
        Reason.ALLOWED,
        Reason.ALLOWED,
        Reason.DENIED,
    ]
    found = pod.datapath.drain()
    assert [(event.reason, event.cookie) for event in found] == [
        (Reason.ALLOWED, 71),
        (Reason.DENIED, 72),
    ]
    assert found[0].time_ns <= found[1].time_ns
    for event in found:
        assert (event.endpoint, event.ifindex, event.peer) == (POD_A.id, POD_A.ifindex, POD_B.group)
        assert (event.direction, event.protocol, event.family) == (OUT, TCP, 2)
        assert (event.source, event.destination) == (frame[22:38], frame[38:54])
    assert [event.destination_port for event in found] == [80, 81]
    after = pod.datapath.metrics()
    for reason, count in ((Reason.ALLOWED, 2), (Reason.DENIED, 1)):
        packets, size = before.get((reason, OUT), (0, 0))
        assert after[reason, OUT] == (packets + count, size + count * len(frame))
    assert pod.datapath.drain() == []


def test_a_full_ring_buffer_changes_no_verdict(make: Make) -> None:
    pod = make()
    frame = Flow(*BOTH[0], TCP, 1000, 80).frame()
    room = pod.datapath.limits[MapId.EVENTS] // 72
    assert {pod.sends(frame) for _ in range(room + 50)} == {Reason.NO_RULE}
    assert room - 1 <= len(pod.datapath.drain()) <= room
    assert pod.sends(frame) is Reason.NO_RULE
    assert len(pod.datapath.drain()) == 1
