"""Our side of HTTP/2 against the h2 library as client: whatever is sent arrives, once, in order.

Bytes between the two are cut at any place; windows, settings, resets and padding are the client's
choice. A second test changes bytes on their way: whatever comes, the connection says GOAWAY or goes
on, it never raises, and what it keeps stays bounded.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.http2 import Budget, Connection, Limits, Stream, Wires
from reconciler.http2 import frames as f
from reconciler.http2.headers import Header

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", METHOD),
    (":authority", "server"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
SIZES = st.sampled_from([0, 1, 60, 5_000, 16_379, 16_380, 40_000, 70_000, 200_000])


class Told:
    """Handler that remembers."""

    def __init__(self) -> None:
        self.open: dict[int, Stream] = {}
        self.headers: dict[int, tuple[Header, ...]] = {}
        self.messages: dict[int, list[bytes]] = defaultdict(list)
        self.ended_: set[int] = set()
        self.resets: set[int] = set()
        self.drains: list[int] = []

    def request(self, stream: Stream, headers: tuple[Header, ...]) -> None:
        self.open[stream.id] = stream
        self.headers[stream.id] = headers

    def message(self, stream: Stream, message: bytes) -> None:
        self.messages[stream.id].append(message)

    def ended(self, stream: Stream) -> None:
        self.ended_.add(stream.id)

    def reset(self, stream: Stream) -> None:
        self.open.pop(stream.id)
        self.resets.add(stream.id)

    def drained(self, stream: Stream) -> None:
        assert stream.queue is None
        self.drains.append(stream.id)


def framed(message: bytes) -> bytes:
    return struct.pack(">BL", 0, len(message)) + message


class Pair(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.told = Told()
        self.budget = Budget()
        self.ours = Connection(self.told, Wires(), self.budget, Limits(streams=5))
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.sent: dict[int, list[bytes]] = defaultdict(list)  # client → server
        self.waiting: dict[int, bytes] = defaultdict(bytes)  # of it: not yet given to h2
        self.said: dict[int, list[bytes]] = defaultdict(list)  # server → client
        self.got: dict[int, bytearray] = defaultdict(bytearray)
        self.statuses: dict[int, str] = {}
        self.finished: dict[int, str] = {}
        self.given_up: set[int] = set()
        self.refused: set[int] = set()
        self.unread: dict[int, int] = defaultdict(int)
        self.cut = 1 << 20
        self.number = 0

    def message(self, size: int) -> bytes:
        self.number += 1
        return (b"%d " % self.number * (size // 2 + 1))[:size]

    # The two sides talk

    def turn(self) -> None:
        """Until nothing is under way."""
        while True:
            out = self.client.data_to_send() or b""
            for at in range(0, len(out), self.cut):
                self.ours.receive(out[at : at + self.cut])
            back = b"".join(self.ours.out)
            self.ours.out.clear()
            for at in range(0, len(back), self.cut):
                for event in self.client.receive_data(back[at : at + self.cut]):
                    self.on(event)
            if not self.push() and not out and not back:
                return

    def on(self, event: Any) -> None:
        match event:
            case h2.events.DataReceived():
                self.got[event.stream_id] += event.data
                self.unread[event.stream_id] += event.flow_controlled_length
            case h2.events.TrailersReceived() | h2.events.ResponseReceived():
                headers = {bytes(k): bytes(v) for k, v in event.headers}
                if b"grpc-status" in headers:
                    self.statuses[event.stream_id] = headers[b"grpc-status"].decode()
            case h2.events.StreamReset() if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                self.refused.add(event.stream_id)
            case h2.events.ConnectionTerminated():
                raise AssertionError(f"GOAWAY {event.additional_data!r}")

    def push(self) -> bool:
        """Give h2 what the windows allow; whether that was anything."""
        moved = False
        for stream, data in list(self.waiting.items()):
            if stream in self.given_up or stream in self.statuses or stream in self.refused:
                del self.waiting[stream]
                continue
            most = min(
                self.client.local_flow_control_window(stream),
                self.client.max_outbound_frame_size,
                len(data),
            )
            if most > 0:
                self.client.send_data(stream, data[:most])
                self.waiting[stream] = data[most:]
                moved = True
        return moved

    def alive(self) -> list[int]:
        return [each for each in self.told.open if each not in self.finished]

    # Rules

    @rule()
    def open(self) -> None:
        stream = self.client.get_next_available_stream_id()
        full = len(self.ours.streams) >= 5
        try:
            self.client.send_headers(stream, REQUEST)
        except h2.exceptions.TooManyStreamsError:
            assert full
            return
        self.turn()
        if stream in self.told.headers:
            assert not full
            assert dict(self.told.headers[stream])[b":path"] == METHOD.encode()
        else:
            assert full
            assert stream in self.refused

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), sizes=st.lists(SIZES, min_size=1, max_size=3))
    def client_says(self, data: st.DataObject, sizes: list[int]) -> None:
        stream = data.draw(st.sampled_from(self.alive()))
        if stream in self.told.ended_:
            return
        for size in sizes:
            message = self.message(size)
            self.sent[stream].append(message)
            self.waiting[stream] += framed(message)
        self.turn()

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), sizes=st.lists(SIZES, min_size=1, max_size=3), shared=st.booleans())
    def server_says(self, data: st.DataObject, sizes: list[int], shared: bool) -> None:
        streams = self.alive() if shared else [data.draw(st.sampled_from(self.alive()))]
        for size in sizes:
            message = self.message(size)
            for number in streams:
                self.said[number].append(message)
                took = self.ours.send(self.told.open[number], message)
                assert took is (self.told.open[number].queue is None)
        self.turn()

    @rule()
    def client_reads(self) -> None:
        for stream, size in list(self.unread.items()):
            if size and stream not in self.given_up:
                self.client.acknowledge_received_data(size, stream)
            self.unread[stream] = 0
        self.turn()

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def server_ends(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.alive()))
        self.finished[stream] = "8"
        self.ours.finish(self.told.open[stream], 8, "no more; 100 %")
        self.turn()

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def client_gives_up(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.alive()))
        self.client.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.given_up.add(stream)
        self.turn()
        assert stream in self.told.resets

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def client_ends(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.alive()))
        if stream not in self.told.ended_ and not self.waiting[stream]:
            self.client.end_stream(stream)
            self.turn()
            assert stream in self.told.ended_

    @rule(window=st.sampled_from([0, 100, 65_535, 1 << 20]))
    def client_changes_its_window(self, window: int) -> None:
        self.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.turn()

    @rule(sizes=st.lists(st.sampled_from([0, 100, 4_096, 1 << 16]), min_size=1, max_size=2))
    def client_changes_its_header_table(self, sizes: list[int]) -> None:
        for size in sizes:
            self.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
        self.turn()

    @rule(size=st.sampled_from([16_384, 40_000]))
    def client_takes_longer_frames(self, size: int) -> None:
        self.client.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: size})
        self.turn()

    @rule()
    def ping(self) -> None:
        self.client.ping(b"12345678")
        assert self.ours.probe() or self.ours.pinged
        self.turn()
        assert not self.ours.pinged

    @rule(writable=st.booleans())
    def socket(self, writable: bool) -> None:
        if writable:
            self.ours.unblock()
        else:
            self.ours.writable = False
        self.turn()

    @rule(cut=st.sampled_from([1, 7, 100, 1 << 20]))
    def cuts(self, cut: int) -> None:
        self.cut = cut if sum(map(len, self.waiting.values())) < 10_000 else 1_000

    # What must hold

    @invariant()
    def all_that_was_sent_arrives(self) -> None:
        for stream, messages in self.sent.items():
            got = self.told.messages[stream]
            assert got == messages[: len(got)]
            if stream in self.alive():
                assert len(got) == len(messages) or self.waiting[stream]

    @invariant()
    def all_that_was_said_arrives(self) -> None:
        for stream, messages in self.said.items():
            whole = b"".join(framed(each) for each in messages)
            got = bytes(self.got[stream])
            assert whole.startswith(got)
            if stream in self.alive():
                queued = self.told.open[stream].queued
                assert len(got) + queued == len(whole)
                if queued and self.ours.writable:
                    assert min(self.ours.window, self.told.open[stream].window) <= 0

    @invariant()
    def ends_are_told(self) -> None:
        for stream, status in self.finished.items():
            if stream not in self.given_up:
                assert self.statuses[stream] == status

    @invariant()
    def nothing_is_kept(self) -> None:
        held = sum(len(each.buffer or b"") for each in self.ours.streams.values())
        assert self.budget.used == self.ours._held == held
        assert set(self.ours.streams) == set(self.alive()) - self.given_up


TestPair = Pair.TestCase
TestPair.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def conversation() -> bytes:
    """What a client says, in one piece."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    for _ in range(3):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, [*REQUEST, ("authorization", "Bearer x")])
        client.send_data(stream, framed(b"a" * 300) + framed(b"b" * 20))
        client.increment_flow_control_window(1_000, stream)
    client.ping(b"12345678")
    client.reset_stream(1)
    client.end_stream(3)
    return client.data_to_send()


TALK = conversation()


@given(
    changes=st.lists(st.tuples(st.integers(0, len(TALK) - 1), st.binary(max_size=12)), max_size=6),
    cut=st.integers(1, 400),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes(changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(TALK)
    for at, more in changes:
        data[at : at + len(more)] = more
    told, budget = Told(), Budget()
    ours = Connection(told, Wires(), budget, Limits(message=1_000, streams=2))
    for at in range(0, len(data), cut):
        ours.receive(bytes(data[at : at + cut]))
    assert sum(map(len, ours.out)) < 10_000
    assert len(ours._data) < 20_000
    ours.lost()
    assert not told.open
    assert not ours.streams
    assert budget.used == 0


def test_a_clean_conversation_is_understood() -> None:
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits())
    ours.receive(TALK)
    assert not ours.closed
    assert told.messages == {each: [b"a" * 300, b"b" * 20] for each in (1, 3, 5)}
    assert (told.resets, told.ended_) == ({1}, {3})


def opened(streams: int) -> Pair:
    machine = Pair()
    for _ in range(streams):
        machine.open()
    return machine


def test_streams_share_the_connection_s_window() -> None:
    """The client reads nothing: what it is sent in all stays inside of 65,535 bytes."""
    machine = opened(3)
    for number in (1, 3, 5):
        machine.ours.send(machine.told.open[number], b"x" * 30_000)
    machine.turn()  # the library raises when more comes than its window
    assert sum(map(len, machine.got.values())) == 65_535
    assert machine.ours.window == 0
    machine.client_reads()
    assert {len(each) for each in machine.got.values()} == {30_005}
    assert machine.told.drains == [5]


def test_a_window_that_shrinks_or_grows_counts_for_open_streams() -> None:
    machine = opened(1)
    machine.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
    machine.turn()
    stream = machine.told.open[1]
    assert not machine.ours.send(stream, b"x" * 1_000)
    machine.turn()
    assert (len(machine.got[1]), stream.window) == (100, 0)
    machine.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2_000})
    machine.turn()
    assert (len(machine.got[1]), stream.window, stream.queue) == (1_005, 995, None)
    machine.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    machine.turn()
    assert stream.window == -995
    assert not machine.ours.send(stream, b"y")
    machine.turn()
    assert len(machine.got[1]) == 1_005


def test_windows_that_come_together_let_whole_frames_go() -> None:
    machine = opened(1)
    assert not machine.ours.send(machine.told.open[1], b"x" * 100_000)
    machine.ours.out.clear()  # it took both windows
    for stream, by in ((None, 100_000), (1, 10_000), (1, 10_000)):
        machine.client.increment_flow_control_window(by, stream)
    machine.ours.receive(machine.client.data_to_send())
    assert [len(frame) - f.HEAD for frame in machine.ours.out] == [16_384, 3_616]


def test_what_is_sent_to_many_is_framed_once() -> None:
    wires = Wires()
    message = b"m" * 40_000
    frames = wires.frames(1, message)
    assert list(map(len, frames)) == [16_393, 16_393, 40_005 - 2 * 16_384 + 9]
    assert b"".join(frame[f.HEAD :] for frame in frames) == framed(message)
    assert wires.frames(1, message) is frames
    assert wires.frames(3, message) != frames
    assert wires.frames(1, b"m" * 40_000) is not frames


def test_what_is_framed_is_there_for_every_connection_of_many_streams() -> None:
    """Connection by connection, each with the same numbers; and no more is kept than a bound."""
    wires = Wires()
    messages = [bytes([at]) * 100_000 for at in range(2)]
    numbers = range(1, 101, 2)
    connections = [[wires.frames(n, each) for n in numbers for each in messages] for _ in range(3)]
    assert {tuple(map(id, each)) for each in connections} == {tuple(map(id, connections[0]))}
    for at in range(40):
        large = bytes([at]) * 4_000_000
        wires.frames(1, large)
    assert wires._bytes == 4 * (4_000_000 + 128)
    wires.frames(1, b"x" * ((16 << 20) + 1))
    assert (wires._bytes, len(wires._kept)) == (0, 0)
