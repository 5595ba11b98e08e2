"""Frames of the delta variant: what is joined from shared bytes, and what is kept of it."""

from __future__ import annotations

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from reconciler.core.resources.encode import version_of
from reconciler.core.resources.types import IDENTITY, Resource
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Encoder, Request, decode_request, decode_response
from reconciler.errors import Refusal

A = Resource(IDENTITY, "a", version_of(b"a"), b"a")


def test_a_joined_response_is_what_protobuf_would_write() -> None:
    big = Resource(IDENTITY, "big", version_of(b"x" * 300), b"x" * 300)
    empty = Resource(IDENTITY, "empty", version_of(b""), b"")
    (frame,) = Encoder().frames(IDENTITY, [A, big, empty], ["gone", "too"])
    expected = discovery_pb2.DeltaDiscoveryResponse(
        type_url=IDENTITY,
        nonce=frame.nonce,
        removed_resources=["gone", "too"],
        resources=[
            discovery_pb2.Resource(
                name=each.name,
                version=each.version,
                resource=any_pb2.Any(type_url=each.type_url, value=each.body),
            )
            for each in (A, big, empty)
        ],
    )
    assert discovery_pb2.DeltaDiscoveryResponse.FromString(frame.data) == expected
    response = decode_response(frame.data)
    assert [(each.name, each.version, each.body) for each in response.resources] == [
        (each.name, each.version, each.body) for each in (A, big, empty)
    ]
    assert response.removed == ("gone", "too")


def test_a_large_response_is_split_and_every_part_has_its_nonce() -> None:
    many = [Resource(IDENTITY, f"{n:03}", str(n), bytes(100)) for n in range(50)]
    frames = Encoder(limit=1000).frames(IDENTITY, many, ["gone"])
    assert len(frames) > 5
    assert len({frame.nonce for frame in frames}) == len(frames)
    assert all(len(frame.data) < 1200 for frame in frames)
    responses = [decode_response(frame.data) for frame in frames]
    assert [each.name for one in responses for each in one.resources] == [
        each.name for each in many
    ]
    assert [one.removed for one in responses] == [()] * (len(frames) - 1) + [("gone",)]
    assert sum(frame.resources for frame in frames) == 51


def test_what_is_gone_is_cut_too_and_comes_behind_what_is_there() -> None:
    many = [Resource(IDENTITY, f"{number:03}", "v", b"body") for number in range(20)]
    gone = [f"gone-{number:04}" for number in range(1000)]
    frames = Encoder(limit=1000).frames(IDENTITY, many, gone)
    assert len({frame.nonce for frame in frames}) == len(frames) > 10
    assert all(len(frame.data) < 1200 for frame in frames)
    responses = [decode_response(frame.data) for frame in frames]
    said = [(*(each.name for each in one.resources), *one.removed) for one in responses]
    assert [name for names in said for name in names] == [*(each.name for each in many), *gone]
    assert [frame.resources for frame in frames] == [len(names) for names in said]
    assert sum(bool(one.resources and one.removed) for one in responses) == 1
    (whole,) = Encoder().frames(IDENTITY, many, gone)
    assert (
        whole.nonce == "PXb_bRg3kVG-rqZ3"
    )  # a hash of it: what is within the limit stays as it is
    assert decode_response(whole.data).removed == tuple(gone)


def test_nothing_to_say_is_no_response() -> None:
    assert Encoder().frames(IDENTITY, []) == ()


def test_what_is_kept_to_be_shared_is_bounded_by_bytes() -> None:
    encoder = Encoder(keep=10_000)
    for number in range(100):
        encoder.frames(IDENTITY, [Resource(IDENTITY, "a", str(number), bytes(1000))])
    for kept in (encoder._frames, encoder._wrapped):
        assert 1 < len(kept) < 100
        assert kept.size <= 10_000
    held = [frame for frames, _ in encoder._frames._found.values() for frame in frames]
    assert sum(len(frame.data) for frame in held) == encoder._frames.size


def test_requests_survive_the_wire() -> None:
    for request in (
        Request(type_url=IDENTITY, node="n", subscribe=("*", "a"), initial={"a": "1"}),
        Request(type_url=IDENTITY, unsubscribe=("a",), nonce="n"),
        Request(type_url=IDENTITY, node="n1", instance="7f"),
        Request(type_url=IDENTITY, nonce="n", error="", refusal=None),
        Request(type_url=IDENTITY, nonce="n", error="x", refusal=Refusal("t", "n", "r", 1, 2)),
    ):
        assert decode_request(codec.encode_request(request)) == request
