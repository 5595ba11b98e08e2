"""What a cut means, said as plainly as possible: the oracle for the tables.

Nothing incremental, no indices, no maps: `full` collects a cut's resources, and `allowed` answers
for one packet by walking the rules. Slow on purpose; tests and `explain` use it.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.core.dataplane.values import Change
from reconciler.core.policy.entries import block_has
from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    IdentityPolicy,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)
from reconciler.core.resources.values import Addresses, Bindings, LocalPod, Members

UNKNOWN, HOST, REMOTE_NODE, KUBE_APISERVER = 0, 1, 6, 7
WORLD, WORLD_V4, WORLD_V6 = 2, 9, 10
SERVICE = -1


class Full:
    """A cut: values of all its resources, in any order."""

    def __init__(
        self,
        values: Iterable[Change],
        node: str,
        services: Iterable[Prefix] = (),
        distrust: bool = False,
    ) -> None:
        self.node, self.services, self.distrust = node, tuple(services), distrust
        every = [(change.name, change.value) for change in values]
        self.members = [value for _, value in every if isinstance(value, Members)]
        self.rules = {name: value for name, value in every if isinstance(value, RuleSet)}
        self.policies = {
            value.number: value for _, value in every if isinstance(value, IdentityPolicy)
        }
        self.bound = [
            bound for _, value in every if isinstance(value, Bindings) for bound in value.bindings
        ]
        self.slices = [value for _, value in every if isinstance(value, Addresses)]
        self.pods = {name: value for name, value in every if isinstance(value, LocalPod)}

    def allowed(
        self, pod: str, peer: bytes, direction: Direction, protocol: int, port: int
    ) -> bool:
        """Whether the node lets this packet of this pod pass (no connection is known)."""
        mine = self.pods.get(pod)
        if mine is None or not (mine.ipv4 if len(peer) == 4 else mine.ipv6):
            return False
        subject = self.identity(mine.group)
        policy = self.policies.get(subject[0])
        if subject[0] < 256 or policy is None or policy.birth != subject[1]:
            return False
        name = policy.ingress if direction is Direction.INGRESS else policy.egress
        rule_set = self.rules.get(name)
        who = self.peer(peer)
        if rule_set is None:
            return False
        if who == (SERVICE, 0):
            if direction is Direction.EGRESS:
                return False
            who = (UNKNOWN, 0)
        matching = [
            rule.verdict
            for rule in rule_set.rules
            if _ports_match(rule, protocol, port) and self.matches(rule, who, peer)
        ]
        if Verdict.DENY in matching:
            return False
        return Verdict.ALLOW in matching or not rule_set.enforced

    def identity(self, group: str) -> tuple[int, int]:
        """(number, birth) of a group; unknown unless it is bound once, to the newest birth."""
        bound = {(number, birth) for name, number, birth in self.bound if name == group}
        if len(bound) != 1:
            return UNKNOWN, 0
        number, birth = next(iter(bound))
        if number < 256:
            return number, 0
        newest = max(other for _, each, other in self.bound if each == number)
        return (number, birth) if birth == newest else (UNKNOWN, 0)

    def peer(self, address: bytes) -> tuple[int, int]:
        """Identity of an address; world for one outside the cluster."""
        groups = {
            each.owner for each in self.slices if each.kind == "pods" and address in each.addresses
        }
        others = {
            (each.kind, each.owner == self.node)
            for each in self.slices
            if each.kind != "pods" and address in each.addresses
        }
        if groups:
            if len(groups) > 1 or others:
                return UNKNOWN, 0
            mine = any(address in (pod.ipv4, pod.ipv6) for pod in self.pods.values())
            if self.distrust and not mine:
                return UNKNOWN, 0
            return self.identity(groups.pop())
        if others:
            if ("node", True) in others:
                return HOST, 0
            if any(kind == "kube-apiserver" for kind, _ in others):
                return KUBE_APISERVER, 0
            return (REMOTE_NODE, 0) if ("node", False) in others else (UNKNOWN, 0)
        host = Prefix(address, len(address) * 8)
        walls = [(prefix.length, 1) for prefix in self.services if _holds(prefix, host)]
        walls += [
            (prefix.length, 0)
            for each in self.slices
            for prefix in each.prefixes
            if _holds(prefix, host)
        ]
        if walls:
            return (SERVICE, 0) if max(walls)[1] else (UNKNOWN, 0)
        return (WORLD_V4 if len(address) == 4 else WORLD_V6), 0

    def matches(self, rule: Rule, who: tuple[int, int], address: bytes) -> bool:
        """Whether a rule names this peer. Identity-specific denies name unknown ones too."""
        number = who[0]
        if rule.any_peer:
            return True
        if number == UNKNOWN and rule.verdict is Verdict.DENY:
            return bool(rule.peer_sets or rule.reserved)
        if number >= 256:
            return any(
                each.selector in rule.peer_sets and number in each.numbers for each in self.members
            )
        if number in (WORLD_V4, WORLD_V6):
            host = Prefix(address, len(address) * 8)
            return (
                WORLD in rule.reserved
                or number in rule.reserved
                or any(block_has(block, host) for block in rule.cidrs)
            )
        return number in rule.reserved


def _ports_match(rule: Rule, protocol: int, port: int) -> bool:
    return not rule.ports or any(
        span.protocol == protocol and span.first <= port <= span.last for span in rule.ports
    )


def _holds(outer: Prefix, inner: Prefix) -> bool:
    return block_has(CidrBlock(outer), inner)
