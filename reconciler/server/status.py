"""The server's status API: what the control plane believes, as JSON over a local socket.

Read-only by construction: it is given a `PlaneReader`, never the control plane itself.

    GET /v1/status /v1/identities /v1/groups /v1/policies /v1/endpoints /v1/nodes
    GET /v1/explain?from=NS/POD|ADDRESS&to=...&protocol=6&port=80
    GET /metrics /healthz /readyz

The last three alone are served on `--metrics`, which other machines may reach: no object of the
cluster is named there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from reconciler.core.snapshots import (
    EndpointRow,
    ExplanationRow,
    GroupRow,
    IdentityRow,
    NodeRow,
    PolicyRow,
    StatusRow,
)
from reconciler.errors import ConfigError
from reconciler.local import Handler, json, public
from reconciler.metrics import CONTENT_TYPE, Family, Page, Values
from reconciler.server.discovery.families import FILES
from reconciler.server.streams import Traffic

METRICS = (
    Family("identities", "gauge", "Identity numbers in use; those on their way out are too."),
    Family("identity_capacity", "gauge", "Identity numbers that there are."),
    Family("groups", "gauge", "Groups of pods."),
    Family("pods", "gauge", "Pods that own an address."),
    Family("policies", "gauge", "NetworkPolicies."),
    Family("problems", "gauge", "Objects refused (`error`) or warned about.", ("severity",)),
    Family("alarms_standing", "gauge", "Alarms that stand, by kind; no kind, no alarm.", ("kind",)),
    Family(
        "alarms",
        "counter",
        "Alarms raised since the start, also those that don't stand but "
        "are only said: of certificate and trace files, and of `--discovery-resources`.",
    ),
    Family("epoch", "gauge", "Epoch of this server's leadership."),
    Family(
        "revision",
        "gauge",
        "Newest revision that is served; 0: none. Of a single server it has more digits than a "
        "sample: the last two are rounded.",
    ),
    Family("nodes", "gauge", "Nodes by state (models/node.toml).", ("state",)),
    Family("streams", "gauge", "Open xDS streams."),
    Family("xds_streams_opened", "counter", "Streams that were taken."),
    Family(
        "xds_streams_refused", "counter", "Streams that were not taken, by gRPC status.", ("code",)
    ),
    Family("xds_sent", "counter", "Responses sent."),
    Family("xds_sent_bytes", "counter", "Bytes of responses sent."),
    Family("xds_received", "counter", "Requests received."),
    Family("xds_received_bytes", "counter", "Bytes of requests received."),
    Family(
        "certificate_expiry_seconds",
        "gauge",
        "Unix time at which the server's certificate ends; 0: no TLS.",
    ),
    Family(
        "token_reviews",
        "counter",
        "Tokens by outcome: `node`, `refused`, `unavailable`, or `kept`: no request was needed.",
        ("result",),
    ),
    Family(
        "kubernetes_requests",
        "counter",
        "Requests to the API server, in RBAC's words.",
        ("verb", "resource"),
    ),
)
"""Of the server; docs/metrics.md is made from it."""


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


class Counted(msgspec.Struct, frozen=True):
    """Counters that others keep, read at each scrape.

    refused: streams by gRPC status; reviews: `TokenReviewer.results`; requests:
    `ApiClient.requests`; certificate: Unix time at which it ends; files: values of
    `discovery.families.FILES`, where there are `--discovery-resources`
    """

    traffic: Mapping[str, Traffic]
    alarms: Callable[[], int]
    refused: Mapping[str, int] = {}
    reviews: Mapping[str, int] = {}
    requests: Mapping[tuple[str, str], int] = {}
    certificate: Callable[[], float] = lambda: 0.0
    files: Callable[[], Values] | None = None


class Status:
    """The API's handlers. `ready` says why the server is not ready yet, "" when it is."""

    def __init__(self, plane: PlaneReader, counted: Counted, ready: Callable[[], str]) -> None:
        self._plane = plane
        self._counted = counted
        self._ready = ready
        families = METRICS if counted.files is None else (*METRICS, *FILES)
        self._page = Page(families, self._values)

    def routes(self) -> dict[str, Handler]:
        plane = self._plane
        lists: dict[str, Callable[[], Any]] = {
            "/v1/status": plane.snapshot_status,
            "/v1/identities": plane.snapshot_identities,
            "/v1/groups": plane.snapshot_groups,
            "/v1/policies": plane.snapshot_policies,
            "/v1/endpoints": plane.snapshot_endpoints,
            "/v1/nodes": self._nodes,
        }
        found: dict[str, Handler] = {path: _answer(read) for path, read in lists.items()}
        return found | {"/v1/explain": self._explain} | self.public()

    def public(self) -> dict[str, Handler]:
        return public(self._page, CONTENT_TYPE, self._ready)

    def _nodes(self) -> list[dict[str, Any]]:
        """Each node's row with what went over its streams, in messages and bytes."""
        idle = Traffic()
        return [
            msgspec.structs.asdict(row)
            | msgspec.structs.asdict(self._counted.traffic.get(row.name, idle))
            for row in self._plane.snapshot_nodes()
        ]

    async def _explain(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            ends = (query["from"], query["to"], int(query["protocol"]), int(query["port"]))
        except (KeyError, ValueError):
            raise ConfigError("needs from, to, protocol and port (numbers)") from None
        return json(self._plane.explain(*ends))

    async def _values(self) -> Values:
        row, counted = self._plane.snapshot_status(), self._counted
        totals = Traffic()
        for one in counted.traffic.values():
            for field in Traffic.__struct_fields__:
                setattr(totals, field, getattr(totals, field) + getattr(one, field))
        problems = Counter(problem.severity for problem in row.problems)
        return {
            "identities": row.identities,
            "identity_capacity": row.identity_capacity,
            "groups": row.groups,
            "pods": row.pods,
            "policies": row.policies,
            "problems": {(severity,): problems[severity] for severity in ("error", "warning")},
            "alarms_standing": Counter((alarm.kind,) for alarm in row.alarms),
            "alarms": counted.alarms(),
            "epoch": row.epoch,
            "revision": row.revision,
            "nodes": {(state,): count for state, count in row.nodes.items()},
            "streams": totals.streams,
            "xds_streams_opened": totals.opened,
            "xds_streams_refused": {(code,): n for code, n in counted.refused.items()},
            "xds_sent": totals.sent,
            "xds_sent_bytes": totals.sent_bytes,
            "xds_received": totals.received,
            "xds_received_bytes": totals.received_bytes,
            "certificate_expiry_seconds": counted.certificate(),
            "token_reviews": {(result,): n for result, n in counted.reviews.items()},
            "kubernetes_requests": dict(counted.requests.items()),
            **({} if counted.files is None else counted.files()),
        }


def _answer(read: Callable[[], Any]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return json(read())

    return handler
