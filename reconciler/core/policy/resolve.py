"""Policy rules → compiled rules: port names become numbers, selectors become names of peer sets.

A name that stands for no number leaves no rule behind, never a rule without ports: a rule without
ports means every port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from reconciler.core.policy.entries import join_ranges
from reconciler.core.policy.ir import CidrBlock, Direction, PortRange, Rule, RuleSet, Verdict
from reconciler.core.policy.rules import HOST_RULE, PolicyRule
from reconciler.core.policy.selectors import EVERYTHING, NamedPort, Selector

Parts: TypeAlias = Callable[[Selector, NamedPort], Iterable[tuple[int, str]]]
"""(selector, port name) → (number, peer set of the members with that number under that name)."""

_Meaning: TypeAlias = tuple[
    Verdict, tuple[PortRange, ...], bool, tuple[str, ...], tuple[CidrBlock, ...], tuple[int, ...]
]


def resolve_ingress(rule: PolicyRule, own: Sequence[tuple[str, int, int]]) -> list[Rule]:
    """Names stand for the subject's own ports: `own` is its (name, protocol, number)s."""
    if rule.ports is None:
        return _rule(rule, None)
    ranges = _ranges(rule)
    for port in rule.named_ports:
        ranges += [
            PortRange(protocol, number, number)
            for name, protocol, number in own
            if (name, protocol) == (port.name, port.protocol)
        ]
    return _rule(rule, ranges)


def resolve_egress(rule: PolicyRule, parts: Parts) -> list[Rule]:
    """Names stand for each peer's own ports: one rule for each number that some peer has."""
    if rule.ports is None:
        return _rule(rule, None)
    rules = _rule(rule, _ranges(rule))
    for port in rule.named_ports:
        peers: dict[int, set[str]] = {}
        for base in egress_bases(rule):
            for number, peer_set in parts(base, port):
                peers.setdefault(number, set()).add(peer_set)
        rules += [
            Rule(
                rule.verdict,
                ports=(PortRange(port.protocol, number, number),),
                peer_sets=tuple(sorted(names)),
                origins=(rule.origin,),
            )
            for number, names in peers.items()
        ]
    return rules


def egress_bases(rule: PolicyRule) -> tuple[Selector, ...]:
    """The selectors of an egress rule. Everybody's port name is every pod's: only pods have any."""
    if rule.any_peer and rule.named_ports:
        return (EVERYTHING, *rule.selectors)
    return rule.selectors


def rule_set_of(direction: Direction, enforced: bool, rules: Iterable[Rule]) -> RuleSet:
    """The canonical rule set: rules sorted, those that say the same joined with their origins."""
    if enforced and direction is Direction.INGRESS:
        rules = (*rules, HOST_RULE)
    origins: dict[_Meaning, set[str]] = {}
    for rule in rules:
        meaning = (
            rule.verdict, rule.ports, rule.any_peer, rule.peer_sets, rule.cidrs, rule.reserved
        )  # fmt: skip
        origins.setdefault(meaning, set()).update(rule.origins)
    return RuleSet(
        direction,
        enforced,
        tuple(sorted(Rule(*meaning, tuple(sorted(found))) for meaning, found in origins.items())),
    )


def _ranges(rule: PolicyRule) -> list[PortRange]:
    return [port for port in rule.ports or () if isinstance(port, PortRange)]


def _rule(rule: PolicyRule, ranges: list[PortRange] | None) -> list[Rule]:
    """The rule on plain ports; none if it has no ports or no peers left."""
    if ranges is not None and not ranges:
        return []
    if not (rule.any_peer or rule.selectors or rule.cidrs or rule.reserved):
        return []
    return [
        Rule(
            rule.verdict,
            ports=join_ranges(ranges or ()),
            any_peer=rule.any_peer,
            peer_sets=tuple(sorted({found.hash for found in rule.selectors})),
            cidrs=tuple(sorted(set(rule.cidrs))),
            reserved=tuple(sorted(set(rule.reserved))),
            origins=(rule.origin,),
        )
    ]
