"""What a connection of the HTTP/2 server makes of how much its socket has taken."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from reconciler.address import parse_address
from reconciler.http2 import Connection, Stream
from reconciler.http2 import frames as f
from reconciler.server import h2_peer
from reconciler.server.h2 import H2Server
from reconciler.server.h2_peer import Call, Peer
from reconciler.server.h2_session import RECORD
from reconciler.server.streams import METHOD, Traffic
from tests.integration.grpc_rig import Hub


class Transport:
    """A socket that has not taken `size` bytes."""

    def __init__(self) -> None:
        self.size = self.writes = 0
        self.closing = self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.writes += 1

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def abort(self) -> None:
        self.aborted = True


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: list[Call] = []
        self.drained: list[int] = []
        self.server = H2Server(
            Hub(), parse_address("127.0.0.1:0"), None, stall_seconds=10.0,
            drained=self.drained.append,
        )  # fmt: skip
        self.server.loop = asyncio.get_running_loop()
        monkeypatch.setattr(self.server, "end", lambda call, *_: self.ended.append(call))
        self.transport = Transport()
        self.peer = Peer(self.server)
        self.peer._transport = cast("Any", self.transport)

    def call(self, number: int, queued: int = 0) -> Call:
        stream = Stream(number, 0)
        call = Call(number, self.peer, stream, METHOD)
        stream.owner, stream.queued, call.traffic = call, queued, Traffic()
        self.peer.sent[call] = None
        return call

    def opened(self, window: int) -> Call:
        """Number 1, which is sent nothing yet; what was said before it is gone."""
        call = self.call(1)
        call.stream.window = window
        self.peer.connection.streams[1] = call.stream
        self.server._streams[1] = call
        self.peer.sent.clear()
        self.peer.flush()
        self.transport.size = self.transport.writes = 0
        return call


async def test_what_the_socket_takes_counts_while_more_is_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    call = rig.call(1, queued=1_000)
    for now, size in ((0, 900_000), (20, 600_000), (40, 300_000)):
        rig.transport.size = size
        rig.server._stalled(rig.peer, now)
    assert not rig.ended
    call.stream.queued, rig.transport.size = 0, 300_900  # what was queued is the socket's now
    rig.server._stalled(rig.peer, 45)
    assert not rig.ended
    rig.server._stalled(rig.peer, 60)
    assert rig.ended == [call]


async def test_what_is_sent_when_all_was_taken_has_its_own_time_and_its_own_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    call = rig.opened(1 << 16)
    rig.server.queue_bytes = 2_500
    for begin in (0, 100):
        for _ in range(2):
            rig.server.send(1, b"x" * 1_000)
        rig.transport.size = 2_000
        for seconds in (0, 9):
            rig.server._stalled(rig.peer, begin + seconds)
        assert not rig.ended
        rig.transport.size = 0
        rig.server.flush()
        assert not rig.peer.sent
    for _ in range(3):
        rig.server.send(1, b"x" * 1_000)
    assert rig.ended == [call]


async def test_whose_bytes_are_gone_is_told_before_others_fill_the_socket_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    rig.call(7)
    rig.peer.pause_writing()
    monkeypatch.setattr(Connection, "unblock", lambda _: rig.peer.pause_writing())
    rig.peer.resume_writing()
    assert rig.drained == [7]
    assert not rig.peer.sent


async def test_what_an_ended_call_left_to_the_socket_is_no_reason_to_end_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    bound = h2_peer._CONTROL_BYTES + rig.server.queue_bytes
    rig.transport.size = bound - 1000
    rig.peer.flush()
    assert not rig.transport.aborted
    rig.transport.size = bound + 1
    rig.peer.flush()
    assert rig.transport.aborted


async def test_streams_of_a_connection_are_in_one_group_and_groups_are_not_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reconciler.server.h2._FIRST_GROUP", 1)
    monkeypatch.setattr("reconciler.server.h2._GROUP", 3)
    rig = Rig(monkeypatch)
    peers = [rig.peer, Peer(rig.server), Peer(rig.server), Peer(rig.server)]
    for number, at in enumerate((0, 1, 2, 0, 1, 3, 0)):
        rig.server._streams[number] = Call(number, peers[at], Stream(1, 0), METHOD)
    assert list(rig.server.grouped(range(8))) == [[0, 3, 6], [1, 4], [2, 5]]  # 7 has ended
    for number in range(8, 20):
        rig.server._streams[number] = Call(number, Peer(rig.server), Stream(1, 0), METHOD)
    assert list(map(len, rig.server.grouped(range(8, 20)))) == [1, 2, 3, 3, 3]
    assert list(rig.server.grouped([])) == []


async def test_what_a_group_was_sent_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.opened(1_000)
    rig.server.send(1, b"x")
    assert rig.transport.size == 0
    rig.server.flush()
    assert rig.transport.size > 0


async def test_nothing_is_said_before_the_client_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.peer.connection_made(cast("Any", rig.transport))
    assert rig.transport.writes == 0
    rig.peer.data_received(f.PREFACE + f.settings())
    assert rig.transport.writes == 1
    rig.peer.data_received(f.ping(b"12345678"))
    assert rig.transport.writes == 2


@pytest.mark.parametrize(("size", "waits", "writes"), [(100, 0, 1), (RECORD, 0, 2), (100, 1, 2)])
async def test_what_is_sent_when_little_is_taken_goes_with_it(
    monkeypatch: pytest.MonkeyPatch, size: int, waits: int, writes: int
) -> None:
    """size: of the first message; waits: bytes that the socket has not taken"""
    rig = Rig(monkeypatch)
    rig.opened(1 << 16)
    rig.transport.size = waits
    more = [b"second"]

    def drained(stream: int) -> None:
        if more:
            rig.server.send(stream, more.pop())

    rig.server.drained = drained
    rig.server.send(1, b"x" * size)
    rig.server.flush()
    assert (more, rig.transport.writes) == ([], writes)


class Clock:
    """In place of the server's event loop: what is to be done later is kept."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.later: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, what: Any) -> None:
        self.later.append((0.0, what))

    def call_later(self, after: float, what: Any, *_: Any) -> None:
        self.later.append((after, what))


@pytest.mark.parametrize("left", [0, 1_000])
async def test_who_does_not_take_our_last_words_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    rig, clock = Rig(monkeypatch), Clock()
    monkeypatch.setattr(rig.server, "loop", clock)
    rig.transport.size = left
    for _ in range(2):
        rig.peer.close()
    assert (rig.transport.closing, rig.transport.aborted) == (True, False)
    if not left:
        assert clock.later == []  # the event loop does the rest
        return
    ((after, what),) = clock.later
    assert after == 10.0
    what()
    assert rig.transport.aborted


class Probed(Rig):
    """Whose PING is behind what the socket has not taken; looked at when its answer is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: int) -> None:
        super().__init__(monkeypatch)
        self.clock = Clock()
        monkeypatch.setattr(self.server, "loop", self.clock)
        self.transport.size = waits
        self.server.peers.add(self.peer)
        while not self.server._probed:
            self.look(0.0)

    def look(self, later: float) -> None:
        self.clock.now += later
        self.peer.used = self.clock.now
        self.server._look()


async def test_who_takes_what_is_before_our_ping_may_take_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Probed(monkeypatch, 50_000)
    for _ in range(4):
        rig.transport.size -= 10_000
        rig.look(10.0)
        assert not rig.transport.aborted
    rig.look(9.0)
    assert not rig.transport.aborted
    rig.look(1.0)
    assert rig.transport.aborted


async def test_who_took_so_much_that_more_was_written_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Probed(monkeypatch, 50_000)
    rig.peer.pause_writing()
    rig.transport.size = 10_000
    rig.peer.resume_writing()
    rig.transport.size = 900_000
    rig.look(10.0)
    assert not rig.transport.aborted
    rig.look(10.0)
    assert rig.transport.aborted


@pytest.mark.parametrize("waits", [0, 50_000])
async def test_who_takes_nothing_and_does_not_answer_is_gone(
    monkeypatch: pytest.MonkeyPatch, waits: int
) -> None:
    rig = Probed(monkeypatch, waits)
    rig.look(10.0)
    assert rig.transport.aborted


async def test_who_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Probed(monkeypatch, 50_000)
    rig.peer.data_received(f.PREFACE + f.settings() + f.ping(b"\x00" * 8, f.ACK))
    rig.look(10.0)
    assert not rig.transport.aborted
