"""Kernel entries give the verdict of the rules: the three-line meaning, for every peer and port."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.core.policy.entries import (
    DEFAULT_RULE,
    Entries,
    PortEntry,
    covers,
    decide,
    expand,
    key_of,
    lookup,
    merge,
    port_prefixes,
    prune,
)
from reconciler.core.policy.evaluate import PeerInfo, external, verdict
from reconciler.core.policy.ir import Direction, PortRange, Prefix, Rule, RuleSet, Verdict
from reconciler.testing.strategies import BLOCKS, EXTERNALS, PEER_SETS, PORTS, prefix, rule_sets

PEERS = [0, 1, 6, 7, 256, 257, 258, 259, *EXTERNALS]
MEMBERS = {256: PEER_SETS[:1], 257: PEER_SETS[:2], 258: PEER_SETS, 259: ()}


def is_member(name: str, number: int) -> bool:
    return name in MEMBERS.get(number, ())


def known_prefix(address: bytes) -> Prefix:
    """The longest of BLOCKS (all known, as on a node) that holds the address."""
    bits = 8 * len(address)
    found = [
        known
        for known in map(prefix, BLOCKS)
        if len(known.address) == len(address)
        and int.from_bytes(known.address, "big") >> (bits - known.length)
        == int.from_bytes(address, "big") >> (bits - known.length)
    ]
    return max(found, key=lambda known: known.length)


def probes(rule_set: RuleSet) -> list[tuple[int, int]]:
    """Both sides of every edge of every range, for each protocol; and a protocol without ports."""
    edges = {
        port
        for rule in rule_set.rules
        for span in rule.ports
        for edge in (span.first, span.last)
        for port in (edge - 1, edge, edge + 1)
        if 0 <= port <= 65535
    }
    return [(p, port) for p in (6, 17, 132) for port in sorted(edges | {0, *PORTS})] + [(1, 0)]


@given(rule_sets(), st.sampled_from(PEERS))
@example(  # a deny beats any narrower allow of the same peer
    RuleSet(
        Direction.INGRESS,
        True,
        (
            Rule(Verdict.ALLOW, (PortRange(6, 80, 80),), peer_sets=PEER_SETS[:1]),
            Rule(Verdict.DENY, (PortRange(6, 0, 1023),), peer_sets=PEER_SETS[1:2]),
        ),
    ),
    257,
)
def test_entries_say_what_the_rules_say(rule_set: RuleSet, who: int | str) -> None:
    expanded = expand(rule_set)
    if isinstance(who, str):
        peer = external(ip_address(who).packed)
        entries = expanded.for_prefix(known_prefix(peer.address))
    elif who >= 256:
        peer, entries = PeerInfo(who), expanded.for_identity(MEMBERS[who])
    else:
        peer, entries = PeerInfo(who), expanded.for_reserved(who)
    for protocol, port in probes(rule_set):
        expected = verdict(rule_set, peer, protocol, port, is_member)
        allowed, index = decide(expanded.any, entries, protocol, port)
        assert allowed is expected.allowed, (protocol, port)
        if index is None:
            assert expected.rule is None
        elif index == DEFAULT_RULE:
            assert allowed
            assert not rule_set.enforced
        else:
            alone = RuleSet(rule_set.direction, True, (rule_set.rules[index],))
            deciding = verdict(alone, peer, protocol, port, is_member)
            assert deciding.rule is not None
            assert deciding.verdict is expected.verdict


@given(rule_sets())
def test_what_is_denied_to_one_is_denied_to_unknown(rule_set: RuleSet) -> None:
    expanded = expand(rule_set)
    unknown = expanded.for_reserved(0)
    for rule in rule_set.rules:
        if rule.verdict is Verdict.DENY and (rule.peer_sets or rule.reserved):
            for span in rule.ports or (PortRange(6), PortRange(1, 0, 0)):
                allowed, _ = decide(expanded.any, unknown, span.protocol, span.first)
                assert not allowed


@given(rule_sets())
def test_nothing_idle_is_kept(rule_set: RuleSet) -> None:
    """No entry of a peer can be left out; no two of one peer have one key."""
    expanded = expand(rule_set)
    for entries in (
        expanded.any,
        *expanded.by_peer_set.values(),
        *expanded.by_cidr.values(),
        *expanded.by_reserved.values(),
    ):
        keys = [key_of(entry) for entry in entries]
        assert len(set(keys)) == len(keys)
        for entry in entries:
            for other in entries:
                if other is not entry and covers(key_of(other), key_of(entry)):
                    assert (other.verdict, entry.verdict) == (Verdict.ALLOW, Verdict.DENY)
            if entries is not expanded.any:
                above = [up for up in expanded.any if covers(key_of(up), key_of(entry))]
                assert all(
                    entry.verdict is Verdict.DENY and up.verdict is Verdict.ALLOW for up in above
                )


@given(rule_sets(), st.permutations(PEER_SETS))
def test_merge_does_not_depend_on_the_order(rule_set: RuleSet, order: list[str]) -> None:
    expanded = expand(rule_set)
    parts: list[Entries] = [expanded.by_peer_set.get(name, ()) for name in order]
    at_once = expanded.for_identity(PEER_SETS)
    assert merge(parts) == at_once
    assert merge([merge(parts[:2]), parts[2]]) == at_once
    assert prune(at_once) == at_once


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_prefixes_cover_a_range_exactly(a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    found = port_prefixes(first, last)
    spans = [(port, port + (1 << (16 - bits)) - 1) for port, bits in found]
    assert spans[0][0] == first
    assert spans[-1][1] == last
    assert all(one[1] + 1 == two[0] for one, two in itertools.pairwise(spans))
    assert all(port % (1 << (16 - bits)) == 0 for port, bits in found)
    assert len(found) <= 30


def test_lookup_finds_the_longest() -> None:
    every = PortEntry(0, 0, 0, Verdict.ALLOW, 0)
    tcp = PortEntry(6, 0, 0, Verdict.DENY, 1)
    low = PortEntry(6, 0, 6, Verdict.ALLOW, 2)
    assert lookup((every, tcp, low), 6, 80) is low
    assert lookup((every, tcp, low), 6, 8080) is tcp
    assert lookup((every, tcp, low), 17, 80) is every
    assert lookup((tcp,), 17, 80) is None
