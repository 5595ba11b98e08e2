"""Objects to publications: what waits for numbers, and what doesn't."""

from __future__ import annotations

import pytest

from reconciler.core.identity import MAX_LABEL_SET_BYTES, JournalState
from reconciler.core.intake import Intake, IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import (
    LabelSelector,
    NetworkPolicy,
    NetworkPolicySpec,
    ObjectKey,
    ObjectMeta,
)
from reconciler.core.policy.compiler import Compiler
from reconciler.testing.world import World

POLICY = NetworkPolicy(
    metadata=ObjectMeta(name="policy", namespace="a"),
    spec=NetworkPolicySpec(pod_selector=LabelSelector(), policy_types=("Ingress",)),
)


class Rig:
    """An intake whose journal takes every write when asked to."""

    def __init__(self) -> None:
        config = IntakeConfig(filter=LabelFilter.default(), drain_seconds=5.0)
        self.intake = Intake(config, JournalState(epoch=1, revision=0, cursor=256), 0.0)
        self.world = World()
        self.revision = 0
        self.cut = 0

    def write(self, now: float) -> bool:
        """Begin the write that is due."""
        self.intake.absorb(now)
        return self.intake.batch(now) is not None

    def answer(self, now: float) -> None:
        self.revision += 1
        self.intake.written(self.revision, now)

    def publish(self, now: float) -> bool:
        if self.intake.publish(now) is None:
            return False
        self.cut += 1
        self.intake.allocator.published(self.cut)
        return True

    def settle(self, now: float) -> None:
        while self.write(now):
            self.answer(now)
            self.publish(now)


def one_pod() -> Rig:
    rig = Rig()
    pod = rig.world.pod("a", "p", "n1", {"app": "x"}, ["10.1.0.1"])
    rig.intake.enqueue([rig.world.namespace("a", {}), pod], 0.0)
    return rig


def test_nothing_is_published_before_its_numbers_are_journaled() -> None:
    rig = one_pod()
    assert rig.write(0.0)
    assert not rig.publish(0.0)
    rig.answer(0.0)
    assert rig.publish(0.0)
    (group,) = rig.intake.cluster.groups
    assert rig.intake.binding(group) is not None


def test_changes_behind_a_write_wait_for_it() -> None:
    rig = one_pod()
    assert rig.write(0.0)
    rig.intake.enqueue([rig.world.pod("a", "q", "n1", {"app": "y"}, ["10.1.0.2"])], 0.0)
    rig.intake.absorb(0.0)
    assert rig.intake.queued == 1
    assert "a/q" not in rig.intake.cluster.endpoints
    rig.answer(0.0)
    rig.publish(0.0)
    rig.intake.absorb(0.0)
    assert "a/q" in rig.intake.cluster.endpoints


def test_a_label_set_that_returns_while_its_number_is_freed_waits_for_another() -> None:
    rig = one_pod()
    rig.settle(0.0)
    gone = rig.world.delete(ObjectKey("Pod", "a", "p"))
    assert gone is not None
    rig.intake.enqueue([gone], 1.0)
    rig.intake.absorb(1.0)
    rig.publish(1.0)
    assert rig.write(10.0)  # retires
    rig.answer(10.0)
    rig.publish(10.0)
    rig.intake.allocator.advance(11.0, rig.cut)
    assert rig.write(11.0)  # frees
    rig.intake.enqueue([rig.world.pod("a", "p", "n1", {"app": "x"}, ["10.1.0.1"])], 11.0)
    rig.intake.absorb(11.0)
    assert not rig.publish(11.0), "published without a number, although numbers are free"
    rig.answer(11.0)
    assert rig.write(11.0)
    rig.answer(11.0)
    assert rig.publish(11.0)
    (group,) = rig.intake.cluster.groups
    assert rig.intake.binding(group) is not None


def test_a_deposed_server_publishes_nothing() -> None:
    rig = one_pod()
    assert rig.write(0.0)
    rig.intake.refused("another server has taken over", deposed=True)
    assert not rig.publish(0.0)


def test_a_publication_that_fails_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = one_pod()
    assert rig.write(0.0)
    rig.answer(0.0)

    def fail(*args: object, **named: object) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(Compiler, "apply", fail)
        with pytest.raises(ValueError, match="a bug"):
            rig.intake.publish(0.0)
    assert not rig.intake.settled
    published = rig.intake.publish(0.0)
    assert published is not None
    assert published.namespaces == {"a"}
    assert published.endpoints == {"a/p"}
    assert published.identities == {256}


LARGE = {f"example.com/label-number-{n:05}": "" for n in range(20_000)}
"""Labels of a namespace; 1.2 MB as part of a label set."""


def test_a_label_set_that_is_too_large_holds_nothing_up() -> None:
    rig = Rig()
    rig.intake.room(0, 1_377_000)
    world = rig.world
    changes = [
        world.namespace("a", LARGE),
        world.namespace("b", {}),
        world.pod("a", "p", "n1", {"app": "x"}, ["10.1.0.1"]),
        world.pod("a", "q", "n1", {"app": "x"}, ["10.1.0.2"]),
        world.pod("b", "p", "n1", {"app": "x"}, ["10.1.0.3"]),
    ]
    rig.intake.enqueue(changes, 0.0)
    assert rig.write(0.0)
    rig.answer(0.0)
    assert rig.publish(0.0)
    assert set(rig.intake.cluster.endpoints) == {"a/p", "a/q", "b/p"}
    bound = {group.partition("/")[0]: rig.intake.binding(group) for group in rig.intake._set_of}
    assert bound["a"] is None
    assert bound["b"] is not None
    (group,) = rig.intake.oversized()
    error = rig.intake.oversize(group)
    assert group.startswith("a/")
    assert error.object == "Pod a/p and 1 of the same labels"
    assert (error.needed > 1_200_000, error.limit) == (True, MAX_LABEL_SET_BYTES)

    rig.intake.enqueue([world.namespace("a", {})], 1.0)
    assert rig.write(1.0)
    assert not rig.intake.oversized()
    rig.answer(1.0)
    assert rig.publish(1.0)
    assert rig.intake.binding(group) is not None


def test_what_waits_can_go_away_while_the_journal_refuses() -> None:
    rig = one_pod()
    for now in (0.0, 1.0):
        assert rig.write(now)
        rig.intake.enqueue([rig.world.pod("a", f"q{now}", "n1", {"app": f"y{now}"}, [])], now)
        rig.intake.absorb(now)
        assert rig.intake.queued == 1, "a write is under way"
        rig.intake.refused("disk is full", deposed=False)
        rig.intake.absorb(now)
        assert rig.intake.queued == 0
        assert not rig.publish(now), "published without numbers, although there are some"
    for name in ("p", "q0.0", "q1.0"):
        gone = rig.world.delete(ObjectKey("Pod", "a", name))
        assert gone is not None
        rig.intake.enqueue([gone], 2.0)
    rig.intake.enqueue([rig.world.policy(POLICY)], 2.0)
    rig.intake.absorb(2.0)
    assert rig.publish(2.0)
    assert "a/policy" in rig.intake.cluster.policies


def test_a_journal_that_takes_writes_again_is_waited_for_again() -> None:
    rig = one_pod()
    assert rig.write(0.0)
    rig.intake.refused("disk is full", deposed=False)
    assert rig.write(1.0)
    rig.answer(1.0)
    rig.intake.enqueue([rig.world.pod("a", "q", "n1", {"app": "y"}, ["10.1.0.2"])], 1.0)
    assert rig.publish(1.0), "what has its numbers does not wait for newer changes"
