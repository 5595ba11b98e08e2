"""What servers and agents recorded of streams, for specs/trace/Xds*Trace.tla."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from reconciler.core.trace import Event
from reconciler.core.xds.subscription import WILDCARD
from reconciler.formal.values import Record, Value
from reconciler.testing.replay import Recorded, by
from reconciler.testing.replay.shortened import cuts

MAX_INT: Final = 2**31 - 1
"""TLC's largest: no bound."""

_UNUSED: Final[Mapping[str, Value]] = {
    "Servers": frozenset({"server"}),
    "NameOrder": (),
    "Star": WILDCARD,
    "Edited": frozenset(),
    "Versions": 1,
    "MaxRevision": 1,
    "MaxAsks": 0,
    "Begins": frozenset({Record({"wild": False, "names": frozenset()})}),
}


def _server(events: Sequence[Event]) -> Mapping[str, Value]:
    kinds = frozenset(event.args["type"] for event in events)
    return {**_UNUSED, "MaxStreams": 1, "MaxFaults": 0, "Kinds": kinds, "Server": "server"}


def _agent(events: Sequence[Event]) -> Mapping[str, Value]:
    cuts = {(event.args["server"], event.args["cut"]) for event in events if "cut" in event.args}
    return {
        **_UNUSED,
        "MaxStreams": max(1, _streams(events)),
        "MaxFaults": MAX_INT,
        "Cuts": tuple(sorted(each for each in cuts if each[1])),
    }


def _streams(events: Sequence[Event]) -> int:
    """No process among them opened more. Each is a part of every state, so a bound has to be tight.

    A client that dials without having lost anything is another process than the one before.
    """
    most = streams = 0
    before = ""
    for event in events:
        if event.action == "Dial" and before not in ("Break", "Fail", "Expire"):
            streams = 0
        streams += event.action == "Connect"
        most = max(most, streams)
        before = event.action
    return most


TRACE: Final = (
    Recorded(
        module="XdsStreamTrace", process="server", constants=_server, split=by("node", "stream")
    ),
    Recorded(module="XdsClientTrace", process="agent", constants=_agent, short=cuts),
)
