"""The allocator by example: one number a label set, given back late, when nobody uses it."""

from __future__ import annotations

import pytest

from reconciler.core.identity import (
    Allocator,
    Changes,
    Entry,
    Identity,
    JournalBatch,
    JournalState,
    apply_batch,
)
from reconciler.core.identity.allocator import DRAIN_STEP
from reconciler.errors import JournalConflict, JournalCorrupt, JournalError, ModelError

WEB, DB, DNS, JOB = "k8s:app=web;", "k8s:app=db;", "k8s:app=dns;", "k8s:app=job;"
EMPTY = JournalState(epoch=1, revision=10, cursor=256)
DRAIN = 30.0


class World:
    """An allocator with a journal in memory."""

    def __init__(self, state: JournalState = EMPTY, size: int = 3, max_batch: int = 5000) -> None:
        self.state, self.size, self.max_batch, self.now = state, size, max_batch, 0.0
        self.restart()

    def restart(self) -> None:
        self.allocator = Allocator(
            self.state,
            pool=range(256, 256 + self.size),
            drain_seconds=DRAIN,
            max_batch=self.max_batch,
            now=self.now,
        )

    def bind(self, *label_sets: str) -> None:
        self.allocator.bind(label_sets, self.now)

    def release(self, *label_sets: str) -> None:
        self.allocator.release(label_sets, self.now)

    def batch(self) -> JournalBatch:
        batch = self.allocator.next_batch(self.now)
        assert batch is not None
        return batch

    def nothing_to_write(self) -> bool:
        return self.allocator.next_batch(self.now) is None

    def commit(self, batch: JournalBatch) -> Changes:
        self.state = apply_batch(self.state, batch)
        return self.allocator.written(self.state.revision, self.now)

    def write(self) -> Changes:
        return self.commit(self.batch())

    def drained(self, *label_sets: str) -> Changes:
        """Release, wait for the drain time, write the retirement."""
        self.release(*label_sets)
        self.now += DRAIN
        return self.write()

    def freed(self, *label_sets: str) -> Changes:
        self.drained(*label_sets)
        self.allocator.published(self.state.revision)
        self.allocator.advance(self.now, self.state.revision)
        return self.write()

    def numbers(self) -> dict[str, int]:
        return {key: identity.number for key, identity in self.allocator.live().items()}


def test_one_batch_gives_numbers_with_the_revision_as_birth() -> None:
    world = World()
    world.bind(WEB, DB)
    assert world.allocator.identity(WEB) is None
    assert world.batch() == JournalBatch(
        epoch=1,
        expected=10,
        allocate=((256, WEB), (257, DB)),
        retire=(),
        revive=(),
        free=(),
        cursor=258,
    )
    assert world.allocator.live() == {}
    assert world.allocator.written(11, world.now) == Changes(
        activated=((WEB, Identity(256, 11)), (DB, Identity(257, 11)))
    )
    assert world.allocator.identity(DB) == Identity(257, 11)
    assert world.nothing_to_write()


def test_one_write_at_a_time() -> None:
    world = World()
    world.bind(WEB)
    first = world.batch()
    world.bind(DB)
    assert world.nothing_to_write()
    assert world.allocator.next_deadline(world.now) is None
    world.commit(first)
    assert world.allocator.next_deadline(world.now) == world.now
    assert world.batch().allocate == ((257, DB),)


def test_answer_without_a_write_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match=r"^no journal write is under way$"):
        World().allocator.written(11, 0.0)


def test_refused_write_changes_nothing_and_is_made_again() -> None:
    world = World()
    world.bind(WEB, DB, DNS)
    first = world.batch()
    world.release(DB)
    world.bind(JOB)
    world.allocator.refused("disk full")
    assert world.allocator.live() == {}
    assert world.allocator.usage() == (0, 3)
    assert world.batch().allocate == ((256, WEB), (257, DNS), (258, JOB))
    assert first.cursor == 256


def test_deposed_allocator_writes_no_more() -> None:
    world = World()
    world.bind(WEB)
    late = world.batch()
    world.state = JournalState(epoch=2, revision=10, cursor=256)
    with pytest.raises(JournalConflict) as conflict:
        apply_batch(world.state, late)
    assert str(conflict.value) == (
        "the journal is at epoch 2, revision 10; the write was made for epoch 1, revision 10: "
        "another server has taken over"
    )
    world.allocator.refused(str(conflict.value), deposed=True)
    assert world.allocator.deposed
    assert world.nothing_to_write()
    assert world.allocator.next_deadline(world.now) is None


def test_drain_time_then_retired_then_free() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.release(WEB)
    assert world.nothing_to_write()
    assert world.allocator.identity(WEB) == Identity(256, 11)
    assert world.allocator.next_deadline(world.now) == DRAIN
    world.now = DRAIN
    assert world.batch().retire == (256,)
    assert world.allocator.identity(WEB) is not None, "it is live until the journal says otherwise"
    world.state = apply_batch(world.state, JournalBatch(1, 11, (), (256,), (), (), 257))
    assert world.allocator.written(12, world.now).retired == (Identity(256, 11),)
    assert world.allocator.identity(WEB) is None
    world.allocator.advance(world.now, 1000)
    assert world.nothing_to_write(), "no cut without it is published"
    world.allocator.published(1001)
    assert world.nothing_to_write(), "a node may use an older cut"
    world.allocator.advance(world.now, 1001)
    assert world.allocator.usage() == (1, 3)
    assert world.write() == Changes(freed=(Identity(256, 11),))
    assert world.allocator.usage() == (0, 3)
    assert world.state.entries == ()


def test_label_sets_that_go_one_after_the_other_are_retired_together() -> None:
    """As those of a namespace that is deleted do; each write writes the whole journal."""
    world = World(size=50)
    names = [f"k8s:app=a{at};" for at in range(50)]
    world.bind(*names)
    world.write()
    for at, name in enumerate(names):
        world.now = 10.0 + at / 25
        world.release(name)
    writes = 0
    while (deadline := world.allocator.next_deadline(world.now)) is not None:
        world.now = deadline
        assert world.now <= 10.0 + 2.0 + DRAIN + DRAIN_STEP
        assert world.write().retired
        writes += 1
    assert world.allocator.live() == {}
    assert writes <= 3


def test_draining_label_set_comes_back_without_a_write() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.release(WEB)
    world.now += DRAIN - 1
    world.bind(WEB)
    world.now += DRAIN
    assert world.nothing_to_write()
    assert world.allocator.identity(WEB) == Identity(256, 11)


def test_drain_time_begins_anew_after_a_return() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.release(WEB)
    world.now += DRAIN - 1
    world.bind(WEB)
    world.release(WEB)
    world.now += DRAIN - 1
    assert world.nothing_to_write()
    world.now += 1
    assert world.batch().retire == (256,)


def test_retiring_label_set_gets_its_number_back_and_the_wait_is_void() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.allocator.published(1000)
    world.bind(WEB)
    world.allocator.advance(world.now, 1000)
    assert world.allocator.identity(WEB) is None
    assert world.batch().revive == (256,)
    world.state = apply_batch(world.state, JournalBatch(1, 12, (), (), (256,), (), 257))
    assert world.allocator.written(13, world.now).revived == ((WEB, Identity(256, 11)),)
    world.drained(WEB)
    assert world.nothing_to_write(), "the acknowledgements of its first leaving don't count"
    world.allocator.published(2000)
    assert world.nothing_to_write()
    world.allocator.advance(world.now, 2000)
    assert world.batch().free == (256,)


def test_recalled_and_released_before_the_write_goes_on_waiting() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.bind(WEB)
    world.allocator.published(1000)
    world.release(WEB)
    world.allocator.advance(world.now, 1000)
    assert world.batch().free == (256,)


def test_revived_before_a_cut_without_it_waits_for_one_the_next_time() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.bind(WEB)
    world.write()
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    world.drained(WEB)
    assert world.nothing_to_write(), "cut 1000 has it"


def test_later_cuts_do_not_prolong_the_wait() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.allocator.published(1000)
    world.allocator.published(2000)
    world.allocator.advance(world.now, 1000)
    assert world.batch().free == (256,)


def test_wanted_while_its_retirement_is_written() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.release(WEB)
    world.now += DRAIN
    batch = world.batch()
    world.bind(WEB)
    assert world.commit(batch).retired == (Identity(256, 11),)
    assert world.write().revived == ((WEB, Identity(256, 11)),)


def test_wanted_while_its_retirement_is_refused() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.release(WEB)
    world.now += DRAIN
    world.batch()
    world.bind(WEB)
    world.allocator.refused("disk full")
    assert world.nothing_to_write()
    assert world.allocator.identity(WEB) == Identity(256, 11)


def test_wanted_while_its_number_is_freed_gets_another() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    batch = world.batch()
    world.bind(WEB)
    assert world.commit(batch).freed == (Identity(256, 11),)
    assert world.write().activated == ((WEB, Identity(257, 14)),)


def test_released_while_reserving_leaves_by_the_one_way_out() -> None:
    world = World()
    world.bind(WEB)
    batch = world.batch()
    world.release(WEB)
    assert world.commit(batch).activated == ((WEB, Identity(256, 11)),)
    world.now += DRAIN
    assert world.write().retired == (Identity(256, 11),)


def test_released_while_reviving_drains_again() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.bind(WEB)
    batch = world.batch()
    world.release(WEB)
    assert world.commit(batch).revived == ((WEB, Identity(256, 11)),)
    assert world.allocator.next_deadline(world.now) == world.now + DRAIN
    world.now += DRAIN
    assert world.write().retired == (Identity(256, 11),)


def test_restart_adopts_and_renumbers_nothing() -> None:
    world = World()
    world.bind(WEB, DB)
    world.write()
    world.restart()
    assert world.numbers() == {WEB: 256, DB: 257}
    world.bind(WEB)
    world.now += DRAIN
    assert world.write().retired == (Identity(257, 11),)
    assert world.numbers() == {WEB: 256}


def test_restart_waits_anew() -> None:
    world = World()
    world.bind(WEB)
    world.write()
    world.drained(WEB)
    world.allocator.published(1000)
    world.restart()
    world.allocator.advance(world.now, 1000)
    assert world.nothing_to_write()
    world.allocator.published(2000)
    world.allocator.advance(world.now, 1999)
    assert world.nothing_to_write()
    world.allocator.advance(world.now, 2000)
    assert world.batch().free == (256,)


def test_numbers_come_back_as_late_as_they_can() -> None:
    world = World(size=4)
    world.bind(WEB, DB)
    world.write()
    world.freed(WEB)
    world.bind(DNS)
    world.write()
    world.restart()
    world.bind(JOB)
    world.write()
    assert world.numbers() == {DB: 257, DNS: 258, JOB: 259}
    world.bind(WEB)
    world.write()
    assert world.allocator.identity(WEB) == Identity(256, world.state.revision)


def test_numbers_before_the_cursor_are_found() -> None:
    world = World(size=4)
    world.bind(WEB, DB, DNS)
    world.write()
    world.freed(WEB, DB)
    world.bind(JOB, WEB, DB)
    world.write()
    assert world.numbers() == {DNS: 258, JOB: 259, WEB: 256, DB: 257}


def test_exhaustion_is_told_by_label_set_and_waits_in_order() -> None:
    world = World(size=2)
    world.bind(WEB, DB, DNS, JOB)
    assert len(world.write().activated) == 2
    assert [str(error) for error in world.allocator.exhausted()] == [
        f"label set {DNS}: needs 4 identity numbers, the limit is 2",
        f"label set {JOB}: needs 4 identity numbers, the limit is 2",
    ]
    assert world.allocator.next_deadline(world.now) is None
    world.freed(WEB)
    assert [error.object for error in world.allocator.exhausted()] == [f"label set {JOB}"]
    assert [key for key, _ in world.write().activated] == [DNS]
    assert world.numbers() == {DB: 257, DNS: 256}
    world.release(JOB)
    assert world.allocator.exhausted() == ()


def test_alarm_levels() -> None:
    world = World(size=10)
    levels = {}
    for index in range(10):
        world.bind(f"k8s:app=n{index};")
        world.write()
        levels[index + 1] = world.allocator.alarm()
    assert levels == {**dict.fromkeys(range(1, 8), 0), 8: 80, 9: 90, 10: 100}


def test_batches_are_limited_and_the_rest_follows() -> None:
    world = World(size=10, max_batch=2)
    world.bind(WEB, DB, DNS)
    assert [len(world.write().activated), len(world.write().activated)] == [2, 1]
    world.release(WEB, DB, DNS)
    world.now += DRAIN
    assert [len(world.write().retired), len(world.write().retired)] == [2, 1]
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    assert [len(world.write().freed), len(world.write().freed)] == [2, 1]
    assert world.nothing_to_write()


def test_numbers_outside_the_pool_are_kept_and_never_given() -> None:
    state = JournalState(3, 7, 9999, (Entry(300, 5, WEB, "active"), Entry(256, 6, DB, "active")))
    world = World(state)
    assert world.numbers() == {WEB: 300, DB: 256}
    assert world.allocator.usage() == (1, 3)
    world.bind(DB)
    world.now += DRAIN
    world.write()
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    world.write()
    world.bind("k8s:a=1;", "k8s:a=2;", "k8s:a=3;")
    world.write()
    assert set(world.numbers().values()) == {256, 257, 258}


def test_journal_with_a_number_twice_is_refused() -> None:
    twice = JournalState(1, 9, 256, (Entry(256, 5, WEB, "active"), Entry(256, 6, DB, "active")))
    with pytest.raises(JournalCorrupt, match=r"^the journal has number 256 or label set .* twice$"):
        World(twice)


def test_binding_twice_or_releasing_what_is_not_bound_is_a_bug_of_the_caller() -> None:
    world = World()
    with pytest.raises(ModelError, match=r"release is not allowed in state absent$"):
        world.release(WEB)
    world.bind(WEB)
    with pytest.raises(ModelError, match=r"bind is not allowed in state waiting$"):
        world.bind(WEB)


def test_cuts_are_published_in_order() -> None:
    world = World()
    world.allocator.published(7)
    with pytest.raises(ValueError, match=r"^cut 6 is published after 7$"):
        world.allocator.published(6)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (JournalBatch(1, 11, ((256, DB),), (), (), (), 0), f"number 256 or label set {DB}"),
        (JournalBatch(1, 11, ((257, WEB),), (), (), (), 0), f"number 257 or label set {WEB}"),
        (JournalBatch(1, 11, (), (300,), (), (), 0), "number 300 is not active"),
        (JournalBatch(1, 11, (), (), (256,), (), 0), "number 256 is not retiring"),
        (JournalBatch(1, 11, (), (), (), (256,), 0), "number 256 is not retiring"),
    ],
)
def test_journal_refuses_a_batch_that_contradicts_it(batch: JournalBatch, reason: str) -> None:
    state = JournalState(1, 11, 256, (Entry(256, 5, WEB, "active"),))
    with pytest.raises(JournalError, match=f"nothing was written: {reason}"):
        apply_batch(state, batch)
