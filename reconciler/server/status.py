"""The server's status API: what the control plane believes, as JSON over a local socket.

Read-only by construction: it is given a `PlaneReader`, never the control plane itself.
"""

from __future__ import annotations

from typing import Protocol

from reconciler.core.snapshots import (
    EndpointRow,
    ExplanationRow,
    GroupRow,
    IdentityRow,
    NodeRow,
    PolicyRow,
    StatusRow,
)


class PlaneReader(Protocol):
    """What the status API needs of `ControlPlane`. Called on the event loop's thread between
    events, so every method sees one consistent state; each costs what it returns."""

    def snapshot_status(self) -> StatusRow: ...

    def snapshot_identities(self) -> tuple[IdentityRow, ...]:
        """Ascending by number; allocated ones only (reserved numbers are constants)."""
        ...

    def snapshot_groups(self) -> tuple[GroupRow, ...]:
        """Ascending by name."""
        ...

    def snapshot_policies(self) -> tuple[PolicyRow, ...]:
        """Ascending by namespace and name; refused ones too."""
        ...

    def snapshot_endpoints(self) -> tuple[EndpointRow, ...]:
        """Ascending by namespace and pod."""
        ...

    def snapshot_nodes(self) -> tuple[NodeRow, ...]:
        """Ascending by name: nodes of the cluster and nodes that connected, even if unknown."""
        ...

    def explain(self, source: str, destination: str, protocol: int, port: int) -> ExplanationRow:
        """Both directions of a new connection, from the compiled rule sets.

        source, destination: "namespace/pod" or an address; raises ConfigError naming the end that
        is neither.
        """
        ...
