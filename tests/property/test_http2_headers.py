"""Header blocks: what clients say of themselves, and what they are told."""

from __future__ import annotations

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.http2.headers import HeaderReader


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
