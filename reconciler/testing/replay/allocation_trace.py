"""What a server recorded of numbers, cuts and nodes, for specs/trace/Allocation*Trace.tla.

A single server leads as long as it lives; of several replicas each leads now and then, and what one
recorded while it followed is no trace of Allocation: it gives nothing then, and takes nothing back.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

from reconciler.core.trace import Event
from reconciler.core.xds.nodes import STRANGERS
from reconciler.formal.values import Value
from reconciler.testing.replay import Parts, Recorded
from reconciler.testing.replay.shortened import marks, revisions

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
        nodes |= _others(event)
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


def _of_replica(events: Sequence[Event]) -> Mapping[str, Value]:
    replicas = frozenset(name for event in events for name in _others(event))
    return {**_constants(events), "Replicas": replicas}


def _others(event: Event) -> set[str]:
    return {each["replica"] for each in event.args.get("marks", ())}


def _split(events: Sequence[Event]) -> Parts:
    """A trace each leadership."""
    parts: dict[str, list[Event]] = {}
    leads = ""
    for event in events:
        if event.action == "Lead":
            leads = f"epoch {event.args['epoch']}"
        elif event.action == "Follow":
            leads = ""
        if leads:
            parts.setdefault(leads, []).append(event)
    return parts


def _alone(events: Sequence[Event]) -> Parts:
    return {} if _is_replica(events) else _split(events)


def _one_of_several(events: Sequence[Event]) -> Parts:
    return _split(events) if _is_replica(events) else {}


def _is_replica(events: Sequence[Event]) -> bool:
    """It begins as a follower; and says so too when it begins to lead."""
    return any(event.action in ("Follow", "Known", "Stood", "Elsewhere") for event in events)


def _pool(events: Sequence[Event]) -> Hashable:
    """One that nobody has heard of holds numbers back too, so traces have the same nodes."""
    nodes = frozenset(event.args["node"] for event in events if "node" in event.args)
    frees = any(event.args.get("free") for event in events)
    return _numbers(events[0]), nodes if frees else None


def _numbers(event: Event) -> tuple[int, int] | None:
    """First and last number of the pool; None if the event does not say."""
    first, last = event.args.get("first"), event.args.get("last")
    return (first, last) if isinstance(first, int) and isinstance(last, int) else None


TRACE: Final = (
    Recorded(
        module="AllocationTrace",
        process="server",
        constants=_constants,
        split=_alone,
        group=_pool,
        short=revisions("revision", "birth"),
    ),
    Recorded(
        module="AllocationReplicaTrace",
        process="server",
        constants=_of_replica,
        split=_one_of_several,
        group=_pool,
        short=marks("revision", "birth", "mark", "begun"),
    ),
)
