"""All resources of one type in one view, at one time, and what leads from one such state to
another.

A stream holds the snapshot that it was sent, nothing else: no version map, no queue, no place in a
history. What it lacks is the step from there to the newest snapshot of its view. A step is computed
once for all streams that stand at the same snapshot, wherever they came from (an earlier state,
what a client reported to hold, another view), and ends with the last stream that could take it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from reconciler.core.resources.types import Resource
from reconciler.core.xds import sotw
from reconciler.core.xds.codec import Frame
from reconciler.core.xds.kept import Kept
from reconciler.core.xds.subscription import WILDCARD

_STEPS: Final = 32
"""Steps to one snapshot that are kept: one for each state that its streams are at."""

_VERSIONS: Final = 1024
_VERSION_NAMES: Final = 1 << 16
"""version_infos of one snapshot that are kept, one for each set of names, and names in all sets."""

Names = frozenset[str]
NONE: Final[Names] = frozenset()


class Snapshot:
    """Never changed. since: name → when the view got this version of it (seconds); ttl: shortest
    time to live in it (seconds), None where nothing ends."""

    __slots__ = ("_steps", "_versions", "resources", "since", "ttl", "type_url")

    def __init__(
        self,
        type_url: str,
        resources: Mapping[str, Resource],
        since: Mapping[str, float] | None = None,
        ttl: float | None = None,
    ) -> None:
        self.type_url = type_url
        self.resources = resources
        self.since: Mapping[str, float] = since or {}
        self.ttl = ttl
        self._steps: OrderedDict[int, Step] = OrderedDict()
        self._versions: Kept[Names | None, str] = Kept(_VERSION_NAMES, _VERSIONS)

    def step(self, base: Snapshot) -> Step:
        """What leads from `base` to this one."""
        key = id(base)  # the step holds it, so it stays the only one with this number
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = Step(base, self)
            if len(self._steps) > _STEPS:
                self._steps.popitem(last=False)[1].end()
        return found

    def superseded(self) -> None:
        """No stream is to be led here any more: forget what led here, and with it the states that
        it led away from. Streams may stay here for long."""
        self._versions.clear()
        steps, self._steps = self._steps, OrderedDict()
        for step in steps.values():
            step.end()

    def wanted(self, wildcard: bool, names: Names) -> list[Resource]:
        """What a subscription holds of it, by ascending name."""
        resources = self.resources
        if wildcard:
            return [resources[name] for name in sorted(resources)]
        return [resources[name] for name in sorted(names & resources.keys())]

    def version(self, wildcard: bool, names: Names) -> str:
        """version_info of what a subscription holds of it."""
        key = None if wildcard else names
        found = self._versions.get(key)
        if found is None:
            held = ((each.name, each.version) for each in self.wanted(wildcard, names))
            found = sotw.version_of(held, wildcard=wildcard)
            self._versions.put(key, found, 0 if wildcard else len(names))
        return found


EMPTY: Final = Snapshot("", {})
"""Nothing, of any type: where a stream begins. Nothing leads here: it is of all views, for ever."""


def held(type_url: str, versions: Mapping[str, str]) -> Snapshot:
    """What a client says it has: resources without bodies, to lead away from only."""
    return Snapshot(
        type_url,
        {name: Resource(type_url, name, version, b"") for name, version in versions.items()},
    )


class Changed(Mapping[str, Resource]):
    """Resources that differ in a few from others: what one client has and no other may."""

    __slots__ = ("_changes", "_others")

    def __init__(self, others: Mapping[str, Resource], changes: Mapping[str, Resource | None]):
        self._others, self._changes = others, changes

    @classmethod
    def of(cls, others: Mapping[str, Resource], changes: Mapping[str, Resource | None]) -> Changed:
        """changes: None: it is not there"""
        if isinstance(others, Changed):  # not one upon the other, however often
            return cls(others._others, {**others._changes, **changes})
        return cls(others, changes)

    def __getitem__(self, name: str) -> Resource:
        found = self._changes[name] if name in self._changes else self._others[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        for name in self._others:
            if name not in self._changes:
                yield name
        for name, each in self._changes.items():
            if each is not None:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Said(msgspec.Struct, frozen=True):
    """What a response says. versions: of the resources, "" where it says that there is none."""

    nonce: str
    names: tuple[str, ...]
    versions: tuple[str, ...]


class Told(Frame, frozen=True):
    """A response. said: what is kept of it until it is answered, in a tuple that streams share"""

    said: tuple[Said]


class Step:
    """changed: name → the resource that is to be put, None for one that is gone."""

    __slots__ = (
        "__weakref__", "_between", "_only", "base", "changed", "frames", "put", "removed", "target",
    )  # fmt: skip

    def __init__(self, base: Snapshot, target: Snapshot) -> None:
        old, new = base.resources, target.resources
        put = []
        for name, resource in new.items():
            known = old.get(name)
            if known is not resource and (known is None or known.version != resource.version):
                put.append(resource)
        put.sort(key=_name)
        self.base = base
        self.target = target
        self.put = tuple(put)
        self.removed = tuple(sorted(old.keys() - new.keys()))
        self.changed: dict[str, Resource | None] = {each.name: each for each in put}
        self.changed.update(dict.fromkeys(self.removed))
        # Responses that lead along it, by what they depend on besides; `Frames` says how many.
        self.frames: dict[object, tuple[Told, ...]] = {}
        self._between: Snapshot | None = None
        self._only: OrderedDict[Names, Snapshot] = OrderedDict()

    def between(self) -> Snapshot:
        """The state in which everything new is there and nothing old is gone yet."""
        if not self.removed:
            return self.target
        if not self.put:
            return self.base
        if self._between is None:
            both = {**self.base.resources, **self.target.resources}
            ttl = _shorter(self.base.ttl, self.target.ttl)
            self._between = Snapshot(self.target.type_url, both, self.target.since, ttl)
        return self._between

    def only(self, names: Names) -> Snapshot:
        """The state before it, but of these names as behind it."""
        if names.isdisjoint(self.changed):
            return self.base
        found = self._only.get(names)
        if found is None:
            changes = {name: self.changed[name] for name in names & self.changed.keys()}
            resources = Changed.of(self.base.resources, changes)
            ttl = _shorter(self.base.ttl, self.target.ttl)
            found = Snapshot(self.target.type_url, resources, self.target.since, ttl)
            self._only[names] = found
            if len(self._only) > _STEPS:
                self._only.popitem(last=False)[1].superseded()
        return found

    def end(self) -> None:
        """Nobody takes it any more."""
        if self._between is not None:
            self._between.superseded()
        for each in self._only.values():
            each.superseded()

    def due(
        self, wildcard: bool, names: Names, forced: Names
    ) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
        """What of it a subscription is to be sent: resources to put, names that are gone.

        forced: names, or `*`, that are to be sent or said to be gone whatever the client has
        """
        if not forced:
            if wildcard:
                return self.put, self.removed
            if names.isdisjoint(self.changed):
                return (), ()
        everything = WILDCARD in forced
        now = self.target.resources
        found: dict[str, Resource | None] = {}
        if wildcard:
            found.update(self.changed)
            if everything:
                found.update(now)
        else:
            for name in names & self.changed.keys():
                found[name] = self.changed[name]
            if everything:
                found.update((name, now[name]) for name in names & now.keys())
        for name in forced:
            if name != WILDCARD and (wildcard or name in names):
                found[name] = now.get(name)
        put = [each for each in found.values() if each is not None]
        put.sort(key=_name)
        removed = sorted(name for name, each in found.items() if each is None)
        return tuple(put), tuple(removed)


def _shorter(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _name(resource: Resource) -> str:
    return resource.name
