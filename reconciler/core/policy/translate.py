"""Kubernetes NetworkPolicy → rules over selectors, with the meaning of the Kubernetes API.

Decided here, where implementations differ: a section that `policyTypes` leaves out is ignored;
`ipBlock` selects addresses outside the cluster, never pods or nodes; a label that only the control
plane gives (namespace, service account, ...) is no pod label, so a podSelector can't select on it.

The objects must have passed validation: an invalid policy is refused whole, before this stage.
What can't be read here raises ValueError, it is never skipped: a lost `from` would mean everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reconciler.core.labels import LabelFilter
from reconciler.core.labels.label import K8S, OWNED, POD_NAMESPACE, PROTOCOL_NUMBERS
from reconciler.core.objects import (
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    parse_prefix,
)
from reconciler.core.policy.ir import CidrBlock, PortRange
from reconciler.core.policy.rules import PolicyRule, Translated
from reconciler.core.policy.selectors import (
    NAMESPACE,
    NAMESPACE_LABEL,
    NamedPort,
    Requirement,
    Selector,
    selector,
)
from reconciler.errors import Rejected

Warn = Callable[[str, str], None]


def translate(policy: NetworkPolicy, filter: LabelFilter, source: str = "") -> Translated:
    """What one valid NetworkPolicy means. `source` is only for the warnings."""
    meta, spec = policy.metadata, policy.spec
    name = f"NetworkPolicy {meta.namespace}/{meta.name}"
    warnings: list[Rejected] = []

    def warn(path: str, reason: str) -> None:
        warnings.append(Rejected(source, name, path, reason, "warning"))

    reader = _Reader(meta.namespace, filter, warn)
    types = spec.effective_types
    subject = reader.subject(spec.pod_selector)
    ingress = egress = None
    if "Ingress" in types:
        ingress = tuple(
            reader.rule(f"spec.ingress[{i}]", "from", rule.peers, rule.ports, name)
            for i, rule in enumerate(spec.ingress)
        )
    elif spec.ingress:
        warn("spec.ingress", "ignored: policyTypes leaves out Ingress")
    if "Egress" in types:
        egress = tuple(
            reader.rule(f"spec.egress[{i}]", "to", rule.peers, rule.ports, name)
            for i, rule in enumerate(spec.egress)
        )
    elif spec.egress:
        warn("spec.egress", "ignored: policyTypes leaves out Egress")
    return Translated(subject, ingress, egress, warnings=tuple(warnings))


def protocol_number(name: str) -> int:
    """IANA number of an API protocol name. ValueError if it isn't one."""
    try:
        return PROTOCOL_NUMBERS[name]
    except KeyError:
        raise ValueError(f"not a protocol of a NetworkPolicy: {name!r}") from None


class _Reader:
    """Reads the parts of one policy; knows its namespace, the filter and where to warn."""

    def __init__(self, namespace: str, filter: LabelFilter, warn: Warn) -> None:
        self._home = Requirement(NAMESPACE, "In", (namespace,))
        self._filter = filter
        self._warn = warn

    def subject(self, pods: LabelSelector) -> Selector:
        return selector([self._home, *self._pods("spec.podSelector", pods)])

    def rule(
        self,
        path: str,
        field: str,
        peers: Sequence[NetworkPolicyPeer],
        ports: Sequence[NetworkPolicyPort],
        name: str,
    ) -> PolicyRule:
        selectors: dict[Selector, None] = {}
        cidrs: dict[CidrBlock, None] = {}
        for i, peer in enumerate(peers):
            where = f"{path}.{field}[{i}]"
            if peer.ip_block is not None:
                if peer.pod_selector is not None or peer.namespace_selector is not None:
                    raise ValueError(f"{name}: {where}: ipBlock beside a selector")
                cidrs[_block(peer.ip_block)] = None
            else:
                selectors[self._peer(where, peer)] = None
        return PolicyRule(
            any_peer=not peers,
            selectors=tuple(selectors),
            cidrs=tuple(cidrs),
            ports=tuple(dict.fromkeys(_port(port) for port in ports)) if ports else None,
            origin=f"{name}#{path}",
        )

    def _peer(self, path: str, peer: NetworkPolicyPeer) -> Selector:
        if peer.namespace_selector is None and peer.pod_selector is None:
            raise ValueError(f"{path}: a peer without podSelector, namespaceSelector and ipBlock")
        wanted: list[Requirement] = []
        if peer.namespace_selector is None:
            wanted.append(self._home)
        else:
            where = f"{path}.namespaceSelector"
            wanted += self._read(where, peer.namespace_selector, NAMESPACE_LABEL)
        if peer.pod_selector is not None:
            wanted += self._pods(f"{path}.podSelector", peer.pod_selector)
        return selector(wanted)

    def _pods(self, path: str, pods: LabelSelector) -> list[Requirement]:
        return [_own(wanted) for wanted in self._read(path, pods, f"{K8S}:")]

    def _read(self, path: str, labels: LabelSelector, prefix: str) -> list[Requirement]:
        """Requirements of a LabelSelector, their keys behind `prefix`; warns of hidden labels."""
        wanted = []
        for key, value in labels.match_labels.items():
            wanted.append(Requirement(prefix + key, "In", (value,)))
            self._check(f"{path}.matchLabels[{key}]", key, prefix)
        for i, term in enumerate(labels.match_expressions):
            wanted.append(Requirement(prefix + term.key, term.operator, term.values))
            self._check(f"{path}.matchExpressions[{i}].key", term.key, prefix)
        return wanted

    def _check(self, path: str, key: str, prefix: str) -> None:
        source, _, beginning = prefix.partition(":")
        if not beginning and _is_derived(key):
            hidden = "is not a label that a pod can have here"
        elif not self._filter.accepts(source, beginning + key):
            hidden = "is hidden by the label filter"
        else:
            return
        self._warn(
            path,
            f"label {key} {hidden}: In and Exists never match, NotIn and DoesNotExist always do",
        )


def _is_derived(key: str) -> bool:
    """Whether a pod's own label of this key is dropped or renamed when label sets are made."""
    return key == POD_NAMESPACE or key.startswith((OWNED, "reserved."))


def _own(wanted: Requirement) -> Requirement:
    """The same requirement on a pod's own labels only: a derived key is never there."""
    if not _is_derived(wanted.key.removeprefix(f"{K8S}:")):
        return wanted
    return Requirement(f"pod:{wanted.key}", wanted.operator, wanted.values)


def _block(block: IPBlock) -> CidrBlock:
    holes = {parse_prefix(text) for text in block.excepts}
    return CidrBlock(parse_prefix(block.cidr), tuple(sorted(holes)))


def _port(port: NetworkPolicyPort) -> PortRange | NamedPort:
    protocol = protocol_number(port.protocol)
    if port.port is None:
        if port.end_port is not None:
            raise ValueError("endPort without port")
        return PortRange(protocol)
    if isinstance(port.port, str):
        if port.end_port is not None:
            raise ValueError("endPort with a named port")
        return NamedPort(port.port, protocol)
    last = port.port if port.end_port is None else port.end_port
    if not 0 < port.port <= last <= 65535:
        raise ValueError(f"not a range of ports: {port.port}-{last}")
    return PortRange(protocol, port.port, last)
