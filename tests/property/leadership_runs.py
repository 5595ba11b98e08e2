"""Schedules of replicas that want to lead, by seed, and what each of them recorded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from reconciler.core.leadership import Leadership
from reconciler.core.trace import Event
from reconciler.formal.replay import Disabled
from reconciler.testing.replay.leadership import TIMES, Adapter
from reconciler.tracefile import Life

REPLICAS = ("r1", "r2", "r3")
STEPS = 60
ACTIONS = (
    *("Acquire", "Open", "Send", "Arrive", "Settle") * 2,
    *("Conflict", "Lose", "End", "OpenFails", "OpensLate"),
)
"""What leads somewhere more often than what ends it."""


def record(seed: int) -> Mapping[str, Life]:
    """What each replica of a run recorded, by a name with the seed."""
    chance = random.Random(seed)
    world = Adapter()
    world.start({"Replicas": frozenset(REPLICAS), "MaxEpoch": STEPS}, {})
    lives: dict[str, list[Event]] = {name: [] for name in REPLICAS}
    for name, replica in world.replicas.items():
        replica.core = Leadership(name, replica.now, TIMES, lives[name].append)
    taken = 0
    while taken < STEPS:
        action = chance.choice(ACTIONS)
        args: tuple[Any, ...] = () if action == "End" else (chance.choice(REPLICAS),)
        if action in ("OpenFails", "OpensLate"):
            args = (*args, chance.random() < 0.5)
        try:
            world.step(action, args)
        except Disabled:
            continue
        taken += 1
    return {
        f"leaders {seed}, {name}": Life("server", "server", 2, tuple(events))
        for name, events in lives.items()
    }
