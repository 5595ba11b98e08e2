"""What a peer may cost our side of HTTP/2: frames that bring nothing, streams that come to nothing,
messages that are begun, and text of its own that it is told again."""

from __future__ import annotations

import struct

import h2.config
import h2.connection
import pytest

from reconciler.http2 import Budget, Connection, Limits, Wires
from tests.property.test_http2 import REQUEST, TALK, Told

FLOODS = {
    "ping": struct.pack(">HBBBL", 0, 8, 6, 0, 0) + b"12345678",
    "settings": struct.pack(">HBBBL", 0, 0, 4, 0, 0),
    "empty data": struct.pack(">HBBBL", 0, 0, 0, 0, 3),
    "priority": struct.pack(">HBBBL", 0, 5, 2, 0, 3) + b"12345",
    "unknown": struct.pack(">HBBBL", 0, 0, 77, 0, 0),
}


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
    told = Told()
    ours = Connection(told, Wires(), Budget(), Limits())
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    for _ in range(2_000):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, REQUEST)
        client.reset_stream(stream)
        ours.receive(client.data_to_send())
    assert (ours.closed, ours.reason) == (True, "too many frames that bring nothing")
