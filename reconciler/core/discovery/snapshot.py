"""All resources of one type in one view, at one time, and what leads from one such state to
another.

A stream holds the snapshot that it was sent, nothing else: no version map, no queue, no place in a
history. What it lacks is the step from there to the newest snapshot of its view. A step is computed
once for all streams that stand at the same snapshot, wherever they came from (an earlier state,
what a client reported to hold, another view), and ends with the last stream that could take it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from reconciler.core.resources.types import Resource
from reconciler.core.xds import sotw
from reconciler.core.xds.codec import Frame
from reconciler.core.xds.subscription import WILDCARD

_STEPS: Final = 32
"""Steps to one snapshot that are kept: one for each state that its streams are at."""

_VERSIONS: Final = 1024
"""version_infos of one snapshot that are kept: one for each set of names."""

Names = frozenset[str]
NONE: Final[Names] = frozenset()


class Snapshot:
    """Never changed. since: name → when the view got this version of it (seconds)."""

    __slots__ = ("_steps", "_versions", "resources", "since", "type_url")

    def __init__(
        self,
        type_url: str,
        resources: Mapping[str, Resource],
        since: Mapping[str, float] | None = None,
    ) -> None:
        self.type_url = type_url
        self.resources = resources
        self.since: Mapping[str, float] = since or {}
        self._steps: OrderedDict[int, Step] = OrderedDict()
        self._versions: dict[Names | None, str] = {}

    def step(self, base: Snapshot) -> Step:
        """What leads from `base` to this one."""
        key = id(base)  # the step holds it, so it stays the only one with this number
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = Step(base, self)
            if len(self._steps) > _STEPS:
                self._steps.popitem(last=False)
        return found

    def superseded(self) -> tuple[Step, ...]:
        """No stream is to be led here any more; the steps that led here."""
        steps = tuple(self._steps.values())
        for step in steps:
            if step._between is not None:
                steps += tuple(step._between._steps.values())
        self._steps.clear()
        self._versions.clear()
        return steps

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
            if len(self._versions) >= _VERSIONS:
                self._versions.clear()
            self._versions[key] = found
        return found


EMPTY: Final = Snapshot("", {})
"""Nothing, of any type: where a stream begins, and what a view holds of types that it knows not."""


def held(type_url: str, versions: Mapping[str, str]) -> Snapshot:
    """What a client says it has: resources without bodies, to lead away from only."""
    return Snapshot(
        type_url,
        {name: Resource(type_url, name, version, b"") for name, version in versions.items()},
    )


class Step:
    """changed: name → the resource that is to be put, None for one that is gone."""

    __slots__ = ("_between", "base", "changed", "frames", "put", "removed", "target")

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
        # Responses that lead along it, by what they depend on besides; kept and cleared by
        # `Frames`.
        self.frames: dict[object, tuple[Frame, ...]] = {}
        self._between: Snapshot | None = None

    def between(self) -> Snapshot:
        """The state in which everything new is there and nothing old is gone yet."""
        if not self.removed:
            return self.target
        if not self.put:
            return self.base
        if self._between is None:
            both = {**self.base.resources, **self.target.resources}
            self._between = Snapshot(self.target.type_url, both, self.target.since)
        return self._between

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


def _name(resource: Resource) -> str:
    return resource.name
