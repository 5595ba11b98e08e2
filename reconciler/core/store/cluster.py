"""The cluster's state, kept up to date from changes to objects.

Promises: a batch costs what it changes (a relabelled namespace touches its groups, never its pods);
every address has at most one owner; the same objects give the same state, whatever the order of
changes that led to them; a `Delta` is exactly the difference of before and after.

hostNetwork pods are part of their node. Pods that are done (Succeeded, Failed, or being deleted
with all containers ended) own no address and are in no group. A pod is in its group as soon as it
exists, so that its identity is there before its address. Addresses that can't be read are reported
and claimed by nobody. Validation of policies happens before, where they are decoded.

The API server is where its EndpointSlices say. Only where that is a node's address does it matter:
elsewhere it is the world, which policies name by CIDR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from reconciler.core.labels import Grouper, GroupKey, LabelFilter, LabelSet, label_set
from reconciler.core.objects import (
    Change,
    Delete,
    EndpointSlice,
    KubeObject,
    Namespace,
    NetworkPolicy,
    Node,
    ObjectKey,
    Pod,
    Prefix,
    key_of,
    parse_address,
    parse_prefix,
)
from reconciler.core.store.addresses import Claim, Owners
from reconciler.core.store.values import Delta, Endpoint, Group, NodeInfo
from reconciler.errors import Rejected

INTERFACE: Final = "reconciler.io/interface"
"""Annotation of a pod: name of the host side of its veth. Believed only when asked to: whoever may
write pods could name another pod's."""


class _Pod(msgspec.Struct, frozen=True):
    """What is kept of a pod. group "": it is in none (hostNetwork or done), and claims nothing."""

    key: ObjectKey
    uid: str
    node: str
    group: str
    addresses: tuple[bytes, ...]
    terminating: bool
    created: str
    interface: str


class _Batch:
    """What a batch touched, with the values from before it."""

    def __init__(self) -> None:
        self.pods: set[ObjectKey] = set()
        self.nodes: set[str] = set()
        self.groups: set[str] = set()
        self.policies: dict[str, NetworkPolicy | None] = {}
        self.namespaces: dict[str, Namespace | None] = {}
        self.problems: list[Rejected] = []


class Cluster:
    """Read-only views for everybody else; `apply` is the only way to change it.

    namespaces:  by name; policies: by "namespace/name"; nodes: by name
    groups:      by group name; endpoints: by "namespace/pod"
    label_sets:  by canonical key, those of all groups that exist
    """

    def __init__(
        self,
        filter: LabelFilter,
        cluster_name: str = "default",
        named_ports: bool = True,
        cluster_cidrs: tuple[Prefix, ...] = (),
        *,
        interface_hints: bool = False,
    ) -> None:
        self.cluster_name = cluster_name
        self._filter = filter
        self._grouper = Grouper(filter, named_ports=named_ports)
        self._cluster_cidrs = cluster_cidrs
        self._interface_hints = interface_hints
        self._owners = Owners()

        self._namespaces: dict[str, Namespace] = {}
        self._policies: dict[str, NetworkPolicy] = {}
        self._declared: dict[str, tuple[NodeInfo, str]] = {}  # owned or not, and when created
        self._nodes: dict[str, NodeInfo] = {}
        self._pods: dict[ObjectKey, _Pod] = {}
        self._keys: dict[str, GroupKey] = {}  # of groups with members
        self._members: Counter[str] = Counter()
        self._groups: dict[str, Group] = {}
        self._groups_in: dict[str, set[str]] = {}  # namespace -> names
        self._label_sets: dict[str, LabelSet] = {}
        self._label_set_groups: Counter[str] = Counter()
        self._endpoints: dict[str, Endpoint] = {}
        self._endpoints_on: dict[str, set[str]] = {}  # node -> names
        self._addresses_of: dict[str, set[bytes]] = {}  # group -> addresses
        self._slices: dict[ObjectKey, frozenset[bytes]] = {}  # of the API server
        self._api_server: frozenset[bytes] = frozenset()  # all of them
        self._api_server_on: dict[str, tuple[bytes, ...]] = {}  # node -> those that are its own
        self._unknown: tuple[Prefix, ...] | None = None
        self._bad: dict[ObjectKey, tuple[Rejected, ...]] = {}

        self.namespaces: Mapping[str, Namespace] = MappingProxyType(self._namespaces)
        self.policies: Mapping[str, NetworkPolicy] = MappingProxyType(self._policies)
        self.nodes: Mapping[str, NodeInfo] = MappingProxyType(self._nodes)
        self.groups: Mapping[str, Group] = MappingProxyType(self._groups)
        self.endpoints: Mapping[str, Endpoint] = MappingProxyType(self._endpoints)
        self.label_sets: Mapping[str, LabelSet] = MappingProxyType(self._label_sets)

    # --------------------------------------------------------------------------------- queries

    def endpoints_of(self, node: str) -> tuple[Endpoint, ...]:
        """Endpoints of a node, sorted by name."""
        return tuple(self._endpoints[name] for name in sorted(self._endpoints_on.get(node, ())))

    def groups_of(self, namespace: str) -> tuple[str, ...]:
        """Names of the groups of a namespace, sorted."""
        return tuple(sorted(self._groups_in.get(namespace, ())))

    def pods_of(self, group: str) -> tuple[str, ...]:
        """Names of the pods of a group, sorted; costs a pass over all pods."""
        return tuple(sorted(key.name for key, each in self._pods.items() if each.group == group))

    def group_addresses(self, group: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """(IPv4, IPv6) addresses that pods of a group own, each sorted."""
        addresses = sorted(self._addresses_of.get(group, ()))
        return (
            tuple(address for address in addresses if len(address) == 4),
            tuple(address for address in addresses if len(address) == 16),
        )

    def owner_of(self, address: bytes) -> ObjectKey | None:
        """The pod or node that owns an address."""
        return self._owners.owner(address)

    def api_server_addresses(self) -> tuple[bytes, ...]:
        """Addresses of nodes at which the API server is."""
        return tuple(each for own in self._api_server_on.values() for each in own)

    def unknown_prefixes(self) -> tuple[Prefix, ...]:
        """The cluster's own CIDRs: configured ones and nodes' pod CIDRs, sorted, none inside
        another. Addresses in them that nobody owns are unknown, never world."""
        if self._unknown is None:
            found = set(self._cluster_cidrs)
            for node in self._nodes.values():
                found.update(node.pod_cidrs)
            kept: list[Prefix] = []
            for prefix in sorted(found):  # a covering prefix sorts before what it covers
                if not kept or not kept[-1].covers(prefix):
                    kept.append(prefix)
            self._unknown = tuple(kept)
        return self._unknown

    @property
    def problems(self) -> tuple[Rejected, ...]:
        """All that stand: addresses that can't be read, addresses claimed by several."""
        bad = (problem for key in sorted(self._bad) for problem in self._bad[key])
        return (*bad, *self._owners.problems)

    # --------------------------------------------------------------------------------- changes

    def apply(self, changes: Sequence[Change]) -> Delta:
        """Takes the changes in order; cost: what they touch."""
        batch = _Batch()
        for change in changes:
            if isinstance(change, Delete):
                self._delete(change.key, batch)
            else:
                self._upsert(change.object, change.source, batch)
        moved, conflicts = self._owners.settle()
        for key in moved:
            if key.kind == "Node":
                batch.nodes.add(key.name)
            else:
                batch.pods.add(key)
        self._settle_api_server(batch)
        namespaces = _differing(batch.namespaces, self._namespaces, lambda n: n.metadata.labels)
        nodes = self._settle_nodes(batch)
        added, removed, rebound = self._settle_groups(batch, namespaces)
        endpoints, address_groups = self._settle_endpoints(batch)
        return Delta(
            groups_added=added,
            groups_removed=removed,
            groups_rebound=rebound,
            endpoints=endpoints,
            nodes=nodes,
            policies=_differing(batch.policies, self._policies, lambda policy: policy.spec),
            namespaces=namespaces,
            address_groups=address_groups,
            problems=(*batch.problems, *conflicts),
        )

    def _upsert(self, object: KubeObject, source: str, batch: _Batch) -> None:
        meta = object.metadata
        if isinstance(object, Pod):
            self._put_pod(object, source, batch)
        elif isinstance(object, Namespace):
            batch.namespaces.setdefault(meta.name, self._namespaces.get(meta.name))
            self._namespaces[meta.name] = object
        elif isinstance(object, NetworkPolicy):
            name = f"{meta.namespace}/{meta.name}"
            batch.policies.setdefault(name, self._policies.get(name))
            self._policies[name] = object
        elif isinstance(object, EndpointSlice):
            key = key_of(object)
            read, problems = _read(parse_address, object.addresses, key, source, "endpoints")
            self._note(key, problems, batch)
            self._slices[key] = frozenset(read)
        else:
            self._put_node(object, source, batch)

    def _delete(self, key: ObjectKey, batch: _Batch) -> None:
        self._bad.pop(key, None)
        name = f"{key.namespace}/{key.name}"
        if key.kind == "Pod":
            if key in self._pods:
                self._forget_pod(key, batch)
        elif key.kind == "Namespace":
            batch.namespaces.setdefault(key.name, self._namespaces.get(key.name))
            self._namespaces.pop(key.name, None)
        elif key.kind == "NetworkPolicy":
            batch.policies.setdefault(name, self._policies.get(name))
            self._policies.pop(name, None)
        elif key.kind == "EndpointSlice":
            self._slices.pop(key, None)
        elif key.kind == "Node" and key.name in self._declared:
            for address in self._declared.pop(key.name)[0].addresses:
                self._owners.release(address, key)
            batch.nodes.add(key.name)

    # ---------------------------------------------------------------------------- pods and nodes

    def _put_pod(self, pod: Pod, source: str, batch: _Batch) -> None:
        key = key_of(pod)
        record = self._record(pod, key, source, batch)
        before = self._pods.get(key)
        if before == record:
            return
        if before is not None:
            self._forget_pod(key, batch)
        self._pods[key] = record
        batch.pods.add(key)
        if record.group:
            self._members[record.group] += 1
            batch.groups.add(record.group)
        claim = Claim(key, record.terminating, record.created)
        for address in record.addresses:
            self._owners.claim(address, claim)

    def _forget_pod(self, key: ObjectKey, batch: _Batch) -> None:
        record = self._pods.pop(key)
        batch.pods.add(key)
        if record.group:
            self._members[record.group] -= 1
            batch.groups.add(record.group)
        for address in record.addresses:
            self._owners.release(address, key)

    def _record(self, pod: Pod, key: ObjectKey, source: str, batch: _Batch) -> _Pod:
        group = ""
        texts: tuple[str, ...] = ()
        if not pod.spec.host_network and not pod.done:
            group_key = self._grouper.group_key(pod)
            group = group_key.name
            self._keys.setdefault(group, group_key)
            texts = pod.addresses
        addresses, problems = _read(parse_address, texts, key, source, "status.podIPs")
        self._note(key, problems, batch)
        meta = pod.metadata
        return _Pod(
            key=key,
            uid=meta.uid,
            node=pod.spec.node_name,
            group=group,
            addresses=addresses,
            terminating=pod.terminating,
            created=meta.creation_timestamp,
            interface=meta.annotations.get(INTERFACE, "") if self._interface_hints else "",
        )

    def _put_node(self, node: Node, source: str, batch: _Batch) -> None:
        key, name = key_of(node), node.metadata.name
        texts = [
            address.address
            for address in node.status.addresses
            if address.type in ("InternalIP", "ExternalIP")
        ]
        cidrs = node.spec.pod_cidrs or tuple(filter(None, [node.spec.pod_cidr]))
        addresses, problems = _read(parse_address, texts, key, source, "status.addresses")
        prefixes, more = _read(parse_prefix, cidrs, key, source, "spec.podCIDRs")
        self._note(key, problems + more, batch)
        declared = NodeInfo(name, addresses, prefixes)
        created = node.metadata.creation_timestamp
        before = self._declared.get(name)
        if before == (declared, created):
            return
        if before is not None:
            for address in before[0].addresses:
                self._owners.release(address, key)
        self._declared[name] = declared, created
        for address in addresses:
            self._owners.claim(address, Claim(key, False, created))
        batch.nodes.add(name)

    def _note(self, key: ObjectKey, problems: tuple[Rejected, ...], batch: _Batch) -> None:
        """Keeps the problems of an object, and says those that are new."""
        if self._bad.get(key, ()) != problems:
            batch.problems.extend(problems)
        if problems:
            self._bad[key] = problems
        else:
            self._bad.pop(key, None)

    # ---------------------------------------------------------------------------- after a batch

    def _settle_api_server(self, batch: _Batch) -> None:
        now = frozenset(address for slice in self._slices.values() for address in slice)
        for address in now ^ self._api_server:
            owner = self._owners.owner(address)
            if owner is not None and owner.kind == "Node":
                batch.nodes.add(owner.name)
        self._api_server = now

    def _settle_nodes(self, batch: _Batch) -> frozenset[str]:
        changed = set()
        for name in batch.nodes:
            before, after = self._nodes.get(name), None
            if name in self._declared:
                declared = self._declared[name][0]
                key = ObjectKey("Node", "", name)
                owned = tuple(a for a in declared.addresses if self._owners.owns(key, a))
                own = tuple(a for a in owned if a in self._api_server)
                after = NodeInfo(name, owned, declared.pod_cidrs, own)
            if before == after:
                continue
            changed.add(name)
            if (before.pod_cidrs if before else ()) != (after.pod_cidrs if after else ()):
                self._unknown = None
            if after is not None and after.api_server:
                self._api_server_on[name] = after.api_server
            else:
                self._api_server_on.pop(name, None)
            if after is None:
                del self._nodes[name]
            else:
                self._nodes[name] = after
        return frozenset(changed)

    def _settle_groups(
        self, batch: _Batch, namespaces: frozenset[str]
    ) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """namespaces: those whose labels changed. Groups added, removed, rebound."""
        added, removed, rebound = set(), set(), set()
        names = set(batch.groups)
        for namespace in namespaces:
            names.update(self._groups_in.get(namespace, ()))
        for name in names:
            before, pods = self._groups.get(name), self._members[name]
            if pods == 0:
                del self._members[name]
                key = self._keys.pop(name)
                if before is not None:
                    removed.add(name)
                    del self._groups[name]
                    _discard(self._groups_in, key.namespace, name)
                    self._drop_label_set(before.label_set)
                continue
            key = self._keys[name]
            if before is None or before.namespace in namespaces:
                found = label_set(
                    key, self._namespaces.get(key.namespace), self._filter, self.cluster_name
                )
                labels = self._label_sets.get(found.key, found)
            else:
                labels = before.label_set
            if before is None:
                added.add(name)
                self._groups_in.setdefault(key.namespace, set()).add(name)
            elif before.label_set != labels:
                rebound.add(name)
            self._groups[name] = Group(key, key.namespace, labels, pods)
            if before is None or before.label_set != labels:
                self._label_set_groups[labels.key] += 1
                self._label_sets[labels.key] = labels
                if before is not None:
                    self._drop_label_set(before.label_set)
        return frozenset(added), frozenset(removed), frozenset(rebound)

    def _drop_label_set(self, labels: LabelSet) -> None:
        self._label_set_groups[labels.key] -= 1
        if not self._label_set_groups[labels.key]:
            del self._label_set_groups[labels.key], self._label_sets[labels.key]

    def _settle_endpoints(self, batch: _Batch) -> tuple[frozenset[str], frozenset[str]]:
        changed = set()
        moved: Counter[tuple[str, bytes]] = Counter()  # (group, address) -> +1, 0 or -1
        for key in batch.pods:
            name = f"{key.namespace}/{key.name}"
            before, after = self._endpoints.get(name), self._endpoint(key)
            if before == after:
                continue
            changed.add(name)
            if before is not None:
                _discard(self._endpoints_on, before.node, name)
                for address in filter(None, (before.ipv4, before.ipv6)):
                    moved[before.group, address] -= 1
            if after is None:
                del self._endpoints[name]
                continue
            self._endpoints[name] = after
            self._endpoints_on.setdefault(after.node, set()).add(name)
            for address in filter(None, (after.ipv4, after.ipv6)):
                moved[after.group, address] += 1
        groups = set()
        for (group, address), count in moved.items():
            if count > 0:
                self._addresses_of.setdefault(group, set()).add(address)
            elif count < 0:
                _discard(self._addresses_of, group, address)
            if count:
                groups.add(group)
        return frozenset(changed), frozenset(groups)

    def _endpoint(self, key: ObjectKey) -> Endpoint | None:
        """A pod's endpoint; None when there is no such pod or it owns no address."""
        pod = self._pods.get(key)
        if pod is None:
            return None
        owned = [address for address in pod.addresses if self._owners.owns(key, address)]
        if not owned:
            return None
        return Endpoint(
            namespace=key.namespace,
            pod=key.name,
            uid=pod.uid,
            node=pod.node,
            ipv4=next((address for address in owned if len(address) == 4), b""),
            ipv6=next((address for address in owned if len(address) == 16), b""),
            group=pod.group,
            interface=pod.interface,
        )


_Item = TypeVar("_Item")
_Read = TypeVar("_Read", bytes, Prefix)


def _read(
    parse: Callable[[str], _Read], texts: Iterable[str], key: ObjectKey, source: str, path: str
) -> tuple[tuple[_Read, ...], tuple[Rejected, ...]]:
    """What can be read, sorted and each once; and a problem for each text that can't."""
    found: set[_Read] = set()
    problems = []
    for text in texts:
        try:
            found.add(parse(text))
        except ValueError as error:
            problems.append(Rejected(source, str(key), path, str(error)))
    return tuple(sorted(found)), tuple(problems)


def _discard(index: dict[str, set[_Item]], key: str, item: _Item) -> None:
    members = index[key]
    members.discard(item)
    if not members:
        del index[key]


def _differing(
    before: Mapping[str, _Item | None],
    after: Mapping[str, _Item],
    part: Callable[[_Item], object],
) -> frozenset[str]:
    """Names whose value came, went, or differs in the part that matters."""

    def seen(item: _Item | None) -> object:
        return None if item is None else (part(item),)

    return frozenset(name for name, old in before.items() if seen(old) != seen(after.get(name)))
