"""From pods to groups and label sets, exactly as Cilium computes the labels of a pod.

Of a pod's own labels, those that only the control plane may give are dropped (`io.cilium.k8s...`,
the namespace label), before the filter and after the prefix `reserved.` was cut off, which Cilium
reads as a source and then replaces by `k8s` (`reserved.host` is `k8s:host`). So no pod label can
forge a namespace, service account, cluster or named port. Where `reserved.x` and `x` meet, `x`
holds (Cilium takes either, by chance).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final

import msgspec

from reconciler.core.labels.filter import LabelFilter
from reconciler.core.labels.label import (
    CLUSTER,
    K8S,
    METADATA_NAME,
    NAMESPACE_LABELS,
    OWNED,
    POD_NAMESPACE,
    PROTOCOL_NUMBERS,
    SERVICE_ACCOUNT,
    Label,
    LabelSet,
    NamedPort,
    canonical,
    encode_named_ports,
)
from reconciler.core.objects import Container, Namespace, Pod

_RESERVED_PREFIX: Final = "reserved."
_REMEMBERED: Final = 65_536


class GroupKey(msgspec.Struct, frozen=True):
    """All pods with the same namespace, filtered labels, service account and named ports.

    labels: pod labels after the filter, service account and named ports, sorted by key
    hash:   16 bytes: SHA-256 over "<namespace>\\n<canonical labels>", cut off
    name:   "<namespace>/<hash in hex>"; equal on every replica
    """

    namespace: str
    labels: tuple[Label, ...]
    hash: bytes = b""
    name: str = ""

    def __post_init__(self) -> None:
        text = f"{self.namespace}\n{canonical(self.labels)}"
        digest = sha256(text.encode()).digest()[:16]
        msgspec.structs.force_setattr(self, "hash", digest)
        msgspec.structs.force_setattr(self, "name", f"{self.namespace}/{digest.hex()}")


class Grouper:
    """Finds the group of pods; equal inputs share one key, so that 20,000 pods cost 250 hashes."""

    def __init__(self, filter: LabelFilter, *, named_ports: bool = True) -> None:
        self._filter = filter
        self._named_ports = named_ports
        self._known: dict[tuple[object, ...], GroupKey] = {}

    def group_key(self, pod: Pod) -> GroupKey:
        accepts = self._filter.accepts
        pairs = tuple(
            (key, value)
            for key, value in _own_labels(pod.metadata.labels).items()
            if accepts(K8S, key)
        )
        ports = pod_named_ports(pod) if self._named_ports else ()
        known = (pod.metadata.namespace, pairs, pod.account, ports)
        found = self._known.get(known)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[known] = self._make(pod.metadata.namespace, pairs, pod, ports)
        return found

    def _make(
        self,
        namespace: str,
        pairs: tuple[tuple[str, str], ...],
        pod: Pod,
        ports: tuple[NamedPort, ...],
    ) -> GroupKey:
        labels = [Label(K8S, key, value) for key, value in pairs]
        if pod.account and self._filter.accepts(K8S, SERVICE_ACCOUNT):
            labels.append(Label(K8S, SERVICE_ACCOUNT, pod.account))
        labels.extend(encode_named_ports(ports))
        labels.sort(key=lambda label: (label.key, label.source))
        return GroupKey(namespace, tuple(labels))


def group_key(pod: Pod, filter: LabelFilter, *, named_ports: bool = True) -> GroupKey:
    """The group of one pod. For many pods use one `Grouper`."""
    return Grouper(filter, named_ports=named_ports).group_key(pod)


def label_set(
    group: GroupKey, namespace: Namespace | None, filter: LabelFilter, cluster: str
) -> LabelSet:
    """The label set of a group: its own labels, the namespace's, its name and the cluster's.

    The generated named ports are not filtered. `namespace` None: see `namespace_labels`.
    """
    given = {
        f"{NAMESPACE_LABELS}.{key}": value
        for key, value in namespace_labels(group.namespace, namespace).items()
    }
    given[POD_NAMESPACE] = group.namespace
    given[CLUSTER] = cluster
    return LabelSet.of(
        [
            *group.labels,
            *(Label(K8S, k, v) for k, v in given.items() if filter.accepts(K8S, k)),
        ]
    )


def namespace_labels(name: str, namespace: Namespace | None) -> Mapping[str, str]:
    """Labels of a namespace. Of one whose object isn't known, only the label that Kubernetes gives
    every namespace: `kubernetes.io/metadata.name` (a pod can't be in a namespace that isn't there).
    """
    if namespace is None:
        return {METADATA_NAME: name}
    return namespace.metadata.labels


def pod_named_ports(pod: Pod) -> tuple[NamedPort, ...]:
    """(name, protocol, port), sorted: the first of each name and protocol, containers in order.

    Sidecars (init containers that keep running) come after the containers, as when Kubernetes looks
    for the target port of a service. Cilium leaves sidecars out, and keeps one port of a name.
    """
    found: dict[tuple[str, int], int] = {}
    for container in _serving(pod):
        for port in container.ports:
            if port.name and port.protocol in PROTOCOL_NUMBERS:
                found.setdefault((port.name, PROTOCOL_NUMBERS[port.protocol]), port.container_port)
    return tuple(sorted((name, protocol, port) for (name, protocol), port in found.items()))


def _serving(pod: Pod) -> Iterator[Container]:
    yield from pod.spec.containers
    for container in pod.spec.init_containers:
        if container.restart_policy == "Always":
            yield container


def _own_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """A pod's own labels under the keys that they have in its identity, without forged ones."""
    if any(key.startswith(_RESERVED_PREFIX) for key in labels):
        cut = {
            key.removeprefix(_RESERVED_PREFIX): value
            for key, value in labels.items()
            if key.startswith(_RESERVED_PREFIX)
        }
        kept = {k: v for k, v in labels.items() if not k.startswith(_RESERVED_PREFIX)}
        labels = {**cut, **kept}
    return {k: v for k, v in labels.items() if not k.startswith(OWNED) and k != POD_NAMESPACE}
