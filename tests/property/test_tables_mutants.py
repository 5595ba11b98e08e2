"""The property test of the tables notices what it is there for: each rule is broken once.

Each break is one that leaves the code running. At least one of the seeds must then show a verdict
that is not the one of the cut in force, or leftovers.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from reconciler.core.dataplane.mirror import Mirror, Pool
from reconciler.core.dataplane.tables import Tables
from reconciler.core.dataplane.view import View
from tests.property.cuts import World
from tests.property.test_tables import ROOMY, Node, drive

SEEDS = range(40)
Patch = Callable[[pytest.MonkeyPatch], None]


def new_keys_have_no_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mirror, "covered", lambda self, prefix, half: 0)


def leaving_keys_keep_their_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tables, "_cover", lambda self, keys: None)


def halves_are_not_made_equal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tables, "_equalise", lambda self: None)


def births_do_not_count(patch: pytest.MonkeyPatch) -> None:
    row, groups = View.row, View.bound_groups

    def blind(self: View, group: Any) -> Any:
        peer, ingress, egress = row(self, group)
        return ((peer[0], 1) if isinstance(peer, tuple) else peer), ingress, egress

    def bound(self: View, peer: Any) -> Any:
        if isinstance(peer, tuple):
            return [name for _, name in self.groups_of.get(peer[0]) or ()]
        return groups(self, peer)

    patch.setattr(View, "row", blind)
    patch.setattr(View, "bound_groups", bound)


def peers_in_force_are_changed_in_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tables, "_peer_seen", lambda self, peer: False)


def rule_sets_in_force_are_changed_in_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tables, "_rules_seen", lambda self, name: False)


def indices_are_free_before_the_flip(patch: pytest.MonkeyPatch) -> None:
    stage = Tables.stage

    def early(self: Tables, *args: Any, **kwargs: Any) -> Any:
        ops = stage(self, *args, **kwargs)
        self._free_groups()
        return ops

    patch.setattr(Tables, "stage", early)


def indices_are_given_twice(patch: pytest.MonkeyPatch) -> None:
    take = Pool.take
    patch.setattr(Pool, "take", lambda self: min(take(self) or 0, 20))


def nothing_is_rolled_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mirror, "undo", lambda self: self.keep() or [])


BREAKS: tuple[Patch, ...] = (
    new_keys_have_no_answer,
    leaving_keys_keep_their_answer,
    halves_are_not_made_equal,
    births_do_not_count,
    peers_in_force_are_changed_in_place,
    rule_sets_in_force_are_changed_in_place,
    indices_are_free_before_the_flip,
    indices_are_given_twice,
    nothing_is_rolled_back,
)


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda patch: patch.__name__)
def test_a_broken_rule_is_noticed(break_it: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    for seed in SEEDS:
        random = Random(seed)
        try:
            drive(Node(random, ROOMY), World(random), 7)
        except (AssertionError, KeyError):
            return
    pytest.fail("no schedule shows it")
