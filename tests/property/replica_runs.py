"""Schedules of several replicas by seed, and what each of them recorded."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from reconciler.core.trace import Event, Trace
from reconciler.tracefile import Life
from tests.property.replicas import KINDS
from tests.property.test_replicas import NAMESPACES, NODES, Replicas


class Recording(Replicas):
    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, list[Event]] = {}

    def life(self, name: str) -> Trace | None:
        return self.lives.setdefault(name, []).append


def record(seed: int) -> Mapping[str, Life]:
    """What each replica of a run recorded, by a name with the seed."""
    chance = random.Random(seed)
    world = Recording()
    world.begin()
    for _ in range(chance.randrange(10, 60)):
        chance.choice(STEPS)(world, chance)
        world.no_replica_goes_back()
        world.what_is_published_follows_from_the_position_alone()
        world.a_node_enforces_a_published_cut()
    world.settle()
    return {
        f"replicas {seed}, {name}": Life("server", "server", 2, tuple(events))
        for name, events in world.lives.items()
    }


def _relabel(world: Replicas, chance: random.Random) -> None:
    world.relabel(chance.choice(NAMESPACES), chance.choice(("one", "two")))


def _pod(world: Replicas, chance: random.Random) -> None:
    where = chance.choice(NAMESPACES), chance.choice("pq")
    world.pod(*where, chance.choice(NODES), {"app": chance.choice("xyz")})


STEPS: tuple[Callable[[Replicas, random.Random], None], ...] = (
    _relabel,
    _pod,
    _pod,
    lambda world, chance: world.pod_gone(chance.choice(NAMESPACES), chance.choice("pq")),
    lambda world, chance: world.deliver(
        chance.randrange(9), chance.choice(KINDS), chance.randint(1, 4)
    ),
    lambda world, chance: world.catch_up(chance.randrange(9), chance.random() < 0.5),
    lambda world, chance: world.write(chance.random() < 0.5),
    lambda world, chance: world.elect(chance.randrange(9)),
    lambda world, chance: world.stand_down(chance.randrange(9)),
    lambda world, chance: world.reports(),
    lambda world, chance: world.crash(chance.randrange(9), chance.random() < 0.5),
    lambda world, chance: world.time(chance.choice((1.0, 20.0, 60.0))),
    lambda world, chance: world.connect(
        chance.choice(NODES), chance.randrange(9), chance.choice((0, 3, 99))
    ),
    lambda world, chance: world.disconnect(chance.choice(NODES)),
    lambda world, chance: world.answer(chance.choice(NODES), chance.choice((1, 4, 99))),
    lambda world, chance: world.quiet(chance.choice((*NODES, "")), chance.random() < 0.5),
)
