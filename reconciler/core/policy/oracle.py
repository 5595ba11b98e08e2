"""The oracle: the verdict of Kubernetes NetworkPolicies straight from the objects.

It is what tests hold the whole product to, so it shares no code with the compiler: no label sets,
no selectors of ours, no identities. It follows the text of the Kubernetes API:

    A pod is isolated in a direction if a policy that selects it speaks of that direction. An
    isolated pod's traffic passes if some rule of some such policy allows it; any other pod's
    passes. A pod's own node always gets in.

Where that text leaves a choice it says what this product does: `ipBlock` means addresses outside
the cluster only; an address inside the cluster whose owner is not known matches only rules that
name no peers; of two ports with one name the first counts; a namespace without an object has the
one label that every namespace has; `hidden` pod labels (the label filter's) are not there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

from reconciler.core.objects import (
    LabelSelector,
    Namespace,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    Pod,
)


class Host(msgspec.Struct, frozen=True):
    """A node, by name: "host" to the pods that run on it, a remote node to all others."""

    node: str


class External(msgspec.Struct, frozen=True):
    """An address outside the cluster, as text."""

    address: str


class Unknown(msgspec.Struct, frozen=True):
    """An address inside the cluster's CIDRs that belongs to nobody we know."""


Party: TypeAlias = Pod | Host | External | Unknown


class World(msgspec.Struct, frozen=True):
    """Everything that the oracle reads."""

    namespaces: Mapping[str, Namespace]
    policies: tuple[NetworkPolicy, ...]
    hidden: Callable[[str], bool] = lambda key: False


def oracle(
    world: World, source: Party, destination: Party, protocol: str, port: int
) -> tuple[bool, bool]:
    """(egress allowed at the source, ingress allowed at the destination) for one packet.

    protocol: "TCP", "UDP", "SCTP" or any other name, which only rules without ports allow.
    Only pods have policies: a party that isn't one allows everything on its side.
    """
    egress = ingress = True
    if isinstance(source, Pod):
        rules = [
            (policy, rule.peers, rule.ports)
            for policy in _selecting(world, source, "Egress")
            for rule in policy.spec.egress
        ]
        egress = not _selecting(world, source, "Egress") or any(
            _peers(world, policy, peers, source, destination)
            and _ports(ports, protocol, port, destination)
            for policy, peers, ports in rules
        )
    if isinstance(destination, Pod):
        rules = [
            (policy, rule.peers, rule.ports)
            for policy in _selecting(world, destination, "Ingress")
            for rule in policy.spec.ingress
        ]
        own_node = isinstance(source, Host) and source.node == destination.spec.node_name
        ingress = (
            own_node
            or not _selecting(world, destination, "Ingress")
            or any(
                _peers(world, policy, peers, destination, source)
                and _ports(ports, protocol, port, destination)
                for policy, peers, ports in rules
            )
        )
    return egress, ingress


def _selecting(world: World, pod: Pod, direction: str) -> list[NetworkPolicy]:
    found = []
    for policy in world.policies:
        types = policy.spec.policy_types
        if not types:
            types = ("Ingress", "Egress") if policy.spec.egress else ("Ingress",)
        if (
            direction in types
            and policy.metadata.namespace == pod.metadata.namespace
            and _labels_match(policy.spec.pod_selector, _labels(world, pod))
        ):
            found.append(policy)
    return found


def _peers(
    world: World,
    policy: NetworkPolicy,
    peers: Iterable[NetworkPolicyPeer],
    subject: Pod,
    other: Party,
) -> bool:
    listed = list(peers)
    return not listed or any(_peer(world, policy, peer, other) for peer in listed)


def _peer(world: World, policy: NetworkPolicy, peer: NetworkPolicyPeer, other: Party) -> bool:
    if peer.ip_block is not None:
        if not isinstance(other, External):
            return False
        address = ipaddress.ip_address(other.address)
        block = ipaddress.ip_network(peer.ip_block.cidr, strict=False)
        holes = [ipaddress.ip_network(text, strict=False) for text in peer.ip_block.excepts]
        return address in block and not any(address in hole for hole in holes)
    if not isinstance(other, Pod):
        return False
    if peer.namespace_selector is None:
        if other.metadata.namespace != policy.metadata.namespace:
            return False
    else:
        namespace = world.namespaces.get(other.metadata.namespace)
        labels = (
            {"kubernetes.io/metadata.name": other.metadata.namespace}
            if namespace is None
            else namespace.metadata.labels
        )
        if not _labels_match(peer.namespace_selector, labels):
            return False
    return peer.pod_selector is None or _labels_match(peer.pod_selector, _labels(world, other))


def _labels(world: World, pod: Pod) -> dict[str, str]:
    return {key: value for key, value in pod.metadata.labels.items() if not world.hidden(key)}


def _labels_match(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    for key, value in selector.match_labels.items():
        if key not in labels or labels[key] != value:
            return False
    for term in selector.match_expressions:
        there = term.key in labels
        if term.operator == "In" and not (there and labels[term.key] in term.values):
            return False
        if term.operator == "NotIn" and there and labels[term.key] in term.values:
            return False
        if term.operator == "Exists" and not there:
            return False
        if term.operator == "DoesNotExist" and there:
            return False
    return True


def _ports(
    ports: Iterable[NetworkPolicyPort], protocol: str, port: int, destination: Party
) -> bool:
    listed = list(ports)
    return not listed or any(_port(entry, protocol, port, destination) for entry in listed)


def _port(entry: NetworkPolicyPort, protocol: str, port: int, destination: Party) -> bool:
    if entry.protocol != protocol:
        return False
    if entry.port is None:
        return True
    if isinstance(entry.port, str):
        if not isinstance(destination, Pod):
            return False
        sidecars = [c for c in destination.spec.init_containers if c.restart_policy == "Always"]
        numbers = [
            own.container_port
            for container in (*destination.spec.containers, *sidecars)
            for own in container.ports
            if own.name == entry.port and own.protocol == protocol
        ]
        return numbers[:1] == [port]
    if entry.end_port is not None:
        return entry.port <= port <= entry.end_port
    return port == entry.port
