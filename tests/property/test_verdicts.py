"""The whole way (label sets, compiler, entries, look-ups) against the oracle, packet by packet."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.labels import LabelFilter
from reconciler.core.objects import (
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    Pod,
    PodSpec,
    PodStatus,
    parse_prefix,
)
from reconciler.core.policy import oracle
from reconciler.core.verdicts import ALLOW, Probe, Verdicts, diff, matrix
from reconciler.testing.strategies import (
    EXTERNALS,
    NODES,
    POD_NETWORK,
    PORTS,
    PROTOCOL_NAMES,
    World,
    worlds,
)

NODE_ADDRESSES = dict(zip(("192.0.2.101", "192.0.2.102"), NODES, strict=True))
UNKNOWN = "10.244.9.9"
NODE_OBJECTS = tuple(
    Node(
        ObjectMeta(name=name),
        NodeSpec(POD_NETWORK, (POD_NETWORK,)),
        NodeStatus((NodeAddress("InternalIP", address),)),
    )
    for address, name in NODE_ADDRESSES.items()
)
OUTSIDE = (*EXTERNALS, *NODE_ADDRESSES, UNKNOWN)

probe_lists = st.lists(
    st.one_of(
        st.builds(Probe, st.sampled_from(PROTOCOL_NAMES), st.sampled_from(PORTS)),
        st.builds(Probe, st.sampled_from(PROTOCOL_NAMES), st.integers(1, 65535)),
        st.just(Probe("ICMP", 0)),
    ),
    min_size=1,
    max_size=3,
    unique=True,
)


def party(world: World, name: str) -> oracle.Party:
    if name in NODE_ADDRESSES:
        return oracle.Host(NODE_ADDRESSES[name])
    if name == UNKNOWN:
        return oracle.Unknown()
    for pod in world.pods:
        if name == f"{pod.metadata.namespace}/{pod.metadata.name}":
            return pod
    return oracle.External(name)


@given(worlds(), probe_lists)
def test_the_matrix_is_the_oracles(world: World, probes: list[Probe]) -> None:
    objects = (*world.objects, *NODE_OBJECTS)
    rows = matrix(objects, probes, OUTSIDE)
    judge = oracle.World({n.metadata.name: n for n in world.namespaces}, world.policies)
    parties = {name: party(world, name) for row in rows for name in (row.source, row.destination)}
    for row in rows:
        egress, ingress = oracle.oracle(
            judge, parties[row.source], parties[row.destination], row.protocol, row.port
        )
        assert (row.egress == ALLOW, row.ingress == ALLOW) == (egress, ingress), row
        assert (row.verdict == ALLOW) is (egress and ingress)
    pods, others = len(world.pods), len(OUTSIDE)
    assert len(rows) == (pods * (pods - 1) + 2 * pods * others) * len(probes)
    assert not diff(rows, rows)


@given(worlds(max_pods=3), probe_lists)
def test_the_deciding_rules_agree_with_the_matrix(world: World, probes: list[Probe]) -> None:
    verdicts = Verdicts((*world.objects, *NODE_OBJECTS))
    for row in verdicts.rows(probes, OUTSIDE):
        ends = verdicts.party(row.source), verdicts.party(row.destination)
        egress, ingress = verdicts.decide(*ends, Probe(row.protocol, row.port))
        assert (row.egress == ALLOW) is (egress is None or egress.allowed)
        assert (row.ingress == ALLOW) is (ingress is None or ingress.allowed)


@given(worlds(), probe_lists, st.sampled_from(("app", "tier", "flag")))
def test_a_hidden_label_is_not_there(world: World, probes: list[Probe], hidden: str) -> None:
    filter = LabelFilter.default().with_user_rules([f"!{hidden}"])
    judge = oracle.World(
        {n.metadata.name: n for n in world.namespaces},
        world.policies,
        hidden=lambda key: key == hidden,
    )
    pods = {f"{pod.metadata.namespace}/{pod.metadata.name}": pod for pod in world.pods}
    for row in matrix(world.objects, probes, label_filter=filter):
        egress, ingress = oracle.oracle(
            judge, pods[row.source], pods[row.destination], row.protocol, row.port
        )
        assert (row.egress == ALLOW, row.ingress == ALLOW) == (egress, ingress), row


@given(worlds(), probe_lists)
def test_names_and_order_of_objects_don_t_matter(world: World, probes: list[Probe]) -> None:
    rows = matrix(world.objects, probes)
    assert matrix(reversed(world.objects), probes) == rows
    bare = tuple(
        msgspec.structs.replace(pod, status=PodStatus(), spec=_unplaced(pod)) for pod in world.pods
    )
    assert matrix((*world.namespaces, *bare, *world.policies), probes) == rows
    one = {"shop"}
    assert list(Verdicts(world.objects).rows(probes, namespaces=one)) == [
        row for row in rows if row.source.startswith("shop/") or row.destination.startswith("shop/")
    ]


def _unplaced(pod: Pod) -> PodSpec:
    return msgspec.structs.replace(pod.spec, node_name="")


def test_the_unknown_address_is_inside_the_cluster() -> None:
    assert parse_prefix(POD_NETWORK).covers(parse_prefix(f"{UNKNOWN}/32"))
