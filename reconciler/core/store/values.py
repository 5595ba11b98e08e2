"""What the store knows, as values: groups, endpoints, nodes, and what one batch changed."""

from __future__ import annotations

import msgspec

from reconciler.core.labels import GroupKey, LabelSet
from reconciler.core.objects import Prefix
from reconciler.errors import Rejected


class Group(msgspec.Struct, frozen=True):
    """All pods with one group key. pods: how many, with or without an address yet."""

    key: GroupKey
    namespace: str
    label_set: LabelSet
    pods: int


class Endpoint(msgspec.Struct, frozen=True):
    """A pod that owns an address. ipv4, ipv6: 4 and 16 bytes, or b"" for none that it owns.

    node: "" when not said; group: name of its group; interface: hint, "" for none
    """

    namespace: str
    pod: str
    uid: str
    node: str
    ipv4: bytes
    ipv6: bytes
    group: str
    interface: str = ""

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.pod}"


class NodeInfo(msgspec.Struct, frozen=True):
    """addresses: sorted, those that this node owns; pod_cidrs: sorted, without duplicates.

    api_server: those of its addresses at which the API server is
    """

    name: str
    addresses: tuple[bytes, ...] = ()
    pod_cidrs: tuple[Prefix, ...] = ()
    api_server: tuple[bytes, ...] = ()


_NONE: frozenset[str] = frozenset()


class Delta(msgspec.Struct, frozen=True):
    """What one batch changed, net: what changed and changed back is in none of these.

    groups_added, groups_removed: names
    groups_rebound:  names of groups that were and are, with another label set
    endpoints:       "namespace/pod" of those that came, went or differ in any field
    nodes:           names of those that came, went or differ in any field
    policies:        "namespace/name" of those that came, went or have another spec
    namespaces:      names of those that came, went or have other labels
    address_groups:  names of groups that own other addresses than before
    problems:        new ones; `Cluster.problems` has all that stand
    """

    groups_added: frozenset[str] = _NONE
    groups_removed: frozenset[str] = _NONE
    groups_rebound: frozenset[str] = _NONE
    endpoints: frozenset[str] = _NONE
    nodes: frozenset[str] = _NONE
    policies: frozenset[str] = _NONE
    namespaces: frozenset[str] = _NONE
    address_groups: frozenset[str] = _NONE
    problems: tuple[Rejected, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field) for field in self.__struct_fields__)
