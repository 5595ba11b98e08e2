"""Resources that are handed over by HTTP: what is read again, and what is said at a stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from reconciler.address import Address
from reconciler.core.discovery.types import CDS, EDS
from reconciler.server.discovery import push
from reconciler.server.discovery.files import Directory, Outcome, State
from reconciler.server.discovery.match import EVERY
from reconciler.server.discovery.rules import violations
from tests.pushed import cluster


class Server:
    """stop: of the application; taken: names that each state had, a consumer permitting."""

    def __init__(self, client: aiohttp.ClientSession, pushes: push.Pushes) -> None:
        self.client, self.pushes = client, pushes
        self.taken: list[list[str]] = []

    async def ask(self, method: str, *resources: dict[str, Any]) -> tuple[int, Any]:
        url, body = "http://localhost/resources", {"resources": resources}
        async with self.client.request(method, url, json=body) as answer:
            return answer.status, await answer.json() if answer.status != 204 else None

    async def follow(self) -> None:
        self.take(await self.pushes.first())
        await self.pushes.follow(self.take)

    def take(self, outcome: Outcome) -> None:
        if outcome.state is not None:
            found = outcome.state.resources(("",)).get(CDS, {})
            self.taken.append(sorted(found))


@pytest.fixture
def stop() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def server(tmp_path: Path, stop: asyncio.Event) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        address = Address(path=f"{tmp_path}/push.sock")
        pushes = await push.listen(address, stop, stack, structlog.get_logger())
        connector = aiohttp.UnixConnector(address.path)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Server(client, pushes)


@asynccontextmanager
async def following(server: Server) -> AsyncIterator[None]:
    task = asyncio.create_task(server.follow())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_only_what_is_new_is_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(message: Any) -> Any:
        read.append(message.name)
        return violations(message)

    monkeypatch.setattr("reconciler.server.discovery.documents.violations", count)
    async with following(server), asyncio.timeout(20):
        for method, given, new in (
            ("PUT", (cluster("a"), cluster("b")), ["a", "b"]),
            ("PUT", (cluster("b"), cluster("a")), []),
            ("PATCH", (cluster("c"), cluster("b", 2)), ["c", "b"]),
            ("PATCH", (cluster("a"), cluster("b", 2), cluster("c")), []),
            ("PUT", (cluster("c"), cluster("b")), ["b"]),  # as it was before the last
        ):
            read.clear()
            assert await server.ask(method, *given) == (204, None)
            assert read == new
    assert server.taken == [["a", "b"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c"], ["b", "c"]]


async def test_what_was_handed_over_stays_as_it_was_and_no_more_is_kept(server: Server) -> None:
    states: list[State] = []

    def take(outcome: Outcome) -> None:
        assert outcome.state is not None
        states.append(outcome.state)

    server.take = take  # type: ignore[method-assign]
    other = {"@type": EDS, "clusterName": "a"}
    async with following(server), asyncio.timeout(20):
        for number in range(1, 6):
            await server.ask("PATCH", cluster("a", number), cluster(f"b{number}"))
        await server.ask("PATCH", other)
        assert len(server.pushes._known) == len(server.pushes._keys) == 7
        await server.ask("PUT", cluster("a"))
        assert len(server.pushes._known) == len(server.pushes._keys) == 1
    names = ["a", "b1", "b2", "b3", "b4", "b5"]
    views = [state.resources(("",)) for state in states]
    assert [sorted(view[CDS]) for view in views] == [
        *(names[:count] for count in range(2, 7)), names, ["a"]
    ]  # fmt: skip
    assert [sorted(view.get(EDS, {})) for view in views] == [[]] * 5 + [["a"], []]
    assert len({view[CDS]["a"].version for view in views}) == 5
    assert views[5][CDS] is views[4][CDS]  # nothing of this type has changed
    for state, view in zip(states, views, strict=True):
        (directory,) = state.directories
        assert view == Directory("", EVERY, directory.found).by_type


STOPPING = (503, {"error": "the server is shutting down"})


async def test_what_comes_after_a_stop_is_answered(server: Server, stop: asyncio.Event) -> None:
    async with following(server), asyncio.timeout(20):
        assert await server.ask("PUT", cluster("a")) == (204, None)
        stop.set()
        assert await server.ask("PUT", cluster("b")) == STOPPING
    assert server.taken == [["a"]]


async def test_what_waits_at_a_stop_is_answered(
    server: Server, stop: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, give = asyncio.Event(), push.Pushes._give

    async def tell(self: push.Pushes, outcome: Outcome) -> None:
        given.set()
        await give(self, outcome)

    monkeypatch.setattr(push.Pushes, "_give", tell)
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(server.ask("PUT", cluster("a")))
        await given.wait()
        stop.set()
        await server.follow()
        assert server.taken == [[]]  # to begin with
        assert await waiting == STOPPING


async def test_what_is_in_force_at_a_stop_is_so_answered(
    server: Server, stop: asyncio.Event
) -> None:
    async with asyncio.timeout(20):
        began = asyncio.create_task(server.ask("PUT", cluster("a")))
        server.take(await server.pushes.first())
        behind = asyncio.create_task(server.ask("PUT", cluster("b")))
        stop.set()
        await server.pushes.follow(server.take)
        assert (await began, await behind) == ((204, None), STOPPING)
        assert server.taken == [["a"]]


async def test_who_is_never_followed_is_answered(server: Server) -> None:
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(server.ask("PUT", cluster("a")))
        assert (await server.pushes.first()).state is not None
        server.pushes.end()
        assert await waiting == STOPPING


async def test_what_comes_before_it_is_followed_waits(server: Server) -> None:
    async with asyncio.timeout(20):
        first = asyncio.create_task(server.ask("PUT", cluster("a")))
        server.take(await server.pushes.first())
        second = asyncio.create_task(server.ask("PATCH", cluster("b")))
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(server.pushes.follow(server.take))
            assert (await first, await second) == ((204, None), (204, None))
            following.cancel()
    assert server.taken == [["a"], ["a", "b"]]


@pytest.mark.parametrize("size", [1, 100_000])
async def test_what_is_short_and_what_is_not_is_taken(server: Server, size: int) -> None:
    long = cluster("a") | {"altStatName": "a" * size}
    async with following(server), asyncio.timeout(20):
        assert await server.ask("PUT", cluster("b")) == (204, None)
        assert await server.ask("PATCH", long) == (204, None)
        status, answer = await server.ask("PATCH", long | {"lbPolicy": "NONE_SUCH"})
    assert status == 400
    assert "NONE_SUCH" in answer["error"]
    assert server.taken == [["b"], ["a", "b"]]


async def test_an_error_of_ours_ends_whoever_follows(server: Server) -> None:
    """As with files. Who pushed is not told that it is in force, and who comes later neither."""

    def broken(_: Outcome) -> None:
        raise ZeroDivisionError("no thing of who pushes")

    async with asyncio.timeout(20):
        first = asyncio.create_task(server.ask("PUT", cluster("a")))
        server.take(await server.pushes.first())
        following = asyncio.create_task(server.pushes.follow(broken))
        assert await first == (204, None)
        assert await server.ask("PATCH", cluster("b")) == STOPPING
        with pytest.raises(ZeroDivisionError):
            await following
        assert await server.ask("PATCH", cluster("c")) == STOPPING


async def test_a_message_is_taken_as_a_document_is(server: Server) -> None:
    binary = {"Content-Type": "application/x-protobuf"}

    async def give(method: str, *resources: any_pb2.Any) -> tuple[int, str]:
        body = discovery_pb2.DiscoveryResponse(resources=resources).SerializeToString()
        url = "http://localhost/resources"
        async with server.client.request(method, url, data=body, headers=binary) as answer:
            return answer.status, await answer.text()

    def message(name: str, seconds: int = 1) -> any_pb2.Any:
        packed, found = any_pb2.Any(), cluster_pb2.Cluster(name=name)
        found.connect_timeout.seconds = seconds
        packed.Pack(found)
        return packed

    async with following(server), asyncio.timeout(20):
        assert await give("PUT", message("a"), message("b")) == (204, "")
        assert await server.ask("PATCH", cluster("c")) == (204, None)
        assert await give("PATCH", message("d")) == (204, "")
        status, said = await give("PATCH", message("e"), message(""))
        assert status == 400
        assert "resources.pb#1: Cluster: resources[1].name: is required" in said
        status, said = await give("PATCH", message("e", 1 << 40))
        assert (status, "Cluster e: resources[0].connect_timeout: is no duration" in said) == (
            400,
            True,
        )
        status, said = await give("PATCH", message("e"), message("e"))
        assert (status, "Cluster e: comes twice" in said) == (400, True)
        assert await give("PUT") == (204, "")
    assert server.taken == [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"], []]


@pytest.mark.parametrize(
    "body", [b"null", b"false", b'{"resources": 0}', b'{"resources": ""}', b'{"resources": {}}']
)
async def test_what_does_not_say_that_there_is_nothing_removes_nothing(
    server: Server, body: bytes
) -> None:
    async with following(server), asyncio.timeout(20):
        assert await server.ask("PUT", cluster("a")) == (204, None)
        async with server.client.put("http://localhost/resources", data=body) as answer:
            assert (answer.status, len((await answer.json())["problems"])) == (400, 1)
        assert await server.ask("PATCH", cluster("b")) == (204, None)
    assert server.taken == [["a"], ["a", "b"]]
