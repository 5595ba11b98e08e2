"""The server's core: what it says of itself, and what it refuses before any node sees it."""

from __future__ import annotations

from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import (
    Delete,
    LabelSelector,
    NetworkPolicy,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
    ObjectKey,
    ObjectMeta,
)
from reconciler.core.plane import Alarm, ControlPlane, PlaneConfig, WriteJournal
from reconciler.core.policy.ir import Direction
from reconciler.core.resources.build import CLOSED
from reconciler.core.xds.effects import Close
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.world import World
from reconciler.wire import resources_pb2 as pb


def plane_with(world: World, capacity: int) -> tuple[ControlPlane, MemoryJournal, list[object]]:
    journal = MemoryJournal()
    config = PlaneConfig(
        intake=IntakeConfig(filter=LabelFilter.default()), policy_capacity=capacity
    )
    plane = ControlPlane(config, journal.open(), 0.0)
    plane.objects_changed(world.everything(), 0.0)
    seen: list[object] = []
    while effects := plane.effects():
        for effect in effects:
            seen.append(effect)
            if isinstance(effect, WriteJournal):
                plane.journal_written(journal.append(effect.batch), 0.0)
    return plane, journal, seen


def shop() -> World:
    world = World()
    world.node("n1", 1)
    world.namespace("shop", {})
    world.pod("shop", "web", "n1", {"app": "web"}, ["10.1.0.1"])
    peers = (NetworkPolicyPeer(pod_selector=LabelSelector(match_labels={"app": "web"})),)
    ports = tuple(NetworkPolicyPort(protocol="TCP", port=port) for port in range(81, 121, 2))
    spec = NetworkPolicySpec(
        pod_selector=LabelSelector(),
        policy_types=("Ingress",),
        ingress=(NetworkPolicyIngressRule(peers=peers, ports=ports),),
    )
    world.policy(NetworkPolicy(metadata=ObjectMeta(name="many", namespace="shop"), spec=spec))
    return world


def ingress_of(plane: ControlPlane) -> str:
    node = plane.nodes.node("n1", 0.0)
    view = node.rollout.view_of(frozenset())
    (policy,) = (each for each in view.resources() if each.type_url.endswith("Policy"))
    return pb.Policy.FromString(policy.body).ingress


def test_a_rule_set_beyond_the_capacity_is_closed_and_named() -> None:
    plane, _, seen = plane_with(shop(), capacity=10)
    alarms = [each for each in seen if isinstance(each, Alarm) and each.kind == "capacity"]
    assert len(alarms) == 1
    assert "NetworkPolicy shop/many" in alarms[0].text
    assert "the limit is 10" in alarms[0].text
    assert ingress_of(plane) == CLOSED[Direction.INGRESS]


def test_a_rule_set_near_the_capacity_is_served_and_named() -> None:
    world = shop()
    for capacity, text in ((25, "80 % or more of the 25"), (22, "90 % or more of the 22")):
        plane, _, seen = plane_with(world, capacity)
        (alarm,) = (each for each in seen if isinstance(each, Alarm))
        assert (alarm.kind, text in alarm.text) == ("filling", True)
        assert "NetworkPolicy shop/many" in alarm.text
        assert ingress_of(plane) != CLOSED[Direction.INGRESS]
    assert plane.alarms
    gone = world.delete(ObjectKey("NetworkPolicy", "shop", "many"))
    assert gone is not None
    plane.objects_changed([gone], 1.0)
    assert not plane.alarms


def test_the_use_of_numbers_is_said_at_each_level_once() -> None:
    world = World()
    world.node("n1", 1)
    world.namespace("shop", {})
    config = PlaneConfig(intake=IntakeConfig(filter=LabelFilter.default(), pool=range(256, 266)))
    journal = MemoryJournal()
    plane = ControlPlane(config, journal.open(), 0.0)
    plane.objects_changed(world.everything(), 0.0)
    said: list[str] = []
    for i in range(11):
        change = world.pod("shop", f"p{i}", "n1", {"app": f"a{i}"}, [f"10.1.0.{i + 1}"])
        plane.objects_changed([change], float(i))
        while effects := plane.effects():
            for effect in effects:
                if isinstance(effect, Alarm) and effect.kind == "identities":
                    said.append(effect.text)
                if isinstance(effect, WriteJournal):
                    plane.journal_written(journal.append(effect.batch), float(i))
    assert [text.partition(" of ")[0] for text in said] == ["80 %", "90 %", "100 %"]


def test_within_the_capacity_it_is_served() -> None:
    plane, _, seen = plane_with(shop(), capacity=1000)
    assert not [each for each in seen if isinstance(each, Alarm)]
    assert ingress_of(plane) != CLOSED[Direction.INGRESS]


def test_a_node_that_comes_after_the_last_publication_gets_the_newest_view() -> None:
    plane, _, _ = plane_with(shop(), capacity=1000)
    plane.stream_opened(1, "stranger", 1.0)
    node = plane.nodes.get("stranger")
    assert node is not None
    assert node.rollout.newest == plane.revision


def test_a_malformed_frame_ends_its_stream_only() -> None:
    plane, _, _ = plane_with(shop(), capacity=1000)
    plane.stream_opened(1, "n1", 1.0)
    plane.stream_opened(2, "n2", 1.0)
    plane.received(1, b"\xff\xff", 1.0)
    closed = [each for each in plane.effects() if isinstance(each, Close)]
    assert [(each.stream, each.status) for each in closed] == [(1, "INVALID_ARGUMENT")]
    assert len(plane.streams) == 1


def test_the_api_server_has_an_identity_of_its_own_where_it_is_on_a_node() -> None:
    world = shop()
    world.node("n2", 2)
    world.api_server("192.168.0.2", "203.0.113.9")
    plane, _, _ = plane_with(world, capacity=512)

    def told() -> list[bytes]:
        view = plane.nodes.node("n1", 0.0).rollout.view_of(frozenset())
        messages = [
            pb.AddressGroup.FromString(each.body)
            for each in view.resources()
            if each.name.startswith("reserved/kube-apiserver/")
        ]
        return [message.ipv4 for message in messages]

    # The other one is outside of the cluster: the world, which policies name by CIDR.
    assert told() == [bytes([192, 168, 0, 2])]
    plane.objects_changed([world.api_server("192.168.0.1")], 1.0)
    assert told() == [bytes([192, 168, 0, 1])]
    plane.objects_changed([Delete(ObjectKey("EndpointSlice", "default", "kubernetes"))], 2.0)
    assert told() == []
