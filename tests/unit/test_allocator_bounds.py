"""What the allocator leaves alone, and how much it writes at once."""

from __future__ import annotations

from tests.unit.test_allocator import DB, DNS, DRAIN, JOB, WEB, World


def test_batch_is_bounded_by_what_one_object_may_hold() -> None:
    world = World(size=100)
    large = [f"k8s:{letter}={letter * 150_000};" for letter in "abcdef"]
    huge = f"k8s:z={'z' * 700_000};"
    world.bind(*large[:5], huge, large[5])
    given = [[label_set for label_set, _ in world.write().activated] for _ in range(4)]
    assert given == [large[:3], large[3:5], [huge], large[5:]]


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
