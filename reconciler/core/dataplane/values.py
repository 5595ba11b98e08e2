"""What the tables are told: resources of a cut as checked plain values.

`parse` refuses (as a `Refusal`, the content of a NACK) whatever contradicts its own name or can't
be put into the maps, so that the tables need no error paths of their own.
"""

from __future__ import annotations

import msgspec

from reconciler.core.policy.ir import IdentityPolicy, Prefix, RuleSet
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    ENDPOINT,
    PEER_SET,
    POLICY,
    RULE_SET,
)


class Members(msgspec.Struct, frozen=True):
    """One shard of a peer set."""

    selector: str
    numbers: frozenset[int]


class Bindings(msgspec.Struct, frozen=True):
    """(group name, number, birth) of some groups of one namespace."""

    bindings: tuple[tuple[str, int, int], ...]


class Addresses(msgspec.Struct, frozen=True):
    """One slice of one group's addresses, or of a reserved one's.

    kind: "pods" (`owner` is the group's name), "node" (`owner` is the node's name),
          "kube-apiserver", "unknown" (prefixes only)
    """

    kind: str
    owner: str
    addresses: tuple[bytes, ...]
    prefixes: tuple[Prefix, ...] = ()


class LocalPod(msgspec.Struct, frozen=True):
    """A pod of this node. ipv4, ipv6: b"" for none. interface: hint, may be empty."""

    pod: str
    uid: str
    ipv4: bytes
    ipv6: bytes
    group: str
    interface: str = ""


Value = Members | Bindings | Addresses | LocalPod | IdentityPolicy | RuleSet


class Change(msgspec.Struct, frozen=True):
    """One resource of the next cut; value None: it is not in it."""

    type_url: str
    name: str
    value: Value | None


TYPE_OF: dict[type, str] = {
    Members: PEER_SET,
    Bindings: BINDINGS,
    Addresses: ADDRESS_GROUP,
    LocalPod: ENDPOINT,
    IdentityPolicy: POLICY,
    RuleSet: RULE_SET,
}
