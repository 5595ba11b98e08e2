"""What is noted becomes few requests: series, rates, bounds, and an API server that is away. That
the API server takes the objects is tested on a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.plane import Alarm, ControlPlane, PlaneConfig
from reconciler.core.policy import origins
from reconciler.errors import Rejected, UnavailableError
from reconciler.server.kubernetes import events
from reconciler.server.kubernetes.client import ApiError, Response
from reconciler.server.kubernetes.events import Recorder, Reporter, Subject
from reconciler.testing.journal import MemoryJournal
from tests.unit.test_plane import plane_with, shop

POLICY = Subject("NetworkPolicy", "shop", "web")
PATH = "/apis/events.k8s.io/v1/namespaces/shop/events"


class Api:
    """Takes everything, or answers with `errors` by method, first come first served."""

    def __init__(self) -> None:
        self.errors: dict[str, list[Exception]] = {}
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def request(
        self, method: str, path: str, *, body: bytes = b"{}", content_type: str = "json"
    ) -> Response:
        self.requests.append((method, path, json.loads(body)))
        self.meanwhile()
        if self.errors.get(method):
            raise self.errors[method].pop(0)
        return Response(200, json.dumps({"metadata": {"uid": f"uid of {path}"}}).encode())

    def writes(self) -> list[tuple[str, dict[str, Any]]]:
        return [(method, body) for method, _, body in self.requests if method != "GET"]


class Rig:
    def __init__(self) -> None:
        self.api = Api()
        self.now = 1000.0
        self.recorder = Recorder(
            self.api,  # type: ignore[arg-type]
            instance="server-0",
            log=structlog.get_logger(),
            monotonic=lambda: self.now,
            wall=lambda: 1_800_000_000.25 + self.now,
        )

    def note(self, subject: Subject = POLICY, note: str = "spec: wrong") -> None:
        self.recorder.record(subject, "Refused", "Read", note)

    async def run_for(self, seconds: float) -> None:
        """As `run` would, with the time that it says to wait passing at once."""
        end = self.now + seconds
        while (wait := await self.recorder.step()) is not None and self.now + wait <= end:
            self.now += wait
        self.now = end


async def test_an_event() -> None:
    rig = Rig()
    rig.note()
    await rig.run_for(1)
    (get, create) = rig.api.requests
    assert get[:2] == ("GET", "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/web")
    assert create[:2] == ("POST", PATH)
    body = create[2]
    assert body.pop("metadata")["name"].startswith("web.")
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2027-01-15T08:16:40.250000Z",
        "reportingController": "reconciler.io/server",
        "reportingInstance": "server-0",
        "type": "Warning",
        "reason": "Refused",
        "action": "Read",
        "note": "spec: wrong",
        "regarding": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "namespace": "shop",
            "name": "web",
            "uid": f"uid of {get[1]}",
        },
    }


async def test_repetitions_are_a_series_of_few_writes() -> None:
    rig = Rig()
    for _ in range(600):
        rig.note()
        await rig.run_for(1)
    writes = rig.api.writes()
    assert [method for method, _ in writes] == ["POST", "PATCH", "PATCH"]
    assert [body["series"]["count"] for _, body in writes[1:]] == [2, 301]
    await rig.run_for(events.SERIES_SECONDS)
    assert rig.api.writes()[3][1]["series"]["count"] == 600
    assert len(rig.api.writes()) == 4
    assert not rig.recorder._series  # it is over
    rig.note()
    await rig.run_for(1)
    assert rig.api.writes()[4][0] == "POST"
    assert dict(rig.recorder.results) == {"created": 2, "updated": 3}


async def test_what_is_noted_during_a_write_is_not_lost() -> None:
    rig = Rig()

    def note_once() -> None:
        if rig.api.requests[-1][0] == "POST":
            rig.note()

    rig.api.meanwhile = note_once
    rig.note()
    await rig.run_for(1)
    (_, created), (method, updated) = rig.api.writes()
    assert "series" not in created
    assert (method, updated["series"]["count"]) == ("PATCH", 2)


async def test_a_burst_then_a_rate() -> None:
    rig = Rig()
    for i in range(200):
        rig.note(Subject("Pod", "shop", f"p{i}"))
    await rig.run_for(0)
    assert len(rig.api.writes()) == events.BURST
    await rig.run_for(10)
    assert len(rig.api.writes()) == events.BURST + 10 * events.RATE
    await rig.run_for(60)
    assert len(rig.api.writes()) == 200


async def test_what_is_noted_is_bounded() -> None:
    rig = Rig()
    for i in range(50):
        rig.note(note=f"problem {i}")
    assert rig.recorder.results["dropped"] == 50 - events.MOST_PER_OBJECT
    for i in range(2 * events.MOST):
        rig.note(Subject("Pod", "shop", f"p{i}"))
    assert len(rig.recorder._series) == events.MOST
    await rig.run_for(events.SERIES_SECONDS * 3)
    assert not rig.recorder._series
    assert not rig.recorder._of


@pytest.mark.parametrize(
    "error", [UnavailableError("gone"), ApiError(500, "x", "y"), ApiError(429, "x", "y", 20.0)]
)
async def test_an_api_server_that_is_away_is_asked_again(error: Exception) -> None:
    rig = Rig()
    rig.api.errors = {"POST": [error] * 3}
    rig.note()
    rig.note(Subject("Node", "", "n1"))
    await rig.run_for(0.4)
    assert len(rig.api.writes()) == 1  # and then nobody asks for a moment
    await rig.run_for(300)
    assert dict(rig.recorder.results) == {"created": 2}
    assert len(rig.api.writes()) == 5


async def test_what_can_never_be_written_is_given_up() -> None:
    rig = Rig()
    rig.api.errors = {"GET": [UnavailableError("gone")] * 1000}
    rig.note()
    await rig.run_for(3 * events.SERIES_SECONDS)
    assert dict(rig.recorder.results) == {"failed": 1}
    assert not rig.recorder._series


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_objects_that_are_gone_get_none(method: str) -> None:
    rig = Rig()
    rig.api.errors = {method: [ApiError(404, "NotFound", "gone")]}
    rig.note()
    rig.note(Subject("Node", "", "n1"))
    await rig.run_for(1)
    assert dict(rig.recorder.results) == {"refused": 1, "created": 1}
    assert rig.api.requests[-1][1] == "/apis/events.k8s.io/v1/namespaces/default/events"


async def test_an_event_that_has_expired_is_made_anew() -> None:
    rig = Rig()
    rig.note()
    await rig.run_for(1)
    rig.api.errors = {"PATCH": [ApiError(404, "NotFound", "gone")]}
    rig.note()
    await rig.run_for(1)
    assert [method for method, _ in rig.api.writes()] == ["POST", "PATCH", "POST"]
    assert rig.api.writes()[-1][1]["series"]["count"] == 2


async def test_notes_fit() -> None:
    rig = Rig()
    rig.note(note="ü" * 2000)
    await rig.run_for(1)
    note = rig.api.writes()[0][1]["note"]
    assert len(note.encode()) <= events.MAX_NOTE
    assert note.endswith("ü…")


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("NetworkPolicy shop/web", POLICY),
        ("Node n1", Subject("Node", "", "n1")),
        ("Node a/n1", None),
        ("Pod p", None),
        ("Pod shop/", None),
        ("Secret a/b", None),
        ("", None),
        ("cluster", None),
    ],
)
def test_subjects(text: str, subject: Subject | None) -> None:
    assert Subject.parse(text) == subject


class Reported:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        origins = {"hash": ["NetworkPolicy shop/b#spec.ingress[0]", "NetworkPolicy shop/a",
                            "NetworkPolicy shop/b#spec.ingress[1]"]}  # fmt: skip
        self.reporter = Reporter(self._record, lambda name: origins[name])

    def _record(self, subject: Subject, reason: str, action: str, note: str) -> None:
        self.seen.append((f"{subject.kind} {subject.namespace}/{subject.name}", reason, note))


def test_a_problem_is_said_when_it_begins() -> None:
    reported = Reported()
    bad = Rejected("watch", "NetworkPolicy shop/web", "spec.ingress[0]", "wrong")
    odd = Rejected("watch", "Pod shop/p", "", "no address", "warning")
    nobody = Rejected("watch", "", "", "can't be read")
    reported.reporter.problems((bad, nobody))
    reported.reporter.problems((bad, odd, nobody))
    reported.reporter.problems((odd,))
    assert reported.seen == [
        ("NetworkPolicy shop/web", "Refused", "spec.ingress[0]: wrong"),
        ("Pod shop/p", "Questionable", "no address"),
    ]
    reported.reporter.problems((bad, odd))
    assert reported.seen[2:] == [reported.seen[0]]


def test_alarms_of_a_plane_find_their_objects() -> None:
    """Its own words: whose rule set is too large, whose label set found no number."""
    plane, _, seen = plane_with(shop(), capacity=10)
    said: list[tuple[Subject, str]] = []
    reporter = Reporter(
        lambda subject, reason, _action, _note: said.append((subject, reason)),
        lambda name: origins.of_rule_sets((name,), plane.intake.compiler.rule_sets),
    )
    for effect in seen:
        if isinstance(effect, Alarm):
            reporter.alarm(effect.kind, effect.object, effect.text)
    assert said == [(Subject("NetworkPolicy", "shop", "many"), "TooManyEntries")]

    config = PlaneConfig(intake=IntakeConfig(filter=LabelFilter.default(), pool=range(256, 256)))
    plane = ControlPlane(config, MemoryJournal().open(), 0.0)
    plane.objects_changed(shop().everything(), 0.0)
    for effect in plane.effects():
        if isinstance(effect, Alarm):
            reporter.alarm(effect.kind, effect.object, effect.text)
    assert said[1:] == [(Subject("Namespace", "", "shop"), "IdentitiesExhausted")]


@pytest.mark.parametrize(
    ("kind", "object", "said"),
    [
        ("rollout", "n1", [("Node /n1", "CutNotEnforced", "text")]),
        ("lag", "n1", [("Node /n1", "Lagging", "text")]),
        ("capacity", "hash", [("NetworkPolicy shop/a", "TooManyEntries", "text"),
                              ("NetworkPolicy shop/b", "TooManyEntries", "text")]),
        ("filling", "hash", [("NetworkPolicy shop/a", "NearCapacity", "text"),
                             ("NetworkPolicy shop/b", "NearCapacity", "text")]),
        ("exhausted", "label set k8s:app=x;k8s:io.kubernetes.pod.namespace=shop;",
         [("Namespace /shop", "IdentitiesExhausted",
           "no identity number is free for a label set of its pods")]),
        ("oversized", "shop/0123", [("Namespace /shop", "LabelsTooLarge", "text")]),
        ("journal", "journal", []),
        ("identities", "cluster", []),
    ],
)  # fmt: skip
def test_alarms_are_said_on_objects(
    kind: str, object: str, said: list[tuple[str, str, str]]
) -> None:
    reported = Reported()
    reported.reporter.alarm(kind, object, "text")
    assert reported.seen == said
