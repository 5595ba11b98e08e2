"""What the Kubernetes API server would refuse about these objects, with its reasons.

Files never passed an API server, so its rules for labels, selectors, ports, CIDRs and names are
applied here. A problem of severity "error" refuses the object whole: a NetworkPolicy is never
enforced in part. Warnings are accepted by the API and likely not meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from reconciler.core.objects.net import format_address, parse_address, parse_prefix
from reconciler.core.objects.types import (
    Container,
    EndpointSlice,
    IPBlock,
    KubeObject,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    Node,
    ObjectMeta,
    Pod,
    Workload,
    key_of,
)
from reconciler.errors import Rejected

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""Protocol names of the API (case matters) and their IANA numbers."""

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9]|-(?!-))*(?<!-)")

_LABEL_TEXT = "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"

Problem = tuple[str, str] | tuple[str, str, str]  # path, reason, severity ("error" if left out)


def validate(object: KubeObject | Workload, source: str = "") -> tuple[Rejected, ...]:
    """All problems of one object, in the order of its fields; () when there are none."""
    name = str(key_of(object))
    return tuple(
        Rejected(source, name, problem[0], problem[1], problem[2] if len(problem) > 2 else "error")
        for problem in _problems(object)
    )


def _problems(object: KubeObject | Workload) -> Iterator[Problem]:
    yield from _meta(object)
    if isinstance(object, Pod):
        yield from _containers(object.spec.containers, "spec.containers")
        yield from _containers(object.spec.init_containers, "spec.initContainers")
        yield from _pod_addresses(object)
    elif isinstance(object, NetworkPolicy):
        yield from _policy(object)
    elif isinstance(object, Node):
        yield from _node(object)
    elif isinstance(object, EndpointSlice):
        for text in object.addresses:
            try:
                parse_address(text)
            except ValueError as error:
                yield "endpoints", str(error)
    elif isinstance(object, Workload):
        yield from _labels(object.template.metadata.labels, "spec.template.metadata.labels")
        spec = object.template.spec
        yield from _containers(spec.containers, "spec.template.spec.containers")
        yield from _containers(spec.init_containers, "spec.template.spec.initContainers")


# ------------------------------------------------------------------------------------- metadata


def _meta(object: KubeObject | Workload) -> Iterator[Problem]:
    meta: ObjectMeta = object.metadata
    if isinstance(object, Namespace):
        if not is_dns_label(meta.name):
            yield "metadata.name", f"{meta.name!r} is not a DNS label (a-z, 0-9, '-', at most 63)"
    elif not is_dns_subdomain(meta.name):
        yield "metadata.name", f"{meta.name!r} is not a DNS name (a-z, 0-9, '-', '.', at most 253)"
    if meta.namespace and not is_dns_label(meta.namespace):
        yield (
            "metadata.namespace",
            f"{meta.namespace!r} is not a DNS label (a-z, 0-9, '-', at most 63)",
        )
    yield from _labels(meta.labels, "metadata.labels")


def _labels(labels: dict[str, str], path: str) -> Iterator[Problem]:
    for key, value in labels.items():
        reason = label_key_problem(key)
        if reason:
            yield f"{path}[{key}]", reason
        reason = label_value_problem(value)
        if reason:
            yield f"{path}[{key}]", reason


@lru_cache(maxsize=65536)
def label_key_problem(key: str) -> str:
    """Why `key` is no label key ("" when it is one): an optional DNS prefix, "/", and a name."""
    prefix, slash, name = key.rpartition("/")
    if slash and not is_dns_subdomain(prefix):
        return (
            f"label key {key!r}: the part before '/' must be a DNS name of at most 253 characters"
        )
    if len(name) > 63:
        return f"label key {key!r}: the name has {len(name)} characters, at most 63 are allowed"
    if not _NAME.fullmatch(name):
        return f"label key {key!r}: the name must be {_LABEL_TEXT}"
    return ""


@lru_cache(maxsize=65536)
def label_value_problem(value: str) -> str:
    """Why `value` is no label value ("" when it is one, as the empty value)."""
    if len(value) > 63:
        return f"label value {value!r}: has {len(value)} characters, at most 63 are allowed"
    if value and not _NAME.fullmatch(value):
        return f"label value {value!r}: must be empty or {_LABEL_TEXT}"
    return ""


def is_dns_label(name: str) -> bool:
    return len(name) <= 63 and _DNS_LABEL.fullmatch(name) is not None


def is_dns_subdomain(name: str) -> bool:
    return len(name) <= 253 and _DNS_SUBDOMAIN.fullmatch(name) is not None


def is_port_name(name: str) -> bool:
    """IANA service name: at most 15 of a-z, 0-9 and single inner '-', with a letter."""
    return (
        len(name) <= 15
        and _PORT_NAME.fullmatch(name) is not None
        and any("a" <= character <= "z" for character in name)
    )


# --------------------------------------------------------------------------------- pods and nodes


def _containers(containers: Iterable[Container], path: str) -> Iterator[Problem]:
    for i, container in enumerate(containers):
        names: set[str] = set()
        for j, port in enumerate(container.ports):
            where = f"{path}[{i}].ports[{j}]"
            if not 1 <= port.container_port <= 65535:
                yield f"{where}.containerPort", f"{port.container_port} is not from 1 to 65535"
            if port.protocol not in PROTOCOLS:
                yield f"{where}.protocol", f"{port.protocol!r} is not one of TCP, UDP, SCTP"
            if not port.name:
                continue
            if not is_port_name(port.name):
                yield f"{where}.name", _bad_port_name(port.name)
            elif port.name in names:
                yield f"{where}.name", f"{port.name!r} is in this container already"
            names.add(port.name)


def _pod_addresses(pod: Pod) -> Iterator[Problem]:
    families: set[int] = set()
    listed = bool(pod.status.pod_ips)
    for i, text in enumerate(pod.addresses):
        path = f"status.podIPs[{i}].ip" if listed else "status.podIP"
        try:
            family = len(parse_address(text))
        except ValueError as error:
            yield path, str(error)
            continue
        if family in families:
            yield path, f"{text}: a pod has at most one address of a family"
        families.add(family)


def _node(node: Node) -> Iterator[Problem]:
    for i, address in enumerate(node.status.addresses):
        if address.type in ("InternalIP", "ExternalIP"):
            try:
                parse_address(address.address)
            except ValueError as error:
                yield f"status.addresses[{i}].address", str(error)
    for i, cidr in enumerate(node.spec.pod_cidrs or tuple(filter(None, [node.spec.pod_cidr]))):
        try:
            parse_prefix(cidr)
        except ValueError as error:
            yield f"spec.podCIDRs[{i}]" if node.spec.pod_cidrs else "spec.podCIDR", str(error)


# -------------------------------------------------------------------------------------- policies


def _policy(policy: NetworkPolicy) -> Iterator[Problem]:
    spec = policy.spec
    yield from selector_problems(spec.pod_selector, "spec.podSelector")
    for i, ingress in enumerate(spec.ingress):
        path = f"spec.ingress[{i}]"
        yield from _rule(ingress.ports, ingress.peers, path, f"{path}.from")
    for i, egress in enumerate(spec.egress):
        path = f"spec.egress[{i}]"
        yield from _rule(egress.ports, egress.peers, path, f"{path}.to")
    if len(spec.policy_types) > 2:
        yield "spec.policyTypes", "may not specify more than two policyTypes"
    for i, name in enumerate(spec.policy_types):
        if name not in ("Ingress", "Egress"):
            yield f"spec.policyTypes[{i}]", f"{name!r} is not one of Ingress, Egress"


def _rule(
    ports: Iterable[NetworkPolicyPort], peers: Iterable[NetworkPolicyPeer], path: str, field: str
) -> Iterator[Problem]:
    for i, port in enumerate(ports):
        yield from _port(port, f"{path}.ports[{i}]")
    for i, peer in enumerate(peers):
        yield from _peer(peer, f"{field}[{i}]")


def selector_problems(selector: LabelSelector, path: str) -> Iterator[Problem]:
    """What is wrong with one; `path` is where it is."""
    yield from _labels(selector.match_labels, f"{path}.matchLabels")
    for i, requirement in enumerate(selector.match_expressions):
        where = f"{path}.matchExpressions[{i}]"
        reason = label_key_problem(requirement.key)
        if reason:
            yield f"{where}.key", reason
        if requirement.operator in ("In", "NotIn"):
            if not requirement.values:
                yield f"{where}.values", f"operator {requirement.operator} needs at least one value"
        elif requirement.operator in ("Exists", "DoesNotExist"):
            if requirement.values:
                yield f"{where}.values", f"operator {requirement.operator} takes no values"
        else:
            yield (
                f"{where}.operator",
                f"{requirement.operator!r} is not one of In, NotIn, Exists, DoesNotExist",
            )
        for j, value in enumerate(requirement.values):
            reason = label_value_problem(value)
            if reason:
                yield f"{where}.values[{j}]", reason


def _peer(peer: NetworkPolicyPeer, path: str) -> Iterator[Problem]:
    if peer.pod_selector is not None:
        yield from selector_problems(peer.pod_selector, f"{path}.podSelector")
    if peer.namespace_selector is not None:
        yield from selector_problems(peer.namespace_selector, f"{path}.namespaceSelector")
    selectors = peer.pod_selector is not None or peer.namespace_selector is not None
    if peer.ip_block is not None:
        yield from _ip_block(peer.ip_block, f"{path}.ipBlock")
        if selectors:
            yield path, "may not specify both ipBlock and another peer"
    elif not selectors:
        yield path, "must specify a peer: podSelector, namespaceSelector or ipBlock"


def _ip_block(block: IPBlock, path: str) -> Iterator[Problem]:
    try:
        outer = parse_prefix(block.cidr)
    except ValueError as error:
        yield f"{path}.cidr", str(error)
        return
    yield from _host_bits(block.cidr, f"{path}.cidr")
    for i, text in enumerate(block.excepts):
        try:
            inner = parse_prefix(text)
        except ValueError as error:
            yield f"{path}.except[{i}]", str(error)
            continue
        if not outer.covers(inner) or outer.length >= inner.length:
            yield f"{path}.except[{i}]", f"{text} must be a strict subset of cidr {block.cidr}"
        else:
            yield from _host_bits(text, f"{path}.except[{i}]")


def _host_bits(text: str, path: str) -> Iterator[Problem]:
    prefix = parse_prefix(text)
    if parse_address(text.partition("/")[0]) != prefix.address:
        network = f"{format_address(prefix.address)}/{prefix.length}"
        yield path, f"{text} has bits after its length: read as {network}", "warning"


def _port(port: NetworkPolicyPort, path: str) -> Iterator[Problem]:
    if port.protocol not in PROTOCOLS:
        yield f"{path}.protocol", f"{port.protocol!r} is not one of TCP, UDP, SCTP"
    if isinstance(port.port, str):
        if not is_port_name(port.port):
            yield f"{path}.port", _bad_port_name(port.port)
        if port.end_port is not None:
            yield f"{path}.endPort", "may not be specified when port is a name"
        return
    if port.port is None:
        if port.end_port is not None:
            yield f"{path}.endPort", "may not be specified when port is not specified"
        return
    if not 1 <= port.port <= 65535:
        yield f"{path}.port", f"{port.port} is not from 1 to 65535"
    if port.end_port is None:
        return
    if port.end_port < port.port:
        yield f"{path}.endPort", f"{port.end_port} is below port {port.port}"
    if not 1 <= port.end_port <= 65535:
        yield f"{path}.endPort", f"{port.end_port} is not from 1 to 65535"


def _bad_port_name(name: str) -> str:
    return f"{name!r} is not a port name: at most 15 of a-z, 0-9 and single '-', with a letter"
