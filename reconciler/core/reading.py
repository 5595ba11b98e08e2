"""What a control plane believes, as plain rows: built when asked, never kept.

Read-only: it looks into the plane and calls nothing that changes it. Costs what it returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from reconciler.core.objects import Prefix, format_address, parse_address
from reconciler.core.plane import ControlPlane
from reconciler.core.policy.entries import UNKNOWN, WORLD_V4, WORLD_V6
from reconciler.core.policy.evaluate import PeerInfo, external, verdict
from reconciler.core.policy.ir import Direction, IdentityPolicy
from reconciler.core.policy.rules import HOST
from reconciler.core.policy.translate import translate
from reconciler.core.snapshots import (
    AlarmRow,
    DirectionRow,
    EndpointRow,
    ExplanationRow,
    GroupRow,
    IdentityRow,
    NodeRow,
    PeerRow,
    PolicyRow,
    StatusRow,
)
from reconciler.core.store import Endpoint
from reconciler.errors import ConfigError, Rejected

REMOTE_NODE: Final = 6
_RESERVED_NAMES: Final = {
    UNKNOWN: "reserved:unknown",
    HOST: "reserved:host",
    REMOTE_NODE: "reserved:remote-node",
    WORLD_V4: "reserved:world-ipv4",
    WORLD_V6: "reserved:world-ipv6",
}


class _End(msgspec.Struct, frozen=True):
    """One end of a connection; `endpoint` for a pod, `node` for a node's own address."""

    name: str
    address: bytes
    endpoint: Endpoint | None = None
    node: str = ""
    number: int = UNKNOWN


class Reader:
    """`PlaneReader` of the status API. problems: of the sources, beside those of the store."""

    def __init__(
        self,
        plane: ControlPlane,
        problems: Callable[[], tuple[Rejected, ...]] = tuple,
    ) -> None:
        self._plane = plane
        self._problems = problems

    def snapshot_status(self) -> StatusRow:
        intake, plane = self._plane.intake, self._plane
        used, capacity = intake.allocator.usage()
        return StatusRow(
            cluster=intake.cluster.cluster_name,
            epoch=plane.epoch,
            revision=plane.revision,
            pods=len(intake.cluster.endpoints),
            groups=len(intake.cluster.groups),
            policies=len(intake.cluster.policies),
            identities=used,
            identity_capacity=capacity,
            nodes=dict(Counter(node.state for node in plane.nodes)),
            alarms=tuple(
                AlarmRow(kind, name, text) for (kind, name), text in sorted(plane.alarms.items())
            ),
            problems=(*self._problems(), *intake.cluster.problems),
        )

    def snapshot_identities(self) -> tuple[IdentityRow, ...]:
        intake = self._plane.intake
        groups: Counter[str] = Counter()
        pods: Counter[str] = Counter()
        for group in intake.cluster.groups.values():
            groups[group.label_set.key] += 1
            pods[group.label_set.key] += group.pods
        return tuple(
            sorted(
                (
                    IdentityRow(
                        number=entry.number,
                        birth=entry.birth,
                        phase=entry.state,
                        label_set=entry.label_set,
                        groups=groups[entry.label_set],
                        pods=pods[entry.label_set],
                    )
                    for entry in intake.allocator.entries()
                ),
                key=lambda row: row.number,
            )
        )

    def snapshot_groups(self) -> tuple[GroupRow, ...]:
        intake = self._plane.intake
        found = []
        for name, group in sorted(intake.cluster.groups.items()):
            identity = intake.binding(name)
            found.append(
                GroupRow(
                    name=name,
                    namespace=group.namespace,
                    labels=tuple(str(label) for label in group.label_set.labels),
                    number=0 if identity is None else identity.number,
                    birth=0 if identity is None else identity.birth,
                    pods=group.pods,
                )
            )
        return tuple(found)

    def snapshot_policies(self) -> tuple[PolicyRow, ...]:
        """Those in force, and objects of the kind that were refused."""
        intake = self._plane.intake
        found = []
        for name, policy in intake.cluster.policies.items():
            translated = translate(policy, self._plane.config.intake.filter)
            rules = (*(translated.ingress or ()), *(translated.egress or ()))
            subjects = sum(
                group.namespace == policy.metadata.namespace
                and translated.subject.matches(group.label_set)
                for group in map(
                    intake.cluster.groups.__getitem__, self._groups(policy.metadata.namespace)
                )
            )
            warnings = intake.compiler.warnings.get(name, ())
            found.append(
                PolicyRow(
                    namespace=policy.metadata.namespace,
                    name=policy.metadata.name,
                    ingress=translated.ingress is not None,
                    egress=translated.egress is not None,
                    rules=len(rules),
                    subjects=subjects,
                    state="enforced",
                    problems=tuple(str(warning) for warning in warnings),
                )
            )
        held = {f"NetworkPolicy {row.namespace}/{row.name}" for row in found}
        refused: dict[str, list[str]] = {}
        for problem in self._problems():
            if problem.object.startswith("NetworkPolicy ") and problem.object not in held:
                refused.setdefault(problem.object, []).append(str(problem))
        for title, reasons in refused.items():
            namespace, _, name = title.removeprefix("NetworkPolicy ").rpartition("/")
            found.append(PolicyRow(namespace, name, False, False, 0, 0, "refused", tuple(reasons)))
        return tuple(sorted(found, key=lambda row: (row.namespace, row.name)))

    def _groups(self, namespace: str) -> tuple[str, ...]:
        return self._plane.intake.cluster.groups_of(namespace)

    def snapshot_endpoints(self) -> tuple[EndpointRow, ...]:
        return tuple(
            EndpointRow(
                namespace=endpoint.namespace,
                pod=endpoint.pod,
                node=endpoint.node,
                ipv4=_text(endpoint.ipv4),
                ipv6=_text(endpoint.ipv6),
                group=endpoint.group,
                number=self._number(endpoint),
                interface=endpoint.interface,
            )
            for _, endpoint in sorted(self._plane.intake.cluster.endpoints.items())
        )

    def snapshot_nodes(self) -> tuple[NodeRow, ...]:
        alarms: dict[str, list[str]] = {}
        for (_, name), text in sorted(self._plane.alarms.items()):
            alarms.setdefault(name, []).append(text)
        rows = []
        for node in self._plane.nodes:
            rollout = node.rollout
            rows.append(
                NodeRow(
                    name=node.name,
                    state=node.state,
                    rollout=rollout.state,
                    committed=rollout.committed,
                    target=rollout.committed if rollout.target is None else rollout.target.revision,
                    nack=rollout.nack,
                    alarms=tuple(alarms.get(node.name, ())),
                    endpoints=len(self._plane.intake.cluster.endpoints_of(node.name)),
                    resources=rollout.resources,
                    committed_at=rollout.committed_at,
                )
            )
        return tuple(sorted(rows, key=lambda row: row.name))

    # ------------------------------------------------------------------------------ explain

    def explain(self, source: str, destination: str, protocol: int, port: int) -> ExplanationRow:
        """Both sides' decisions on a new connection, by the reference evaluation of the compiled
        rule sets. ConfigError names the end that is neither a pod nor an address."""
        one, other = self._end(source), self._end(destination)
        return ExplanationRow(
            source=self._row(one, other),
            destination=self._row(other, one),
            protocol=protocol,
            port=port,
            egress=self._side(one, other, Direction.EGRESS, protocol, port),
            ingress=self._side(other, one, Direction.INGRESS, protocol, port),
        )

    def _end(self, name: str) -> _End:
        cluster = self._plane.intake.cluster
        endpoint = cluster.endpoints.get(name)
        if endpoint is not None:
            number = self._number(endpoint)
            return _End(name, endpoint.ipv4 or endpoint.ipv6, endpoint, number=number)
        try:
            address = parse_address(name)
        except ValueError:
            raise ConfigError(f"{name!r} is neither a pod with an address nor an address") from None
        owner = cluster.owner_of(address)
        if owner is None:
            plain = Prefix(address, 8 * len(address))
            inside = any(prefix.covers(plain) for prefix in cluster.unknown_prefixes())
            return _End(name, address, number=UNKNOWN if inside else external(address).number)
        if owner.kind == "Node":
            return _End(name, address, node=owner.name, number=REMOTE_NODE)
        endpoint = cluster.endpoints[f"{owner.namespace}/{owner.name}"]
        return _End(name, address, endpoint, number=self._number(endpoint))

    def _number(self, endpoint: Endpoint) -> int:
        identity = self._plane.intake.binding(endpoint.group)
        return 0 if identity is None else identity.number

    def _seen(self, end: _End, by: _End) -> int:
        """Its number as the other end sees it: a node is the host to its own pods."""
        if end.node and by.endpoint is not None and by.endpoint.node == end.node:
            return HOST
        return end.number

    def _row(self, end: _End, by: _End) -> PeerRow:
        number = self._seen(end, by)
        labels: tuple[str, ...] = (_RESERVED_NAMES[number],) if number in _RESERVED_NAMES else ()
        if end.endpoint is not None:
            group = self._plane.intake.cluster.groups[end.endpoint.group]
            labels = tuple(str(label) for label in group.label_set.labels)
        return PeerRow(
            name=end.name if end.endpoint is None else end.endpoint.name,
            address=format_address(end.address),
            number=number,
            labels=labels,
            node=end.node if end.endpoint is None else end.endpoint.node,
        )

    def _side(
        self, subject: _End, peer: _End, direction: Direction, protocol: int, port: int
    ) -> DirectionRow | None:
        if subject.endpoint is None:
            return None
        policy = self._plane.intake.compiler.policies.get(subject.number)
        if policy is None:
            return DirectionRow("deny", True, (), "the pod has no identity yet: closed")
        rule_set = self._plane.intake.compiler.rule_sets[_rule_set(policy, direction)]
        sets = self._plane.intake.compiler.peer_sets
        decision = verdict(
            rule_set,
            PeerInfo(self._seen(peer, subject), peer.address),
            protocol,
            port,
            lambda name, number: name in sets and number in sets[name],
        )
        side = direction.name.lower()
        if decision.rule is not None:
            reason = "a rule denies it" if not decision.allowed else "a rule allows it"
        elif rule_set.enforced:
            reason = f"policies isolate the pod's {side}, and no rule allows it"
        else:
            reason = f"no policy isolates the pod's {side}"
        return DirectionRow(
            verdict="allow" if decision.allowed else "deny",
            enforced=rule_set.enforced,
            origins=() if decision.rule is None else decision.rule.origins,
            reason=reason,
        )


def _rule_set(policy: IdentityPolicy, direction: Direction) -> str:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _text(address: bytes) -> str:
    return format_address(address) if address else ""
