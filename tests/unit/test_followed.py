"""A replica that follows says the same of what waits as the one that leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from reconciler.core.identity import (
    MAX_LABEL_SET_BYTES,
    Allocator,
    Entry,
    Followed,
    JournalState,
)
from reconciler.core.identity.journal import Phase
from reconciler.core.intake import Intake, IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.testing.world import World
from tests.unit.test_allocator import DB, DNS, WEB

OVERSIZED = "k8s:z=".ljust(MAX_LABEL_SET_BYTES, "z") + ";"
POOL = range(256, 258)


class Both:
    """Over one journal, of which both know all."""

    def __init__(self, *entries: Entry, pool: range = POOL) -> None:
        state = JournalState(1, 10, 256, entries)
        self.leader = Allocator(state, pool=pool, now=0.0)
        self.follower = Followed(state, pool=pool)

    def bind(self, *label_sets: str) -> None:
        self._each(lambda one: one.bind(label_sets, 0.0))

    def hold_back(self, numbers: Iterable[int]) -> None:
        self._each(lambda one: one.hold_back(numbers))

    def _each(self, call: Callable[[Allocator | Followed], None]) -> None:
        call(self.leader)
        call(self.follower)

    def unserved(self) -> bool:
        assert self.leader.unserved() == self.follower.unserved()
        assert self.leader.usage() == self.follower.usage()
        assert self.leader.alarm() == self.follower.alarm()
        return self.follower.unserved()

    def exhausted(self) -> list[str]:
        leading = [str(error) for error in self.leader.exhausted()]
        assert leading == [str(error) for error in self.follower.exhausted()]
        return leading

    def oversized(self) -> tuple[str, ...]:
        assert tuple(self.leader.oversized()) == tuple(self.follower.oversized())
        return tuple(self.follower.oversized())


def entry(number: int, label_set: str, phase: Phase = "active") -> Entry:
    return Entry(number, 3, label_set, phase)


def test_numbers_that_are_held_back_are_used() -> None:
    both = Both(entry(256, WEB))
    both.hold_back([257])
    both.bind(WEB, DB)
    assert not both.unserved()
    assert both.exhausted() == [f"label set {DB}: needs 3 identity numbers, the limit is 2"]
    both.hold_back([])
    assert both.unserved()
    assert not both.exhausted()
    both.hold_back([256, 300])
    assert both.unserved(), "256 is used anyhow, and 300 not of the pool"


def test_as_many_as_there_are_numbers_find_one() -> None:
    both = Both(entry(256, WEB))
    both.bind(WEB, DB, DNS)
    assert both.unserved()
    assert both.exhausted() == [f"label set {DNS}: needs 3 identity numbers, the limit is 2"]


def test_a_number_beyond_the_pool_uses_none_of_it() -> None:
    both = Both(entry(256, WEB), entry(700, DNS))
    both.bind(WEB, DNS, DB)
    assert both.unserved()
    assert not both.exhausted()


@pytest.mark.parametrize("label_set", [DB, OVERSIZED])
def test_one_that_comes_back_gets_its_own_number_of_a_pool_that_is_used_up(label_set: str) -> None:
    both = Both(entry(256, WEB), entry(257, label_set, "retiring"))
    both.bind(WEB, label_set)
    assert both.unserved()
    assert not both.exhausted()
    assert not both.oversized()


def test_one_that_is_too_large_holds_nothing_up() -> None:
    both = Both(entry(256, WEB))
    both.bind(WEB, OVERSIZED)
    assert not both.unserved()
    assert both.oversized() == (OVERSIZED,)
    both.follower.release([OVERSIZED], 0.0)
    both.leader.release([OVERSIZED], 0.0)
    assert not both.oversized()


def test_one_that_is_too_large_and_has_a_number_keeps_it() -> None:
    both = Both(entry(256, OVERSIZED))
    both.bind(OVERSIZED)
    assert not both.unserved()
    assert not both.oversized()


def test_what_is_held_back_stays_so_when_another_one_leads() -> None:
    """And nothing of it is given before who leads is told again."""
    config = IntakeConfig(filter=LabelFilter.default(), pool=POOL)
    state = JournalState(1, 10, 256)
    intake = Intake(config, state, 0.0, leading=False)
    world = World()
    intake.hold_back([256])
    intake.enqueue([world.pod("a", "p", "n1", {"app": "x"}, ["10.1.0.1"])], 0.0)
    intake.absorb(0.0)
    assert intake.publish(0.0) is None
    intake.hold_back(POOL)
    assert intake.publish(0.0) is not None
    intake.hold_back([256])
    intake.lead(state, 1.0)
    batch = intake.batch(1.0)
    assert batch is not None
    assert [number for number, _ in batch.allocate] == [257]
    intake.follow(state, 2.0)
    assert intake.allocator.usage() == (1, 2)
