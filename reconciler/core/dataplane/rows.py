"""What an agent says about itself, as plain rows for people (core/snapshots.py)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from reconciler.core.dataplane.cut import Cut
from reconciler.core.dataplane.layout import MapId
from reconciler.core.dataplane.tables import Tables
from reconciler.core.snapshots import AgentRow, EndpointRow


def agent_row(node: str, client: str, cut: Cut, limits: Mapping[MapId, int]) -> AgentRow:
    usage = cut.tables.usage()
    refusal = cut.refusal
    return AgentRow(
        node=node,
        client=client,
        cut=cut.state,
        committed=cut.revision,
        root=cut.root.hex(),
        refusal=f"{refusal.name}: {refusal.reason}" if refusal else "",
        endpoints=len(cut.tables.view.pods),
        usage=usage,
        limits={name: limits[MapId(name)] for name in usage if MapId(name) in limits},
    )


def endpoint_rows(node: str, tables: Tables) -> tuple[EndpointRow, ...]:
    """Pods of the cut in force (or being staged) and interfaces of none."""
    interfaces = {}
    rows = []
    for ifindex, port in tables.endpoints.ports.items():
        pod = tables.endpoints.pod_of(ifindex, tables.active)
        if pod in tables.view.pods:
            interfaces[pod] = port
        else:
            namespace, _, name = port.link.pod.partition("/")
            rows.append(
                EndpointRow(
                    namespace, name, node, "", "", "", 0, port.link.name, ifindex, port.state
                )
            )
    for name, pod_value in tables.view.pods.now.items():
        found = interfaces.get(name)
        peer = tables.view.row(pod_value.group)[0]
        namespace, _, pod_name = name.partition("/")
        rows.append(
            EndpointRow(
                namespace,
                pod_name,
                node,
                _text(pod_value.ipv4),
                _text(pod_value.ipv6),
                pod_value.group,
                peer[0] if isinstance(peer, tuple) else 0,
                found.link.name if found else pod_value.interface,
                found.link.ifindex if found else 0,
                found.state if found else "",
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.namespace, row.pod, row.ifindex)))


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address)) if address else ""
