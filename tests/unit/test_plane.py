"""The server's core: what it says of itself, and what it refuses before any node sees it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from reconciler.core.identity.beginning import DAY_ONE
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
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.effects import Close
from reconciler.server.journal import SqliteJournal
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


def bound(plane: ControlPlane) -> set[str]:
    """Namespaces with groups that the node is told the identity of."""
    view = plane.nodes.node("n1", 0.0).rollout.view_of(frozenset())
    read = (
        pb.Bindings.FromString(each.body)
        for each in view.resources()
        if each.type_url.endswith("Bindings")
    )
    return {each.namespace for each in read if each.bindings}


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


def test_labels_that_are_too_large_are_named_and_their_pods_closed() -> None:
    world = shop()
    world.namespace("shop", {f"example.com/label-number-{n:05}": "" for n in range(20_000)})
    world.namespace("other", {})
    world.pod("other", "web", "n1", {"app": "web"}, ["10.1.0.2"])
    plane, journal, seen = plane_with(world, capacity=1000)
    (alarm,) = (each for each in seen if isinstance(each, Alarm))
    assert (alarm.kind, alarm.object.partition("/")[0]) == ("oversized", "shop")
    assert alarm.text.startswith("Pod shop/web: needs 1340206 bytes")
    assert alarm.text.endswith(" of labels, the limit is 450000; closed, without an identity")
    assert len(alarm.text) < 200
    assert bound(plane) == {"other"}
    plane.objects_changed([world.pod("shop", "api", "n1", {"app": "web"}, ["10.1.0.3"])], 1.0)
    assert not plane.effects(), "said again"
    plane.objects_changed([world.namespace("shop", {})], 2.0)
    (write,) = (each for each in plane.effects() if isinstance(each, WriteJournal))
    plane.journal_written(journal.append(write.batch), 2.0)
    assert not plane.alarms
    assert bound(plane) == {"shop", "other"}


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


def plane_on(journal: SqliteJournal, world: World) -> ControlPlane:
    """One that has published all there is."""
    config = PlaneConfig(intake=IntakeConfig(filter=LabelFilter.default()))
    plane = ControlPlane(config, journal.open(), 0.0)
    plane.objects_changed(world.everything(), 0.0)
    for effect in plane.effects():
        if isinstance(effect, WriteJournal):
            plane.journal_written(journal.append(effect.batch), 0.0)
    return plane


def state_after_report(plane: ControlPlane, revision: int) -> str:
    """Of the rollout of a node that says that it enforces a cut of this revision."""
    client = Client("n1", 0.0)
    client.tick(0.0)
    plane.stream_opened(1, "n1", 1.0)
    for request in client.opened(Report(revision, b"r" * 32), 1.0):
        plane.received(1, request, 1.0)
    return plane.nodes.node("n1", 1.0).rollout.state


@pytest.mark.parametrize("reported", [5 << 32 | 9, 1 << 32 | 1, 60 << 32 | 7])
def test_a_node_of_before_is_served_from_a_journal_that_begins_anew(
    tmp_path: Path, reported: int
) -> None:
    """At revision 1 of epoch 1 too: what it enforces is not what has that number now."""
    journal = SqliteJournal(tmp_path / "journal", wall=lambda: DAY_ONE + 3600)
    plane = plane_on(journal, shop())
    assert plane.revision > reported
    assert state_after_report(plane, reported) == "staging"
    assert ("rollout", "n1") not in plane.alarms
    journal.close()


def test_a_node_ahead_of_the_journal_is_named_in_an_alarm(tmp_path: Path) -> None:
    """The clock was set back before the journal was lost."""
    journal = SqliteJournal(tmp_path / "journal", wall=lambda: 0.0)
    plane = plane_on(journal, shop())
    assert state_after_report(plane, 5 << 32 | 9) == "ahead"
    assert "newer than this server's" in plane.alarms["rollout", "n1"]
    journal.close()


def test_no_pair_names_two_label_sets_over_the_loss_of_a_journal(tmp_path: Path) -> None:
    pairs: dict[tuple[int, int], str] = {}
    clock = itertools.count(DAY_ONE, 60)
    for app in ("web", "db", "dns"):
        path = tmp_path / "journal"
        path.unlink(missing_ok=True)
        journal = SqliteJournal(path, wall=lambda: next(clock))
        world = World()
        world.node("n1", 1)
        world.namespace("shop", {})
        world.pod("shop", app, "n1", {"app": app}, ["10.1.0.1"])
        plane = plane_on(journal, world)
        live = plane.intake.allocator.live()
        assert [each.number for each in live.values()] == [256]
        for label_set, each in live.items():
            assert pairs.setdefault((each.number, each.birth), label_set) == label_set
        journal.close()
