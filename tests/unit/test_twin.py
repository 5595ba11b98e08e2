"""What is the twin's own: its tries against a plain search, its fast verdicts, its clock.

That it behaves as the kernel does is held by tests/integration/test_datapath_*.py and
tests/property/test_kernel_twin.py.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.dataplane.layout import (
    CONNTRACK_KEY,
    ENDPOINT_CLOSED,
    GroupIndex,
    IdentityIndex,
    MapId,
    MapSpec,
    Reason,
    map_specs,
)
from reconciler.core.dataplane.ops import Flip, Grace, Put, Remove
from reconciler.core.policy.ir import Direction, Verdict
from reconciler.datapath.base import Datapath
from reconciler.datapath.twin import TwinDatapath
from reconciler.datapath.twin_maps import Cache, Trie
from reconciler.datapath.twin_policy import Ruling
from reconciler.errors import DatapathError
from reconciler.testing.packets import ACK, SCTP, TCP, UDP, Flow, address, ethernet, ip
from tests.integration.kernel_world import (
    POD_A,
    POD_B,
    Entry,
    address_entry,
    group_entry,
    policy_entry,
    small_specs,
    world,
)

IN, OUT = Direction.INGRESS, Direction.EGRESS
SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


def made(*policies: Entry, clock: Clock | None = None) -> TwinDatapath:
    twin = TwinDatapath(small_specs(), clock or Clock())
    twin.apply(world((POD_A, POD_B), policies))
    return twin


def test_the_twin_is_a_datapath() -> None:
    twin: Datapath = made()
    assert isinstance(twin, Datapath)
    assert twin.name == "twin"
    assert twin.limits == {id: spec.max_entries for id, spec in small_specs().items()}
    assert twin.events_fd is None


# --- tries --------------------------------------------------------------------------------------

BITS = 12  # of the data that keys here use: few enough that random prefixes cover each other


def trie_key(length: int, number: int) -> bytes:
    """A key over 3 data bytes, whose first BITS bits are `number` cut to `length`."""
    data = (number >> (BITS - length) << (BITS - length)) << (24 - BITS)
    return length.to_bytes(4, "little") + data.to_bytes(3, "big")


def trie(limit: int = 1_000) -> Trie:
    return Trie(MapSpec(MapId.POLICIES, "lpm", 7, 1, limit))


prefixes = st.tuples(st.integers(0, BITS), st.integers(0, 2**BITS - 1)).map(
    lambda found: trie_key(*found)
)


def covers(key: bytes, data: int, length: int) -> bool:
    """Whether a prefix holds the first `length` bits of 24 bits of data."""
    bits = int.from_bytes(key[:4], "little")
    return bits <= length and int.from_bytes(key[4:], "big") >> (24 - bits) == data >> (24 - bits)


@given(
    st.lists(st.tuples(prefixes, st.booleans()), max_size=40),
    st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=20),
    st.integers(0, 24),
)
def test_the_longest_prefix_is_that_of_a_plain_search(
    changes: list[tuple[bytes, bool]], looked_up: list[int], length: int
) -> None:
    tree, plain = trie(), dict[bytes, bytes]()
    for index, (key, stays) in enumerate(changes):
        tree.put([(key, bytes((index,)))])
        plain[key] = bytes((index,))
        if not stays:
            tree.remove([key])
            del plain[key]
    assert tree.dump() == plain
    for data in looked_up:
        found = [key for key in plain if covers(key, data, length)]
        longest = max(found, key=lambda key: int.from_bytes(key[:4], "little"), default=None)
        assert tree.longest(data.to_bytes(3, "big"), length) == (longest and plain[longest])


@pytest.mark.parametrize(
    ("length", "data"),
    [(0, "000001"), (7, "010000"), (8, "008000"), (12, "000800"), (23, "000001")],
)
def test_bits_after_a_prefix_are_refused(length: int, data: str) -> None:
    tree = trie()
    key = length.to_bytes(4, "little") + bytes.fromhex(data)
    with pytest.raises(DatapathError, match="bits set after its prefix"):
        tree.put([(trie_key(3, 0), b"a"), (key, b"b")])
    assert tree.dump() == {}
    tree.put([((24).to_bytes(4, "little") + bytes.fromhex(data), b"b")])


def test_keys_and_values_are_kept_as_given() -> None:
    """Hundreds of twins in one process share the bytes that they are given."""
    tree, key, value = trie(), trie_key(5, 77), bytes((7,))
    tree.put([(key, value)])
    ((held_key, held_value),) = tree.entries.items()
    assert held_key is key
    assert held_value is value


# --- caches -------------------------------------------------------------------------------------


def test_a_cache_forgets_what_was_written_longest_ago() -> None:
    cache = Cache(MapSpec(MapId.CONNTRACK, "lru", 1, 1, 3))
    cache.put([(bytes((i,)), b"x") for i in range(3)])
    cache.store(b"\0", b"y")  # written again: the newest now
    cache.store(b"\x09", b"z")
    assert cache.dump() == {b"\2": b"x", b"\0": b"y", b"\x09": b"z"}


def test_conntrack_is_bounded() -> None:
    twin = TwinDatapath(map_specs(conntrack=10, fragments=5), Clock())
    twin.apply(world((POD_A,), [policy_entry(POD_A.egress, 0, OUT)]))
    for port in range(30):
        frame = Flow(POD_A.ipv4, POD_B.ipv4, UDP, port).frame()
        assert twin.run(frame, ifindex=POD_A.ifindex, direction=OUT) is Reason.ALLOWED
        for piece in Flow(POD_A.ipv4, POD_B.ipv4, UDP, 7).fragments(
            size=8, payload=bytes(8), identification=port
        ):
            twin.run(piece, ifindex=POD_A.ifindex, direction=OUT)
    flows = twin.dump(MapId.CONNTRACK)
    assert len(flows) == 10
    ports = {int.from_bytes(CONNTRACK_KEY.unpack(key)[3], "big") for key in flows}
    assert 29 in ports
    assert 0 not in ports
    assert len(twin.dump(MapId.FRAGMENTS)) == 5


# --- the cut ------------------------------------------------------------------------------------


def test_a_new_twin_has_no_cut() -> None:
    word = TwinDatapath(small_specs(), Clock()).cut()
    assert (word.active, word.revisions, word.roots) == (0, (0, 0), (bytes(32), bytes(32)))


def test_grace_is_counted_and_changes_nothing() -> None:
    twin = made()
    before = [twin.dump(id) for id in (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.CUT)]
    twin.apply([Grace(), Grace()])
    assert twin.graces == 2
    assert [twin.dump(id) for id in (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.CUT)] == before


def test_a_dump_is_a_copy() -> None:
    twin = made()
    twin.dump(MapId.ADDRESSES).clear()
    assert twin.dump(MapId.ADDRESSES)


def test_attachments() -> None:
    twin = made()
    twin.attach(4)
    twin.attach(4)
    twin.attach(5)
    assert twin.attached() == {4, 5}
    twin.detach(4)
    twin.detach(9)
    twin.attached().clear()
    assert twin.attached() == {5}
    twin.close()
    assert twin.attached() == {5}, "like the kernel's, they outlive who made them"


# --- verdicts -----------------------------------------------------------------------------------


def test_classify_says_what_policy_says() -> None:
    twin = made(
        policy_entry(POD_A.egress, POD_B.group, OUT, protocol=TCP, port=80, cookie=5),
        policy_entry(POD_A.egress, 0, OUT, Verdict.DENY, protocol=TCP, port=81, cookie=6),
    )
    b, ifindex = address(POD_B.ipv4), POD_A.ifindex
    assert twin.classify(ifindex, OUT, b, TCP, 80) is Reason.ALLOWED
    assert twin.verdict_now(ifindex, OUT, b, TCP, 80) == Ruling(Reason.ALLOWED, POD_B.group, 5)
    assert twin.verdict_now(ifindex, OUT, b, TCP, 81) == Ruling(Reason.DENIED, POD_B.group, 6)
    assert twin.verdict_now(ifindex, OUT, b, TCP, 82) == Ruling(Reason.NO_RULE, POD_B.group)
    assert twin.classify(ifindex, IN, b, TCP, 80) is Reason.NO_RULE
    assert twin.classify(ifindex, OUT, address(POD_B.ipv6), TCP, 80) is Reason.ALLOWED
    assert twin.classify(99, OUT, b, TCP, 80) is Reason.NO_ENDPOINT
    twin.apply([Put(MapId.ADDRESSES, (address_entry(POD_B.ipv4, GroupIndex.SERVICE),))])
    assert twin.verdict_now(ifindex, OUT, b, TCP, 80) == Ruling(
        Reason.SERVICE, IdentityIndex.SERVICE
    )
    twin.apply([Put(MapId.GROUPS, (group_entry(POD_A.group, POD_A.group, 0, 0),))])
    assert twin.verdict_now(ifindex, OUT, b, TCP, 80) == Ruling(Reason.CLOSED)
    twin.apply([Put(MapId.ENDPOINTS, (POD_A.endpoint(flags=ENDPOINT_CLOSED),))])
    assert twin.classify(ifindex, OUT, b, TCP, 81) is Reason.CLOSED


@given(
    st.lists(
        st.builds(
            policy_entry,
            st.sampled_from((POD_A.ingress, POD_A.egress)),
            st.sampled_from((0, POD_B.group, IdentityIndex.WORLD_V4, IdentityIndex.WORLD_V6)),
            st.sampled_from(Direction),
            st.sampled_from((0, 1, 2)),
            protocol=st.sampled_from((None, TCP, UDP, SCTP)),
            cookie=st.integers(0, 9),
        ),
        max_size=12,
    ),
    st.sampled_from((0, 1)),
)
def test_classify_is_what_a_new_flow_meets(policies: list[Entry], half: int) -> None:
    twin = made(*policies)
    twin.apply([Flip(half, 1, bytes(32))])
    for peer in (POD_B.ipv4, POD_B.ipv6, "192.0.2.1", "2001:db8::1"):
        own = POD_A.ipv6 if ":" in peer else POD_A.ipv4
        for protocol in (TCP, UDP, SCTP):
            for direction in Direction:
                flow = Flow(own, peer, protocol, 1000, 80)
                flow = flow if direction is OUT else Flow(peer, own, protocol, 1000, 80)
                said = twin.classify(POD_A.ifindex, direction, address(peer), protocol, 80)
                met = twin.probe(flow.frame(), ifindex=POD_A.ifindex, direction=direction)
                assert said is met


# --- time ---------------------------------------------------------------------------------------


def test_flows_live_by_the_callers_clock() -> None:
    clock = Clock()
    twin = made(policy_entry(POD_A.egress, 0, OUT), clock=clock)
    flow = Flow(POD_A.ipv4, POD_B.ipv4, UDP, 1000, 53)

    def answered() -> Reason:
        return twin.run(flow.answer(), ifindex=POD_A.ifindex, direction=IN)

    assert twin.run(flow.frame(), ifindex=POD_A.ifindex, direction=OUT) is Reason.ALLOWED
    clock.now += 30 * SECOND
    assert answered() is Reason.REPLY, "thirty seconds is still alive"
    clock.now += 120 * SECOND + 1
    assert answered() is Reason.NO_RULE


def test_a_live_flow_is_written_once_a_second_at_most() -> None:
    clock = Clock()
    twin = made(policy_entry(POD_A.egress, 0, OUT), clock=clock)
    frame = Flow(POD_A.ipv4, POD_B.ipv4, TCP).frame(flags=ACK)

    def written() -> bytes:
        twin.run(frame, ifindex=POD_A.ifindex, direction=OUT)
        (value,) = twin.dump(MapId.CONNTRACK).values()
        return value

    first = written()
    clock.now += SECOND
    assert written() == first
    clock.now += 1
    second = written()
    assert second != first
    assert int.from_bytes(second[:8], "little") == clock.now


def test_a_frame_shorter_than_ethernet_is_malformed() -> None:
    twin = made(policy_entry(POD_A.egress, 0, OUT))
    frame = ethernet(ip(POD_A.ipv4, POD_B.ipv4, UDP, bytes(8)))
    for size in (0, 13, 14, 33):
        reason = twin.run(frame[:size], ifindex=POD_A.ifindex, direction=OUT)
        assert reason is Reason.MALFORMED, "also what the kernel's test run doesn't take"
    assert twin.metrics() == {(Reason.MALFORMED, OUT): (4, 60)}


def test_removing_an_endpoint_ends_its_verdicts() -> None:
    twin = made(policy_entry(POD_A.egress, 0, OUT))
    assert twin.classify(POD_A.ifindex, OUT, bytes(4), UDP, 1) is Reason.ALLOWED
    twin.apply([Remove(MapId.ENDPOINTS, (POD_A.endpoint()[0],))])
    assert twin.classify(POD_A.ifindex, OUT, bytes(4), UDP, 1) is Reason.NO_ENDPOINT
