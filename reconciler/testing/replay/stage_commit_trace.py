"""Code → spec for specs/StageCommit.tla: what rollouts and cut machines record.

A trace of the server is one node's, one of an agent is one process's. Contents are roots there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core.trace import Event
from reconciler.formal.values import Value
from reconciler.testing.replay import Recorded, by
from reconciler.testing.replay.shortened import cuts, revisions


def _none(events: Sequence[Event]) -> Mapping[str, Value]:
    return {}


def _short(events: Sequence[Event]) -> Sequence[Event]:
    return cuts(revisions("at")(events))


TRACE = (
    Recorded("StageCommitServerTrace", "server", _none, split=by("node"), short=_short),
    Recorded("StageCommitAgentTrace", "agent", _none, short=cuts),
)
