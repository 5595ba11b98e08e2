"""The fine points of the xDS protocol, by the names of the document's sections, in both
variants."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.core.discovery.delivery import HOLD_SECONDS
from reconciler.core.discovery.requests import MAX_NODE, MAX_REQUEST
from reconciler.core.discovery.service import MAX_TYPES, Service
from reconciler.core.discovery.types import (
    CDS,
    EDS,
    LDS,
    RDS,
    TTL_FEATURE,
    WRAPPED_FEATURE,
    Variant,
)
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request
from reconciler.errors import ProtocolError
from tests.unit.discovery_rig import Peer, Rig, encode, lasting, resource, resources

BOTH = pytest.mark.parametrize("variant", list(Variant), ids=lambda variant: variant.value)
SOTW, DELTA = Variant.SOTW, Variant.DELTA
AB = {"a": "1", "b": "1"}


@pytest.fixture
def rig() -> Rig:
    return Rig()


# 8. "Eventual consistency considerations"


def subscribed(rig: Rig, variant: Variant) -> Peer:
    peer = rig.open(variant)
    peer.ask(RDS, "r")
    peer.ask(LDS, "*")
    peer.ask(EDS, "old", "new")
    peer.ask(CDS, "*")
    peer.got()
    return peer


BEFORE = {CDS: {"old": "1"}, EDS: {"old": "1"}, LDS: {"l": "1"}, RDS: {"r": "to old"}}
AFTER = {CDS: {"new": "1"}, EDS: {"new": "1"}, LDS: {"l": "2"}, RDS: {"r": "to new"}}


def test_8_make_before_break_in_delta(rig: Rig) -> None:
    rig.publish(BEFORE)
    peer = subscribed(rig, DELTA)
    rig.publish(AFTER)
    answers = [(each.type_url, dict(each.put), each.removed) for each in peer.got()]
    assert answers == [
        (CDS, {"new": "1"}, ()),
        (EDS, {"new": "1"}, ()),
        (LDS, {"l": "2"}, ()),
        (RDS, {"r": "to new"}, ()),
        (EDS, {}, ("old",)),
        (CDS, {}, ("old",)),
    ]


def test_8_make_before_break_in_sotw(rig: Rig) -> None:
    rig.publish(BEFORE)
    peer = subscribed(rig, SOTW)
    rig.publish(AFTER)
    assert [(each.type_url, dict(each.put)) for each in peer.got()] == [
        (CDS, {"old": "1", "new": "1"}),
        (EDS, {"new": "1"}),
        (LDS, {"l": "2"}),
        (RDS, {"r": "to new"}),
        (CDS, {"new": "1"}),
    ]


@BOTH
def test_8_a_later_publication_waits_for_the_answers_to_one_before(
    rig: Rig, variant: Variant
) -> None:
    rig.publish(BEFORE)
    peer = subscribed(rig, variant)
    rig.publish({**BEFORE, CDS: {"old": "2"}})
    clusters = peer.take()
    rig.publish({**BEFORE, CDS: {"old": "2"}, LDS: {"l": "2"}})
    assert not peer.inbox
    peer.answer(clusters)
    assert [(each.type_url, dict(each.put)) for each in peer.got()] == [(LDS, {"l": "2"})]


@BOTH
def test_8_who_has_answered_in_time_is_waited_for_the_next_time(rig: Rig, variant: Variant) -> None:
    rig.publish(BEFORE)
    peer = subscribed(rig, variant)
    rig.publish({**BEFORE, CDS: {"old": "2"}, LDS: {"l": "2"}})
    clusters = peer.take()
    assert not peer.inbox
    peer.answer(clusters)
    listeners = peer.take()
    rig.wait(HOLD_SECONDS)
    rig.publish({**BEFORE, CDS: {}, LDS: {"l": "2"}})
    assert not peer.inbox
    peer.answer(listeners)
    assert [each.type_url for each in peer.got()] == [CDS]


@BOTH
def test_8_routes_wait_until_clusters_and_endpoints_are_answered_for(
    rig: Rig, variant: Variant
) -> None:
    rig.publish(BEFORE)
    peer = subscribed(rig, variant)
    rig.publish(AFTER)
    clusters, endpoints = peer.take(), peer.take()
    assert (clusters.type_url, endpoints.type_url) == (CDS, EDS)
    assert not peer.inbox
    peer.answer(clusters)
    assert not peer.inbox
    # A cluster that was just read of asks for its endpoints.
    peer.ask(EDS, *(("newer",) if variant is DELTA else ("old", "new", "newer")))
    if variant is DELTA:
        assert peer.take().removed == ("newer",)
    peer.answer(endpoints)
    if variant is DELTA:
        assert not peer.inbox
        rig.wait(HOLD_SECONDS)  # and that one it does not answer
    listeners, routes = peer.take(), peer.take()
    assert (listeners.type_url, routes.type_url) == (LDS, RDS)


@BOTH
def test_8_nobody_is_waited_for_for_ever_nor_again_in_vain(rig: Rig, variant: Variant) -> None:
    rig.publish(BEFORE)
    peer = subscribed(rig, variant)
    rig.publish(AFTER)
    assert {peer.take().type_url for _ in range(2)} == {CDS, EDS}
    rig.wait(HOLD_SECONDS / 2)
    assert not peer.inbox
    rig.wait(HOLD_SECONDS / 2)
    while peer.inbox:
        last = peer.take()
    assert last.type_url == CDS
    assert rig.service.next_deadline() is None
    rig.publish(BEFORE)
    while peer.inbox:
        last = peer.take()
    assert last.type_url == CDS
    peer.answer(last)
    rig.publish(AFTER)
    assert {peer.take().type_url for _ in range(2)} == {CDS, EDS}
    assert not peer.inbox  # it answers again, and is waited for


@BOTH
def test_8_who_has_nothing_to_be_sent_is_not_waited_for_in_vain(variant: Variant) -> None:
    views = {"n": "left"}
    rig = Rig(Service(lambda node: views[node.id]))
    rig.publish({CDS: {"c": "1"}, RDS: {"r": "1"}}, "left")
    peer = rig.open(variant)
    peer.ask(CDS, "*", node="n")
    peer.ask(RDS, "r")
    peer.got()
    rig.publish({CDS: {"c": "2"}, RDS: {"r": "2"}}, "left")
    assert (peer.take().type_url, len(peer.inbox)) == (CDS, 0)  # routes wait
    views["n"] = "right"
    rig.service.reassign(rig.now)  # of which nobody knows what it has
    assert rig.service.next_deadline() is None
    rig.wait(HOLD_SECONDS)
    rig.publish({CDS: {"c": "3"}, RDS: {"r": "3"}}, "right")
    assert (peer.take().type_url, len(peer.inbox)) == (CDS, 0)  # they wait as they did


def test_8_who_had_everything_already_is_sent_what_is_new_first() -> None:
    rig = Rig()
    rig.publish(BEFORE)
    before = rig.open(SOTW)
    before.ask(CDS, "*")
    (clusters,) = before.got()
    peer = rig.open(SOTW)
    peer.ask(CDS, "*", version=clusters.version)
    peer.ask(RDS, "r")
    assert [each.type_url for each in peer.got()] == [RDS]
    rig.publish(AFTER)
    assert [(each.type_url, dict(each.put)) for each in peer.got()] == [
        (CDS, {"old": "1", "new": "1"}),
        (RDS, {"r": "to new"}),
        (CDS, {"new": "1"}),
    ]


@BOTH
def test_8_what_is_asked_for_does_not_wait(rig: Rig, variant: Variant) -> None:
    rig.publish(BEFORE)
    peer = rig.open(variant)
    peer.ask(CDS, "*")
    peer.ask(RDS, "r")
    assert [peer.take().type_url, peer.take().type_url] == [CDS, RDS]


@BOTH
def test_8_a_slow_stream_is_sent_the_newest_state_and_nothing_in_between(
    rig: Rig, variant: Variant
) -> None:
    rig.publish({CDS: {"a": "0", "b": "0"}})
    peer = rig.open(variant)
    peer.slow = True
    peer.ask(CDS)
    for version in range(1, 100):
        rig.publish({CDS: {"a": str(version), "c": "1"} if version % 2 else {"b": str(version)}})
    assert len(peer.inbox) == 1
    peer.drain()
    first, second = peer.got()
    assert first.put == {"a": "0", "b": "0"}
    assert second.put == {"a": "99", "c": "1"}
    assert second.removed == (("b",) if variant is DELTA else ())


# 9. "TTL", "SotW TTL"


@BOTH
def test_9_heartbeats_to_those_that_can_take_them(variant: Variant) -> None:
    rig = Rig()
    renewed = {"a": lasting(EDS, "a", "1", 30.0), "b": lasting(EDS, "b", "1", 30.0)}
    rest = resources({RDS: AB})
    rig.service.publish("", {EDS: renewed, **rest}, 0.0)
    features = [TTL_FEATURE] + [WRAPPED_FEATURE] * (variant is SOTW)
    able, plain = rig.open(variant), rig.open(variant)
    for peer, said in ((able, features), (plain, features[1:])):
        for type_url in (EDS, RDS):
            rig.service.received(peer.id, first(variant, type_url, said), 0.0)
            rig.pump()
            assert peer.put() == [AB]
    rig.wait(9.0)
    assert not able.inbox
    rig.wait(21.0)
    beats = able.got()
    assert [each.type_url for each in beats] == [EDS] * 3
    one: tuple[object, object] = ((), AB) if variant is SOTW else (("a", "b"), {})
    assert [(each.nothing, each.put) for each in beats] == [one] * 3
    assert plain.got() == []
    renewed["a"] = lasting(EDS, "a", "2", 30.0)
    rig.service.publish("", {EDS: renewed, **rest}, rig.now)
    rig.pump()
    assert able.put() == [{"a": "2"}]
    able.close()
    rig.wait(10.0)
    assert rig.service.next_deadline() is None


@BOTH
def test_9_there_are_three_heartbeats_in_a_time_to_live(variant: Variant) -> None:
    rig = Rig()
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "1", 7.5)}}, 0.0)
    peer = rig.open(variant)
    rig.service.received(peer.id, first(variant, EDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    rig.pump()
    rig.wait(2.5)
    for frame in peer.inbox:
        if variant is DELTA:
            (wrapped,) = discovery_pb2.DeltaDiscoveryResponse.FromString(frame).resources
        else:
            (each,) = discovery_pb2.DiscoveryResponse.FromString(frame).resources
            wrapped = discovery_pb2.Resource()
            assert each.Unpack(wrapped)
        assert (wrapped.name, wrapped.version) == ("a", "1")
        assert wrapped.ttl.ToMilliseconds() == 7500
        whole = variant is SOTW or frame is peer.inbox[0]
        assert wrapped.HasField("resource") == whole
    assert len(peer.inbox) == 2


def first(variant: Variant, type_url: str, features: list[str], **more: Any) -> bytes:
    """more: fields of the request"""
    made = discovery_pb2.DeltaDiscoveryRequest
    if variant is SOTW:
        made = discovery_pb2.DiscoveryRequest
    request = made(type_url=type_url, **more)
    request.node.id = "n"
    request.node.client_features.extend(features)
    data: bytes = request.SerializeToString()
    return data


# 10. "Aggregated Discovery Service", "Duplicate Resource Names"


@BOTH
def test_10_types_of_one_stream_do_not_meet(rig: Rig, variant: Variant) -> None:
    rig.publish({EDS: AB, RDS: {"a": "9"}})
    peer = rig.open(variant)
    peer.ask(EDS, "a")
    assert peer.put() == [{"a": "1"}]
    peer.ask(RDS, "a")
    assert peer.put() == [{"a": "9"}]
    peer.ask(EDS, drop=("a",))
    rig.publish({EDS: {"a": "2"}, RDS: {"a": "10"}})
    assert [(each.type_url, each.put) for each in peer.got()] == [(RDS, {"a": "10"})]


@BOTH
def test_10_a_service_of_one_type_needs_no_type_url_and_takes_no_other(
    rig: Rig, variant: Variant
) -> None:
    rig.publish({EDS: AB, RDS: AB})
    peer = rig.open(variant, EDS)
    peer.ask("", "a")
    (answer,) = peer.got()
    assert (answer.type_url, answer.put) == (EDS, {"a": "1"})
    peer.ask(EDS, *(("b",) if variant is DELTA else ("a", "b")))
    assert peer.put() == [{"b": "1"}]
    with pytest.raises(ProtocolError, match="this service is for") as refused:
        peer.ask(RDS, "a")
    assert refused.value.status == "INVALID_ARGUMENT"
    aggregated = rig.open(variant)
    with pytest.raises(ProtocolError, match="without type_url"):
        aggregated.ask("", "a")


@BOTH
def test_10_no_name_comes_twice_in_a_response(rig: Rig, variant: Variant) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(variant)
    peer.ask(CDS, "*", "a", "a", "*")
    (answer,) = peer.got()
    if variant is SOTW:
        response = discovery_pb2.DiscoveryResponse.FromString(answer.frame)
        names = [each.value for each in response.resources]
    else:
        names = [each.name for each in codec.decode_response(answer.frame).resources]
    assert len(names) == len(set(names)) == 2


@BOTH
def test_10_a_type_that_has_no_resources_is_answered_as_absent(rig: Rig, variant: Variant) -> None:
    rig.publish({})
    peer = rig.open(variant)
    peer.ask("type.googleapis.com/nobody.knows.It", "x")
    answers = [(each.put, each.removed) for each in peer.got()]
    assert answers == ([({}, ("x",))] if variant is DELTA else [])


@BOTH
def test_10_large_responses_are_split_and_only_the_last_has_the_version(variant: Variant) -> None:
    rig = Rig(Service(lambda node: "", response_bytes=1000))
    many = {f"name-{at:03}": "1" for at in range(100)}
    rig.publish({EDS: many})
    peer = rig.open(variant)
    peer.ask(EDS, *many, "missing")
    answers = peer.got()
    assert len(answers) > 5
    assert all(len(each.frame) < 1300 for each in answers)
    put = [name for each in answers for name in each.put]
    assert sorted(put) == sorted(many)
    if variant is DELTA:
        assert [each.removed for each in answers if each.removed] == [("missing",)]
        rig.publish({})
        gone = [name for each in peer.got() for name in each.removed]
        assert sorted(gone) == sorted(many)
    else:
        assert len({each.version for each in answers}) == len(answers)
        everything = rig.open(SOTW)
        everything.ask(EDS, version=answers[-1].version)
        answers = everything.got()  # who had the same by name may not say that it has all
        everything = rig.open(SOTW)
        everything.ask(EDS, version=answers[-1].version)
        assert everything.got() == []
        cut_off = rig.open(SOTW)
        cut_off.ask(EDS, version=answers[-2].version)
        assert len(cut_off.got()) == len(answers)


# 11. discovery.proto: what nobody implements


def test_11_resource_locators_are_refused_and_not_taken_for_everything(rig: Rig) -> None:
    rig.publish({CDS: AB})
    for variant, request in (
        (DELTA, discovery_pb2.DeltaDiscoveryRequest(type_url=CDS)),
        (SOTW, discovery_pb2.DiscoveryRequest(type_url=CDS)),
    ):
        field = "resource_locators" + ("_subscribe" if variant is DELTA else "")
        getattr(request, field).add().name = "a"
        peer = rig.open(variant)
        with pytest.raises(ProtocolError, match="locators") as refused:
            rig.service.received(peer.id, request.SerializeToString(), 0.0)
        assert refused.value.status == "UNIMPLEMENTED"


def test_11_responses_have_the_fields_that_clients_read_and_no_other(rig: Rig) -> None:
    rig.publish({CDS: {"a": "1"}})
    for variant, made in (
        (DELTA, discovery_pb2.DeltaDiscoveryResponse),
        (SOTW, discovery_pb2.DiscoveryResponse),
    ):
        peer = rig.open(variant)
        peer.ask(CDS)
        message = made.FromString(peer.take().frame)
        fields = {field.name for field, _ in message.ListFields()}
        version = {"version_info"} if variant is SOTW else set()
        assert fields == {"resources", "type_url", "nonce"} | version
        any_of = message.resources[0].resource if variant is DELTA else message.resources[0]
        assert (any_of.type_url, any_of.value) == (CDS, resource(CDS, "a", "1").body)


# What breaks the protocol


@BOTH
def test_bad_requests_are_refused_with_a_reason(rig: Rig, variant: Variant) -> None:
    rig.publish({CDS: AB})
    service = Service(lambda node: "", max_names=10)
    service.publish("", {}, 0.0)
    for frame, status, reason in (
        (b"\xff\xff\xff", "INVALID_ARGUMENT", "not a D"),
        (encode(variant, Request("no type")), "INVALID_ARGUMENT", "no type URL"),
        (many(variant, 11), "INVALID_ARGUMENT", "more than 10 names"),
    ):
        service.stream_opened(1, variant, None, 0.0)
        with pytest.raises(ProtocolError, match=reason) as refused:
            service.received(1, frame, 0.0)
        assert refused.value.status == status
        service.stream_closed(1)
    assert service.effects() == []


def test_names_may_not_pile_up_over_many_requests() -> None:
    service = Service(lambda node: "", max_names=10)
    service.stream_opened(1, DELTA, None, 0.0)
    for at in range(2):
        service.received(1, many(DELTA, 5, f"{at}-"), 0.0)
    with pytest.raises(ProtocolError, match="more than 10 names are") as refused:
        service.received(1, many(DELTA, 1, "one more"), 0.0)
    assert refused.value.status == "RESOURCE_EXHAUSTED"


@BOTH
def test_neither_requests_nor_what_a_node_says_of_itself_may_be_endless(
    rig: Rig, variant: Variant
) -> None:
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=CDS)
    if variant is SOTW:
        request = discovery_pb2.DiscoveryRequest(type_url=CDS)
    request.node.metadata["much"] = "x" * MAX_NODE
    peer = rig.open(variant)
    with pytest.raises(ProtocolError, match="node has") as refused:
        rig.service.received(peer.id, request.SerializeToString(), 0.0)
    assert refused.value.status == "RESOURCE_EXHAUSTED"
    with pytest.raises(ProtocolError, match="a request has") as refused:
        peer.ask(CDS, "x" * MAX_REQUEST)
    assert refused.value.status == "RESOURCE_EXHAUSTED"


@BOTH
def test_types_may_not_pile_up(variant: Variant) -> None:
    rig = Rig()
    rig.publish({})
    peer = rig.open(variant)
    for at in range(MAX_TYPES):
        peer.ask(f"type.googleapis.com/t{at}", "a")
    with pytest.raises(ProtocolError, match="types on a stream") as refused:
        peer.ask("type.googleapis.com/one.more", "a")
    assert refused.value.status == "RESOURCE_EXHAUSTED"


def many(variant: Variant, names: int, prefix: str = "") -> bytes:
    listed = tuple(f"{prefix}{at}" for at in range(names))
    if variant is DELTA:
        return encode(DELTA, Request(EDS, subscribe=listed))
    return encode(SOTW, Request(EDS, names=listed))


def test_one_variant_is_not_taken_for_the_other(rig: Rig) -> None:
    rig.publish({CDS: AB})
    delta = encode(DELTA, Request(CDS, node="some-node", subscribe=("a",)))
    other = encode(SOTW, Request(CDS, node="some-node", names=("a",), version="1"))
    for variant, frame in ((SOTW, delta), (DELTA, other)):
        peer = rig.open(variant)
        with pytest.raises(ProtocolError) as refused:
            rig.service.received(peer.id, frame, 0.0)
        assert refused.value.status == "INVALID_ARGUMENT"
