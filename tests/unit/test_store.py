"""The cluster store: owners of addresses, exact deltas, relabels that touch groups only."""

from __future__ import annotations

import pytest

from reconciler.core.labels import LabelFilter, label_set
from reconciler.core.objects import (
    Change,
    ContainerState,
    ContainerStatus,
    Delete,
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
    Terminated,
    Upsert,
    key_of,
    parse_address,
    parse_prefix,
)
from reconciler.core.store import INTERFACE, Cluster, Delta, cluster

ENDED = ContainerStatus(ContainerState(Terminated()))
RUNNING = ContainerStatus()


def pod(
    name: str,
    *addresses: str,
    app: str = "web",
    uid: str = "u",
    node: str = "n1",
    phase: str = "Running",
    created: str = "",
    deleted: str = "",
    host: bool = False,
    containers: tuple[ContainerStatus, ...] = (),
    inits: tuple[ContainerStatus, ...] = (),
    annotations: dict[str, str] | None = None,
    version: str = "",
) -> Pod:
    namespace, _, short = name.partition("/")
    return Pod(
        ObjectMeta(
            name=short,
            namespace=namespace,
            uid=uid,
            labels={"app": app},
            annotations=annotations or {},
            creation_timestamp=created,
            deletion_timestamp=deleted,
            resource_version=version,
        ),
        PodSpec(node_name=node, host_network=host, service_account_name="default"),
        PodStatus(
            phase=phase,
            pod_ips=tuple(PodIP(address) for address in addresses),
            container_statuses=containers,
            init_container_statuses=inits,
        ),
    )


def node(name: str, *addresses: str, cidrs: tuple[str, ...] = (), created: str = "") -> Node:
    found = tuple(NodeAddress("InternalIP", address) for address in addresses)
    return Node(
        ObjectMeta(name=name, creation_timestamp=created),
        NodeSpec(pod_cidrs=cidrs),
        NodeStatus((*found, NodeAddress("Hostname", name))),
    )


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(ObjectMeta(name=name, labels=labels))


def new() -> Cluster:
    return Cluster(LabelFilter.default())


def put(store: Cluster, *objects: Pod | Node | Namespace | NetworkPolicy) -> Delta:
    return store.apply([Upsert(item, "test") for item in objects])


def gone(kind: str, name: str) -> Change:
    space, _, short = name.rpartition("/")
    return Delete(ObjectKey(kind, space, short))


def addresses(store: Cluster, name: str) -> set[bytes]:
    endpoint = store.endpoints.get(name)
    return {x for x in (endpoint.ipv4, endpoint.ipv6) if x} if endpoint else set()


# ----------------------------------------------------------------------------- pods and groups


def test_a_pod_makes_a_group_an_endpoint_and_an_address() -> None:
    store = new()
    delta = put(store, pod("shop/a", "10.0.0.1", "fd00::1"))
    (group,) = store.groups.values()
    assert delta == Delta(
        groups_added=frozenset([group.key.name]),
        endpoints=frozenset(["shop/a"]),
        address_groups=frozenset([group.key.name]),
    )
    endpoint = store.endpoints["shop/a"]
    assert (endpoint.ipv4, endpoint.ipv6) == (b"\x0a\0\0\1", parse_address("fd00::1"))
    assert (endpoint.node, endpoint.uid, endpoint.group) == ("n1", "u", group.key.name)
    assert store.group_addresses(group.key.name) == ((endpoint.ipv4,), (endpoint.ipv6,))
    assert store.endpoints_of("n1") == (endpoint,)
    assert list(store.label_sets) == [group.label_set.key]
    assert group.pods == 1


def test_a_pod_without_an_address_is_in_its_group_already() -> None:
    store = new()
    delta = put(store, pod("shop/a", phase="Pending", node=""))
    assert delta.groups_added
    assert not delta.endpoints
    assert not store.endpoints
    delta = put(store, pod("shop/a", "10.0.0.1"))
    assert not delta.groups_added
    assert delta.endpoints == {"shop/a"}


@pytest.mark.parametrize(
    "never",
    [
        pod("shop/a", "10.0.0.1", host=True),
        pod("shop/a", "10.0.0.1", phase="Succeeded"),
        pod("shop/a", "10.0.0.1", phase="Failed"),
        pod("shop/a", "10.0.0.1", deleted="2024-01-01T00:00:00Z", containers=(ENDED, ENDED)),
    ],
)
def test_who_owns_no_address_and_is_in_no_group(never: Pod) -> None:
    store = new()
    assert put(store, never) == Delta()
    assert not store.groups
    put(store, pod("shop/a", "10.0.0.1"))
    delta = put(store, never)
    assert delta.endpoints == {"shop/a"}
    assert delta.groups_removed
    assert not store.endpoints
    assert store.owner_of(parse_address("10.0.0.1")) is None


@pytest.mark.parametrize(
    "still",
    [
        pod("shop/a", "10.0.0.1", deleted="x", containers=(ENDED, RUNNING)),
        pod("shop/a", "10.0.0.1", deleted="x", containers=(ENDED,), inits=(RUNNING,)),
        pod("shop/a", "10.0.0.1", deleted="x"),
        pod("shop/a", "10.0.0.1", containers=(ENDED,)),  # it will be restarted
    ],
)
def test_who_may_still_send(still: Pod) -> None:
    store = new()
    put(store, still)
    assert store.endpoints


def test_a_pod_that_changes_its_labels_moves_with_its_address() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1"), pod("shop/b", "10.0.0.2"))
    (old,) = store.groups
    delta = put(store, pod("shop/a", "10.0.0.1", app="db"))
    (added,) = delta.groups_added
    assert delta == Delta(
        groups_added=frozenset([added]),
        endpoints=frozenset(["shop/a"]),
        address_groups=frozenset([old, added]),
    )
    assert store.group_addresses(old) == ((parse_address("10.0.0.2"),), ())
    assert store.group_addresses(added) == ((parse_address("10.0.0.1"),), ())


def test_a_pod_that_moves_to_another_node() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1"))
    delta = put(store, pod("shop/a", "10.0.0.1", node="n2"))
    assert delta == Delta(endpoints=frozenset(["shop/a"]))
    assert store.endpoints_of("n1") == ()
    assert [endpoint.pod for endpoint in store.endpoints_of("n2")] == ["a"]


def test_a_pod_made_again_under_its_name_is_another_endpoint() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1", uid="one"))
    again = Upsert(pod("shop/a", "10.0.0.1", uid="two"))
    delta = store.apply([gone("Pod", "shop/a"), again])
    assert delta == Delta(endpoints=frozenset(["shop/a"]))
    assert store.endpoints["shop/a"].uid == "two"


def test_what_changes_and_changes_back_is_in_no_delta() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1"), namespace("shop", team="a"), node("n1", "192.168.0.1"))
    before = dict(store.endpoints), dict(store.groups), dict(store.nodes)
    delta = store.apply(
        [
            Upsert(pod("shop/a", "10.0.0.9", app="db")),
            Upsert(namespace("shop", team="b")),
            gone("Node", "n1"),
            gone("Pod", "shop/a"),
            Upsert(node("n1", "192.168.0.1")),
            Upsert(namespace("shop", team="a")),
            Upsert(pod("shop/a", "10.0.0.1")),
        ]
    )
    assert delta == Delta()
    assert not delta
    assert (dict(store.endpoints), dict(store.groups), dict(store.nodes)) == before


def test_two_pods_of_a_group_that_swap_addresses_leave_the_group_as_it_was() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1"), pod("shop/b", "10.0.0.2"))
    delta = put(store, pod("shop/a", "10.0.0.2"), pod("shop/b", "10.0.0.1"))
    assert delta.endpoints == {"shop/a", "shop/b"}
    assert not delta.address_groups
    assert not delta.problems
    (group,) = store.groups
    assert len(store.group_addresses(group)[0]) == 2


def test_a_new_version_that_says_nothing_new_is_no_change() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1", version="1"))
    assert put(store, pod("shop/a", "10.0.0.1", version="2")) == Delta()


def test_deleting_what_is_not_there_is_no_change() -> None:
    kinds = ("Pod", "Namespace", "NetworkPolicy", "Node")
    assert new().apply([gone(kind, "shop/a") for kind in kinds]) == Delta()


def test_the_last_pod_takes_its_group_and_label_set_along() -> None:
    store = new()
    put(store, pod("shop/a", "10.0.0.1"), pod("shop/b"))
    (group,) = store.groups
    assert not store.apply([gone("Pod", "shop/a")]).groups_removed
    assert store.groups[group].pods == 1
    assert store.apply([gone("Pod", "shop/b")]) == Delta(groups_removed=frozenset([group]))
    assert not store.label_sets
    assert store.groups_of("shop") == ()
    assert store.group_addresses(group) == ((), ())


# ------------------------------------------------------------------------------- namespaces


def test_a_relabel_rebinds_the_namespaces_groups_and_touches_no_pod(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = new()
    put(store, *(pod(f"shop/{i}", f"10.0.0.{i}", app=f"a{i % 3}") for i in range(1, 30)))
    put(store, pod("other/x", "10.0.1.1"))
    asked: list[str] = []
    original = label_set

    def counted(*args: object) -> object:
        asked.append("label_set")
        return original(*args)  # type: ignore[arg-type]

    def never(*_: object) -> None:
        raise AssertionError("a pod was looked at")

    monkeypatch.setattr(cluster, "label_set", counted)
    monkeypatch.setattr(store, "_endpoint", never)
    monkeypatch.setattr(store._grouper, "group_key", never)
    delta = put(store, namespace("shop", team="a"))
    assert delta == Delta(
        namespaces=frozenset(["shop"]), groups_rebound=frozenset(store.groups_of("shop"))
    )
    assert len(asked) == 3
    assert all(
        store.groups[name].label_set.get("io.cilium.k8s.namespace.labels.team") == "a"
        for name in store.groups_of("shop")
    )
    assert len(store.label_sets) == 4


def test_a_deleted_namespace_leaves_its_pods_with_its_name_only() -> None:
    store = new()
    put(store, pod("shop/a"))
    (unknown,) = store.label_sets
    put(store, namespace("shop", team="a"))
    delta = store.apply([gone("Namespace", "shop")])
    assert delta.namespaces == {"shop"}
    assert delta.groups_rebound
    assert list(store.label_sets) == [unknown]


def test_a_namespace_whose_labels_stay_is_no_change() -> None:
    store = new()
    put(store, namespace("shop", team="a"))
    annotated = Namespace(
        ObjectMeta(name="shop", labels={"team": "a"}, annotations={"x": "y"}, resource_version="2")
    )
    assert put(store, annotated) == Delta()


def test_a_label_that_the_filter_hides_rebinds_nothing() -> None:
    store = new()  # `.*beta` is a longer match than what saves namespace labels
    put(store, pod("shop/a"), Namespace(ObjectMeta(name="shop")))
    hidden = Namespace(ObjectMeta(name="shop", labels={"beta.kubernetes.io/x": "y"}))
    assert put(store, hidden) == Delta(namespaces=frozenset(["shop"]))


# ---------------------------------------------------------------------------------- policies


def test_policies() -> None:
    store = new()
    closed = NetworkPolicy(ObjectMeta(name="p", namespace="shop"))
    assert put(store, closed).policies == {"shop/p"}
    same = NetworkPolicy(ObjectMeta(name="p", namespace="shop", resource_version="2"))
    assert put(store, same) == Delta()
    assert store.policies["shop/p"].metadata.resource_version == "2"
    other = NetworkPolicy(
        ObjectMeta(name="p", namespace="shop"),
        NetworkPolicySpec(pod_selector=LabelSelector(match_labels={"a": "b"})),
    )
    assert put(store, other).policies == {"shop/p"}
    assert store.apply([gone("NetworkPolicy", "shop/p")]).policies == {"shop/p"}
    assert not store.policies


# --------------------------------------------------------------------------- owners of addresses


ADDRESS = "10.0.0.1"


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        # a node before any pod
        (node("n1", ADDRESS), pod("shop/a", ADDRESS, created="2024-01-02T00:00:00Z")),
        # who isn't being deleted before who is, though older
        (
            pod("shop/b", ADDRESS, created="2024-01-01T00:00:00Z"),
            pod("shop/a", ADDRESS, created="2024-01-02T00:00:00Z", deleted="x"),
        ),
        # who was made later
        (
            pod("shop/b", ADDRESS, created="2024-01-02T00:00:00Z"),
            pod("shop/a", ADDRESS, created="2024-01-01T00:00:00Z"),
        ),
        # the first by name
        (pod("shop/a", ADDRESS), pod("shop/b", ADDRESS)),
        (node("n1", ADDRESS), node("n2", ADDRESS)),
    ],
)
def test_one_owner_whatever_the_order(winner: Pod | Node, loser: Pod | Node) -> None:
    for order in ([winner, loser], [loser, winner]):
        store = new()
        for item in order:
            put(store, item)
        assert store.owner_of(parse_address(ADDRESS)) == key_of(winner)
        owners = [x for x in store.endpoints if addresses(store, x)]
        owners += [x for x, info in store.nodes.items() if info.addresses]
        assert owners == [
            winner.metadata.name if isinstance(winner, Node) else f"shop/{winner.metadata.name}"
        ]
        # and when the winner goes, the other has it
        store.apply([Delete(key_of(winner))])
        assert store.owner_of(parse_address(ADDRESS)) == key_of(loser)
        assert not store.problems


def test_two_living_claimants_are_a_problem_until_one_goes() -> None:
    store = new()
    delta = put(store, pod("shop/a", ADDRESS), pod("shop/b", ADDRESS))
    (problem,) = delta.problems
    assert str(problem) == (
        "Pod shop/a: status: 10.0.0.1 is claimed by Pod shop/b too; Pod shop/a has it"
    )
    assert store.problems == (problem,)
    assert put(store, pod("other/x", "10.0.0.2")).problems == ()
    store.apply([gone("Pod", "shop/b")])
    assert not list(store.problems)


def test_an_address_that_a_dying_pod_still_reports_is_no_problem() -> None:
    store = new()
    old = pod("shop/a", ADDRESS, created="2024-01-01T00:00:00Z", deleted="x")
    put(store, old)
    delta = put(store, pod("shop/b", ADDRESS, created="2024-01-02T00:00:00Z"))
    assert delta.endpoints == {"shop/a", "shop/b"}
    assert not delta.problems
    assert list(store.endpoints) == ["shop/b"]


def test_a_pod_may_own_one_of_its_two_addresses() -> None:
    store = new()
    put(store, pod("shop/a", ADDRESS, "fd00::1"), node("n1", ADDRESS))
    assert addresses(store, "shop/a") == {parse_address("fd00::1")}


def test_an_address_that_cannot_be_read_is_reported_and_claimed_by_nobody() -> None:
    store = new()
    delta = put(store, pod("shop/a", "10.0.0.1000", "fd00::1"), node("n1", "::ffff:1.2.3.4"))
    assert [str(problem.object) for problem in delta.problems] == ["Pod shop/a", "Node n1"]
    assert addresses(store, "shop/a") == {parse_address("fd00::1")}
    assert put(store, pod("shop/a", "10.0.0.1000", "fd00::1")).problems == ()
    assert len(store.problems) == 2
    put(store, pod("shop/a", "10.0.0.1", "fd00::1"))
    store.apply([gone("Node", "n1")])
    assert not list(store.problems)


# -------------------------------------------------------------------------------------- nodes


def test_nodes_and_the_clusters_cidrs() -> None:
    store = Cluster(LabelFilter.default(), cluster_cidrs=(parse_prefix("10.0.0.0/8"),))
    assert put(store, node("n1", "192.168.0.1", cidrs=("10.1.0.0/24", "fd00:1::/64"))).nodes
    assert put(store, node("n2", "192.168.0.2", cidrs=("11.0.0.0/24",))).nodes == {"n2"}
    assert list(map(str, store.unknown_prefixes())) == ["10.0.0.0/8", "11.0.0.0/24", "fd00:1::/64"]
    assert store.nodes["n1"].addresses == (parse_address("192.168.0.1"),)
    assert put(store, node("n1", "192.168.0.1", cidrs=("fd00:1::/64", "10.1.0.0/24"))) == Delta()
    store.apply([gone("Node", "n2")])
    assert list(map(str, store.unknown_prefixes())) == ["10.0.0.0/8", "fd00:1::/64"]


def test_a_node_that_takes_a_pods_address_changes_both() -> None:
    store = new()
    put(store, pod("shop/a", ADDRESS))
    delta = put(store, node("n1", ADDRESS))
    assert delta.nodes == {"n1"}
    assert delta.endpoints == {"shop/a"}
    assert delta.address_groups == frozenset(store.groups)


# --------------------------------------------------------------------------------- interfaces


def test_interface_hints_are_believed_only_when_asked_to() -> None:
    hinted = pod("shop/a", ADDRESS, annotations={INTERFACE: "veth7"})
    store = new()
    put(store, hinted)
    assert store.endpoints["shop/a"].interface == ""
    trusting = Cluster(LabelFilter.default(), interface_hints=True)
    put(trusting, hinted)
    assert trusting.endpoints["shop/a"].interface == "veth7"


def test_views_cannot_be_written() -> None:
    store = new()
    with pytest.raises(TypeError):
        store.groups["x"] = None  # type: ignore[index]
