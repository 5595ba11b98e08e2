"""Frames as they come to our side of HTTP/2: cut out of bytes, what many say once for all, and what
may come inside of what."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.http2 import Budget, Connection, Limits, Stream, Wires, incoming
from reconciler.http2 import frames as f
from reconciler.http2.incoming import Frame, frames_of
from tests.property.test_http2 import TALK, Told, framed, opened

FRAMES = st.lists(
    st.tuples(
        st.sampled_from([f.DATA, f.HEADERS, f.PING, f.WINDOW_UPDATE, 77]),
        st.sampled_from([0, 0, f.END_STREAM, f.PADDED]),
        st.sampled_from([0, 1, 3]),
        st.one_of(
            st.sampled_from([b"ack", b"", b"x" * 1_100]).map(framed),
            st.sampled_from([b"", b"1234", b"\x01" + framed(b"ack")[1:], framed(b"ack") * 2]),
        ),
    ),
    max_size=5,
)


@given(FRAMES, st.lists(st.integers(0, 60), max_size=6), st.integers(0, 3))
@settings(max_examples=400, deadline=None)
def test_frames_are_the_same_however_they_come(
    frames: list[tuple[int, int, int, bytes]], cuts: list[int], before: int
) -> None:
    """Cut at any places, after other bytes or none, and of bytes that came before."""
    data = b"".join(
        f.head(len(body), kind, flags, stream) + body for kind, flags, stream, body in frames
    )
    for _ in range(2):
        found: list[Frame] = []
        rest, at = b"", 0
        for size in (*cuts, len(data)):
            piece, at = rest + data[at : at + size], at + size
            got, end = frames_of(b"?" * before + piece, before)
            found += got
            rest = piece[end - before :]
        assert rest == b""
        assert [each[:4] for each in found] == frames
        for kind, flags, _, body, message in found:
            whole = len(body) >= 5 and body[:5] == struct.pack(">BL", 0, len(body) - 5)
            assert message == (body[5:] if kind == f.DATA and not flags and whole else None)


def test_what_many_clients_say_is_cut_once_and_what_one_says_is_not_kept() -> None:
    ack = f.head(8, f.DATA, 0, 1) + framed(b"ack")
    many = f.ping(b"12345678") + f.window_update(0, 1_000) + ack
    frames, end = frames_of(many, 0)
    assert (len(frames), end) == (3, len(many))
    assert frames_of(bytes(bytearray(many)), 0)[0] is frames
    assert frames_of(b"?" + many, 1)[0] is not frames
    assert b"?" + many not in incoming._known
    assert frames_of(many, 17) == (frames[1:], len(many))
    for own in (f.head(1, f.HEADERS, 4, 1) + b"x", f.settings(), many[:-1], ack + b"\0" * 4):
        assert frames_of(own, 0)[0] is not frames_of(bytes(bytearray(own)), 0)[0]
    long = f.head(1_100, f.DATA, 0, 1) + b"x" * 1_100
    assert frames_of(long, 0)[0] is not frames_of(bytes(bytearray(long)), 0)[0]
    for number in range(100):
        frames_of(f.window_update(0, number + 1), 0)
    assert len(incoming._known) == 64
    assert frames_of(many, 0)[0] is not frames


def begun() -> tuple[Told, Connection]:
    """Three streams; the last one is open, and has sent two messages."""
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits())
    ours.receive(TALK)
    return told, ours


def test_a_part_of_a_message_that_looks_like_one_is_a_part() -> None:
    told, ours = begun()
    inside = framed(b"inside")
    ours.receive(f.head(5, f.DATA, 0, 5) + struct.pack(">BL", 0, len(inside)))
    ours.receive(f.head(len(inside), f.DATA, 0, 5) + inside)
    assert told.messages[5][2:] == [inside]


def test_nothing_comes_between_the_parts_of_a_header_block() -> None:
    told, ours = begun()
    data = f.head(8, f.DATA, 0, 5) + framed(b"ack")
    ours.receive(f.head(1, f.HEADERS, 0, 7) + b"\x83" + data)
    assert (ours.closed, ours.reason) == (True, "a frame inside a header block")
    assert len(told.messages[5]) == 2


def test_what_comes_with_what_ended_the_connection_is_not_read() -> None:
    told, ours = begun()
    remember = told.message

    def message(stream: Stream, message: bytes) -> None:
        remember(stream, message)
        ours.lost()

    told.message = message  # type: ignore[method-assign]
    ours.receive((f.head(8, f.DATA, 0, 5) + framed(b"ack")) * 2)
    assert told.messages[5][2:] == [b"ack"]


def test_a_stream_that_is_held_has_no_more_than_its_window() -> None:
    told, ours = begun()
    ours.hold(told.open[5])
    ours.out.clear()
    frame = f.head(8_192, f.DATA, 0, 5) + framed(b"x" * 8_187)
    taken = told.open[5].received
    for _ in range((65_536 - taken) // 8_192):
        ours.receive(frame)
    assert not ours.closed
    assert b"".join(ours.out) == b""
    ours.receive(frame)
    assert (ours.closed, ours.reason) == (True, "more than the stream's window")


def test_a_frame_that_is_too_large_ends_the_connection_once_its_head_is_there() -> None:
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits())
    data = TALK + f.head(16_385, f.DATA, 0, 5)
    ours.receive(data[:-1])
    assert not ours.closed
    ours.receive(data[-1:])
    assert (ours.closed, ours.reason) == (True, "a frame of 16385 bytes")
    assert told.messages == {each: [b"a" * 300, b"b" * 20] for each in (1, 3, 5)}


def test_no_frame_is_cut_where_a_window_of_the_first_width_ends() -> None:
    wires = Wires()
    machine = opened(1)
    machine.ours._wires = wires
    message = b"x" * 200_000
    frames = wires.frames(1, message)
    sizes = [len(frame) - f.HEAD for frame in frames]
    assert sizes == [16_384, 16_384, 16_384, 16_383] * 3 + [3_400]
    machine.ours.out.clear()
    went: list[bytes] = []
    machine.ours.send(machine.told.open[1], message)
    for _ in range(4):
        went += machine.ours.out
        machine.ours.out.clear()
        for stream in (None, 1):
            machine.client.increment_flow_control_window(65_535, stream)
        machine.ours.receive(machine.client.data_to_send())
    assert [id(frame) for frame in went if len(frame) > 1_000] == list(map(id, frames))


_MESSAGES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([1, 3, 5]), st.booleans()), max_size=60
)


@given(
    st.lists(st.sampled_from([0, 7, 16_379, 16_380, 70_000, 200_000]), min_size=6, max_size=6),
    _MESSAGES,
)
@settings(deadline=None)
def test_what_many_streams_are_sent_is_framed_once_for_each_number(
    sizes: list[int], asked: list[tuple[int, int, bool]]
) -> None:
    """In pieces or in one, whatever was asked for before; and what is kept stays within bounds."""

    wires = Wires(messages=3, size=500_000)
    messages = [bytes([at]) * size for at, size in enumerate(sizes)]
    for at, stream, whole in asked:
        message = messages[at]
        if whole:
            data = wires.whole(stream, message)
            assert id(message) not in wires._kept or wires.whole(stream, message) is data
        else:
            frames = wires.frames(stream, message)
            assert id(message) not in wires._kept or wires.frames(stream, message) is frames
            data = b"".join(frames)
            assert all(len(each) <= f.HEAD + f.DEFAULT_FRAME for each in frames)
        found, end = frames_of(data, 0)
        assert end == len(data)
        assert {each[:3] for each in found} == {(f.DATA, 0, stream)}
        assert b"".join(each[3] for each in found) == framed(message)
        kept = wires._kept.values()
        assert len(kept) <= 3
        assert wires._bytes <= 500_000
        held = [len(b"".join(each)) for sent in kept for each in sent.frames.values()]
        held += [len(each) for sent in kept for each in sent.wholes.values()]
        messages_alone = wires._bytes - 128 * len(held)
        assert messages_alone <= sum(held) <= messages_alone + 200 * len(held)


def test_what_is_kept_of_tiny_messages_is_bounded_too() -> None:
    """Of each stream's number a message of one byte takes more than that."""
    wires = Wires(size=1 << 20)
    message = b"x"
    for number in range(1, 50_000, 2):
        wires.frames(number, message)
        wires.whole(number, message)
    assert wires._bytes <= 1 << 20
    kept = [each for sent in wires._kept.values() for each in (sent.frames, sent.wholes)]
    assert sum(map(len, kept)) < 10_000
