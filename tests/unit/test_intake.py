"""Objects to publications: what waits for numbers, and what doesn't."""

from __future__ import annotations

import pytest

from reconciler.core.identity import JournalState
from reconciler.core.intake import Intake, IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import ObjectKey
from reconciler.core.policy.compiler import Compiler
from reconciler.testing.world import World


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
