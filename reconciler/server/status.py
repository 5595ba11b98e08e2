"""The server's status API: what the control plane believes, as JSON over a local socket.

Read-only by construction: it is given a `PlaneReader`, never the control plane itself.

    GET /v1/status /v1/identities /v1/groups /v1/policies /v1/endpoints /v1/nodes
    GET /v1/explain?from=NS/POD|ADDRESS&to=...&protocol=6&port=80
    GET /metrics /healthz /readyz
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from reconciler.core.snapshots import (
    EndpointRow,
    ExplanationRow,
    GroupRow,
    IdentityRow,
    NodeRow,
    PolicyRow,
    StatusRow,
)
from reconciler.errors import ConfigError, UnavailableError
from reconciler.local import Handler, json
from reconciler.server.grpc import Traffic

METRICS_TYPE: Final = "text/plain"


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


class Status:
    """The API's handlers. `ready` says why the server is not ready yet, "" when it is."""

    def __init__(
        self,
        plane: PlaneReader,
        traffic: Mapping[str, Traffic],
        ready: Callable[[], str],
        alarms: Callable[[], int],
    ) -> None:
        self._plane = plane
        self._traffic = traffic
        self._ready = ready
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Metrics(plane, traffic, alarms))

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
        return found | {
            "/v1/explain": self._explain,
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    def _nodes(self) -> list[dict[str, Any]]:
        """Each node's row with what went over its streams, in messages and bytes."""
        idle = Traffic()
        return [
            msgspec.structs.asdict(row) | msgspec.structs.asdict(self._traffic.get(row.name, idle))
            for row in self._plane.snapshot_nodes()
        ]

    async def _explain(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            ends = (query["from"], query["to"], int(query["protocol"]), int(query["port"]))
        except (KeyError, ValueError):
            raise ConfigError("needs from, to, protocol and port (numbers)") from None
        return json(self._plane.explain(*ends))

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type=METRICS_TYPE)

    async def _health(self, _: web.Request) -> web.Response:
        return json({"status": "ok"})

    async def _readiness(self, _: web.Request) -> web.Response:
        if reason := self._ready():
            raise UnavailableError(reason)
        return json({"status": "ok"})


def _answer(read: Callable[[], Any]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return json(read())

    return handler


class _Metrics:
    """Read from the plane when asked, so that nothing is counted twice or kept for nobody."""

    def __init__(
        self, plane: PlaneReader, traffic: Mapping[str, Traffic], alarms: Callable[[], int]
    ) -> None:
        self._plane = plane
        self._traffic = traffic
        self._alarms = alarms

    def collect(self) -> Iterable[Metric]:
        row = self._plane.snapshot_status()
        for name, help, value in (
            ("identities", "Identities in use.", row.identities),
            ("identity_capacity", "Identities that there can be.", row.identity_capacity),
            ("groups", "Groups of pods.", row.groups),
            ("pods", "Pods that own an address.", row.pods),
            ("policies", "NetworkPolicies.", row.policies),
            ("problems", "Objects that were refused or warned about.", len(row.problems)),
            ("alarms_standing", "Alarms that stand.", len(row.alarms)),
            ("epoch", "Epoch of this server's leadership.", row.epoch),
        ):
            yield GaugeMetricFamily(f"reconciler_{name}", help, value)
        nodes = GaugeMetricFamily("reconciler_nodes", "Nodes by state.", labels=["state"])
        for state, count in sorted(row.nodes.items()):
            nodes.add_metric([state], count)
        yield nodes
        yield CounterMetricFamily("reconciler_alarms", "Alarms raised.", self._alarms())
        totals = [
            sum(getattr(one, field) for one in self._traffic.values())
            for field in ("streams", "opened", "sent", "sent_bytes", "received", "received_bytes")
        ]
        yield GaugeMetricFamily("reconciler_streams", "Open xDS streams.", totals[0])
        for name, help, value in zip(
            ("streams_opened", "sent", "sent_bytes", "received", "received_bytes"),
            ("Streams opened.", "Responses sent.", "Bytes sent.", "Requests.", "Bytes received."),
            totals[1:],
            strict=True,
        ):
            yield CounterMetricFamily(f"reconciler_xds_{name}", help, value)
