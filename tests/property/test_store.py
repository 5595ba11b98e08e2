"""The store after any changes against the same state worked out from scratch, and exact deltas."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.labels import LabelFilter, group_key, label_set
from reconciler.core.objects import (
    Change,
    Conditions,
    Delete,
    EndpointSlice,
    KubeObject,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    NetworkPolicySpec,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectKey,
    ObjectMeta,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    SliceEndpoint,
    Upsert,
    key_of,
    parse_address,
    parse_prefix,
)
from reconciler.core.store import Cluster, Delta

FILTER = LabelFilter.default()
CONFIGURED = (parse_prefix("10.0.0.0/24"),)

NAMESPACES = st.sampled_from(["a", "b"])
NAMES = st.sampled_from(["x", "y", "z"])
NODES = st.sampled_from(["", "n1", "n2"])
TIMES = st.sampled_from(["", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"])
V4 = st.sampled_from(["10.0.0.1", "10.0.0.2"])
V6 = st.sampled_from(["fd00::1", "fd00::2"])


def _addresses() -> st.SearchStrategy[tuple[str, ...]]:
    pairs = st.tuples(st.none() | V4, st.none() | V6)
    return pairs.map(lambda pair: tuple(text for text in pair if text))


def _pod(draw: Any) -> Pod:
    labels = {"app": draw(st.sampled_from("pq")), "pod-template-hash": draw(st.sampled_from("12"))}
    return Pod(
        ObjectMeta(
            name=draw(NAMES),
            namespace=draw(NAMESPACES),
            uid=draw(st.sampled_from(["u1", "u2"])),
            labels=labels,
            creation_timestamp=draw(TIMES),
            deletion_timestamp=draw(st.sampled_from(["", "", "2024-01-03T00:00:00Z"])),
        ),
        PodSpec(
            node_name=draw(NODES),
            host_network=draw(st.integers(0, 7)) == 7,
            service_account_name=draw(st.sampled_from(["default", "sa"])),
        ),
        PodStatus(
            phase=draw(st.sampled_from(["Running", "Running", "Running", "Failed"])),
            pod_ips=tuple(PodIP(text) for text in draw(_addresses())),
        ),
    )


def _node(draw: Any) -> Node:
    cidrs = draw(st.lists(st.sampled_from(["10.0.0.0/25", "10.1.0.0/24", "fd00::/64"]), max_size=2))
    return Node(
        ObjectMeta(name=draw(st.sampled_from(["n1", "n2"])), creation_timestamp=draw(TIMES)),
        NodeSpec(pod_cidrs=tuple(cidrs)),
        NodeStatus(tuple(NodeAddress("InternalIP", text) for text in draw(_addresses()))),
    )


def _slice(draw: Any) -> EndpointSlice:
    ready = st.sampled_from([None, True, False])
    endpoints = [
        SliceEndpoint((text,), Conditions(ready=draw(ready))) for text in draw(_addresses())
    ]
    name = draw(st.sampled_from(["kubernetes", "kubernetes-v6"]))
    return EndpointSlice(ObjectMeta(name=name, namespace="default"), "IPv4", tuple(endpoints))


def _namespace(draw: Any) -> Namespace:
    labels = draw(st.dictionaries(st.sampled_from(["team", "env"]), st.sampled_from("12")))
    return Namespace(ObjectMeta(name=draw(NAMESPACES), labels=labels))


def _policy(draw: Any) -> NetworkPolicy:
    selector = LabelSelector(match_labels={"app": draw(st.sampled_from("pq"))})
    return NetworkPolicy(
        ObjectMeta(
            name=draw(NAMES),
            namespace=draw(NAMESPACES),
            resource_version=draw(st.sampled_from("12")),
        ),
        NetworkPolicySpec(pod_selector=selector),
    )


@st.composite
def _change(draw: Any) -> Change:
    make = draw(st.sampled_from([_pod, _pod, _pod, _node, _namespace, _policy, _slice]))
    item: KubeObject = make(draw)
    return Delete(key_of(item)) if draw(st.integers(0, 3)) == 0 else Upsert(item, "test")


BATCHES = st.lists(st.lists(_change(), max_size=6), max_size=8)


@dataclass
class State:
    """Everything that the store shows."""

    groups: dict[str, tuple[str, int]]  # name -> label set, pods
    endpoints: dict[str, tuple[Any, ...]]
    nodes: dict[str, tuple[Any, ...]]
    policies: dict[str, Any]
    namespaces: dict[str, Any]
    label_sets: set[str]
    addresses: dict[str, set[bytes]]  # group -> addresses
    unknown: set[str]
    api_server: list[bytes]


def shown(store: Cluster) -> State:
    for node in ("", "n1", "n2"):
        on_node = {name: e for name, e in store.endpoints.items() if e.node == node}
        assert {e.name: e for e in store.endpoints_of(node)} == on_node
    for namespace in ("a", "b"):
        inside = {n for n, group in store.groups.items() if group.namespace == namespace}
        assert set(store.groups_of(namespace)) == inside
    assert all(key == labels.key for key, labels in store.label_sets.items())
    return State(
        groups={name: (g.label_set.key, g.pods) for name, g in store.groups.items()},
        endpoints={
            name: (e.uid, e.node, e.ipv4, e.ipv6, e.group) for name, e in store.endpoints.items()
        },
        nodes={name: (n.addresses, n.pod_cidrs, n.api_server) for name, n in store.nodes.items()},
        policies={name: policy.spec for name, policy in store.policies.items()},
        namespaces={name: n.metadata.labels for name, n in store.namespaces.items()},
        label_sets=set(store.label_sets),
        addresses={
            name: set(store.group_addresses(name)[0]) | set(store.group_addresses(name)[1])
            for name in store.groups
        },
        unknown=set(map(str, store.unknown_prefixes())),
        api_server=sorted(store.api_server_addresses()),
    )


def worked_out(objects: dict[ObjectKey, KubeObject]) -> State:
    """The same from the objects at hand, by definition and without any index."""
    pods = [x for x in objects.values() if isinstance(x, Pod)]
    nodes = [x for x in objects.values() if isinstance(x, Node)]
    namespaces = {x.metadata.name: x for x in objects.values() if isinstance(x, Namespace)}
    policies = [x for x in objects.values() if isinstance(x, NetworkPolicy)]
    living = [x for x in pods if not x.spec.host_network and x.status.phase != "Failed"]

    claims: list[tuple[bytes, Pod | Node]] = []
    claims += [(parse_address(text), pod) for pod in living for text in pod.addresses]
    claims += [(parse_address(a.address), node) for node in nodes for a in node.status.addresses]

    def owned(item: Pod | Node) -> list[bytes]:
        return sorted(
            address
            for address, claimant in claims
            if claimant is item
            and not any(_beats(other, item) for where, other in claims if where == address)
        )

    counts = Counter(group_key(pod, FILTER).name for pod in living)
    groups: dict[str, tuple[str, int]] = {}
    addresses: dict[str, set[bytes]] = {}
    endpoints: dict[str, tuple[object, ...]] = {}
    for pod in living:
        key = group_key(pod, FILTER)
        labels = label_set(key, namespaces.get(pod.metadata.namespace), FILTER, "default")
        groups[key.name] = (labels.key, counts[key.name])
        mine = owned(pod)
        addresses.setdefault(key.name, set()).update(mine)
        if mine:
            v4 = b"".join(a for a in mine if len(a) == 4)
            v6 = b"".join(a for a in mine if len(a) == 16)
            name = f"{pod.metadata.namespace}/{pod.metadata.name}"
            endpoints[name] = (pod.metadata.uid, pod.spec.node_name, v4, v6, key.name)
    api_server = {
        parse_address(text)
        for x in objects.values()
        if isinstance(x, EndpointSlice)
        for each in x.endpoints
        if each.conditions.ready is not False
        for text in each.addresses
    }
    cidrs = {*CONFIGURED, *(parse_prefix(text) for node in nodes for text in node.spec.pod_cidrs)}
    return State(
        groups=groups,
        endpoints=endpoints,
        nodes={
            n.metadata.name: (
                tuple(owned(n)),
                tuple(sorted({parse_prefix(text) for text in n.spec.pod_cidrs})),
                tuple(address for address in owned(n) if address in api_server),
            )
            for n in nodes
        },
        policies={f"{p.metadata.namespace}/{p.metadata.name}": p.spec for p in policies},
        namespaces={name: n.metadata.labels for name, n in namespaces.items()},
        label_sets={key for key, _ in groups.values()},
        addresses=addresses,
        api_server=sorted(api_server & {address for n in nodes for address in owned(n)}),
        unknown={str(a) for a in cidrs if not any(b != a and b.covers(a) for b in cidrs)},
    )


def _beats(one: Pod | Node, two: Pod | Node) -> bool:
    """Whether `one` has an address rather than `two`, rule by rule."""
    if isinstance(one, Node) != isinstance(two, Node):
        return isinstance(one, Node)
    a, b = one.metadata, two.metadata
    if isinstance(one, Pod) and bool(a.deletion_timestamp) != bool(b.deletion_timestamp):
        return not a.deletion_timestamp
    if a.creation_timestamp != b.creation_timestamp:
        return a.creation_timestamp > b.creation_timestamp
    return (a.namespace, a.name) < (b.namespace, b.name)


def difference(before: State, after: State) -> dict[str, frozenset[str]]:
    def keys(one: dict[str, Any], two: dict[str, Any]) -> frozenset[str]:
        return frozenset(k for k in {*one, *two} if one.get(k) != two.get(k))

    held = {n: a for n, a in before.addresses.items() if a}
    holds = {n: a for n, a in after.addresses.items() if a}
    return {
        "groups_added": frozenset(after.groups.keys() - before.groups.keys()),
        "groups_removed": frozenset(before.groups.keys() - after.groups.keys()),
        "groups_rebound": frozenset(
            name
            for name in before.groups.keys() & after.groups.keys()
            if before.groups[name][0] != after.groups[name][0]
        ),
        "endpoints": keys(before.endpoints, after.endpoints),
        "nodes": keys(before.nodes, after.nodes),
        "policies": keys(before.policies, after.policies),
        "namespaces": keys(before.namespaces, after.namespaces),
        "address_groups": keys(held, holds),
    }


def said(delta: Delta) -> dict[str, frozenset[str]]:
    fields = {name: getattr(delta, name) for name in delta.__struct_fields__}
    del fields["problems"]
    return fields


@given(BATCHES)
def test_any_changes_lead_to_the_state_of_the_objects_and_deltas_are_the_difference(
    batches: list[list[Change]],
) -> None:
    store = Cluster(FILTER, cluster_cidrs=CONFIGURED)
    objects: dict[ObjectKey, KubeObject] = {}
    before = shown(store)
    for batch in batches:
        delta = store.apply(batch)
        for change in batch:
            if isinstance(change, Delete):
                objects.pop(change.key, None)
            else:
                objects[change.key] = change.object
        after = shown(store)
        assert after == worked_out(objects)
        assert said(delta) == difference(before, after)
        before = after


@given(BATCHES)
def test_the_way_there_does_not_matter(batches: list[list[Change]]) -> None:
    changes = [change for batch in batches for change in batch]
    one_by_one = Cluster(FILTER, cluster_cidrs=CONFIGURED)
    for change in changes:
        one_by_one.apply([change])
    at_once = Cluster(FILTER, cluster_cidrs=CONFIGURED)
    at_once.apply(changes)
    last: dict[ObjectKey, KubeObject] = {}
    for change in changes:
        last.pop(change.key, None)
        if isinstance(change, Upsert):
            last[change.key] = change.object
    backwards = Cluster(FILTER, cluster_cidrs=CONFIGURED)
    backwards.apply([Upsert(item, "test") for item in reversed(last.values())])
    assert shown(one_by_one) == shown(at_once) == shown(backwards)
    assert one_by_one.problems == at_once.problems == backwards.problems
