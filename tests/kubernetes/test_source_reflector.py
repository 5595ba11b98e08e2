"""What a reflector does with answers that a real API server gives rarely, or not on demand.

A script stands for the server: each request takes its next answer, and an answer that nobody asked
for, or one too few, fails the test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError, Response
from reconciler.server.kubernetes.mirror import Delta
from reconciler.server.kubernetes.reflector import Reflector, Timing
from tests.kubernetes.test_source_mirror import THINGS, encoded, page, put

Answer = bytes | Exception | list[bytes | Exception]


class Script:
    """request: an answer is a body or an error; stream: a list of lines, or an error.

    A list that ends is a watch that the server ends; an error in it ends it so.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = asyncio.Event()

    async def _next(self, verb: str, params: Mapping[str, str]) -> Any:
        if not self.answers:
            self.over.set()
            await asyncio.Event().wait()
        self.asked.append((verb, dict(params)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str], timeout: float
    ) -> Response:
        answer = await self._next("list", params)
        assert isinstance(answer, bytes), "a watch was expected"
        return Response(200, answer)

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        answer = await self._next("watch", params)
        assert isinstance(answer, list), "a list was expected"

        async def lines() -> AsyncIterator[bytes]:
            for line in answer:
                if isinstance(line, Exception):
                    raise line
                yield line

        yield lines()

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


class Played:
    """A run to the end of its script: the reflector, every delta that says something, each change
    of its failure, and the seconds that it waited between tries (no time passes)."""

    def __init__(self, script: Script) -> None:
        self.told: list[Delta[Any]] = []
        self.waits: list[float] = []
        self.noted: list[str] = []
        self.reflector = Reflector(
            cast(ApiClient, script),
            THINGS,
            self._deliver,
            random=lambda: 0.0,
            timing=Timing(first=1.0, limit=8.0),
            sleep=self._sleep,
            note=lambda reflector: self.noted.append(reflector.failure),
        )

    def _deliver(self, reflector: Reflector[Any], delta: Delta[Any]) -> None:
        if delta != Delta():
            self.told.append(delta)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def play(script: Script) -> Played:
    played = Played(script)
    task = asyncio.create_task(played.reflector.run())
    over = asyncio.create_task(script.over.wait())
    async with asyncio.timeout(10):
        await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    if task.done():
        task.result()
    task.cancel()
    await asyncio.gather(task, over, return_exceptions=True)
    return played


def names(delta: Delta[Any]) -> list[str]:
    return [thing.metadata.name for thing in delta.changed]


def error_event(code: int, reason: str) -> bytes:
    status = {"kind": "Status", "code": code, "reason": reason, "message": "no"}
    return json.dumps({"type": "ERROR", "object": status}).encode()


def bookmark(version: int) -> bytes:
    meta = {"resourceVersion": str(version)}
    return json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}}).encode()


async def test_a_watch_goes_on_where_the_last_one_ended() -> None:
    script = Script(
        page(9, encoded("a", 3, "x")),
        [put("b", 12, "y"), bookmark(30)],
        UnavailableError("connection reset"),
        [put("c", 31, "z")],
    )
    played = await play(script)
    assert script.verbs == ["list", "watch", "watch", "watch"]
    versions = [params["resourceVersion"] for verb, params in script.asked if verb == "watch"]
    assert versions == ["9", "30", "30"]
    assert list(map(names, played.told)) == [["a"], ["b"], ["c"]]
    assert (played.reflector.lists, played.reflector.position) == (1, 31)
    assert played.waits == [0.5]


@pytest.mark.parametrize("form", ["answer", "event"])
async def test_history_that_is_gone_is_one_difference(form: str) -> None:
    """No wait before the relist, and no word about what has not changed."""
    gone: Answer = ApiError(410, "Expired", "too old resource version")
    if form == "event":
        gone = [error_event(410, "Expired")]
    script = Script(
        page(9, encoded("a", 3, "x"), encoded("b", 4, "y")),
        [put("c", 10, "z")],
        gone,
        page(40, encoded("a", 3, "x"), encoded("c", 39, "w")),
        [bookmark(41)],
    )
    played = await play(script)
    assert script.verbs == ["list", "watch", "watch", "list", "watch"]
    assert [(names(delta), [k.name for k in delta.gone]) for delta in played.told] == [
        (["a", "b"], []),
        (["c"], []),
        (["c"], ["b"]),
    ]
    assert played.waits == []
    assert played.reflector.position == 41


async def test_relists_that_lead_nowhere_wait_longer_each_time() -> None:
    gone = ApiError(410, "Expired", "too old resource version")
    script = Script(page(9), gone, page(10), gone, page(11), gone, page(12), [bookmark(13)])
    played = await play(script)
    assert played.waits == [0.5, 1.0, 2.0]


async def test_an_error_event_of_any_code_is_followed_by_a_list() -> None:
    script = Script(page(9), [put("a", 10, "x"), error_event(500, "InternalError")], page(12), [])
    played = await play(script)
    assert script.verbs == ["list", "watch", "list", "watch"]
    assert played.waits == [0.5, 1.0]
    assert "ended at once" in played.reflector.failure


async def test_a_page_that_expires_starts_the_list_anew() -> None:
    expired = ApiError(410, "Expired", "The provided continue parameter is too old")
    script = Script(
        page(9, encoded("a", 3, "x"), next="more"),
        expired,
        page(20, encoded("b", 15, "y"), next="more"),
        page(20, encoded("c", 16, "z")),
    )
    played = await play(script)
    assert [params.get("continue") for _, params in script.asked] == [None, "more", None, "more"]
    assert list(map(names, played.told)) == [["b", "c"]], "nothing of a list that is not whole"
    assert played.waits == [0.5]


async def test_the_server_says_how_long_to_wait() -> None:
    busy = ApiError(429, "TooManyRequests", "later", 7.0)
    script = Script(busy, page(9), busy, [bookmark(10)])
    played = await play(script)
    assert script.verbs == ["list", "list", "watch", "watch"], "429 ends no history"
    refusal = "the API server answers 429 TooManyRequests: later"
    assert played.noted == [refusal, "", refusal, ""]
    assert played.waits == [7.5, 8.0]


async def test_a_watch_that_ends_at_once_is_a_failure() -> None:
    """A proxy that closes every watch doesn't get a request at once for each."""
    script = Script(page(9), [], [], [], [bookmark(10)])
    played = await play(script)
    assert played.waits == [0.5, 1.0, 2.0]
    assert played.reflector.failure == ""


async def test_versions_that_go_back_are_another_history() -> None:
    """etcd restored from a backup: what is held may never have been."""
    script = Script(
        page(50, encoded("a", 3, "x"), encoded("b", 40, "y")),
        [bookmark(60)],
        [put("c", 31, "z")],
        page(33, encoded("a", 3, "x"), encoded("c", 31, "z")),
    )
    played = await play(script)
    assert script.verbs == ["list", "watch", "watch", "list"]
    assert (names(played.told[-1]), [k.name for k in played.told[-1].gone]) == (["c"], ["b"])
    assert played.reflector.position == 33


@pytest.mark.parametrize(
    "line", [b"{", b'{"type":"WHAT","object":{}}', b"\xff", b'{"type":"ADDED","object":{}}']
)
async def test_a_line_that_cannot_be_read_loses_nothing(line: bytes) -> None:
    script = Script(page(9), [put("a", 10, "x"), line], [put("b", 11, "y")])
    played = await play(script)
    assert list(map(names, played.told)) == [["a"], ["b"]]
    assert played.reflector.lists == 1
