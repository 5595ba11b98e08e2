"""A rollout and an agent over a line that breaks, with refusals that stand and time that passes."""

from __future__ import annotations

import random

from hypothesis import event, given
from hypothesis import strategies as st

from reconciler.core.resources import root
from reconciler.core.resources.build import NodeView
from reconciler.core.resources.types import RULE_SET
from reconciler.core.xds.rollout import RETRY_SECONDS
from tests.unit.rollout_rig import GRACE, Line

EMPTY = root.to_bytes(0)


class Run:
    def __init__(self, random: random.Random) -> None:
        self.random = random
        self.line = Line()
        self.served: dict[bytes, set[int]] = {EMPTY: {0}}  # root → revisions that had it
        view_of = self.line.rollout.view_of

        def noted(refused: frozenset[str]) -> NodeView:
            view = view_of(refused)
            self.served.setdefault(view.root, set()).add(view.revision)
            return view

        self.line.rollout.view_of = noted
        self.port = 100

    def step(self) -> None:
        line, choose = self.line, self.random
        kind = choose.choice(
            ("policy", "move", "read", "read", "read", "serve", "serve", "break", "wait", "poison")
        )
        if kind == "policy":
            self.port = choose.randrange(100, 106)
            line.world.policy(choose.randrange(2), self.port)
            line.publish()
        elif kind == "move":
            line.world.move(choose.randrange(2), bytes([10, 0, 1, choose.randrange(3)]))
            line.publish()
        elif kind == "read" and line.down:
            line.read()
        elif kind == "serve":
            line.serve()
        elif kind == "break":
            if not line.open:
                line.connect()
            elif choose.random() < 0.3:
                line.disconnect()
        elif kind == "wait":
            line.wait(choose.choice((1.0, GRACE, RETRY_SECONDS)))
        elif kind == "poison" and choose.random() < 0.5:
            names = [
                each.name
                for each in line.world.view(frozenset()).resources()
                if each.type_url == RULE_SET or choose.random() < 0.1
            ]
            line.agent.poison = set(choose.sample(names, choose.randrange(min(3, len(names)))))
        self.check()

    def check(self) -> None:
        """What is enforced was served as a whole, and not before what it is believed to be."""
        line = self.line
        enforced = root.to_bytes(root.total((*k, v) for k, v in line.agent.enforced.items()))
        assert enforced in self.served
        assert max(self.served[enforced]) >= line.rollout.floor
        assert line.rollout.committed <= max(self.served[enforced])

    def settle(self, rounds: int) -> None:
        for _ in range(rounds):
            if not self.line.open:
                self.line.connect()
            self.line.settle()
            self.check()
            self.line.wait(GRACE)
        if not self.line.open:
            self.line.connect()
        self.line.settle()
        self.check()


@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_it_reaches_the_newest_cut_when_nothing_is_refused_any_more(
    random: random.Random, steps: int
) -> None:
    run = Run(random)
    for _ in range(steps):
        run.step()
    event(f"from {run.line.rollout.state}")
    run.line.agent.poison.clear()
    run.settle(rounds=int(RETRY_SECONDS / GRACE) + 4)
    assert run.line.enforces()
    assert run.line.rollout.in_sync
    assert not run.line.rollout.alarm


@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_what_stays_refused_is_closed_and_everything_else_is_the_newest(
    random: random.Random, steps: int
) -> None:
    run = Run(random)
    for _ in range(steps):
        run.step()
    line = run.line
    if line.open:
        line.disconnect()  # what is staged already would be committed, refused or not
    rule_sets = {
        each.name for each in line.world.view(frozenset()).resources() if each.type_url == RULE_SET
    }
    line.agent.poison &= rule_sets
    # A node that enforces a rule set already is not sent it, and so has nothing to refuse.
    refused = line.agent.poison - {
        name for type_url, name in line.agent.enforced if type_url == RULE_SET
    }
    line.agent.poison &= refused
    run.settle(rounds=int(RETRY_SECONDS / GRACE) + 4)
    for _ in range(6):  # it may just be trying again
        if line.rollout.state in ("current", "closed-fallback"):
            break
        run.settle(rounds=1)
    event(f"{len(refused)} refused")
    assert line.enforces(frozenset(refused))
    assert line.rollout.state == ("closed-fallback" if refused else "current")
    assert bool(line.rollout.alarm) == bool(refused)
