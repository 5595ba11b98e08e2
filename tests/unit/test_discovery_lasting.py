"""Resources that end unless they are renewed, beside others of their type that don't."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.core.discovery.delivery import SHORTEST_BEAT
from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import (
    CDS,
    EDS,
    LDS,
    RDS,
    TTL_FEATURE,
    WRAPPED_FEATURE,
    Variant,
)
from reconciler.core.resources.types import Resource
from tests.unit.discovery_rig import Peer, Rig, lasting, resource
from tests.unit.test_discovery_points_order import BOTH, SOTW, first

Seen = list[tuple[str, float, bool]]
"""(name, seconds to live, with a body) of each resource of a response"""


def read(variant: Variant, frame: bytes) -> Seen:
    if variant is Variant.DELTA:
        wrapped = list(discovery_pb2.DeltaDiscoveryResponse.FromString(frame).resources)
    else:
        wrapped = []
        for each in discovery_pb2.DiscoveryResponse.FromString(frame).resources:
            one = discovery_pb2.Resource()
            if not each.Unpack(one):
                one.name, one.resource.value = each.value.partition(b"@")[0].decode(), each.value
            wrapped.append(one)
    return [(e.name, e.ttl.ToMilliseconds() / 1000, e.HasField("resource")) for e in wrapped]


def took(rig: Rig, peer: Peer, variant: Variant) -> list[Seen]:
    """What came since; all of it is read."""
    rig.pump()
    found = [read(variant, frame) for frame in peer.inbox]
    peer.got()
    return found


@pytest.mark.parametrize("plain", [resource, partial(lasting, ttl=None)], ids=["plain", "none"])
@pytest.mark.parametrize("later", [False, True])
@BOTH
def test_a_time_to_live_is_a_resources_own(
    variant: Variant, later: bool, plain: Callable[[str, str, str], Resource]
) -> None:
    """plain: what never ends, beside what does"""
    rig, full = Rig(), variant is SOTW
    rig.service.publish("", {EDS: {"b": resource(EDS, "b", "1")}}, 0.0)
    held = {"a": lasting(EDS, "a", "1", 3.0), "b": plain(EDS, "b", "1")}
    if not later:
        rig.service.publish("", {EDS: held}, 0.0)
    able = rig.open(variant)
    rig.service.received(able.id, first(variant, EDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    assert took(rig, able, variant)[0][-1] == ("b", 0.0, True)
    if later:
        rig.service.publish("", {EDS: held}, 0.0)
        assert took(rig, able, variant) == [[("a", 3.0, True)]]
    rig.wait(0.9)
    assert took(rig, able, variant) == []
    rig.wait(1.1)
    assert took(rig, able, variant) == [[("a", 3.0, full)]] * 2
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "2", 0.3), "b": held["b"]}}, 2.0)
    assert took(rig, able, variant) == [[("a", 0.3, True)]]
    rig.wait(0.15)
    assert took(rig, able, variant) == [[("a", 0.3, full)]]


@BOTH
def test_who_can_not_take_one_gets_none(variant: Variant) -> None:
    rig = Rig()
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "1", 3.0)}}, 0.0)
    plain = rig.open(variant)
    features = [TTL_FEATURE] if variant is SOTW else []
    rig.service.received(plain.id, first(variant, EDS, features), 0.0)
    assert took(rig, plain, variant) == [[("a", 0.0, True)]]
    rig.wait(10.0)
    assert took(rig, plain, variant) == []


def test_a_heartbeat_of_a_complete_type_leaves_nothing_out() -> None:
    rig = Rig()
    held = {"a": lasting(CDS, "a", "1", 3.0), "b": resource(CDS, "b", "1")}
    rig.service.publish("", {CDS: held}, 0.0)
    able = rig.open(SOTW)
    rig.service.received(able.id, first(SOTW, CDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    assert took(rig, able, SOTW) == [[("a", 3.0, True), ("b", 0.0, True)]]
    rig.wait(1.0)
    assert took(rig, able, SOTW) == [[("a", 3.0, True), ("b", 0.0, True)]]


@BOTH
def test_what_may_have_ended_at_a_slow_client_is_sent_in_full(variant: Variant) -> None:
    """Two beats come while it takes nothing; who has dropped a resource can't renew it."""
    rig = Rig()
    held = {"a": lasting(EDS, "a", "1", 3.0), "b": resource(EDS, "b", "1")}
    rig.service.publish("", {EDS: held, RDS: {"r": resource(RDS, "r", "1")}}, 0.0)
    able = rig.open(variant)
    names = {} if variant is Variant.DELTA else {"resource_names": ["a", "b"]}
    request = first(variant, EDS, [TTL_FEATURE, WRAPPED_FEATURE], **names)
    rig.service.received(able.id, request, 0.0)
    able.listed[EDS] = ("a", "b")
    able.ask(RDS, "r")
    took(rig, able, variant)
    able.slow = True
    rig.service.publish("", {EDS: held, RDS: {"r": resource(RDS, "r", "2")}}, rig.now)
    rig.wait(2.5)
    able.drain()
    assert took(rig, able, variant) == [[("r", 0.0, True)], [("a", 3.0, True)]]
    rig.wait(1.0)
    assert took(rig, able, variant) == [[("a", 3.0, variant is SOTW)]]


@BOTH
def test_what_waits_for_answers_is_renewed_as_it_is(variant: Variant) -> None:
    """Listeners wait, and one that was there before goes on; a cluster that is to go does too."""
    rig = Rig()
    old = {"a": lasting(LDS, "a", "1", 6.0)}
    gone = {"c": lasting(CDS, "c", "1", 6.0)}
    rig.service.publish("", {LDS: old, CDS: gone}, 0.0)
    able = rig.open(variant)
    rig.service.received(able.id, first(variant, LDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    able.ask(CDS, *(("*",) if variant is Variant.DELTA else ()))
    took(rig, able, variant)
    new = {"a": lasting(LDS, "a", "2", 6.0)}
    rig.service.publish("", {LDS: new, CDS: {"d": lasting(CDS, "d", "1", 6.0)}}, 0.0)
    rig.pump()
    rig.wait(2.0)  # nothing is answered
    frames = [read(variant, frame) for frame in able.inbox]
    full = variant is not Variant.DELTA
    assert frames[0] == [*([("c", 6.0, True)] if full else []), ("d", 6.0, True)]
    assert sorted(frames[1:]) == [[("a", 6.0, full)], [("c", 6.0, full), ("d", 6.0, full)]]


def test_however_short_a_time_to_live_is_there_is_a_pause() -> None:
    rig = Rig()
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "1", 1e-6)}}, 0.0)
    able = rig.open(SOTW)
    rig.service.received(able.id, first(SOTW, EDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    took(rig, able, SOTW)
    assert rig.service.next_deadline() == SHORTEST_BEAT


@BOTH
def test_a_time_to_live_that_is_gone_is_not_renewed(variant: Variant) -> None:
    rig = Rig()
    able = rig.open(variant)
    rig.service.received(able.id, first(variant, EDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "1", 0.3)}}, 0.0)
    assert took(rig, able, variant) == [[("a", 0.3, True)]]
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "2", 30.0)}}, 0.0)
    assert took(rig, able, variant) == [[("a", 30.0, True)]]
    rig.wait(25.0)  # the short one is looked at once more
    assert len(took(rig, able, variant)) == 3
    rig.service.publish("", {EDS: {"a": resource(EDS, "a", "3")}}, rig.now)
    assert took(rig, able, variant) == [[("a", 0.0, True)]]
    rig.wait(25.0)
    assert took(rig, able, variant) == []
    assert rig.service.next_deadline() is None


@BOTH
def test_what_a_client_has_already_is_renewed(variant: Variant) -> None:
    """It came back with it, and was sent nothing."""
    rig = Rig()
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "1", 3.0)}}, 0.0)
    features = [TTL_FEATURE, WRAPPED_FEATURE]
    before = rig.open(variant)
    rig.service.received(before.id, first(variant, EDS, features), 0.0)
    rig.pump()
    (told,) = before.got()
    before.close()
    rig.wait(5.0)
    assert rig.service.next_deadline() is None
    able = rig.open(variant)
    version = {"version_info": told.version} if variant is SOTW else {}
    held = {"initial_resource_versions": {"a": "1"}} if variant is not SOTW else {}
    request = first(variant, EDS, features, **version, **held)
    rig.service.received(able.id, request, rig.now)
    assert took(rig, able, variant) == []
    rig.wait(1.0)
    assert read(variant, able.inbox[0]) == [("a", 3.0, variant is SOTW)]
    assert [each.version for each in able.got()] == [told.version]


@BOTH
def test_what_is_asked_for_while_others_wait_is_renewed(variant: Variant) -> None:
    rig = Rig()
    plain = {"r": resource(RDS, "r", "1")}
    rig.service.publish("", {RDS: plain, CDS: {"c": resource(CDS, "c", "1")}}, 0.0)
    able = rig.open(variant)
    rig.service.received(able.id, first(variant, CDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    rig.pump()
    able.ask(RDS, "r")
    took(rig, able, variant)
    routes = {"r": resource(RDS, "r", "2"), "s": lasting(RDS, "s", "1", 6.0)}
    rig.service.publish("", {RDS: routes, CDS: {"c": resource(CDS, "c", "2")}}, 0.0)
    rig.pump()
    able.take()
    able.ask(RDS, *(("r",) if variant is SOTW else ()), "s")
    assert read(variant, able.inbox[0]) == [("s", 6.0, True)]
    able.take()
    rig.wait(2.0)
    assert [read(variant, each) for each in able.inbox] == [[("s", 6.0, variant is SOTW)]]


@BOTH
def test_what_is_led_to_another_view_is_renewed_there(variant: Variant) -> None:
    views = {"n": "left"}
    rig = Rig(Service(lambda node: views[node.id]))
    rig.service.publish("left", {EDS: {}}, 0.0)
    rig.service.publish("right", {EDS: {"a": lasting(EDS, "a", "1", 3.0)}}, 0.0)
    able = rig.open(variant)
    rig.service.received(able.id, first(variant, EDS, [TTL_FEATURE, WRAPPED_FEATURE]), 0.0)
    rig.wait(5.0)
    took(rig, able, variant)
    views["n"] = "right"
    rig.service.reassign(rig.now)
    assert took(rig, able, variant) == [[("a", 3.0, True)]]
    rig.wait(1.0)
    assert took(rig, able, variant) == [[("a", 3.0, variant is SOTW)]]
