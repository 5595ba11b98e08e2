"""What takes many keys at once does what the one for a single key does, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.dataplane.layout import MapId
from reconciler.core.dataplane.mirror import Mirror
from reconciler.core.dataplane.ops import Put
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.prefixes import host_key, parse_key, prefix_key
from reconciler.core.policy.ir import Prefix

batches = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), max_size=4)
steps = st.lists(st.tuples(st.sampled_from(["put", "drop", "keep", "undo"]), batches), max_size=12)


@given(steps)
def test_an_overlay_takes_many(chosen: list[tuple[str, dict[str, int]]]) -> None:
    single: Overlay[str, int] = Overlay({"a": 9})
    many: Overlay[str, int] = Overlay({"a": 9})
    for what, values in chosen:
        if what == "put":
            many.put_all(values)
            for key, value in values.items():
                single.put(key, value)
        for each in (single, many):
            if what == "drop":
                for key in values:
                    each.drop(key)
            elif what == "keep":
                each.keep()
            elif what == "undo":
                each.undo()
        assert many.now == single.now
        assert set(many.touched) == set(single.touched)
        assert [many.before(key) for key in "abcd"] == [single.before(key) for key in "abcd"]


parts = st.integers(0, 3)
hosts = st.one_of(
    st.tuples(parts, parts).map(lambda pair: bytes([10, pair[0], 0, pair[1]])),
    # Begins as IPv4 addresses here do.
    st.tuples(parts, parts).map(lambda pair: bytes([10, pair[0], 0, pair[1]]).ljust(16, b"\0")),
)
wide = st.tuples(hosts, st.integers(0, 32)).map(
    lambda pair: parse_key(prefix_key(Prefix(pair[0], min(pair[1], len(pair[0]) * 8 - 1))))
)


@given(st.lists(st.tuples(wide, st.integers(1, 9)), max_size=6), st.lists(hosts, max_size=12))
def test_a_mirror_takes_many(around: list[tuple[Prefix, int]], addresses: list[bytes]) -> None:
    mirror, other = Mirror(), Mirror()
    for prefix, group in around:
        for each in (mirror, other):
            each.write_address(prefix_key(prefix), prefix, (group, group + 10))
    pairs = {}
    for half in (0, 1):
        covered = mirror.covered_hosts(half)
        for address in addresses:
            alone = Prefix(address, len(address) * 8)
            assert covered(address) == mirror.covered(alone, half)
            pairs[host_key(address)] = (7, covered(address))
    mirror.write_hosts(pairs)
    for key, pair in pairs.items():
        other.write_address(key, parse_key(key), pair)
    assert mirror.addresses.now == other.addresses.now
    written, alike = mirror.take(), other.take()
    assert written == alike
    assert all(isinstance(op, Put) and op.map is MapId.ADDRESSES for op in written)
