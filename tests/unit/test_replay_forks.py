"""Copies that a replay takes of what it drives: what happens to one is not seen by the other."""

from __future__ import annotations

from typing import Any, cast

from reconciler.core.xds.codec import Encoder
from reconciler.core.xds.rollout import Rollout
from reconciler.testing.replay.stage_commit_ends import Server
from reconciler.testing.replay.stage_commit_worlds import Worlds


class Shown:
    """A view is what was asked for."""

    def view(self, *asked: Any) -> Any:
        return asked


def test_a_forked_rollout_is_led_by_what_is_published_to_it() -> None:
    server = Server(cast(Worlds, Shown()), Encoder(), ("one",), 1)
    fork = server.fork()
    fork.history = ("one", "two")
    fork.rollout.newest = 2
    nothing: frozenset[str] = frozenset()
    asked: tuple[Any, ...] = fork.rollout.view_of(nothing), server.rollout.view_of(nothing)
    assert asked == (("two", 2, nothing), ("one", 1, nothing))
    for name in Rollout.__slots__:
        of, other = getattr(server.rollout, name), getattr(fork.rollout, name)
        assert of is not other or not isinstance(of, dict | set | list), name
