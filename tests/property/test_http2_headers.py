"""Header blocks: what clients say of themselves, and what they are told."""

from __future__ import annotations

import urllib.parse

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.http2 import Budget, Connection, Limits, Stream, Wires
from reconciler.http2 import frames as f
from reconciler.http2.headers import Header, HeaderReader, trailers
from tests.property.test_http2 import METHOD, REQUEST, Told, framed, opened


@given(
    rounds=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([b"a", b"b", b"cc"]), st.sampled_from([b"1", b"22", b"3" * 90])
            ),
            max_size=3,
        ),
        max_size=8,
    ),
    connections=st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_headers_mean_the_same_on_each_connection(
    rounds: list[list[tuple[bytes, bytes]]], connections: list[int]
) -> None:
    """Connections that say the same up to some block, and then something of their own."""
    for own_from in connections:
        encoder, reader = hpack.Encoder(), HeaderReader()
        for at, headers in enumerate(rounds):
            more = [(b"own", b"%d" % own_from)] if at >= own_from else []
            said = [*headers, *more]
            assert reader.read(encoder.encode(said)) == tuple(said)


def test_a_second_connection_needs_no_decoder() -> None:
    talk = [encoder.encode([(b"x", b"y"), (b"n", b"1")]) for encoder in [hpack.Encoder()] * 5]
    first, second = HeaderReader(), HeaderReader()
    assert [first.read(each) for each in talk] == [second.read(each) for each in talk]
    assert first._decoder is not None
    assert second._decoder is None


class Serves(Told):
    """One method; of another one it says that there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = Connection(self, Wires(), Budget(), Limits())

    def request(self, stream: Stream, headers: tuple[Header, ...]) -> None:
        path = dict(headers)[b":path"].decode(errors="replace")
        if path != METHOD:
            self.ours.finish(stream, 12, f"Method not found: {path}")
        else:
            super().request(stream, headers)


def test_a_path_longer_than_a_frame_is_refused_and_other_streams_go_on() -> None:
    serves = Serves()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, REQUEST)
    client.send_headers(3, [*REQUEST[:2], (":path", "/" + "p" * 16_400), *REQUEST[3:]])
    client.send_data(1, framed(b"goes on"))
    serves.ours.receive(client.data_to_send())
    assert serves.messages[1] == [b"goes on"]
    serves.ours.send(serves.open[1], b"and is answered")
    events = client.receive_data(b"".join(serves.ours.out))
    answered = [each for each in events if isinstance(each, h2.events.ResponseReceived)]
    assert dict(answered[0].headers)[b"grpc-status"] == b"12"
    assert any(isinstance(each, h2.events.DataReceived) and each.stream_id == 1 for each in events)


TEXT = st.builds(
    lambda text, times, end: text * times + end,
    st.text(max_size=8) | st.sampled_from(["\xff", "%", "\ufffd", "\U0001f600", "a\n", "\ud800"]),
    st.integers(0, 2_000),
    st.text(max_size=3),
)


@given(TEXT, st.booleans())
@settings(deadline=None)
def test_whatever_is_said_at_the_end_fits_a_frame(text: str, answered: bool) -> None:
    serves = Serves()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, REQUEST)
    serves.ours.receive(client.data_to_send())
    serves.ours.out.clear()
    if answered:
        serves.ours.start(serves.open[1])
    serves.ours.finish(serves.open[1], 3, text)
    assert all(len(each) - f.HEAD <= f.DEFAULT_FRAME for each in serves.ours.out)


@given(TEXT)
@settings(deadline=None)
def test_text_is_cut_where_a_character_ends(text: str) -> None:
    found = dict(hpack.Decoder().decode(trailers(3, text), raw=True))
    said = found.get(b"grpc-message", b"")
    assert len(said) <= 1_024
    whole = text.encode(errors="replace").decode()
    heard = urllib.parse.unquote(said.decode("ascii"), errors="strict")
    assert whole.startswith(heard)
    if heard != whole:
        assert len(said) > 1_024 - 12  # no more than a character is given up for it


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("size", [0, 4_095])
def test_a_smaller_header_table_is_agreed_to_once(size: int, begun: bool) -> None:
    """begun: the response is, so that its end is told first"""
    machine = opened(2)
    if begun:
        machine.ours.send(machine.told.open[1], b"x")
    machine.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    machine.turn()
    blocks: list[bytes] = []
    for stream in (1, 3):
        machine.ours.finish(machine.told.open[stream], 8)
        blocks += [each[f.HEAD :] for each in machine.ours.out if each[3] == f.HEADERS]
        machine.turn()  # the library raises when the table is larger than it said
    assert [block.startswith(b"\x20") for block in blocks] == [True, False]
    assert machine.statuses == {1: "8", 3: "8"}
