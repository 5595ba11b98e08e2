"""The parts below the tables: prefixes, indices, the overlay, endpoints."""

from __future__ import annotations

import ipaddress

import pytest

from reconciler.core.dataplane.endpoints import Endpoints, Link, PodRow
from reconciler.core.dataplane.layout import ENDPOINT_CLOSED, ENDPOINT_VALUE, IdentityIndex
from reconciler.core.dataplane.mirror import Pool
from reconciler.core.dataplane.ops import Put
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.prefixes import PrefixIndex, host_key, parse_key, prefix_key
from reconciler.core.dataplane.rulesets import KernelRules, name_tag
from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    PortRange,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)


def prefix(text: str) -> Prefix:
    network = ipaddress.ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.1.0.0/16", "10.1.2.3/32", "::/0", "fd00::1/128"])
def test_a_key_is_read_back(text: str) -> None:
    assert parse_key(prefix_key(prefix(text))) == prefix(text)


def test_host_bits_do_not_make_another_key() -> None:
    assert prefix_key(Prefix(bytes([10, 1, 2, 3]), 16)) == prefix_key(prefix("10.1.0.0/16"))
    assert host_key(bytes([10, 1, 2, 3])) == prefix_key(prefix("10.1.2.3/32"))
    assert host_key(bytes(16)) == prefix_key(prefix("::/128"))


def test_the_longest_prefix_around_covers() -> None:
    index = PrefixIndex()
    for text in ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "fd00::/8"):
        index.add(prefix(text))
    inner = prefix("10.1.2.0/24")
    assert index.covering(inner) == prefix("10.1.0.0/16")
    assert index.covering(prefix("10.1.0.0/16")) == prefix("10.0.0.0/8")
    assert index.covering(prefix("10.1.0.0/16"), strictly=False) == prefix("10.1.0.0/16")
    assert index.covering(prefix("0.0.0.0/0")) is None
    assert index.covering(prefix("fe00::/8")) is None
    index.discard(prefix("10.1.0.0/16"))
    index.discard(prefix("10.9.0.0/16"))
    assert index.covering(inner) == prefix("10.0.0.0/8")


def test_a_pool_gives_nothing_twice_and_no_more_than_it_has() -> None:
    pool = Pool(16, 20, used={0, 17})
    assert [pool.take() for _ in range(4)] == [16, 18, 19, None]
    pool.give(18)
    pool.give(18)
    pool.give(0)
    assert [pool.take(), pool.take()] == [18, None]


def test_an_overlay_knows_before_and_after() -> None:
    overlay = Overlay({"a": 1, "b": 2})
    overlay.put("a", 5)
    overlay.put("a", 6)
    overlay.drop("b")
    overlay.put("c", 3)
    overlay.drop("c")
    assert (overlay.now, overlay.before("a"), overlay.before("c")) == ({"a": 6}, 1, None)
    overlay.undo()
    assert overlay.now == {"a": 1, "b": 2}
    overlay.drop("b")
    overlay.keep()
    overlay.undo()
    assert overlay.now == {"a": 1}


def rules() -> RuleSet:
    block = CidrBlock(prefix("10.0.0.0/8"), (prefix("10.1.0.0/16"),))
    return RuleSet(
        Direction.EGRESS,
        True,
        (
            Rule(Verdict.ALLOW, (PortRange(6, 80, 81),), cidrs=(block,), origins=("one",)),
            Rule(Verdict.ALLOW, peer_sets=("s",), origins=("two",)),
        ),
    )


def test_entries_of_a_prefix_follow_from_the_blocks_around_it() -> None:
    kernel = KernelRules("abcdef", rules())
    assert len(kernel.entries(prefix("10.2.0.0/16"))) == 1
    assert kernel.entries(prefix("10.1.2.0/24")) == ()
    assert kernel.entries(prefix("11.0.0.0/8")) == ()
    assert kernel.entries(IdentityIndex.WORLD_V4) == ()
    assert kernel.known == {prefix("10.0.0.0/8"), prefix("10.1.0.0/16")}


def test_a_cookie_leads_to_the_rule() -> None:
    kernel = KernelRules("abcdef", rules())
    (value,) = kernel.block(16, 17, kernel.entries((300, 1), {"s"})).values()
    cookie = int.from_bytes(value[4:], "little")
    assert kernel.origins(cookie) == ("two",)
    assert kernel.origins(name_tag("abcdef") << 12) == ()
    assert kernel.origins(cookie ^ 1 << 12) is None


def entries(endpoints: Endpoints) -> dict[int, tuple[int, int]]:
    """ifindex → (flags, group in half 0) of what is written now."""
    return {
        int.from_bytes(key, "little"): (
            ENDPOINT_VALUE.unpack(value)[1],
            ENDPOINT_VALUE.unpack(value)[2],
        )
        for op in endpoints.sync()
        if isinstance(op, Put)
        for key, value in op.entries
    }


@pytest.mark.parametrize(
    "links",
    [
        [Link(5, pod="a/p"), Link(6, name="veth1"), Link(7, addresses=frozenset({b"\n\0\0\1"}))],
        [Link(4, pod="a/other"), Link(5, name="veth1")],
        [Link(4, addresses=frozenset({b"\n\0\0\1"})), Link(5, addresses=frozenset({b"\n\0\0\1"}))],
    ],
    ids=["name beats hint beats address", "another pod's name", "the newer of two"],
)
def test_one_interface_is_the_pods(links: list[Link]) -> None:
    endpoints = Endpoints()
    for link in links:
        endpoints.add(link)
        endpoints.answered(link.ifindex, "attached")
    endpoints.stage(0, "a/p", PodRow(20, b"\n\0\0\1", b"", "veth1"))
    endpoints.refresh(0, staging=False)
    written = entries(endpoints)
    assert written[5] == (0, 20)
    del written[5]
    assert set(written.values()) == {(ENDPOINT_CLOSED, 0)}
    assert [port.state for port in endpoints.ports.values()].count("enforcing") == 1


def test_ids_are_never_given_twice() -> None:
    endpoints = Endpoints(next_id=7)
    first = endpoints.add(Link(5)).id
    endpoints.answered(5, "attached")
    endpoints.remove(5)
    endpoints.answered(5, "removed")
    assert endpoints.ports == {}
    assert (first, endpoints.add(Link(5)).id) == (7, 8)
