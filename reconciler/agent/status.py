"""The agent's status API: what this node enforces, as JSON over a local socket.

    GET /v1/status /v1/endpoints
    GET /v1/probe?from=ADDRESS&to=ADDRESS&protocol=6&port=80   the datapath's verdict on one packet
    GET /v1/events[?drops=1]                                   verdicts as they happen, a line each
    GET /metrics /healthz /readyz

Read-only: a probe has no side effects, and events are taken from the ring only while somebody
listens (what nobody reads, the kernel overwrites). The last three paths alone are served on
`--metrics`, which other machines may reach: no object of the cluster is named there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from reconciler.agent.driver import Driver
from reconciler.agent.grpc import XdsClient
from reconciler.core.dataplane.layout import Reason
from reconciler.core.objects import format_address, parse_address
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import Event
from reconciler.errors import ConfigError
from reconciler.local import Handler, json, public
from reconciler.metrics import CONTENT_TYPE, Family, Page, Values
from reconciler.testing.packets import Flow

_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_DRAIN_SECONDS: Final = 0.1
_BACKLOG: Final = 4096  # events that one slow listener may have waiting; older ones are dropped


METRICS: Final = (
    Family(
        "packets", "counter", "Packets judged, by the verdict's reason.", ("reason", "direction")
    ),
    Family("bytes", "counter", "Bytes of packets judged.", ("reason", "direction")),
    Family("map_entries", "gauge", "Entries in use of each map that a cut fills.", ("map",)),
    Family("map_limit", "gauge", "Most entries of each of these maps.", ("map",)),
    Family("client_state", "gauge", "1 for the state (models/client.toml) it is in.", ("state",)),
    Family("in_sync", "gauge", "1: the newest cut is enforced."),
    Family(
        "revision",
        "gauge",
        "Revision of the cut that is enforced; 0: none. Rounded as the server's is.",
    ),
    Family("endpoints", "gauge", "Pods of this node."),
    Family("alarms", "counter", "Alarms raised since the start."),
    Family("xds_sent", "counter", "Requests sent."),
    Family("xds_sent_bytes", "counter", "Bytes of requests sent."),
    Family("xds_received", "counter", "Responses received."),
    Family("xds_received_bytes", "counter", "Bytes of responses received."),
    Family(
        "certificate_expiry_seconds",
        "gauge",
        "Unix time at which the certificate of the newest connection ends; 0: none.",
    ),
)
"""Of an agent; docs/metrics.md is made from it."""


class Status:
    """certificate: Unix time at which the certificate that connections use ends, 0: none."""

    def __init__(
        self, driver: Driver, client: XdsClient, certificate: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._driver = driver
        self._client = client
        self._certificate = certificate
        self._page = Page(METRICS, self._values)
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._pump: asyncio.Task[None] | None = None

    def routes(self) -> dict[str, Handler]:
        return {
            "/v1/status": self._status,
            "/v1/endpoints": self._endpoints,
            "/v1/probe": self._probe,
            "/v1/events": self._events,
        } | self.public()

    def public(self) -> dict[str, Handler]:
        return public(self._page, CONTENT_TYPE, self._unready)

    async def _status(self, _: web.Request) -> web.Response:
        row = msgspec.structs.asdict(self._driver.core.row())
        traffic = {
            name: getattr(self._client, name)
            for name in ("sent", "sent_bytes", "received", "received_bytes")
        }
        found = {"datapath": self._driver.datapath.name, "filling": self._driver.capacity.standing}
        return json(row | found | traffic)

    async def _endpoints(self, _: web.Request) -> web.Response:
        return json(self._driver.core.endpoint_rows())

    def _unready(self) -> str:
        return "" if self._driver.core.enforced[0] else "no cut is enforced yet"

    # -------------------------------------------------------------------------------- probe

    async def _probe(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            source, destination = query["from"], query["to"]
            families = {len(parse_address(source)), len(parse_address(destination))}
            flow = Flow(
                source,
                destination,
                int(query["protocol"]),
                destination_port=int(query["port"]),
            )
            frame = flow.frame()
        except (KeyError, ValueError) as error:
            raise ConfigError(f"needs from, to, protocol and port: {error}") from None
        if len(families) != 1:
            raise ConfigError(f"{source} and {destination} are not of one family")
        return json(
            {
                "egress": await self._side(frame, source, Direction.EGRESS),
                "ingress": await self._side(frame, destination, Direction.INGRESS),
            }
        )

    async def _side(self, frame: bytes, address: str, direction: Direction) -> Any:
        """The verdict where the pod with this address is attached; None if it isn't here."""
        text = format_address(parse_address(address))
        for row in self._driver.core.endpoint_rows():
            if row.ifindex and text in (row.ipv4, row.ipv6):
                probe = functools.partial(
                    self._driver.datapath.probe, frame, ifindex=row.ifindex, direction=direction
                )
                reason = await self._driver.in_turn(probe)
                return {
                    "pod": f"{row.namespace}/{row.pod}",
                    "passed": reason.passed,
                    "reason": reason_text(reason),
                }
        return None

    # ------------------------------------------------------------------------------- events

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        queue: asyncio.Queue[bytes] = asyncio.Queue(_BACKLOG)
        await response.prepare(request)
        self._listeners.add(queue)
        if self._pump is None:
            self._pump = asyncio.create_task(self._drain(), name="events")
        only_drops = request.query.get("drops") == "1"
        try:
            while True:
                line = await queue.get()
                if not (only_drops and b'"passed":true' in line):
                    await response.write(line)
        except ConnectionResetError:
            return response
        finally:
            self._listeners.discard(queue)
            if not self._listeners and self._pump is not None:
                self._pump.cancel()
                await asyncio.gather(self._pump, return_exceptions=True)
                self._pump = None

    async def _drain(self) -> None:
        datapath = self._driver.datapath
        await self._driver.in_turn(datapath.drain)  # what happened before anybody asked
        while True:
            for event in await self._driver.in_turn(datapath.drain):
                line = msgspec.json.encode(self._row(event)) + b"\n"
                for queue in self._listeners:
                    with contextlib.suppress(asyncio.QueueFull):
                        queue.put_nowait(line)
            await asyncio.sleep(_DRAIN_SECONDS)

    def _row(self, event: Event) -> dict[str, Any]:
        local: Mapping[str, str] = {
            address: f"{row.namespace}/{row.pod}"
            for row in self._driver.core.endpoint_rows()
            for address in (row.ipv4, row.ipv6)
            if address and row.pod
        }
        source = format_address(event.source) if event.source else ""
        destination = format_address(event.destination) if event.destination else ""
        return {
            "seconds": event.time_ns / 1e9,
            "passed": event.reason.passed,
            "reason": reason_text(event.reason),
            "direction": event.direction.name.lower(),
            "protocol": _PROTOCOLS.get(event.protocol, str(event.protocol)),
            "source": source,
            "source_port": event.source_port,
            "source_pod": local.get(source, ""),
            "destination": destination,
            "destination_port": event.destination_port,
            "destination_pod": local.get(destination, ""),
            "ifindex": event.ifindex,
            "origins": self._driver.core.origins(event.ifindex, event.direction, event.cookie),
        }

    # ------------------------------------------------------------------------------ metrics

    async def _values(self) -> Values:
        counters = await self._driver.in_turn(self._driver.datapath.metrics)
        names = {key: (key[0].name.lower(), key[1].name.lower()) for key in counters}
        row = self._driver.core.row()
        return {
            "packets": {names[key]: packets for key, (packets, _) in counters.items()},
            "bytes": {names[key]: size for key, (_, size) in counters.items()},
            "map_entries": {(name,): used for name, used in row.usage.items()},
            "map_limit": {(name,): row.limits.get(name, 0) for name in row.usage},
            "client_state": {(row.client,): 1},
            "in_sync": float(row.client == "in-sync"),
            "revision": row.committed,
            "endpoints": row.endpoints,
            "alarms": self._driver.alarms,
            "xds_sent": self._client.sent,
            "xds_sent_bytes": self._client.sent_bytes,
            "xds_received": self._client.received,
            "xds_received_bytes": self._client.received_bytes,
            "certificate_expiry_seconds": self._certificate(),
        }


def reason_text(reason: Reason) -> str:
    return reason.name.lower().replace("_", "-")
