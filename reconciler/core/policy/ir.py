"""What the compiler makes of policies: plain values, before any wire format.

A policy object becomes `PolicyRule`s over selectors; the compiler turns those that select an
identity into one `RuleSet` a direction, whose peers are names of peer sets. Rule sets are named by
their content, so that identities with the same rules share one.
"""

from __future__ import annotations

import enum

import msgspec

from reconciler.core.objects.net import Prefix as Prefix


class Direction(enum.IntEnum):
    """Numbers are those of proto `Direction` and of the kernel's policy key."""

    INGRESS = 1
    EGRESS = 2


class Verdict(enum.IntEnum):
    """Numbers are those of proto `Verdict` and of the kernel's policy value."""

    ALLOW = 1
    DENY = 2


class PortRange(msgspec.Struct, frozen=True, order=True):
    """`protocol` is the IANA number (6 TCP, 17 UDP, 132 SCTP); ports are inclusive."""

    protocol: int
    first: int = 0
    last: int = 65535


class CidrBlock(msgspec.Struct, frozen=True, order=True):
    prefix: Prefix
    excepts: tuple[Prefix, ...] = ()


class Rule(msgspec.Struct, frozen=True, order=True):
    """One compiled rule. Peers are the union of the four fields; no ports means every protocol.

    peer_sets: selector hashes (names of peer sets without a shard)
    reserved:  reserved identity numbers (1 host, 6 remote-node, 7 kube-apiserver, ...)
    origins:   "NetworkPolicy shop/allow-web#spec.ingress[0]"
    """

    verdict: Verdict
    ports: tuple[PortRange, ...] = ()
    any_peer: bool = False
    peer_sets: tuple[str, ...] = ()
    cidrs: tuple[CidrBlock, ...] = ()
    reserved: tuple[int, ...] = ()
    origins: tuple[str, ...] = ()


class RuleSet(msgspec.Struct, frozen=True):
    """All rules of one direction. Not enforced: what no rule denies is allowed."""

    direction: Direction
    enforced: bool
    rules: tuple[Rule, ...] = ()


class IdentityPolicy(msgspec.Struct, frozen=True):
    """Subject identity → names of its rule sets."""

    number: int
    birth: int
    ingress: str
    egress: str
