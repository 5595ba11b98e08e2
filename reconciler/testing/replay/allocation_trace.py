"""What a server recorded of numbers, cuts and nodes, for specs/trace/AllocationTrace.tla."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

from reconciler.core.trace import Event
from reconciler.core.xds.nodes import STRANGERS
from reconciler.formal.values import Value
from reconciler.testing.replay import Parts, Recorded

MAX_INT: Final = 2**31 - 1
"""TLC's largest: no bound."""


WHOLE: Final = 1000
"""Numbers of a pool that is taken whole."""


def _constants(events: Sequence[Event]) -> Mapping[str, Value]:
    """No bounds but the pool; all label sets and nodes of which there is a word."""
    label_sets: set[str] = set()
    nodes = {STRANGERS}
    for event in events:
        label_sets |= {event.args["label_set"]} if "label_set" in event.args else set()
        label_sets |= {each["owner"] for each in event.args.get("entries", ())}
        nodes |= {event.args["node"]} if "node" in event.args else set()
    first, last = next((pool for event in events if (pool := _numbers(event))), (1, 1))
    if last - first > WHOLE:  # far from full: what nobody came near need not be counted
        seen = [first]
        for event in events:
            seen += event.args.get("numbers", ())
            seen += [each["number"] for each in event.args.get("entries", ())]
            seen += [event.args["cursor"]] if "cursor" in event.args else []
        last = min(last, max(seen) + 16)
    unbounded = dict.fromkeys(("MaxRevision", "MaxEpoch", "MaxCut", "MaxLate"), MAX_INT)
    return {
        "LabelSets": frozenset(label_sets),
        "Nodes": frozenset(nodes),
        "First": first,
        "Last": last,
        "Older": True,
        "Unchanged": True,
        **unbounded,
    }


def _split(events: Sequence[Event]) -> Parts:
    """A trace each leadership."""
    parts: dict[str, list[Event]] = {}
    epoch = 0
    for event in events:
        if event.action == "Lead":
            epoch = event.args["epoch"]
        parts.setdefault(f"epoch {epoch}", []).append(event)
    return parts


def _pool(events: Sequence[Event]) -> Hashable:
    """One that nobody has heard of holds numbers back too, so traces have the same nodes."""
    nodes = frozenset(event.args["node"] for event in events if "node" in event.args)
    frees = any(event.args.get("free") for event in events)
    return _numbers(events[0]), nodes if frees else None


def _numbers(event: Event) -> tuple[int, int] | None:
    """First and last number of the pool; None if the event does not say."""
    first, last = event.args.get("first"), event.args.get("last")
    return (first, last) if isinstance(first, int) and isinstance(last, int) else None


TRACE: Final = Recorded(
    module="AllocationTrace", process="server", constants=_constants, split=_split, group=_pool
)
