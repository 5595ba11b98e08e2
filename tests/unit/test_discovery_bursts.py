"""The discovery server's driver: a burst of changes is brought to streams once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.core.discovery.types import CDS
from reconciler.server.discovery.documents import Found, parse
from reconciler.server.discovery.driver import Driver
from reconciler.server.discovery.files import Directory, State
from reconciler.server.discovery.match import EVERY


class Streams:
    """Takes everything as soon as it is told to."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.sent: list[tuple[int, discovery_pb2.DeltaDiscoveryResponse]] = []
        self.under_way: set[int] = set()
        self.wanted = ""
        self.came = asyncio.Event()

    def send(self, stream: int, frame: bytes) -> None:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(frame)
        self.sent.append((stream, response))
        self.under_way.add(stream)
        if response.resources and response.resources[0].version == self.wanted:
            self.came.set()

    def take(self) -> None:
        while self.under_way:
            self.driver.drained(self.under_way.pop())

    def grouped(self, streams: Sequence[int]) -> list[Sequence[int]]:
        return [streams[at : at + 2] for at in range(0, len(streams), 2)]

    def flush(self) -> bool:
        return False

    def close(self, stream: int, status: str, reason: str) -> None:
        raise AssertionError(f"{status}: {reason}")


def found(number: int) -> Found:
    data = b'{"@type": "%s", "name": "a", "alt_stat_name": "%d"}' % (CDS.encode(), number)
    (made,) = parse(data, "a.json").found
    return made


def request(node: str) -> bytes:
    message = discovery_pb2.DeltaDiscoveryRequest(type_url=CDS)
    message.node.id = node
    return bytes(message.SerializeToString())


async def test_a_burst_is_sent_once_and_who_comes_meanwhile_gets_the_newest() -> None:
    driver = Driver(structlog.get_logger())
    streams = Streams(driver)
    driver.serve(streams)
    states = [State((Directory("", EVERY, (found(number),)),)) for number in range(51)]
    newest = states[-1].directories[0].found[0].version
    driver.changed(states[0])
    for stream in (1, 2):
        driver.stream_opened(stream, "")
        driver.received(stream, request(f"node-{stream}"))
    streams.sent.clear()
    streams.wanted = newest
    streams.take()

    for state in states[1:]:
        driver.changed(state)
        streams.take()
    driver.stream_opened(3, "")
    driver.received(3, request("node-3"))
    (first,) = [response for stream, response in streams.sent if stream == 3]
    assert first.resources[0].version == newest

    async def brought() -> None:
        while sum(r.resources[0].version == newest for _, r in streams.sent) < 3:
            streams.came.clear()
            await streams.came.wait()

    await asyncio.wait_for(brought(), 20)
    for stream in (1, 2):
        got = [response for number, response in streams.sent if number == stream]
        assert len(got) <= 2, "one at once at most, and one for all the others"
    driver.stop()
