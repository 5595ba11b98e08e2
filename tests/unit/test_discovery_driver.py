"""Views of the discovery server: made when a node needs them, published when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse

from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import CDS
from reconciler.probe import frames, services
from reconciler.probe.frames import Node, Request
from reconciler.probe.services import Variant
from reconciler.server.discovery.documents import Found
from reconciler.server.discovery.driver import Driver, summary
from reconciler.server.discovery.files import Directory, State
from reconciler.server.discovery.match import condition_of
from reconciler.server.streams import METHOD


class Log:
    def warning(self, event: str, **fields: Any) -> None: ...

    info = warning


class Streams:
    """Takes all that is sent, and says so."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.sent: dict[int, list[frames.Response]] = {}
        self.gone: list[list[int]] = []  # streams that had something, at each flush

    def send(self, stream: int, frame: bytes) -> None:
        self.sent.setdefault(stream, []).append(frames.decode(frame, Variant.DELTA))

    def grouped(self, streams: Sequence[int]) -> list[Sequence[int]]:
        return [streams[at : at + 2] for at in range(0, len(streams), 2)]

    def flush(self) -> bool:
        self.gone.append(sorted(self.sent))
        return True

    def close(self, stream: int, status: str, reason: str) -> None:
        raise AssertionError(reason)

    def took(self, stream: int) -> tuple[list[str], list[str]]:
        """Names that were put and removed since; all of it is acknowledged."""
        put: list[str] = []
        removed: list[str] = []
        while responses := self.sent.pop(stream, []):
            self._driver.drained(stream)
            for each in responses:
                put += [item.name for item in each.items]
                removed += each.removed
                ack = Request(CDS, nonce=each.nonce)
                self._driver.received(stream, frames.encode(ack, Variant.DELTA))
        return put, removed


def state(**directories: str) -> State:
    """Names have "__" for "/", and "every" for the files of all nodes; text: letters, each a
    resource, whose case is a version."""
    found = []
    for key, letters in directories.items():
        name = "" if key == "every" else key.replace("__", "/")
        condition = condition_of(name)
        assert condition is not None
        resources = tuple(
            Found(CDS, letter.lower(), letter, letter.encode(), None, name) for letter in letters
        )
        found.append(Directory(name, condition, resources))
    return State(tuple(sorted(found, key=lambda each: each.name)))


class Rig:
    def __init__(self) -> None:
        self.driver = Driver(Log())
        self.streams = Streams(self.driver)
        self.driver.serve(self.streams)

    async def led(self) -> None:
        """Until streams are where the last change leads them."""
        async with asyncio.timeout(20):
            while self.driver.behind:
                await asyncio.sleep(0)

    def open(self, stream: int, node: str, cluster: str = "") -> tuple[list[str], list[str]]:
        self.driver.methods()[METHOD](stream, "")
        request = Request(CDS, node=Node(node, cluster))
        self.driver.received(stream, frames.encode(request, Variant.DELTA))
        return self.streams.took(stream)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_nodes_of_the_same_directories_share_a_view(rig: Rig) -> None:
    rig.driver.changed(state(every="ab", nodes__n1="c", clusters__edge="d"))
    assert rig.open(1, "n0") == (["a", "b"], [])
    assert rig.open(2, "n1", "edge") == (["a", "b", "c", "d"], [])
    assert rig.open(3, "n2", "edge") == (["a", "b", "d"], [])
    assert rig.open(4, "n3", "edge") == (["a", "b", "d"], [])
    assert rig.driver.views == 3
    assert summary(rig.driver, ()).resources == {CDS: 4}


async def test_who_comes_or_polls_meanwhile_leads_nobody_else(rig: Rig) -> None:
    rig.driver.changed(state(every="a", nodes__n2="b", nodes__n3="c"))
    rig.open(1, "n1")
    rig.driver.changed(state(every="A", nodes__n2="b", nodes__n3="c"))
    assert rig.streams.took(1) == (["a"], [])
    rig.driver.changed(state(every="a", nodes__n2="b", nodes__n3="c"))
    poll = frames.encode(Request(CDS, node=Node("n2")), Variant.SOTW)
    answer = DiscoveryResponse.FromString(rig.driver.poll(CDS, poll, "").frame)
    assert [each.value for each in answer.resources] == [b"a", b"b"]
    assert rig.open(3, "n3") == (["a", "c"], [])
    assert rig.streams.took(1) == ([], [])
    await rig.led()
    assert rig.streams.took(1) == (["a"], [])
    assert rig.driver.views == 3


async def test_only_views_that_change_are_published(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.driver.changed(state(every="ab", nodes__n1="c"))
    for stream, node in ((1, "n0"), (2, "n1")):
        rig.open(stream, node)
    published: list[str] = []
    real = Service.publish

    def publish(self: Service, view: str, *rest: Any, **how: Any) -> None:
        published.append(view)
        real(self, view, *rest, **how)

    monkeypatch.setattr(Service, "publish", publish)
    rig.driver.changed(state(every="ab", nodes__n1="C"))
    assert len(published) == 1
    assert (rig.streams.took(1), rig.streams.took(2)) == (([], []), (["c"], []))
    rig.driver.changed(state(every="aB", nodes__n1="C"))
    assert len(published) == 3
    await rig.led()
    assert (rig.streams.took(1), rig.streams.took(2)) == ((["b"], []), (["b"], []))


async def test_what_moves_between_directories_is_not_taken_away(rig: Rig) -> None:
    rig.driver.changed(state(every="abc"))
    rig.open(1, "n0")
    rig.open(2, "n1")
    rig.driver.changed(state(every="a", nodes__n1="bc"))
    assert rig.streams.took(1) == ([], ["b", "c"])
    assert rig.streams.took(2) == ([], [])
    rig.driver.changed(state(every="ab", nodes__n1="c"))
    assert rig.streams.took(1) == (["b"], [])
    assert rig.streams.took(2) == ([], [])
    rig.driver.changed(state(every="abc"))
    assert rig.streams.took(1) == (["c"], [])
    assert rig.streams.took(2) == ([], [])
    assert rig.driver.views == 1  # those of earlier directories are gone


async def test_views_of_nodes_that_are_gone_are_not_kept_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.server.discovery.driver._IDLE_VIEWS", 4)
    directories = {f"nodes__n{at}": chr(97 + at) for at in range(20)}
    rig.driver.changed(state(**directories))
    for at in range(20):
        assert rig.open(at, f"n{at}") == ([chr(97 + at)], [])
        rig.driver.stream_closed(at)
        assert rig.driver.views <= 9
    assert rig.open(100, "n3") == (["d"], [])  # made anew
    view = next(iter(rig.driver.clients())).view
    held = rig.driver.content(view, CDS, "d")
    assert held is not None
    assert held.body == b"d"
    assert rig.driver.content(view, CDS, "e") is None


async def test_a_stream_that_says_nothing_is_in_no_view(rig: Rig) -> None:
    rig.driver.changed(state(every="a"))
    rig.driver.methods()[METHOD](1, "")
    assert list(rig.driver.clients()) == []
    rig.driver.stream_closed(1)
    assert msgspec.structs.asdict(summary(rig.driver, ("x",)))["problems"] == ("x",)
    assert services.AGGREGATED.method(Variant.DELTA) == METHOD


async def test_what_the_first_streams_are_sent_goes_while_others_are_led(rig: Rig) -> None:
    rig.driver.changed(state(every="a"))
    await rig.led()
    for stream in range(1, 6):
        rig.open(stream, f"n{stream}")
    rig.streams.gone.clear()
    rig.driver.changed(state(every="A"))
    await rig.led()
    assert rig.streams.gone == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
