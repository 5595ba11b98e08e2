"""The agent's status API: what this node enforces, as JSON over a local socket.

    GET /v1/status /v1/endpoints
    GET /v1/probe?from=ADDRESS&to=ADDRESS&protocol=6&port=80   the datapath's verdict on one packet
    GET /v1/events[?drops=1]                                   verdicts as they happen, a line each
    GET /metrics /healthz /readyz

Read-only: a probe has no side effects, and events are taken from the ring only while somebody
listens (what nobody reads, the kernel overwrites).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from reconciler.agent.driver import Driver
from reconciler.agent.grpc import XdsClient
from reconciler.core.dataplane.layout import Reason
from reconciler.core.objects import format_address, parse_address
from reconciler.core.policy.ir import Direction
from reconciler.datapath.base import Event
from reconciler.errors import ConfigError, UnavailableError
from reconciler.local import Handler, json
from reconciler.testing.packets import Flow

_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_DRAIN_SECONDS: Final = 0.1
_BACKLOG: Final = 4096  # events that one slow listener may have waiting; older ones are dropped


class Status:
    def __init__(self, driver: Driver, client: XdsClient) -> None:
        self._driver = driver
        self._client = client
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._pump: asyncio.Task[None] | None = None

    def routes(self) -> dict[str, Handler]:
        return {
            "/v1/status": self._status,
            "/v1/endpoints": self._endpoints,
            "/v1/probe": self._probe,
            "/v1/events": self._events,
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    async def _status(self, _: web.Request) -> web.Response:
        row = msgspec.structs.asdict(self._driver.core.row())
        traffic = {
            name: getattr(self._client, name)
            for name in ("sent", "sent_bytes", "received", "received_bytes")
        }
        return json(row | {"datapath": self._driver.datapath.name} | traffic)

    async def _endpoints(self, _: web.Request) -> web.Response:
        return json(self._driver.core.endpoint_rows())

    async def _health(self, _: web.Request) -> web.Response:
        return json({"status": "ok"})

    async def _readiness(self, _: web.Request) -> web.Response:
        if not self._driver.core.enforced[0]:
            raise UnavailableError("no cut is enforced yet")
        return json({"status": "ok"})

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

    async def _metrics(self, _: web.Request) -> web.Response:
        counters = await self._driver.in_turn(self._driver.datapath.metrics)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Metrics(self._driver, self._client, counters))
        return web.Response(body=generate_latest(registry), content_type="text/plain")


class _Metrics:
    """One scrape: the datapath's counters were read on its own thread before."""

    def __init__(
        self,
        driver: Driver,
        client: XdsClient,
        counters: Mapping[tuple[Reason, Direction], tuple[int, int]],
    ) -> None:
        self._driver = driver
        self._client = client
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        row = self._driver.core.row()
        labels = ["reason", "direction"]
        packets = CounterMetricFamily("reconciler_packets", "Packets judged.", labels=labels)
        size = CounterMetricFamily("reconciler_bytes", "Bytes of packets judged.", labels=labels)
        for (reason, direction), (count, total) in sorted(self._counters.items()):
            values = [reason.name.lower(), direction.name.lower()]
            packets.add_metric(values, count)
            size.add_metric(values, total)
        yield packets
        yield size
        usage = GaugeMetricFamily("reconciler_map_entries", "Entries in use.", labels=["map"])
        limit = GaugeMetricFamily("reconciler_map_limit", "Most entries.", labels=["map"])
        for name in row.usage:
            usage.add_metric([name], row.usage[name])
            limit.add_metric([name], row.limits.get(name, 0))
        yield usage
        yield limit
        in_sync = float(row.client == "in-sync")
        yield GaugeMetricFamily("reconciler_in_sync", "1: the newest cut is enforced.", in_sync)
        yield GaugeMetricFamily("reconciler_endpoints", "Pods of this node.", row.endpoints)
        yield CounterMetricFamily("reconciler_alarms", "Alarms raised.", self._driver.alarms)
        for name in ("sent", "sent_bytes", "received", "received_bytes"):
            help = f"xDS {name.replace('_', ', in ')}."
            yield CounterMetricFamily(f"reconciler_xds_{name}", help, getattr(self._client, name))


def reason_text(reason: Reason) -> str:
    return reason.name.lower().replace("_", "-")
