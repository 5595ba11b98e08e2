"""The reviewer's own part: what it asks, how often, and what it keeps. The API server's part is
tested on a real one; here its answers are a script."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import structlog

from reconciler.errors import ProtocolError, UnavailableError
from reconciler.server.kubernetes import auth
from reconciler.server.kubernetes.auth import TokenReviewer
from reconciler.server.kubernetes.client import ApiError, Response

NOW = 1_800_000_000.0
AGENT = "system:serviceaccount:ns:agent"


def token(name: str = "a", expires: object = int(NOW) + 3600) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"jti": name, "exp": expires}).encode())
    return f"e30.{claims.decode().rstrip('=')}.c2ln"


def status(
    node: str | None = "node-1",
    user: str = AGENT,
    audiences: tuple[str, ...] = ("reconciler",),
    **other: Any,
) -> dict[str, Any]:
    extra = {} if node is None else {auth.NODE_CLAIM: [node]}
    return {
        "authenticated": True,
        "user": {"username": user, "extra": extra, "groups": ["system:authenticated"]},
        "audiences": audiences,
        **other,
    }


class Api:
    """Answers each review with `answer`, once `open` is set."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | Exception = status()
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[dict[str, Any]] = []
        self.under_way = self.most = 0

    async def request(self, method: str, path: str, *, body: bytes, timeout: float) -> Response:
        assert (method, path) == ("POST", auth.PATH)
        self.asked.append(msgspec.json.decode(body)["spec"])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.open.wait()
        finally:
            self.under_way -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return Response(201, msgspec.json.encode({"kind": "TokenReview", "status": self.answer}))


class Rig:
    def __init__(self) -> None:
        self.api = Api()
        self.passed = 0.0
        self.reviewer = TokenReviewer(
            self.api,  # type: ignore[arg-type]
            audience="reconciler",
            service_account="ns/agent",
            log=structlog.get_logger(),
            monotonic=lambda: 100.0 + self.passed,
            wall=lambda: NOW + self.passed,
        )

    async def refused(self, text: str) -> tuple[str, str]:
        with pytest.raises(ProtocolError) as caught:
            await self.reviewer.prove(text)
        return caught.value.status, caught.value.reason


async def test_a_good_token() -> None:
    rig = Rig()
    proof = await rig.reviewer.prove(token())
    assert (proof.node, proof.by, proof.expires) == ("node-1", "token", NOW + 3600)
    assert rig.api.asked == [{"token": token(), "audiences": ["reconciler"]}]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"authenticated": False, "error": "secret detail"}, "UNAUTHENTICATED"),
        ({}, "UNAUTHENTICATED"),
        (status(authenticated=False), "UNAUTHENTICATED"),
        (status(audiences=()), "UNAUTHENTICATED"),
        (status(audiences=("https://kubernetes.default.svc",)), "UNAUTHENTICATED"),
        (status(user="system:serviceaccount:ns:other"), "PERMISSION_DENIED"),
        (status(user="system:serviceaccount:other:agent"), "PERMISSION_DENIED"),
        (status(user="system:node:node-1"), "PERMISSION_DENIED"),
        (status(node=None), "PERMISSION_DENIED"),
        (status(node=""), "PERMISSION_DENIED"),
        (status(node="Not A Node"), "PERMISSION_DENIED"),
    ],
)
async def test_a_token_that_does_not_count(answer: dict[str, Any], code: str) -> None:
    rig = Rig()
    rig.api.answer = answer
    found, reason = await rig.refused(token())
    assert found == code
    assert "secret" not in reason
    assert (await rig.refused(token()))[0] == code
    assert len(rig.api.asked) == 1  # kept for a moment
    rig.passed = auth.KEEP_REFUSED_SECONDS
    rig.api.answer = status()
    assert (await rig.reviewer.prove(token())).node == "node-1"


@pytest.mark.parametrize(
    "text",
    ["", "abc", "a.b.c", token(expires=None), token(expires="1"), token(expires=int(NOW)),
     token("x" * 8000)],
)  # fmt: skip
async def test_what_is_no_live_token_costs_no_review(text: str) -> None:
    rig = Rig()
    assert (await rig.refused(text))[0] == "UNAUTHENTICATED"
    assert rig.api.asked == []


async def test_connections_with_one_token_share_a_review() -> None:
    rig = Rig()
    rig.api.open.clear()
    waiting = [asyncio.create_task(rig.reviewer.prove(token())) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who asked first goes away
    rig.api.open.set()
    proofs = await asyncio.gather(*waiting[1:])
    assert {proof.node for proof in proofs} == {"node-1"}
    await rig.reviewer.prove(token())
    assert len(rig.api.asked) == 1
    assert dict(rig.reviewer.results) == {"node": 1, "kept": 1}


async def test_an_answer_is_kept_for_a_time_only() -> None:
    rig = Rig()
    await rig.reviewer.prove(token())
    rig.api.answer = {"authenticated": False}  # the pod is deleted
    rig.passed = auth.KEEP_SECONDS - 1
    await rig.reviewer.prove(token())
    rig.passed = auth.KEEP_SECONDS
    assert (await rig.refused(token()))[0] == "UNAUTHENTICATED"
    assert len(rig.api.asked) == 2


async def test_no_answer_outlives_its_token() -> None:
    rig = Rig()
    short = token(expires=int(NOW) + 30)
    await rig.reviewer.prove(short)
    rig.passed = 30
    assert await rig.refused(short) == ("UNAUTHENTICATED", "the token has expired")


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (UnavailableError("refused"), auth.PAUSE_SECONDS),
        (ApiError(403, "Forbidden", "no"), auth.PAUSE_SECONDS),
        (ApiError(429, "TooManyRequests", "slow", 7.0), 7.0),
        (ApiError(503, "ServiceUnavailable", "x", 9000.0), auth.LONGEST_PAUSE_SECONDS),
    ],
)
async def test_an_api_server_that_is_away_refuses_nobody(error: Exception, pause: float) -> None:
    rig = Rig()
    await rig.reviewer.prove(token("known"))
    rig.api.answer = error
    for _ in range(3):  # one request, then none for a moment
        assert (await rig.refused(token("new")))[0] == "UNAVAILABLE"
    assert len(rig.api.asked) == 2
    assert (await rig.reviewer.prove(token("known"))).node == "node-1"
    rig.api.answer = status()
    rig.passed = pause - 0.5
    assert (await rig.refused(token("new")))[0] == "UNAVAILABLE"
    rig.passed = pause
    assert (await rig.reviewer.prove(token("new"))).node == "node-1"


async def test_a_storm_is_no_storm_on_the_api_server(
    until: Callable[[Callable[[], bool]], Any],
) -> None:
    rig = Rig()
    rig.api.open.clear()
    storm = [asyncio.create_task(rig.reviewer.prove(token(str(i)))) for i in range(200)]
    await until(lambda: rig.api.under_way == auth.CONCURRENT)
    rig.api.open.set()
    await asyncio.gather(*storm)
    assert (rig.api.most, len(rig.api.asked)) == (auth.CONCURRENT, 200)
    rig.api.open.clear()
    rig.api.answer = UnavailableError("gone")
    storm = [asyncio.create_task(rig.reviewer.prove(token(f"b{i}"))) for i in range(200)]
    await until(lambda: rig.api.under_way == auth.CONCURRENT)
    rig.api.open.set()
    results = await asyncio.gather(*storm, return_exceptions=True)
    assert {str(each) for each in results} == {"tokens can't be verified now"}
    assert len(rig.api.asked) == 200 + auth.CONCURRENT


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Any]:
    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    return wait


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 10)
    rig = Rig()
    for i in range(30):
        await rig.reviewer.prove(token(str(i)))
    assert len(rig.reviewer._proofs._answers) == 10
    await rig.reviewer.prove(token("29"))
    assert len(rig.api.asked) == 30
    await rig.reviewer.prove(token("0"))
    assert len(rig.api.asked) == 31


async def test_stopping_ends_reviews() -> None:
    rig = Rig()
    rig.api.open.clear()
    waiting = asyncio.create_task(rig.reviewer.prove(token()))
    await asyncio.sleep(0)
    await rig.reviewer.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_no_token_is_kept_or_logged(capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig()
    await rig.reviewer.prove(token("good"))
    rig.api.answer = {"authenticated": False}
    await rig.refused(token("bad"))
    rig.api.answer = UnavailableError("gone")
    await rig.refused(token("away"))
    said = "".join(capsys.readouterr())
    kept = repr(vars(rig.reviewer)) + repr(rig.reviewer._proofs._answers)
    for name in ("good", "bad", "away"):
        assert token(name) not in said + kept
