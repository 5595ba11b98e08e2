"""The agent's side of the stream, without IO: subscribe, answer, reconnect.

What is subscribed with are the versions of the cut that the kernel enforces, never of what was
staged. Whether a response can be prepared is the caller's to say; this module makes the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from reconciler.core.machine import load
from reconciler.core.resources.encode import commit_version, parse_commit_version
from reconciler.core.resources.types import COMMIT, CUT_NAME, CUT_TYPES
from reconciler.core.trace import Event, Trace, cut
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request, Response
from reconciler.core.xds.subscription import WILDCARD
from reconciler.errors import Refusal

MODEL = load("client")

FIRST_BACK_OFF: Final = 0.5
LONGEST_BACK_OFF: Final = 5.0
"""Seconds. Doubled after each failure; jitter spreads the nodes that lost one server. Short: a
server that is back must hear from every node before a cut or a number can move: with 30 s, one that
was away for 15 s was without some of its nodes for as long again. A refused connection is cheap."""


class Report(msgspec.Struct, frozen=True):
    """What is enforced. versions: type URL → name → version; revision 0: nothing yet."""

    revision: int = 0
    root: bytes = b""
    versions: Mapping[str, Mapping[str, str]] = {}
    position: str = ""


class Client:
    """models/client.toml. After each event look at `wants_stream` and `retry_at`."""

    __slots__ = (
        "_delay", "_instance", "_jitter", "_max_stale", "_now", "_trace", "discard", "distrusted",
        "last_contact", "node", "retry_at", "state", "subscribe_due", "wants_stream",
    )  # fmt: skip

    def __init__(
        self,
        node: str,
        now: float,
        max_stale: float = 0.0,
        trace: Trace | None = None,
        instance: str = "",
    ) -> None:
        """instance: of this process; told to servers, who try again what an earlier one refused."""
        self._trace = trace
        self.node = node
        self.state = MODEL.initial
        self.retry_at: float | None = now
        self.wants_stream = False
        self.discard = False  # set by an effect: what was staged is to be rolled back
        self.subscribe_due = False
        self.distrusted = False  # remote pods count as unknown
        self.last_contact = now
        self._delay = FIRST_BACK_OFF
        self._jitter = 0.0
        self._max_stale = max_stale
        self._instance = instance
        self._now = now

    # Events

    def tick(self, now: float) -> None:
        """Open a stream when the back-off is over; distrust when no server answers for long."""
        self._now = now
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            MODEL.fire(self, "connect")
            self._record("Dial")
        overdue = self._max_stale and now >= self.last_contact + self._max_stale
        if overdue and self.state in ("disconnected", "connecting"):
            MODEL.fire(self, "too_old")
            self._record("Expire")

    def opened(self, report: Report, now: float) -> list[bytes]:
        """The stream is open: the first request of every type."""
        self._now = now
        MODEL.fire(self, "opened")
        self._record("Connect", **cut(report.revision))
        self.subscribe_due = False
        requests: list[bytes] = []
        for type_url in CUT_TYPES:
            initial = dict(report.versions.get(type_url, {}))
            if type_url == COMMIT and report.revision:
                version = commit_version(report.revision, report.root, report.position)
                initial = {CUT_NAME: version}
            first = Request(
                type_url=type_url,
                node="" if requests else self.node,
                subscribe=(WILDCARD,),
                initial=initial,
                instance="" if requests else self._instance,
            )
            requests.append(codec.encode_request(first))
        return requests

    def lost(self, now: float, jitter: float) -> None:
        """jitter: 0..1, random; the next attempt comes after half to all of the back-off."""
        self._now = now
        self._jitter = jitter
        if self.state in ("syncing", "in-sync"):
            self.last_contact = now  # a server was there until now, however little it had to say
        if self.state not in ("disconnected", "stale"):
            action = "Fail" if self.state.endswith("connecting") else "Break"
            MODEL.fire(self, "lost")
            self._record(action)

    def received(self, data: bytes, now: float) -> Response:
        """ProtocolError: the server sent what is no response; the stream is to be closed."""
        self._now = self.last_contact = now
        response = codec.decode_response(data)
        if response.type_url in CUT_TYPES:  # no other says that a cut is on its way
            MODEL.fire(self, "response")
            self._record_response(response)
        return response

    def committed(self, now: float) -> None:
        self._now = now
        if self.state == "syncing":
            MODEL.fire(self, "committed")
            self._record("Flip")

    def refused(self, now: float) -> None:
        self._now = now
        if self.state == "syncing":
            MODEL.fire(self, "refused")
            self._record("Refuse")

    @staticmethod
    def ack(type_url: str, nonce: str) -> bytes:
        return codec.ack(type_url, nonce)

    @staticmethod
    def nack(type_url: str, nonce: str, reason: str, refusal: Refusal | None = None) -> bytes:
        return codec.encode_request(
            Request(type_url=type_url, nonce=nonce, error=reason, refusal=refusal)
        )

    def next_deadline(self) -> float | None:
        times = [] if self.retry_at is None else [self.retry_at]
        if self._max_stale and self.state in ("disconnected", "connecting"):
            times.append(self.last_contact + self._max_stale)
        return min(times, default=None)

    def _record(self, action: str, **args: int | bool) -> None:
        if self._trace is not None:
            self._trace(Event("XdsStream", action, {"state": self.state, **args}))

    def _record_response(self, response: Response) -> None:
        """A commit says which cut it is of; what else belongs to the cut does not."""
        if self._trace is None:
            return
        said = None
        if response.type_url == COMMIT and len(response.resources) == 1:
            said = parse_commit_version(response.resources[0].version)
        self._record("Stage", commit=said is not None, **cut(said[0] if said else 0))

    # Effects of the model

    def open_stream(self) -> None:
        self.wants_stream = True

    def subscribe(self) -> None:
        self.subscribe_due = True

    def back_off(self) -> None:
        self.wants_stream = False
        self.retry_at = self._now + self._delay * (0.5 + self._jitter / 2)
        self._delay = min(self._delay * 2, LONGEST_BACK_OFF)

    def reset_back_off(self) -> None:
        self._delay = FIRST_BACK_OFF

    def discard_staging(self) -> None:
        self.discard = True

    def distrust_remote(self) -> None:
        self.distrusted = True

    def trust_remote(self) -> None:
        self.distrusted = False
