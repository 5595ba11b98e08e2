"""What the discovery server says of itself: metrics, and `/v1/status` on a local socket.

    GET /v1/status /metrics /healthz /readyz

What clients were sent and answered is in CSDS (`csds`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from reconciler.errors import Rejected
from reconciler.local import Handler, json, public
from reconciler.metrics import CONTENT_TYPE, Family, Page, Values
from reconciler.probe.services import message_name
from reconciler.server.discovery.driver import Driver, summary
from reconciler.server.discovery.families import FILES
from reconciler.server.streams import Traffic

METRICS = (
    *FILES,
    Family("xds_streams", "gauge", "Open streams.", ("method",)),
    Family("xds_streams_opened", "counter", "Streams that were taken.", ("method",)),
    Family("xds_streams_refused", "counter", "Streams that were not taken, by gRPC status.",
           ("code",)),
    Family("xds_sent", "counter", "Responses sent.", ("method",)),
    Family("xds_sent_bytes", "counter", "Bytes of responses sent.", ("method",)),
    Family("xds_received", "counter", "Requests received.", ("method",)),
    Family("xds_received_bytes", "counter", "Bytes of requests received.", ("method",)),
    Family("certificate_expiry_seconds", "gauge",
           "Unix time at which the server's certificate ends; 0: no TLS."),
)  # fmt: skip
"""Of `reconciler xds serve`; docs/metrics.md is made from it."""


class Files(msgspec.Struct):
    """How the last looks at the files went. problems: those that stand."""

    good: int = 0
    bad: int = 0
    problems: tuple[Rejected, ...] = ()


def of_files(driver: Driver, files: Files, polls: Mapping[str, int]) -> Values:
    """Values of `families.FILES`. polls: by method or path"""
    shown = summary(driver, ())
    resources: Counter[tuple[str, ...]] = Counter()  # several types may have one name
    for url, count in shown.resources.items():
        resources[message_name(url),] += count
    return {
        "xds_resources": dict(resources),
        "xds_views": shown.views,
        "xds_reloads": {("good",): files.good, ("bad",): files.bad},
        "xds_problems": len(files.problems),
        "xds_streams_broken": driver.broken,
        "xds_polls": {(method,): count for method, count in polls.items()},
    }


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
        return {
            **of_files(self._driver, self._files, self._polls),
            "xds_streams": self._by_method("streams"),
            "xds_streams_opened": self._by_method("opened"),
            "xds_streams_refused": {(code,): count for code, count in self._refused.items()},
            "xds_sent": self._by_method("sent"),
            "xds_sent_bytes": self._by_method("sent_bytes"),
            "xds_received": self._by_method("received"),
            "xds_received_bytes": self._by_method("received_bytes"),
            "certificate_expiry_seconds": self._certificate(),
        }

    def _by_method(self, field: str) -> dict[tuple[str, ...], float]:
        return {
            (method.rpartition("/")[2],): getattr(traffic, field)
            for method, traffic in self._traffic.items()
        }
