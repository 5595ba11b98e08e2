"""What the discovery server says of itself: metrics, and `/v1/status` on a local socket.

    GET /v1/status /metrics /healthz /readyz

What clients were sent and answered is in CSDS (`csds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from reconciler.errors import Rejected
from reconciler.local import Handler, json, public
from reconciler.metrics import CONTENT_TYPE, Family, Page, Values
from reconciler.probe.services import message_name
from reconciler.server.discovery.driver import Driver, summary
from reconciler.server.streams import Traffic

METRICS = (
    Family("xds_resources", "gauge", "Resources that are served, in all directories.", ("type",)),
    Family("xds_views", "gauge", "Sets of resources that nodes are served."),
    Family("xds_reloads", "counter", "States that were read or handed over: a `good` one is in "
           "force at once, after a `bad` one the last good one stays.", ("result",)),
    Family("xds_problems", "gauge", "Problems of the files, or of what was handed over last; "
           "while there are any, the last good state is served."),
    Family("xds_streams", "gauge", "Open streams.", ("method",)),
    Family("xds_streams_opened", "counter", "Streams that were taken.", ("method",)),
    Family("xds_streams_refused", "counter", "Streams that were not taken, by gRPC status.",
           ("code",)),
    Family("xds_streams_broken", "counter", "Streams that were ended for what they sent."),
    Family("xds_sent", "counter", "Responses sent.", ("method",)),
    Family("xds_sent_bytes", "counter", "Bytes of responses sent.", ("method",)),
    Family("xds_received", "counter", "Requests received.", ("method",)),
    Family("xds_received_bytes", "counter", "Bytes of requests received.", ("method",)),
    Family("xds_polls", "counter", "Requests without a stream that were answered, by method of "
           "gRPC or path of HTTP.", ("method",)),
    Family("certificate_expiry_seconds", "gauge",
           "Unix time at which the server's certificate ends; 0: no TLS."),
)  # fmt: skip
"""Of `reconciler xds serve`; docs/metrics.md is made from it."""


class Files(msgspec.Struct):
    """How the last looks at the files went. problems: those that stand."""

    good: int = 0
    bad: int = 0
    problems: tuple[Rejected, ...] = ()


class Status:
    def __init__(
        self,
        driver: Driver,
        files: Files,
        polls: Mapping[str, int],
        traffic: Mapping[str, Traffic],
        refused: Mapping[str, int],
        certificate: Callable[[], float],
        unready: Callable[[], str],
    ) -> None:
        """polls, traffic: by method; certificate: Unix time at which it ends, 0 for none; unready:
        why new clients should go elsewhere, "" when they need not."""
        self._driver = driver
        self._files = files
        self._polls = polls
        self._traffic = traffic
        self._refused = refused
        self._certificate = certificate
        self._unready = unready
        self._page = Page(METRICS, self._values)

    def routes(self) -> dict[str, Handler]:
        async def status(_: web.Request) -> web.Response:
            shown = summary(self._driver, self._files.problems)
            return json({**msgspec.structs.asdict(shown), "traffic": self._traffic})

        return {"/v1/status": status, **self.public()}

    def public(self) -> dict[str, Handler]:
        return public(self._page, CONTENT_TYPE, self._unready)

    async def _values(self) -> Values:
        shown = summary(self._driver, ())
        return {
            "xds_resources": {
                (message_name(url),): count for url, count in shown.resources.items()
            },
            "xds_views": shown.views,
            "xds_reloads": {("good",): self._files.good, ("bad",): self._files.bad},
            "xds_problems": len(self._files.problems),
            "xds_streams": self._by_method("streams"),
            "xds_streams_opened": self._by_method("opened"),
            "xds_streams_refused": {(code,): count for code, count in self._refused.items()},
            "xds_streams_broken": self._driver.broken,
            "xds_sent": self._by_method("sent"),
            "xds_sent_bytes": self._by_method("sent_bytes"),
            "xds_received": self._by_method("received"),
            "xds_received_bytes": self._by_method("received_bytes"),
            "xds_polls": {(method,): count for method, count in self._polls.items()},
            "certificate_expiry_seconds": self._certificate(),
        }

    def _by_method(self, field: str) -> dict[tuple[str, ...], float]:
        return {
            (method.rpartition("/")[2],): getattr(traffic, field)
            for method, traffic in self._traffic.items()
        }
