"""What replicas tell each other of their nodes: the oldest cut in use, each in a Lease of its own.

The leader takes a number back when no node may use it any more, and knows of its own nodes only. So
each replica keeps a Lease `<lease>-<replica>` with the mark of the oldest cut that a node of its
may enforce (`ControlPlane.in_use`) as annotation `reconciler.io/in-use`, and with what its nodes
enforce of policies (`realization`) as `reconciler.io/nodes`. It is there before the replica serves
anybody, and is written when one of the two has changed, at most once an interval; nothing of a
relabel waits for it.

Absence is never an ACK: what a replica said that is not heard of any more counts for the grace of
absent nodes, which is as long as its nodes have to report somewhere else. Then its Lease is removed
by whoever leads. The same holds where a replica starts again under its name: it has not heard of
the nodes of the process before it, so it goes on saying what that one said, for the grace.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from reconciler.core.objects import ObjectKey, ObjectMeta
from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.kinds import Kind
from reconciler.server.kubernetes.realization import NodesReport, parse

IN_USE: Final = "reconciler.io/in-use"
NODES: Final = "reconciler.io/nodes"
OF: Final = "reconciler.io/lease"
"""Label: which Lease the replicas stand for election by."""

HEARTBEATS: Final = 10
"""Intervals after which an unchanged report is written again, so that it shows who is alive."""

MERGE_PATCH: Final = "application/merge-patch+json"
NOT_FOUND: Final = 404


class Report(msgspec.Struct, frozen=True):
    metadata: ObjectMeta

    @property
    def mark(self) -> int:
        """0, which holds everything back, for what can't be read."""
        text = self.metadata.annotations.get(IN_USE, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0

    @property
    def nodes(self) -> NodesReport:
        """None connected, for what can't be read."""
        return parse(self.metadata.annotations.get(NODES, "")) or NodesReport()


def kind(namespace: str, lease: str) -> Kind[Report]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    return Kind("Lease", "leases", path, Report, params={"labelSelector": f"{OF}={lease}"})


class OwnMark:
    """The mark that a replica says: what its nodes use, and for `grace` what was said before it.

    begin: with the mark that the process before this one said, None if there was none
    """

    def __init__(self, in_use: Callable[[], int], grace: float) -> None:
        self._in_use, self._grace = in_use, grace
        self._before: int | None = None
        self._until = math.inf

    def begin(self, before: int | None) -> None:
        self._before = before

    def served(self, now: float) -> None:
        """From now on nodes can come back to this replica."""
        self._until = now + self._grace

    def at(self, now: float) -> int:
        if self._before is not None and now >= self._until:
            self._before = None
        in_use = self._in_use()
        return in_use if self._before is None else min(in_use, self._before)


class Reports:
    """One replica's own report, and what it has read of the others'.

    in_use: the mark to report now; told: given the others' marks whenever they may have changed
    nodes:  what to report of the connected nodes now; `beside` is what the others say of theirs
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        lease: str,
        replica: str,
        interval: float,
        grace: float,
        in_use: Callable[[], int],
        nodes: Callable[[], NodesReport],
        told: Callable[[Mapping[str, int]], None],
        leading: Callable[[], bool],
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = kind(namespace, lease)
        self._client, self._lease, self._log = client, lease, log
        self._name = f"{lease}-{replica}".lower().replace("_", "-")[:253].rstrip("-.")
        self._interval, self._grace, self._clock = interval, grace, clock
        self._told, self._leading = told, leading
        self._mark, self._nodes = OwnMark(in_use, grace), nodes
        self._recalled = False
        self._others: dict[str, tuple[int, float]] = {}  # name → mark, when it was heard
        self._beside: dict[str, Report] = {}  # those that are there
        self._said: tuple[int, str] | None = None
        self._quiet = 0

    def changed(self, objects: Mapping[ObjectKey, Report | None]) -> None:
        """What the watch tells of all reports."""
        for key, report in objects.items():
            if key.name == self._name:
                continue
            if report is None:
                self._beside.pop(key.name, None)  # what it said stays for the grace
                continue
            self._beside[key.name] = report
            self._others[key.name] = (report.mark, self._clock())
        self._tell()

    def beside(self) -> tuple[NodesReport, ...]:
        """Of the replicas that were heard of lately."""
        silent = self._interval * HEARTBEATS * 2
        heard = {n for n, (_, when) in self._others.items() if self._clock() <= when + silent}
        return tuple(report.nodes for name, report in self._beside.items() if name in heard)

    async def begin(self) -> None:
        """Until the first report is written."""
        while not await self.start():
            await asyncio.sleep(self._interval)

    async def start(self) -> bool:
        """One try to read what was said before, and to write the first report."""
        if not (self._recalled or await self._recall()) or not await self.report():
            return False
        self._mark.served(self._clock())
        return True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            self._tell()
            self._quiet += 1
            if self._now() != self._said or self._quiet >= HEARTBEATS:
                await self.report()
            if self._leading():
                await self._clean_up()

    def _now(self) -> tuple[int, str]:
        return self._mark.at(self._clock()), self._nodes().text()

    def _tell(self) -> None:
        now = self._clock()
        silent = self._interval * HEARTBEATS * 2 + self._grace
        for name in [n for n, (_, heard) in self._others.items() if now > heard + silent]:
            del self._others[name]
        self._told({name: mark for name, (mark, _) in self._others.items()})

    async def _recall(self) -> bool:
        try:
            answer = await self._client.request("GET", f"{self.kind.path}/{self._name}")
            before: int | None = msgspec.json.decode(answer.body, type=Report).mark
        except (ApiError, UnavailableError, msgspec.DecodeError, UnicodeDecodeError) as error:
            if not isinstance(error, ApiError) or error.status != NOT_FOUND:
                self._log.warning("report", reason=f"what was said before is not read: {error}")
                return False
            before = None
        self._mark.begin(before)
        self._recalled = True
        return True

    async def report(self) -> bool:
        """Write it; False: it was not written."""
        mark, nodes = said = self._now()
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "labels": {OF: self._lease},
                "annotations": {IN_USE: str(mark), NODES: nodes},
            },
            "spec": {"renewTime": now},
        }
        data = json.dumps(body).encode()
        try:
            try:
                await self._client.request(
                    "PATCH", f"{self.kind.path}/{self._name}", body=data, content_type=MERGE_PATCH
                )
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                await self._client.request("POST", self.kind.path, body=data)
        except (ApiError, UnavailableError) as error:
            self._log.warning("report", reason=str(error))
            return False
        self._said, self._quiet = said, 0
        return True

    async def _clean_up(self) -> None:
        """Reports that count no more."""
        for name in [name for name in self._beside if name not in self._others]:
            del self._beside[name]
            try:
                await self._client.request("DELETE", f"{self.kind.path}/{name}")
            except (ApiError, UnavailableError) as error:
                self._log.warning("report", reason=f"{name} is not removed: {error}")
