"""What a peer may cost our side of HTTP/2: frames that bring nothing, streams that come to nothing,
messages that are begun, and text of its own that it is told again."""

from __future__ import annotations

import struct

import h2.config
import h2.connection
import hpack
import pytest

from reconciler.http2 import Budget, Connection, Limits, Wires
from reconciler.http2 import frames as f
from tests.property.test_http2 import REQUEST, TALK, Told, framed
from tests.property.test_http2_headers import Serves

FLOODS = {
    "ping": struct.pack(">HBBBL", 0, 8, 6, 0, 0) + b"12345678",
    "settings": struct.pack(">HBBBL", 0, 0, 4, 0, 0),
    "empty data": struct.pack(">HBBBL", 0, 0, 0, 0, 3),
    "priority": struct.pack(">HBBBL", 0, 5, 2, 0, 3) + b"12345",
    "unknown": struct.pack(">HBBBL", 0, 0, 77, 0, 0),
}


def met() -> tuple[Told, Connection, h2.connection.H2Connection]:
    """Our side, and a client that is about to say its first."""
    told = Told()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    return told, Connection(told, Wires(), Budget(), Limits()), client


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_the_connection(name: str) -> None:
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits())
    ours.receive(TALK[: TALK.index(b"12345678") - 9])
    for _ in range(300):
        ours.receive(FLOODS[name] * 100)
    assert (ours.closed, ours.reason) == (True, "too many frames that bring nothing")
    assert not told.open
    assert sum(map(len, ours.out)) < 1 << 20


def test_streams_that_are_opened_and_reset_at_once_end_the_connection() -> None:
    told, ours, client = met()
    for _ in range(2_000):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, REQUEST)
        client.reset_stream(stream)
        ours.receive(client.data_to_send())
    assert (ours.closed, ours.reason) == (True, "too many frames that bring nothing")
    assert len(told.headers) < 400


def test_short_requests_that_have_long_answers_end_the_connection() -> None:
    """Of each the path is a byte, which stands for 4,000 that are not even text."""
    serves = Serves()
    encoder = hpack.Encoder()
    first = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"\xff" * 4_000)]
    serves.ours.receive(f.PREFACE + f.settings())
    sent = 0
    for stream in range(1, 2 * 5_000, 2):
        block = encoder.encode(first, huffman=False)
        data = f.head(len(block), f.HEADERS, f.END_HEADERS, stream) + block
        serves.ours.receive(data)
        sent = len(data)
    assert sent == 12
    assert (serves.ours.closed, serves.ours.reason) == (True, "too many frames that bring nothing")
    assert sum(map(len, serves.ours.out)) < 2_000_000


@pytest.mark.parametrize("number", [1, 7])
def test_header_blocks_of_closed_and_of_refused_streams_end_the_connection(number: int) -> None:
    """Of the first stream, which is over; of more than may be open."""
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits(streams=3))
    ours.receive(TALK)
    block = hpack.Encoder().encode([(b"x", b"y")])
    for _ in range(2_000):
        ours.receive(f.head(len(block), f.HEADERS, f.END_HEADERS | f.END_STREAM, number) + block)
        number += 0 if number == 1 else 2
    assert (ours.closed, ours.reason) == (True, "too many frames that bring nothing")


def test_as_many_streams_as_there_may_be_are_opened_at_once() -> None:
    told, ours, client = met()
    for number in range(1_000):
        client.send_headers(2 * number + 1, REQUEST)
    ours.receive(client.data_to_send())
    assert len(told.open) == 1_000
    assert not ours.closed


class Talk:
    """A client and our side, with streams that are open."""

    def __init__(
        self, streams: int, budget: Budget | None = None, limits: Limits | None = None
    ) -> None:
        self.told = Told()
        self.ours = Connection(self.told, Wires(), budget or Budget(), limits or Limits())
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.numbers = list(range(1, 2 * streams, 2))
        for number in self.numbers:
            self.client.send_headers(number, REQUEST)
        self.turn()

    def turn(self) -> None:
        self.ours.receive(self.client.data_to_send())
        out, self.ours.out = b"".join(self.ours.out), []
        self.client.receive_data(out)
        self.ours.receive(self.client.data_to_send())

    def say(self, number: int, data: bytes) -> None:
        self.client.send_data(number, data)
        self.turn()

    def give_up(self, number: int) -> None:
        self.client.reset_stream(number)
        self.turn()


@pytest.mark.parametrize("window", [1 << 30, 100_000])
def test_who_takes_large_messages_may_widen_both_windows_for_each_frame(window: int) -> None:
    """window: of both; with the wide ones a message goes in one piece"""
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits())
    ours.receive(TALK + f.settings((f.INITIAL_WINDOW_SIZE, window)))
    stream = told.open[5]
    ours.receive(f.window_update(0, window - ours.window))
    message = bytes(4_000_000)
    updates = f.window_update(0, f.DEFAULT_FRAME) + f.window_update(5, f.DEFAULT_FRAME)
    due = 0
    for _ in range(25):
        ours.send(stream, message)
        while taken := sum(len(each) - f.HEAD for each in ours.out if each[3] == f.DATA):
            ours.out.clear()
            due += taken
            while due >= f.DEFAULT_FRAME:
                ours.receive(updates)
                due -= f.DEFAULT_FRAME
        assert not ours.closed
    assert stream.queue is None


@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_calls_that_came_to_something_are_given_up_for_nothing(who: str) -> None:
    talk = Talk(700)
    for number in talk.numbers[:600]:
        if who != "server":
            talk.say(number, framed(b"x"))
        if who != "client":
            talk.ours.send(talk.told.open[number], b"y")
            talk.turn()
    for number in talk.numbers[:600]:
        talk.give_up(number)
    assert not talk.ours.closed
    talk.say(talk.numbers[-1], framed(b"goes on"))
    assert talk.told.messages[talk.numbers[-1]] == [b"goes on"]


def test_calls_that_we_have_ended_are_given_up_for_nothing() -> None:
    """Theirs was on its way when ours came."""
    talk = Talk(700)
    for number in talk.numbers[:600]:
        talk.ours.finish(talk.told.open[number], 14)
    talk.ours.out.clear()
    for number in talk.numbers[:600]:
        talk.give_up(number)
    assert not talk.ours.closed


def test_what_is_given_up_again_and_again_ends_the_connection() -> None:
    talk = Talk(2)
    talk.give_up(1)
    for _ in range(20_000):
        talk.ours.receive(f.rst_stream(1, f.CANCEL))
    assert (talk.ours.closed, talk.ours.reason) == (True, "too many frames that bring nothing")


# ------------------------------------------------------------------------ messages that are begun


def test_who_holds_much_is_refused_and_not_a_small_message_of_another() -> None:
    budget, limits = Budget(1_000, small=200), Limits(message=5_000)
    much, little = Talk(1, budget, limits), Talk(1, budget, limits)
    much.say(1, framed(bytes(2_000))[:900])
    message = framed(bytes(300))
    little.say(1, message[:150])
    assert budget.used == 1_050
    little.say(1, message[150:])
    assert little.told.messages[1] == [bytes(300)]
    much.say(1, bytes(150))
    assert much.told.resets == {1}
    assert (budget.used, much.ours._held, little.ours._held) == (0, 0, 0)


def test_one_connection_holds_one_message_and_little_more() -> None:
    budget = Budget(100_000, small=200)
    talk = Talk(3, budget, Limits(message=1_000))
    message = framed(bytes(1_000))
    talk.say(1, message[:-1])
    for number, size in ((3, 150), (5, 60)):
        talk.say(number, message[:size])
    assert talk.told.resets == {5}
    talk.say(1, message[-1:])
    talk.say(3, message[150:])
    assert talk.told.messages == {1: [bytes(1_000)], 3: [bytes(1_000)]}
    assert budget.used == 0
