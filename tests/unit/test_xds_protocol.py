"""The fine points of the xDS protocol's incremental variant, each by its name in the document."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from reconciler.core.resources.encode import version_of
from reconciler.core.resources.types import COMMIT, CUT_TYPES, IDENTITY, PEER_SET, Resource
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Encoder, Frame, Request, decode_request, decode_response
from reconciler.core.xds.served import Due, Served
from reconciler.core.xds.stream import (
    Acked,
    DeltaStream,
    Nacked,
    Resubscribed,
    Stale,
    StreamEvent,
    Subscribed,
)
from reconciler.core.xds.subscription import Wanted
from reconciler.errors import ProtocolError, Refusal

A, B, C = (
    Resource(IDENTITY, name, version_of(name.encode()), name.encode()) for name in ("a", "b", "c")
)


class Peer:
    """A client of one type, and a server that sends what is due."""

    def __init__(self, *resources: Resource) -> None:
        self.stream = DeltaStream((IDENTITY, PEER_SET))
        self.current = {each.name: each for each in resources}
        self.encoder = Encoder()
        self.served: Served | None = None
        self.frames: list[Frame] = []

    def request(self, **fields: Any) -> tuple[StreamEvent, ...]:
        events = self.stream.receive(
            codec.encode_request(Request(**({"type_url": IDENTITY} | fields)))
        )
        for event in events:
            subscription = self.stream.subscription(IDENTITY)
            assert subscription is not None
            if isinstance(event, Subscribed):
                self.served = Served(event.initial)
            assert self.served is not None
            for due in self.served.answer(event, subscription, self.current):
                self.send(due)
        return events

    def changed(self) -> None:
        subscription = self.stream.subscription(IDENTITY)
        assert subscription is not None
        assert self.served is not None
        self.send(self.served.due(subscription, self.current, Wanted()))

    def send(self, due: Due) -> None:
        assert self.served is not None
        frames = self.encoder.frames(IDENTITY, due.put, due.removed)
        self.served.sent(due, frames)
        for frame in frames:
            self.stream.sent(frame)
            self.frames.append(frame)

    def got(self) -> tuple[list[str], list[str]]:
        """Names sent and names removed since the last look."""
        put: list[str] = []
        removed: list[str] = []
        for frame in self.frames:
            response = decode_response(frame.data)
            put += [each.name for each in response.resources]
            removed += response.removed
        self.frames.clear()
        return put, removed


def changed(resource: Resource) -> Resource:
    body = resource.body + b"!"
    return Resource(resource.type_url, resource.name, version_of(body), body)


# 1. Nonces


def test_a_nonce_answers_on_its_own_type_only() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    nonce = peer.frames[0].nonce
    peer.stream.receive(codec.encode_request(Request(type_url=PEER_SET, subscribe=("x",))))
    answer = codec.encode_request(Request(type_url=PEER_SET, nonce=nonce))
    assert peer.stream.receive(answer) == (Stale(PEER_SET, nonce),)
    assert peer.request(nonce=nonce) == (Acked(IDENTITY, nonce, True),)


def test_a_stale_nonce_says_nothing_but_its_subscription_counts() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a",))
    peer.got()
    events = peer.request(nonce="of an earlier stream", subscribe=("b",))
    assert [type(each) for each in events] == [Stale, Resubscribed]
    assert peer.got() == (["b"], [])
    assert peer.stream.state(IDENTITY) == "awaiting-ack"


def test_an_ack_may_change_the_subscription_too() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a",))
    nonce = peer.frames[0].nonce
    peer.got()
    events = peer.request(nonce=nonce, subscribe=("b",), unsubscribe=("a",))
    assert [type(each) for each in events] == [Acked, Resubscribed]
    assert peer.got() == (["b"], [])


def test_an_answer_settles_the_response_that_it_names_and_no_other() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a", "b"))
    peer.current["b"] = B
    peer.changed()
    first, second = (frame.nonce for frame in peer.frames)
    assert peer.request(nonce=second) == (Acked(IDENTITY, second, False),)
    assert peer.request(nonce=first) == (Acked(IDENTITY, first, True),)
    assert peer.request(nonce=first) == (Stale(IDENTITY, first),)


def test_equal_nonces_are_answered_in_order() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    peer.request(subscribe=("a",))
    (nonce,) = {frame.nonce for frame in peer.frames}
    assert peer.request(nonce=nonce) == (Acked(IDENTITY, nonce, False),)
    assert peer.request(nonce=nonce) == (Acked(IDENTITY, nonce, True),)
    assert peer.request(nonce=nonce) == (Stale(IDENTITY, nonce),)


def test_the_same_nonce_never_means_two_things() -> None:
    one, two = Encoder(), Encoder()
    seen: dict[str, bytes] = {}
    for encoder in (one, two):
        for put, removed in (
            ((A,), ()),
            ((A, B), ()),
            ((A,), ("b",)),
            ((), ("a", "b")),
            ((B,), ()),
        ):
            for type_url in (IDENTITY, PEER_SET):
                for frame in encoder.frames(type_url, put, removed):
                    assert seen.setdefault(frame.nonce, frame.data) == frame.data
    assert len(seen) == 10


# 2. NACK


def test_a_nack_is_what_has_error_detail() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    nonce = peer.frames[0].nonce
    refusal = Refusal(IDENTITY, "a", "map is full", 9, 5)
    events = peer.request(nonce=nonce, error="map is full", refusal=refusal)
    assert events == (Nacked(IDENTITY, nonce, "map is full", refusal),)
    assert peer.stream.state(IDENTITY) == "nacked"


def test_an_empty_error_detail_is_a_nack_too() -> None:
    message = discovery_pb2.DeltaDiscoveryRequest(type_url=IDENTITY, response_nonce="n")
    message.error_detail.SetInParent()
    assert decode_request(message.SerializeToString()).error == ""


def test_of_a_nodes_metadata_only_a_text_names_its_process() -> None:
    message = discovery_pb2.DeltaDiscoveryRequest(type_url=IDENTITY)
    message.node.id = "n1"
    message.node.metadata.update({"version": "2", "instance": {"of": [1, None]}})
    found = decode_request(message.SerializeToString())
    assert (found.node, found.instance) == ("n1", "")


def test_foreign_details_of_a_nack_are_left_alone() -> None:
    message = discovery_pb2.DeltaDiscoveryRequest(type_url=IDENTITY, response_nonce="n")
    message.error_detail.details.append(any_pb2.Any(type_url="x/google.rpc.Help", value=b"\xff"))
    found = decode_request(message.SerializeToString())
    assert (found.error, found.refusal) == ("", None)


def test_a_nack_causes_no_resend_but_a_change_does() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    peer.request(nonce=peer.frames[0].nonce, error="no")
    peer.got()
    peer.changed()
    assert peer.got() == ([], [])
    peer.current["a"] = changed(A)
    peer.changed()
    assert peer.got() == (["a"], [])
    assert peer.stream.state(IDENTITY) == "awaiting-ack"


def test_an_error_without_a_nonce_refuses_nothing() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    assert peer.request(error="what?") == (Stale(IDENTITY, "", refused=True),)
    assert peer.stream.state(IDENTITY) == "awaiting-ack"


# 3. Wildcard


def test_a_first_request_without_names_is_a_wildcard() -> None:
    peer = Peer(A, B)
    peer.request()
    assert peer.got() == (["a", "b"], [])
    peer.current["c"] = C
    peer.changed()
    assert peer.got() == (["c"], [])


def test_a_name_beside_a_legacy_wildcard_leaves_it_in_force() -> None:
    peer = Peer(A, B)
    peer.request()
    peer.got()
    peer.request(subscribe=("a",))
    assert peer.got() == (["a"], [])
    peer.current["c"] = C
    peer.changed()
    assert peer.got() == (["c"], [])
    peer.request(unsubscribe=("*",))
    peer.current |= {"a": changed(A), "b": changed(B)}
    peer.changed()
    assert peer.got() == (["a"], [])


def test_nothing_named_after_names_is_nothing_not_everything() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a",))
    peer.got()
    peer.request(unsubscribe=("a",))
    peer.request()
    peer.current["a"] = changed(A)
    peer.changed()
    assert peer.got() == ([], [])


def test_star_and_names_stand_together_and_leaving_star_keeps_the_names() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("*", "a"))
    assert peer.got() == (["a", "b"], [])
    peer.request(unsubscribe=("*",))
    peer.current = {"b": changed(B)}
    peer.changed()
    assert peer.got() == ([], ["a"])


def test_star_asked_for_later_sends_everything() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a",))
    peer.got()
    peer.request(subscribe=("*",))
    assert peer.got() == (["a", "b"], [])


def test_a_name_left_while_the_wildcard_goes_on_is_answered() -> None:
    peer = Peer(A)
    peer.request(subscribe=("*", "a", "b"))
    assert peer.got() == (["a"], ["b"])
    peer.request(unsubscribe=("a",))
    assert peer.got() == (["a"], [])
    peer.request(unsubscribe=("b",))
    assert peer.got() == ([], ["b"])


# 4. Resubscribe


def test_what_is_requested_again_is_sent_again() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    peer.got()
    peer.request(subscribe=("a",))
    assert peer.got() == (["a"], [])
    peer.request(unsubscribe=("a",))
    peer.request(subscribe=("a",))
    assert peer.got() == (["a"], [])


# 6. Removal


def test_a_name_that_does_not_exist_is_removed_once_and_sent_when_it_comes() -> None:
    peer = Peer()
    peer.request(subscribe=("a",))
    assert peer.got() == ([], ["a"])
    peer.changed()
    assert peer.got() == ([], [])
    peer.current["a"] = A
    peer.changed()
    assert peer.got() == (["a"], [])
    del peer.current["a"]
    peer.changed()
    assert peer.got() == ([], ["a"])


def test_leaving_what_was_never_subscribed_is_fine() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    peer.got()
    peer.request(unsubscribe=("never",))
    assert peer.got() == ([], [])


def test_what_is_left_is_not_removed() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a", "b"))
    peer.got()
    peer.request(unsubscribe=("a",))
    assert peer.got() == ([], []), "the client drops it by itself"


# 7. Reconnect


def test_equal_versions_are_not_sent_changed_ones_are_and_ghosts_removed() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("*",), initial={"a": A.version, "b": "older", "ghost": "1"})
    assert peer.got() == (["b"], ["ghost"])


def test_versions_of_what_is_not_subscribed_to_are_left_alone() -> None:
    peer = Peer(A, B)
    peer.request(subscribe=("a",), initial={"a": A.version, "ghost": "1"})
    assert peer.got() == ([], [])


def test_versions_count_in_the_first_request_only() -> None:
    peer = Peer(A)
    peer.request(subscribe=("*",))
    peer.got()
    peer.request(initial={"a": "other", "ghost": "1"})
    peer.changed()
    assert peer.got() == ([], [])


# Basic overview, aggregated stream, errors


def test_the_node_is_read_from_the_first_message_only() -> None:
    peer = Peer()
    peer.request(node="n1", subscribe=("a",))
    peer.stream.receive(codec.encode_request(Request(type_url=PEER_SET, node="n2")))
    assert peer.stream.node == "n1"


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match=r"x\.Y") as raised:
        Peer().request(type_url="type.googleapis.com/x.Y")
    assert raised.value.status == "INVALID_ARGUMENT"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", codec.encode_request(Request(type_url=""))])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        DeltaStream(CUT_TYPES).receive(data)
    assert raised.value.status == "INVALID_ARGUMENT"


def test_types_of_one_stream_are_apart() -> None:
    stream = DeltaStream(CUT_TYPES)
    stream.receive(codec.encode_request(Request(type_url=PEER_SET)))
    assert stream.state(PEER_SET) == "subscribed"
    assert stream.state(COMMIT) == "idle"


@pytest.mark.parametrize(
    "fields",
    [
        {"subscribe": ("a",)},
        {"subscribe": ("*", "a")},
        {"unsubscribe": ("a",)},
        {"unsubscribe": ("*",)},
    ],
)
def test_a_type_that_is_served_whole_has_the_wildcard_only(fields: dict[str, Any]) -> None:
    stream = DeltaStream(CUT_TYPES, whole=CUT_TYPES)
    frame = codec.encode_request(Request(type_url=PEER_SET, **fields))
    with pytest.raises(ProtocolError, match="whole"):
        stream.receive(frame)
    stream = DeltaStream(CUT_TYPES, whole=CUT_TYPES)
    stream.receive(codec.encode_request(Request(type_url=PEER_SET, subscribe=("*",))))
    with pytest.raises(ProtocolError, match="whole"):
        stream.receive(frame)
    again = codec.encode_request(Request(type_url=PEER_SET, subscribe=("*",)))
    with pytest.raises(ProtocolError, match="whole"):
        stream.receive(again)
    assert stream.receive(codec.encode_request(Request(type_url=PEER_SET))) == ()


def test_a_name_that_comes_twice_in_a_response_is_an_error() -> None:
    (frame,) = Encoder().frames(IDENTITY, [A])
    with pytest.raises(ProtocolError, match="twice"):
        decode_response(frame.data + frame.data)
    (both,) = Encoder().frames(IDENTITY, [A], ["a"])
    with pytest.raises(ProtocolError, match="twice"):
        decode_response(both.data)


def test_an_ack_is_known_by_its_bytes_and_with_more_in_it_too() -> None:
    peer = Peer(A)
    peer.request(subscribe=("a",))
    nonce = peer.frames[0].nonce
    assert peer.stream.receive(codec.ack(IDENTITY, nonce)) == (Acked(IDENTITY, nonce, True),)
    assert peer.stream.receive(codec.ack(IDENTITY, nonce)) == (Stale(IDENTITY, nonce),)
    peer.request(subscribe=("a",))
    assert peer.request(node="n1", nonce=nonce) == (Acked(IDENTITY, nonce, True),)
