"""What node views are made from: the published state of objects, numbers and policies.

Nothing is copied: the values are read when a view is made, and are those of the last publication.
"""

from __future__ import annotations

from reconciler.core.intake import Intake
from reconciler.core.resources.build import LocalEndpoint, State


def state_of(intake: Intake) -> State:
    """Where views read current values from."""
    cluster = intake.cluster

    def bindings(namespace: str) -> dict[str, tuple[int, int]]:
        bound = ((group, intake.binding(group)) for group in cluster.groups_of(namespace))
        return {
            group: (identity.number, identity.birth)
            for group, identity in bound
            if identity is not None
        }

    def addresses(group: str) -> list[bytes]:
        ipv4, ipv6 = cluster.group_addresses(group)
        return [*ipv4, *ipv6]

    def endpoint(name: str) -> LocalEndpoint | None:
        found = cluster.endpoints.get(name)
        if found is None:
            return None
        return LocalEndpoint(
            found.namespace,
            found.pod,
            found.node,
            found.uid,
            found.ipv4,
            found.ipv6,
            found.group,
            found.interface,
        )

    def node_addresses(name: str) -> tuple[bytes, ...]:
        found = cluster.nodes.get(name)
        return () if found is None else found.addresses

    return State(
        bindings=bindings,
        addresses=addresses,
        endpoint=endpoint,
        node_addresses=node_addresses,
        api_server=cluster.api_server_addresses,
        unknown=cluster.unknown_prefixes,
        peer_sets=intake.compiler.peer_sets,
        rule_sets=intake.compiler.rule_sets,
        policies=intake.compiler.policies,
    )
