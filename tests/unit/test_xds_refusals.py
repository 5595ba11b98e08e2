"""What a refusal of labels leads to, and what is left of a stream that is over."""

from __future__ import annotations

import pytest

from reconciler.core.resources.types import IDENTITY, PEER_SET
from reconciler.errors import ProtocolError
from tests.unit.test_xds_protocol import A, B, C, Peer, changed


def test_what_was_refused_together_is_sent_apart_once() -> None:
    """The removal of b is not lost with the refusal of a; nothing is sent for ever."""
    peer = Peer(A, B, C)
    peer.request(subscribe=("a", "b", "c"))
    peer.request(nonce=peer.frames[-1].nonce)
    peer.got()
    peer.current = {"a": changed(A), "c": changed(C)}
    peer.changed()
    peer.request(nonce=peer.frames[-1].nonce, error="a is bad")
    frames = peer.frames[1:]
    assert [frame.resources for frame in frames] == [1, 1, 1]
    assert peer.got() == (["a", "c", "a", "c"], ["b", "b"])
    for frame in frames:
        peer.request(nonce=frame.nonce, error="no")
    assert not peer.frames


def test_what_has_changed_since_it_was_refused_is_not_sent_as_it_was() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a", "b"))
    refused = peer.frames[-1].nonce
    peer.current = {"a": changed(A), "b": B}
    peer.changed()
    peer.got()
    peer.request(nonce=refused, error="no")
    assert peer.got() == (["b"], [])


def test_a_stream_that_is_over_says_so_of_every_type() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    peer.stream.close()
    assert peer.stream.state(IDENTITY) == "closed"
    assert peer.stream.state(PEER_SET) == "idle"
    with pytest.raises(ProtocolError):
        peer.request(nonce=peer.frames[0].nonce)
