"""What resources say, as plain values: the agent's side of `encode`.

A value is only made by `decode`, which refuses whatever contradicts its own name, so that whoever
works with values needs no error paths for content.
"""

from __future__ import annotations

import msgspec

from reconciler.core.policy.ir import IdentityPolicy, Prefix, RuleSet


class Members(msgspec.Struct, frozen=True):
    """One shard of a peer set. numbers: at least one, all 256 or above."""

    selector: str
    numbers: frozenset[int]


class Bindings(msgspec.Struct, frozen=True):
    """(group name, number, birth) of some groups of one namespace, by ascending group hash."""

    bindings: tuple[tuple[str, int, int], ...]


class Addresses(msgspec.Struct, frozen=True):
    """One slice of one group's addresses, or of a reserved one's.

    kind: "pods" (`owner` is the group's name), "node" (`owner` is the node's name),
          "kube-apiserver", "unknown" (prefixes only)
    addresses: 4 bytes each, then 16 bytes each, both ascending
    """

    kind: str
    owner: str
    addresses: tuple[bytes, ...]
    prefixes: tuple[Prefix, ...] = ()


class LocalPod(msgspec.Struct, frozen=True):
    """A pod of this node. pod: "namespace/name"; ipv4, ipv6: b"" for none; group: its name.

    interface: name of the host side of its veth, a hint that may be empty
    """

    pod: str
    uid: str
    ipv4: bytes
    ipv6: bytes
    group: str
    interface: str = ""


class Commit(msgspec.Struct, frozen=True):
    """The end of a cut. root: 32 bytes, see `root`; position: kept and reported unread."""

    revision: int
    root: bytes
    position: str = ""


class IdentityLabels(msgspec.Struct, frozen=True):
    """What a number means, for display. labels: "k8s:app=web"."""

    number: int
    birth: int
    labels: tuple[str, ...]


Value = (
    Members | Bindings | Addresses | LocalPod | IdentityPolicy | RuleSet | Commit | IdentityLabels
)
