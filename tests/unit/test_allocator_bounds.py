"""What the allocator leaves alone, and how much it writes at once."""

from __future__ import annotations

from reconciler.core.identity import MAX_LABEL_SET_BYTES, Entry, JournalState
from reconciler.core.identity.allocator import ENTRY_BYTES, WAVE_BYTES
from tests.unit.test_allocator import DB, DNS, DRAIN, JOB, WEB, World


def test_batch_is_bounded_by_what_one_object_may_hold() -> None:
    world = World(size=100)
    large = [f"k8s:{letter}={letter * 150_000};" for letter in "abcdef"]
    larger = f"k8s:z={'z' * 400_000};"
    world.bind(*large[:5], larger, large[5])
    given = [[label_set for label_set, _ in world.write().activated] for _ in range(3)]
    assert given == [large[:3], large[3:5], [larger, large[5]]]


def test_numbers_that_are_held_back_are_neither_given_nor_taken_back() -> None:
    world = World(size=4)
    world.bind(WEB, DB)
    world.write()
    world.allocator.hold_back([256, 258])
    world.release(WEB, DB)
    world.now += DRAIN
    assert [identity.number for identity in world.write().retired] == [257]
    assert world.allocator.identity(WEB) is not None
    world.bind(DNS, JOB)
    assert [identity.number for _, identity in world.write().activated] == [259]
    assert [error.object for error in world.allocator.exhausted()] == [f"label set {JOB}"]
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    world.allocator.hold_back([256, 257, 258])
    assert world.nothing_to_write()
    assert world.allocator.next_deadline(world.now) is None
    world.allocator.hold_back([])
    assert world.allocator.next_deadline(world.now) == world.now
    changes = world.write()
    assert [identity.number for identity in changes.freed] == [257]
    assert [identity.number for identity in changes.retired] == [256]
    assert [identity.number for _, identity in changes.activated] == [258]


def test_number_that_is_held_back_while_it_is_given_or_freed() -> None:
    world = World(size=3)
    world.bind(WEB)
    batch = world.batch()
    world.allocator.hold_back([256])
    world.commit(batch)
    assert world.allocator.usage() == (1, 3)
    world.allocator.hold_back([])
    world.release(WEB)
    world.now += DRAIN
    world.write()
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    batch = world.batch()
    world.allocator.hold_back([256])
    assert [identity.number for identity in world.commit(batch).freed] == [256]
    assert world.allocator.usage() == (1, 3), "set aside is not free"
    world.allocator.hold_back([])
    assert world.allocator.usage() == (0, 3)


def _large(count: int) -> list[str]:
    """Each takes a tenth of a wave."""
    size = WAVE_BYTES // 10 - ENTRY_BYTES
    return [f"k8s:n{n:03}=".ljust(size - 1, "x") + ";" for n in range(count)]


def test_no_more_is_given_than_the_journal_has_room_for() -> None:
    world = World(size=100)
    label_sets = _large(25)
    world.allocator.room(world.state.revision, WAVE_BYTES)
    world.bind(*label_sets)
    assert [each for each, _ in world.write().activated] == label_sets[:10]
    # What it was told of is used up; it waits to be told of more, and asks for no turn of its own
    assert world.nothing_to_write()
    assert world.allocator.next_deadline(world.now) is None
    assert world.allocator.unserved()
    world.allocator.room(world.state.revision, WAVE_BYTES - 1)
    assert world.nothing_to_write(), "less than a wave, and more than that is waiting"
    assert world.allocator.next_deadline(world.now) is None
    world.allocator.room(world.state.revision, WAVE_BYTES)
    assert world.allocator.next_deadline(world.now) == world.now
    assert [each for each, _ in world.write().activated] == label_sets[10:20]
    world.allocator.room(world.state.revision, WAVE_BYTES // 2)
    assert [each for each, _ in world.write().activated] == label_sets[20:], "all that waits fits"
    assert not world.allocator.unserved()


def test_numbers_are_taken_back_while_there_is_no_room_to_give_any() -> None:
    world = World(size=100)
    world.bind(WEB)
    world.write()
    world.allocator.room(world.state.revision, 0)
    world.bind(DB)
    assert world.nothing_to_write()
    world.release(WEB)
    world.now += DRAIN
    batch = world.batch()
    assert (batch.retire, batch.allocate) == ((256,), ())
    world.commit(batch)
    assert world.nothing_to_write()


def test_room_that_is_told_of_while_a_write_is_under_way() -> None:
    label_sets = _large(40)
    for told_after in (False, True):
        world = World(size=100)
        world.allocator.room(world.state.revision, WAVE_BYTES)
        world.bind(*label_sets)
        batch = world.batch()
        revision = world.state.revision
        # Either the journal doesn't have the write yet, or it does and the answer is on its way
        world.allocator.room(revision + told_after, 2 * WAVE_BYTES)
        world.commit(batch)
        world.allocator.room(revision, 9 * WAVE_BYTES)  # of an older revision: no news
        assert len(world.write().activated) == (20 if told_after else 10)


OVERSIZED = "k8s:z=".ljust(MAX_LABEL_SET_BYTES, "z") + ";"


def test_label_set_that_no_journal_can_hold_is_refused_and_others_go_on() -> None:
    world = World(size=100)
    largest = OVERSIZED[1:]
    assert len(largest) == MAX_LABEL_SET_BYTES
    world.bind(OVERSIZED, WEB)
    assert tuple(world.allocator.oversized()) == (OVERSIZED,)
    assert world.numbers() == {}
    assert [label_set for label_set, _ in world.write().activated] == [WEB]
    assert not world.allocator.unserved()
    assert world.allocator.next_deadline(world.now) is None
    world.release(OVERSIZED)
    assert not tuple(world.allocator.oversized())
    world.bind(largest)
    assert [label_set for label_set, _ in world.write().activated] == [largest]


def test_largest_label_set_waits_for_room_and_is_not_refused_by_the_journal() -> None:
    world = World(size=100)
    largest = OVERSIZED[1:]
    world.allocator.room(world.state.revision, MAX_LABEL_SET_BYTES)
    world.bind(largest, WEB)
    assert world.nothing_to_write()
    assert world.allocator.next_deadline(world.now) is None, "asked again and again"
    world.allocator.room(world.state.revision, MAX_LABEL_SET_BYTES + ENTRY_BYTES)
    assert world.allocator.next_deadline(world.now) == world.now
    assert [label_set for label_set, _ in world.write().activated] == [largest]


def test_label_set_that_is_too_large_keeps_the_number_that_it_has() -> None:
    """As one that another writer gave it, before there was a bound."""
    held = Entry(256, 3, OVERSIZED, "active")
    world = World(JournalState(1, 10, 257, (held,)))
    world.bind(OVERSIZED)
    world.now += DRAIN
    assert world.nothing_to_write()
    world.drained(OVERSIZED)
    world.bind(OVERSIZED)
    batch = world.batch()
    assert batch.revive == (256,)
    world.commit(batch)
    world.drained(OVERSIZED)
    world.allocator.published(1000)
    world.allocator.advance(world.now, 1000)
    batch = world.batch()
    assert batch.free == (256,)
    world.bind(OVERSIZED)
    world.commit(batch)
    assert world.nothing_to_write()
    assert not world.allocator.unserved()
    assert tuple(world.allocator.oversized()) == (OVERSIZED,)
