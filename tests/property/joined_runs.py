"""Schedules of the joined cluster by seed: fast, not shrunk, and repeatable by number.

    python -m tests.property.joined_runs SECONDS [FIRST]

runs seeds from FIRST on until a rule falls (exit code 1, the seed and what fell) or time is up.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from reconciler.testing.joined import Joined
from reconciler.testing.scenario import Player, parse, play
from reconciler.tracefile import Life
from tests.property.joined_rules import ACTIONS, SCENARIOS, Rules, Step, settle, take
from tests.property.test_joined import cluster

STORIES = sorted((Path(__file__).parents[1] / "scenarios").glob("*.scenario"))


def run(seed: int) -> None:
    steps, joined, rules = schedule(seed)
    for step in steps:
        take(joined, rules, step)
    settle(joined, rules)


def schedule(seed: int, *, record: bool = False) -> tuple[list[Step], Joined, Rules]:
    chance = random.Random(seed)
    pool = chance.choice([4, 6, 40])
    scope = chance.choice(["all", "selected"])
    steps = [
        (chance.choice(ACTIONS), chance.randrange(12), chance.randrange(12))
        for _ in range(chance.randrange(8, 50))
    ]
    joined, rules = cluster(pool, scope, chance.choice([20, 60, 262_144]), record=record)
    return steps, joined, rules


class Blind(Rules):
    """Looks at nothing: what is wrong must show in what the processes record."""

    def check(self, *, open_all: bool = False) -> None:
        pass

    def node(self, name: str, *, open_all: bool = False) -> None:
        pass


def record(seed: int, *failures: type[Exception]) -> Mapping[str, Life]:
    """What each process of a run recorded, from each of its starts, by a name with the seed.

    failures: what may end the run early. That it settles is not for traces to say.
    """
    steps, joined, _ = schedule(seed, record=True)
    blind = Blind(joined)
    with contextlib.suppress(*failures):
        for step in steps:
            take(joined, blind, step)
        with contextlib.suppress(AssertionError):
            settle(joined, blind)
    return lives(f"seed {seed}", joined)


def record_story(path: Path, *failures: type[Exception]) -> Mapping[str, Life]:
    """The same of a story."""
    head, *lines = parse(path.read_text(), path.name)
    player = Player(head, record=True)
    player.rules = Blind(player.joined)
    with contextlib.suppress(*failures):
        for line in lines:
            player.take(line)
    return lives(path.stem, player.joined)


def lives(name: str, joined: Joined) -> Mapping[str, Life]:
    return {
        f"{name}, {head.process} {head.name}, life {number}": Life(
            head.process, head.name, 2, tuple(events)
        )
        for number, (head, events) in enumerate(joined.lives, 1)
    }


def main(seconds: float, first: int) -> int:
    end = time.monotonic() + seconds
    for path in STORIES:
        broken = play(parse(path.read_text(), path.name))
        if broken is not None:
            print(f"{path.name}: {broken.text}")
            return 1
    for scenario in SCENARIOS:
        try:
            scenario(*cluster(40))
        except Exception as error:
            print(f"{scenario.__name__}: {type(error).__name__}: {error}")
            return 1
    seed = first
    while time.monotonic() < end:
        try:
            run(seed)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return 1
        seed += 1
    print(f"seeds {first}..{seed - 1}: every rule held")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
