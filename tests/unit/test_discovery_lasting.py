"""Resources that end unless they are renewed, beside others of their type that don't."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import (
    CDS,
    EDS,
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
    rig = Rig()
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
    assert took(rig, able, variant) == [[("a", 3.0, False)]] * 2
    rig.service.publish("", {EDS: {"a": lasting(EDS, "a", "2", 0.3), "b": held["b"]}}, 2.0)
    assert took(rig, able, variant) == [[("a", 0.3, True)]]
    rig.wait(0.15)
    assert took(rig, able, variant) == [[("a", 0.3, False)]]


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
    assert took(rig, able, SOTW) == [[("a", 3.0, False), ("b", 0.0, True)]]


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
    assert took(rig, able, variant) == [[("a", 3.0, False)]]


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
    assert took(rig, able, variant) == [[("a", 3.0, False)]]
