"""Which nodes a directory of resources is for.

A condition says what some things of a node must be; each of these may be one of several values. The
conditions of two directories *exclude* each other when there is a thing that they want different
values of: only then may both hold a resource of the same name, since no node ever gets both.

    nodes/<id>/       the node's id (with mutual TLS the name that it has proven, not one it claims)
    clusters/<name>/  the node's cluster
    match/<any>/      what match.yaml in it says: id, cluster, metadata; all of it must hold
    all other files   every node
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

import msgspec

MATCH_FILE: Final = "match.yaml"

Value = str | float | bool
Thing = tuple[str, ...]
"""("id",), ("cluster",) or ("metadata", "location", "zone")."""


class Matched(Protocol):
    """What is known of a node; `core.discovery.Node` is one."""

    @property
    def id(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


class Condition(msgspec.Struct, frozen=True):
    """wants: what must be one of which values; nothing wanted: every node."""

    wants: Mapping[Thing, tuple[Value, ...]] = {}

    def holds(self, node: Matched) -> bool:
        return all(_one_of(_found(node, thing), values) for thing, values in self.wants.items())

    def excludes(self, other: Condition) -> bool:
        """No node fulfils both."""
        return any(
            thing in other.wants and not any(_one_of(v, other.wants[thing]) for v in values)
            for thing, values in self.wants.items()
        )


EVERY: Final = Condition()


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
    if not isinstance(document, dict) or not document:
        raise ValueError("a mapping is expected, with id, cluster or metadata")
    wants: dict[Thing, tuple[Value, ...]] = {}
    for key, value in document.items():
        if key not in ("id", "cluster", "metadata"):
            raise ValueError(f"{key}: only id, cluster and metadata can be matched")
        if key == "metadata" and not isinstance(value, dict):
            raise ValueError(f"{key}: a mapping is expected")
        wants.update(_wants((key,), value))
    return Condition(wants)


def _wants(thing: Thing, value: Any) -> Iterator[tuple[Thing, tuple[Value, ...]]]:
    if isinstance(value, dict) and thing[0] == "metadata":
        if not value:
            raise ValueError(f"{'.'.join(thing)}: names nothing")
        for key, inner in value.items():
            yield from _wants((*thing, str(key)), inner)
        return
    values = value if isinstance(value, list) else [value]
    if not values or not all(_fits(thing, each) for each in values):
        kinds = "a text" if thing[0] != "metadata" else "a text, number or boolean"
        raise ValueError(f"{'.'.join(thing)}: {kinds} is expected, or several in a list")
    yield thing, tuple(values)


def _fits(thing: Thing, value: Any) -> bool:
    return isinstance(value, str if thing[0] != "metadata" else (str, int, float))


def _found(node: Matched, thing: Thing) -> Any:
    if thing[0] != "metadata":
        return node.id if thing[0] == "id" else node.cluster
    at: Any = node.metadata
    for key in thing[1:]:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at


def _one_of(found: Any, values: tuple[Value, ...]) -> bool:
    """Of the same kind, too: in Python true equals 1."""
    return any(
        found == each and isinstance(found, bool) is isinstance(each, bool) for each in values
    )
