"""Kernel entries of small rule sets, written out."""

from __future__ import annotations

import pytest

from reconciler.core.policy.entries import (
    DEFAULT_RULE,
    PortEntry,
    block_has,
    decide,
    expand,
    join_ranges,
    port_prefixes,
)
from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    PortRange,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)

ALLOW, DENY = Verdict.ALLOW, Verdict.DENY
WEB, DB = "a" * 32, "b" * 32


def rule_set(*rules: Rule, enforced: bool = True) -> RuleSet:
    return RuleSet(Direction.INGRESS, enforced, rules)


def tcp(first: int, last: int | None = None) -> tuple[PortRange, ...]:
    return (PortRange(6, first, first if last is None else last),)


def test_not_enforced_is_one_entry() -> None:
    assert expand(rule_set(enforced=False)).any == (PortEntry(0, 0, 0, ALLOW, DEFAULT_RULE),)


def test_closed_has_no_entries() -> None:
    expanded = expand(rule_set())
    assert expanded.any == ()
    assert not (expanded.by_peer_set)
    assert not (expanded.by_cidr)
    assert not (expanded.by_reserved)
    assert decide((), (), 6, 80) == (False, None)


def test_an_allow_under_a_deny_of_the_same_peer_goes() -> None:
    expanded = expand(
        rule_set(Rule(ALLOW, tcp(80), peer_sets=(WEB,)), Rule(DENY, tcp(0, 1023), peer_sets=(WEB,)))
    )
    assert expanded.by_peer_set[WEB] == (PortEntry(6, 0, 6, DENY, 1),)


def test_a_deny_under_an_allow_stays() -> None:
    expanded = expand(
        rule_set(Rule(ALLOW, peer_sets=(WEB,)), Rule(DENY, tcp(80), peer_sets=(WEB,)))
    )
    assert expanded.by_peer_set[WEB] == (
        PortEntry(0, 0, 0, ALLOW, 0),
        PortEntry(6, 80, 16, DENY, 1),
    )


def test_at_one_key_deny_wins_and_the_first_rule_decides() -> None:
    expanded = expand(
        rule_set(
            Rule(ALLOW, tcp(80), peer_sets=(WEB,)),
            Rule(DENY, tcp(80), peer_sets=(WEB,)),
            Rule(DENY, tcp(80), peer_sets=(WEB, DB)),
        )
    )
    assert expanded.by_peer_set[WEB] == (PortEntry(6, 80, 16, DENY, 1),)
    assert expanded.for_identity((DB, WEB)) == (PortEntry(6, 80, 16, DENY, 1),)


def test_a_deny_of_one_peer_set_takes_the_allow_of_another() -> None:
    expanded = expand(rule_set(Rule(ALLOW, tcp(80), peer_sets=(WEB,)), Rule(DENY, peer_sets=(DB,))))
    assert expanded.for_identity((WEB, DB)) == (PortEntry(0, 0, 0, DENY, 1),)
    assert expanded.for_identity((WEB, "c" * 32)) == (PortEntry(6, 80, 16, ALLOW, 0),)


def test_what_everybody_may_needs_no_entry_of_a_peer() -> None:
    expanded = expand(
        rule_set(
            Rule(ALLOW, tcp(80), any_peer=True),
            Rule(ALLOW, tcp(80), peer_sets=(WEB,)),
            Rule(DENY, tcp(80), peer_sets=(DB,)),
        )
    )
    assert expanded.by_peer_set == {WEB: (), DB: (PortEntry(6, 80, 16, DENY, 2),)}


def test_what_is_denied_to_everybody_needs_no_entry_of_a_peer() -> None:
    expanded = expand(
        rule_set(
            Rule(DENY, tcp(0, 1023), any_peer=True),
            Rule(ALLOW, tcp(80), peer_sets=(WEB,)),
            Rule(ALLOW, tcp(0, 2047), peer_sets=(DB,)),
        )
    )
    assert expanded.by_peer_set == {WEB: (), DB: (PortEntry(6, 0, 5, ALLOW, 2),)}
    assert decide(expanded.any, expanded.by_peer_set[DB], 6, 80) == (False, 0)
    assert decide(expanded.any, expanded.by_peer_set[DB], 6, 1024) == (True, 2)


def test_unknown_gets_the_denies_of_peers_and_of_no_cidr() -> None:
    block = CidrBlock(Prefix(bytes(4), 0))
    expanded = expand(
        rule_set(
            Rule(DENY, tcp(80), peer_sets=(WEB,)),
            Rule(DENY, tcp(81), reserved=(6,)),
            Rule(DENY, tcp(82), cidrs=(block,)),
            Rule(ALLOW, tcp(83), peer_sets=(WEB,)),
        )
    )
    assert expanded.for_reserved(0) == (
        PortEntry(6, 80, 16, DENY, 0),
        PortEntry(6, 81, 16, DENY, 1),
    )


def test_world_is_both_families_with_and_without_a_prefix() -> None:
    expanded = expand(rule_set(Rule(ALLOW, tcp(80), reserved=(2,))))
    wanted = (PortEntry(6, 80, 16, ALLOW, 0),)
    assert expanded.for_reserved(9) == expanded.for_reserved(10) == wanted
    assert expanded.for_prefix(Prefix(bytes([203, 0, 113, 0]), 24)) == wanted
    assert expanded.for_prefix(Prefix(bytes(16), 0)) == wanted
    assert expanded.for_reserved(1) == ()


def test_a_prefix_has_the_blocks_around_it_less_their_excepts() -> None:
    wide = Prefix(bytes([203, 0, 113, 0]), 24)
    hole = Prefix(bytes([203, 0, 113, 128]), 25)
    expanded = expand(
        rule_set(
            Rule(ALLOW, tcp(80), cidrs=(CidrBlock(wide, (hole,)),)),
            Rule(ALLOW, tcp(81), cidrs=(CidrBlock(hole),)),
        )
    )
    assert expanded.for_prefix(wide) == (PortEntry(6, 80, 16, ALLOW, 0),)
    assert expanded.for_prefix(hole) == (PortEntry(6, 81, 16, ALLOW, 1),)
    assert expanded.for_prefix(Prefix(bytes(4), 0)) == ()
    assert not block_has(CidrBlock(wide), Prefix(bytes(16), 128))


def test_ranges_are_joined_where_they_overlap_or_touch() -> None:
    ranges = (*tcp(90, 95), *tcp(80, 81), *tcp(82, 85), *tcp(84, 87), PortRange(17, 88, 89))
    assert join_ranges(ranges) == (
        PortRange(6, 80, 87),
        PortRange(6, 90, 95),
        PortRange(17, 88, 89),
    )
    assert join_ranges((*tcp(80), *tcp(82))) == (*tcp(80), *tcp(82))


@pytest.mark.parametrize(
    "bad", [PortRange(0, 1, 2), PortRange(256), PortRange(6, 2, 1), PortRange(6, 0, 65536)]
)
def test_what_is_no_range_is_an_error(bad: PortRange) -> None:
    with pytest.raises(ValueError, match="not a range"):
        join_ranges((bad,))


def test_ranges_become_the_fewest_prefixes() -> None:
    assert port_prefixes(0, 65535) == ((0, 0),)
    assert port_prefixes(80, 80) == ((80, 16),)
    assert port_prefixes(1, 65534) == (
        *((1 << bit, 16 - bit) for bit in range(15)),
        *((65536 - (1 << bit), 17 - bit) for bit in range(15, 0, -1)),
    )
