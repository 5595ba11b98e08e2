"""Reference evaluation: what a rule set says about one peer, rule by rule.

Slow and plain on purpose. `explain` shows its deciding rule; the kernel entries are held to it:
denied if any deny rule matches; else allowed if any allow rule matches; else allowed iff the rule
set is not enforced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from reconciler.core.policy.entries import UNKNOWN, WORLD, WORLD_V4, WORLD_V6, block_has
from reconciler.core.policy.ir import Prefix, Rule, RuleSet, Verdict

WORLDS: Final = (WORLD, WORLD_V4, WORLD_V6)


class PeerInfo(msgspec.Struct, frozen=True):
    """The other side of a packet: its identity number, reserved or allocated.

    address: 4 or 16 bytes; needed for world only, since CIDR rules mean nobody else
    """

    number: int
    address: bytes = b""


class Decision(msgspec.Struct, frozen=True):
    """rule: the first rule of the rule set that says so; None if no rule matched."""

    verdict: Verdict
    rule: Rule | None = None

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW


def external(address: bytes) -> PeerInfo:
    """An address outside the cluster."""
    return PeerInfo(WORLD_V4 if len(address) == 4 else WORLD_V6, address)


def verdict(
    rule_set: RuleSet,
    peer: PeerInfo,
    protocol: int,
    port: int,
    is_member: Callable[[str, int], bool],
) -> Decision:
    """The decision about a packet. `is_member(selector hash, number)` says who is in a peer set.

    protocol: IANA number; port: destination port, 0 for a protocol without ports
    """
    matching = [
        rule
        for rule in rule_set.rules
        if _has_ports(rule, protocol, port) and _has_peer(rule, peer, is_member)
    ]
    for wanted in (Verdict.DENY, Verdict.ALLOW):
        for rule in matching:
            if rule.verdict is wanted:
                return Decision(wanted, rule)
    return Decision(Verdict.DENY if rule_set.enforced else Verdict.ALLOW)


def _has_ports(rule: Rule, protocol: int, port: int) -> bool:
    return not rule.ports or any(
        span.protocol == protocol and span.first <= port <= span.last for span in rule.ports
    )


def _has_peer(rule: Rule, peer: PeerInfo, is_member: Callable[[str, int], bool]) -> bool:
    if rule.any_peer or peer.number in rule.reserved:
        return True
    if peer.number == UNKNOWN:
        # It could be any pod or node, so what is denied to one of them is denied to it.
        return rule.verdict is Verdict.DENY and bool(rule.peer_sets or rule.reserved)
    if peer.number in WORLDS:
        if WORLD in rule.reserved:
            return True
        address = Prefix(peer.address, 8 * len(peer.address))
        return bool(peer.address) and any(block_has(block, address) for block in rule.cidrs)
    return any(is_member(name, peer.number) for name in rule.peer_sets)
