"""What a replica recorded of its leaderships, for specs/trace/LeadershipTrace.tla."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from reconciler.core.trace import Event
from reconciler.formal.values import Value
from reconciler.testing.replay import Recorded

MAX_INT: Final = 2**31 - 1
"""TLC's largest: no bound."""


def _constants(events: Sequence[Event]) -> Mapping[str, Value]:
    return {"Replicas": frozenset({"replica"}), "MaxEpoch": MAX_INT}


TRACE: Final = Recorded(module="LeadershipTrace", process="server", constants=_constants)
