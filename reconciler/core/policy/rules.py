"""Policies before compilation: rules over selectors, whatever kind of object they came from.

`translate` makes them of Kubernetes NetworkPolicies, which only allow. The form can say more, so
that other kinds need no other compiler: rules that deny (a deny beats every allow, however narrow),
reserved peers, and a policy that isolates nobody.
"""

from __future__ import annotations

from typing import Final

import msgspec

from reconciler.core.policy.ir import CidrBlock, PortRange, Rule, Verdict
from reconciler.core.policy.selectors import NamedPort, Selector
from reconciler.errors import Rejected

HOST: Final = 1

HOST_ORIGIN: Final = "host (the pod's own node is always allowed)"

HOST_RULE: Final = Rule(Verdict.ALLOW, reserved=(HOST,), origins=(HOST_ORIGIN,))
"""In every enforced ingress rule set: the kubelet's probes must get in. A deny still beats it."""


class PolicyRule(msgspec.Struct, frozen=True):
    """Peers are the union of the four fields; a rule without peers means nobody.

    any_peer: everybody: pods, nodes, the world, unknown addresses
    cidrs:    addresses outside the cluster only, never pods, nodes or unknown addresses
    ports:    None = every port of every protocol; an empty tuple = none. A NamedPort (port 0) is
              resolved on the receiving pod: the subject for ingress, the peer for egress
    origin:   "NetworkPolicy shop/allow-web#spec.ingress[0]"
    """

    verdict: Verdict = Verdict.ALLOW
    any_peer: bool = False
    selectors: tuple[Selector, ...] = ()
    cidrs: tuple[CidrBlock, ...] = ()
    reserved: tuple[int, ...] = ()
    ports: tuple[PortRange | NamedPort, ...] | None = None
    origin: str = ""

    @property
    def named_ports(self) -> frozenset[NamedPort]:
        return frozenset(port for port in self.ports or () if isinstance(port, NamedPort))


class Translated(msgspec.Struct, frozen=True):
    """One policy object: whom it selects and what it says.

    ingress, egress: None = says nothing about that direction (and doesn't isolate it)
    isolates:        in the directions it speaks of, what nothing allows is denied
    warnings:        what the writer of the policy should know; never a reason to leave it out
    """

    subject: Selector
    ingress: tuple[PolicyRule, ...] | None = None
    egress: tuple[PolicyRule, ...] | None = None
    isolates: bool = True
    warnings: tuple[Rejected, ...] = ()
