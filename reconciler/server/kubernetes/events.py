"""Events (events.k8s.io/v1) on the objects that something is to be said of, as `kubectl events` and
`kubectl describe` show them: a refused NetworkPolicy, a node that refuses its cut, a namespace
without identities.

`Recorder.record` only notes what is to be written, whoever calls it; `run` writes, one request at a
time, at most `RATE` a second after a burst. The same words on the same object are one Event with a
series (count and last time), written at the first repetition and then every `REFRESH_SECONDS`;
after `SERIES_SECONDS` without a repetition it is over. What is noted is bounded, altogether and for
each object, and dropped beyond that: events inform, and the status API and metrics have everything.
An API server that can't take events now is asked again later, an Event that it refuses is dropped.

The object is read before its first Event, as `kubectl describe` finds events by UID and not every
note comes from an object that could be decoded; an object that is gone gets none. Needed of RBAC:
create and patch on events (events.k8s.io), get on the kinds of `PATHS`.

Replicas would say everything several times: only the leader's recorder may be given something.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

import msgspec

from reconciler.errors import Rejected, UnavailableError
from reconciler.server.kubernetes.backoff import Backoff
from reconciler.server.kubernetes.client import ApiClient, ApiError

CONTROLLER: Final = "reconciler.io/server"
RATE: Final = 5.0
BURST: Final = 25.0
REFRESH_SECONDS: Final = 300.0
SERIES_SECONDS: Final = 600.0
MOST: Final = 1_000  # series at a time, under 1 MB
MOST_PER_OBJECT: Final = 10
MAX_NOTE: Final = 1024  # bytes; the API server refuses more
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
MERGE_PATCH: Final = "application/merge-patch+json"
NAMESPACE_LABEL: Final = "k8s:io.kubernetes.pod.namespace="

PATHS: Final = {  # kind → its apiVersion, and where one is
    "Namespace": ("v1", "/api/v1/namespaces/{name}"),
    "Node": ("v1", "/api/v1/nodes/{name}"),
    "Pod": ("v1", "/api/v1/namespaces/{namespace}/pods/{name}"),
    "NetworkPolicy": (
        "networking.k8s.io/v1",
        "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/{name}",
    ),
    "CiliumIdentity": ("cilium.io/v2", "/apis/cilium.io/v2/ciliumidentities/{name}"),
}


class Subject(msgspec.Struct, frozen=True):
    """The object that an Event is about. kind: one of `PATHS`."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Subject | None:
        """ "Kind namespace/name" or "Kind name"; None for what no Event can be about."""
        kind, _, rest = text.partition(" ")
        namespace, _, name = rest.rpartition("/")
        namespaced = kind in PATHS and "{namespace}" in PATHS[kind][1]
        return cls(kind, namespace, name) if name and bool(namespace) == namespaced else None

    @property
    def path(self) -> str:
        return PATHS[self.kind][1].format(namespace=quote(self.namespace), name=quote(self.name))


class _Series:
    """One Event, and how often it was noted. name: of the object that was created, "" before."""

    __slots__ = (
        "action", "begun", "count", "last", "name", "note", "reason", "seen_at", "subject",
        "written", "written_at",
    )  # fmt: skip

    def __init__(self, subject: Subject, reason: str, action: str, note: str) -> None:
        self.subject, self.reason, self.action, self.note = subject, reason, action, note
        self.name = ""
        self.count = self.written = 0
        self.begun = self.last = 0.0  # Unix time
        self.seen_at = self.written_at = 0.0  # of the monotonic clock

    def due(self) -> float:
        """When there is something to do for it: to write, or to forget it."""
        if not self.name:
            return self.seen_at
        if self.count == self.written:
            return self.seen_at + SERIES_SECONDS
        return self.seen_at if self.written == 1 else self.written_at + REFRESH_SECONDS


class _Meta(msgspec.Struct):
    uid: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta


class Recorder:
    """instance: of this replica, as its pod's name. `results` counts "created", "updated",
    "refused" (by the API server, or what it is about is gone), "failed" (not asked in time) and
    "dropped" (too many)."""

    def __init__(
        self,
        client: ApiClient,
        *,
        instance: str,
        log: Any,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._instance, self._log = client, instance[:128], log
        self._monotonic, self._wall = monotonic, wall
        self._series: dict[tuple[Subject, str, str], _Series] = {}
        self._of: Counter[Subject] = Counter()
        self._noted = asyncio.Event()
        self._tokens, self._filled_at = BURST, monotonic()
        self._paused_until = 0.0
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, random.random)
        self._numbers = itertools.count()
        self.results: Counter[str] = Counter()

    def record(self, subject: Subject, reason: str, action: str, note: str) -> None:
        """Note a warning: `reason` and `action` in CamelCase, `note` for people. Never waits."""
        key = (subject, reason, note)
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= MOST or self._of[subject] >= MOST_PER_OBJECT:
                self.results["dropped"] += 1
                return
            series = self._series[key] = _Series(subject, reason, action, _short(note))
            self._of[subject] += 1
            series.begun = self._wall()
        series.count += 1
        series.last, series.seen_at = self._wall(), self._monotonic()
        self._noted.set()

    async def run(self) -> None:
        """Write what is noted, until cancelled."""
        while True:
            self._noted.clear()
            wait = await self.step()
            try:
                async with asyncio.timeout(wait):
                    await self._noted.wait()
            except TimeoutError:
                pass

    async def step(self) -> float | None:
        """Write all that may be written now; the seconds until there may be more, None: nothing."""
        while self._series:
            key, series = min(self._series.items(), key=lambda each: each[1].due())
            now = self._monotonic()
            if series.due() > now:
                return series.due() - now
            if series.count == series.written or (
                not series.name and now - series.seen_at > SERIES_SECONDS
            ):
                self._forget(key, "" if series.name else "failed")
                continue
            if (wait := self._wait(now)) > 0:
                return wait
            self._tokens -= 1
            await self._write(key, series)
        return None

    def _wait(self, now: float) -> float:
        """Seconds until a request may be made."""
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * RATE)
        self._filled_at = now
        missing = 1 - self._tokens
        fill = missing / RATE if missing > 1e-6 else 0.0  # less is what adding up floats leaves
        return max(self._paused_until - now, fill)

    def _forget(self, key: tuple[Subject, str, str], result: str) -> None:
        series = self._series.pop(key)
        self._of[series.subject] -= 1
        if not self._of[series.subject]:
            del self._of[series.subject]
        if result:
            self.results[result] += 1

    async def _write(self, key: tuple[Subject, str, str], series: _Series) -> None:
        count = series.count  # more may be noted meanwhile
        try:
            if series.name:
                await self._update(series, count)
            else:
                await self._create(series, count)
        except (ApiError, UnavailableError, msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
                if series.name and error.status == 404:  # it has expired
                    series.name, series.written = "", 0
                    return
                if not error.gone:
                    self._log.warning("event refused", object=_text(key[0]), reason=str(error))
                self._forget(key, "refused")
                return
            asked = error.retry_after if isinstance(error, ApiError) else 0.0
            self._paused_until = self._monotonic() + self._backoff.failed(asked)
            self._log.warning("event", object=_text(key[0]), reason=str(error))
            return
        self._backoff.worked()
        self.results["updated" if series.written else "created"] += 1
        series.written, series.written_at = count, self._monotonic()

    async def _create(self, series: _Series, count: int) -> None:
        subject = series.subject
        answer = await self._client.request("GET", subject.path)
        uid = msgspec.json.decode(answer.body, type=_Object).metadata.uid
        unique = f"{int(series.begun * 1e6):x}{next(self._numbers):x}"
        namespace = subject.namespace or "default"  # where events on cluster-scoped objects are
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{subject.name[:220]}.{unique}", "namespace": namespace},
            "eventTime": _micro(series.begun),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "type": "Warning",
            "reason": series.reason,
            "action": series.action,
            "note": series.note,
            "regarding": {
                "apiVersion": PATHS[subject.kind][0],
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": uid,
            },
        }
        if count > 1:
            body["series"] = _counted(series, count)
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        await self._client.request("POST", path, body=msgspec.json.encode(body))
        series.name = f"{path}/{subject.name[:220]}.{unique}"

    async def _update(self, series: _Series, count: int) -> None:
        body = msgspec.json.encode({"series": _counted(series, count)})
        await self._client.request("PATCH", series.name, body=body, content_type=MERGE_PATCH)


class Reporter:
    """What of the control plane's problems and alarms is said on objects.

    origins: the policy objects that a rule set was compiled from, by its name
    """

    def __init__(
        self,
        record: Callable[[Subject, str, str, str], None],
        origins: Callable[[str], Iterable[str]],
    ) -> None:
        self._record, self._origins = record, origins
        self._standing: frozenset[Rejected] = frozenset()

    def problems(self, standing: Iterable[Rejected]) -> None:
        """All that stand now; each is said when it begins."""
        now = frozenset(standing)
        for problem in sorted(now - self._standing):
            subject = Subject.parse(problem.object)
            if subject is not None:
                reason = "Refused" if problem.severity == "error" else "Questionable"
                note = ": ".join(part for part in (problem.path, problem.reason) if part)
                self._record(subject, reason, "Read", note)
        self._standing = now

    def alarm(self, kind: str, object: str, text: str) -> None:
        """An alarm of the control plane as it is raised; of what is no object's, nothing is said.

        An exhausted label set is its namespace's, a group that is too large too, a rule set its
        policies'.
        """
        match kind:
            case "rollout":
                self._say(f"Node {object}", "CutNotEnforced", "Serve", text)
            case "lag":
                self._say(f"Node {object}", "Lagging", "Serve", text)
            case "exhausted":
                for label in object.removeprefix("label set ").split(";"):
                    if label.startswith(NAMESPACE_LABEL):
                        namespace = label.removeprefix(NAMESPACE_LABEL)
                        note = "no identity number is free for a label set of its pods"
                        self._say(f"Namespace {namespace}", "IdentitiesExhausted", "Allocate", note)
            case "oversized":
                namespace = object.partition("/")[0]
                self._say(f"Namespace {namespace}", "LabelsTooLarge", "Allocate", text)
            case "capacity" | "filling":
                reason = "TooManyEntries" if kind == "capacity" else "NearCapacity"
                for policy in sorted({each.partition("#")[0] for each in self._origins(object)}):
                    self._say(policy, reason, "Compile", text)

    def _say(self, object: str, reason: str, action: str, note: str) -> None:
        subject = Subject.parse(object)
        if subject is not None:
            self._record(subject, reason, action, note)


def _counted(series: _Series, count: int) -> dict[str, Any]:
    return {"count": count, "lastObservedTime": _micro(series.last)}


def _micro(when: float) -> str:
    found = datetime.datetime.fromtimestamp(when, datetime.UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _short(note: str) -> str:
    data = note.encode()
    if len(data) <= MAX_NOTE:
        return note
    return data[: MAX_NOTE - 3].decode(errors="ignore") + "…"


def _text(subject: Subject) -> str:
    return f"{subject.kind} {subject.namespace}/{subject.name}".replace(" /", " ")
