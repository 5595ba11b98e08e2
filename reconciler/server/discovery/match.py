"""Which nodes a directory of resources is for.

A condition says what some things of a node must be; each of these may be one of several values. The
conditions of two directories *exclude* each other when there is a thing that they want different
values of: only then may both hold a resource of the same name, since no node ever gets both.

    nodes/<id>/       the node's id (with mutual TLS the name that it has proven, not one it claims)
    clusters/<name>/  the node's cluster
    match/<any>/      what match.yaml in it says: id, cluster, metadata; all of it must hold
    all other files   every node

Numbers of metadata are doubles (`google.protobuf.Struct`), and so are those in a match.yaml.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from reconciler.core.discovery.types import Node
from reconciler.server.discovery.values import Bad, plain

MATCH_FILE: Final = "match.yaml"

Value = str | float | bool
Thing = tuple[str, ...]
"""("id",), ("cluster",) or ("metadata", "location", "zone")."""


class Condition(msgspec.Struct, frozen=True):
    """wants: what must be one of which values; nothing wanted: every node."""

    wants: Mapping[Thing, tuple[Value, ...]] = {}

    def holds(self, node: Node) -> bool:
        found = ((_key(_found(node, thing)), values) for thing, values in self.wants.items())
        return all(key in map(_key, values) for key, values in found)

    def excludes(self, other: Condition) -> bool:
        """No node fulfils both."""
        return any(
            set(map(_key, values)).isdisjoint(map(_key, other.wants[thing]))
            for thing, values in self.wants.items()
            if thing in other.wants
        )


EVERY: Final = Condition()


class Conditions:
    """Which of many conditions a node fulfils, found by what the node is: not one after another."""

    def __init__(self, conditions: Iterable[Condition]) -> None:
        self._all = tuple(conditions)
        self._every: list[int] = []
        self._by_value: dict[Thing, dict[object, list[int]]] = {}
        for at, condition in enumerate(self._all):
            thing = next(iter(condition.wants), None)
            if thing is None:
                self._every.append(at)
                continue
            places = self._by_value.setdefault(thing, {})
            for key in set(map(_key, condition.wants[thing])):
                places.setdefault(key, []).append(at)

    def of(self, node: Node) -> list[int]:
        """Places of those that hold, ascending."""
        found = list(self._every)
        for thing, places in self._by_value.items():
            candidates = places.get(_key(_found(node, thing)), ())
            found += [at for at in candidates if self._all[at].holds(node)]
        return sorted(found)


class Overlaps:
    """For one condition after another: the first of the earlier ones that a node could fulfil too.

    Only those are compared that the thing by which fewest are left does not tell apart, so that
    a name in every directory of `nodes/` takes no longer for each of them.
    """

    def __init__(self) -> None:
        self._all: list[Condition] = []
        self._without: dict[Thing, list[int]] = {}  # those that don't want this thing
        self._by_value: dict[tuple[Thing, object], list[int]] = {}

    def add(self, condition: Condition) -> int | None:
        """Its place among those that were added before; None: it excludes all of them."""
        places = min((self._places(*each) for each in condition.wants.items()),
                     key=lambda lists: sum(map(len, lists)),
                     default=[range(len(self._all))])  # fmt: skip
        found = next(
            (at for at in heapq.merge(*places) if not condition.excludes(self._all[at])), None
        )
        self._add(condition)
        return found

    def _places(self, thing: Thing, values: tuple[Value, ...]) -> list[Sequence[int]]:
        """Of all that may hold where this thing is one of these values, each list ascending."""
        if thing not in self._without:
            return [range(len(self._all))]
        same = (self._by_value.get((thing, key), ()) for key in set(map(_key, values)))
        return [self._without[thing], *same]

    def _add(self, condition: Condition) -> None:
        at = len(self._all)
        for thing, values in condition.wants.items():
            if thing not in self._without:
                self._without[thing] = list(range(at))
            for key in set(map(_key, values)):
                self._by_value.setdefault((thing, key), []).append(at)
        for thing, places in self._without.items():
            if thing not in condition.wants:
                places.append(at)
        self._all.append(condition)


def directory_of(file: str) -> str:
    """The directory whose condition counts for a file: "nodes/n1", or "" for one of all nodes.

    ValueError: it is in none, beside the directories of nodes.
    """
    parts = PurePosixPath(file).parts
    if parts[0] not in ("nodes", "clusters", "match") or len(parts) == 1:
        return ""
    if len(parts) == 2:
        raise ValueError(f"is in no directory of {parts[0]}/")
    return f"{parts[0]}/{parts[1]}"


def condition_of(directory: str) -> Condition | None:
    """The condition that a directory's name says; None: it is in its `match.yaml`."""
    if not directory:
        return EVERY
    kind, _, name = directory.partition("/")
    return {
        "nodes": Condition({("id",): (name,)}),
        "clusters": Condition({("cluster",): (name,)}),
    }.get(kind)


def parse_match(document: Any) -> Condition:
    """What `match.yaml` says; ValueError with the field in front: "metadata.role: ..."."""
    document = plain(document)
    if not isinstance(document, dict) or not document:
        raise ValueError("a mapping is expected, with id, cluster or metadata")
    wants: dict[Thing, tuple[Value, ...]] = {}
    for key, value in document.items():
        if key not in ("id", "cluster", "metadata"):
            raise Bad(key, "only id, cluster and metadata can be matched")
        if key == "metadata" and not isinstance(value, dict):
            raise Bad(key, "a mapping is expected")
        wants.update(_wants((key,), value))
    return Condition(wants)


def _wants(thing: Thing, value: Any) -> Iterator[tuple[Thing, tuple[Value, ...]]]:
    where = ".".join(thing)
    if isinstance(value, dict) and thing[0] == "metadata":
        if not value:
            raise Bad(where, "names nothing")
        for key, inner in value.items():
            yield from _wants((*thing, key), inner)
        return
    values = [_number(each, where) for each in (value if isinstance(value, list) else [value])]
    if not values or not all(_fits(thing, each) for each in values):
        kinds = "a text" if thing[0] != "metadata" else "a text, number or boolean"
        raise Bad(where, f"{kinds} is expected, or several in a list")
    yield thing, tuple(values)


def _number(value: Any, where: str) -> Any:
    """A whole number as the double that metadata has in its place; all else as it is."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        raise Bad(where, "is too large for a number of metadata") from None


def _fits(thing: Thing, value: Any) -> bool:
    return isinstance(value, str if thing[0] != "metadata" else (str, int, float))


def _found(node: Node, thing: Thing) -> Any:
    if thing[0] != "metadata":
        return node.id if thing[0] == "id" else node.cluster
    at: Any = node.metadata
    for key in thing[1:]:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at


def _key(value: Any) -> object:
    """Equal for equal values, and of the same kind, too: in Python true equals 1."""
    if not isinstance(value, str | int | float):
        return None  # what can't be wanted
    return isinstance(value, bool), value
