"""Layers: immutable sets of resources that many node views share, linked by what changed.

A layer made from another by `changed` remembers the difference, so that the difference of two
layers on one line costs what changed between them, not what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from reconciler.core.resources import root
from reconciler.core.resources.types import Resource

Key = tuple[str, str]
"""(type URL, name)"""

MAX_LINKS: Final = 64
"""How far back a difference is looked for along the links before whole tables are compared."""


class Layer:
    """Compare by identity; `resources` is never changed after the layer is made."""

    __slots__ = ("_change", "_older", "resources", "root", "serial")

    def __init__(self, resources: Mapping[Key, Resource]) -> None:
        self.resources = resources
        self.root = root.total(
            (each.type_url, each.name, each.version) for each in resources.values()
        )
        self.serial = 0
        self._older: Layer | None = None
        self._change: dict[Key, tuple[Resource | None, Resource | None]] = {}

    def changed(self, put: Iterable[Resource] = (), removed: Iterable[Key] = ()) -> Layer:
        """The layer with these changes; itself when they change nothing."""
        change: dict[Key, tuple[Resource | None, Resource | None]] = {}
        for key in removed:
            old = self.resources.get(key)
            if old is not None:
                change[key] = (old, None)
        for resource in put:
            key = (resource.type_url, resource.name)
            old = self.resources.get(key)
            if old is None or old.version != resource.version:
                change[key] = (old, resource)
            else:
                change.pop(key, None)
        if not change:
            return self
        table = dict(self.resources)
        total = self.root
        for key, (old, new) in change.items():
            if old is not None:
                total -= root.contribution(*key, old.version)
            if new is None:
                del table[key]
            else:
                table[key] = new
                total += root.contribution(*key, new.version)
        layer = Layer.__new__(Layer)
        layer.resources = table
        layer.root = total % root.MODULUS
        layer.serial = self.serial + 1
        layer._older, layer._change = self, change
        self._forget_far()
        return layer

    def _forget_far(self) -> None:
        """Cut the line where nobody looks any more, so that it does not grow for ever."""
        at: Layer | None = self
        for _ in range(MAX_LINKS):
            if at is None:
                return
            at = at._older
        if at is not None:
            at._older = None

    def since(self, older: Layer) -> dict[Key, Resource | None]:
        """What a holder of `older` lacks: key → resource, None where it is gone."""
        if older is self:
            return {}
        found = self._along(older)
        if found is not None:
            return found
        missing: dict[Key, Resource | None] = {}
        for key, resource in self.resources.items():
            old = older.resources.get(key)
            if old is None or old.version != resource.version:
                missing[key] = resource
        missing.update((key, None) for key in older.resources.keys() - self.resources.keys())
        return missing

    def _along(self, older: Layer) -> dict[Key, Resource | None] | None:
        steps: list[Layer] = []
        at: Layer | None = self
        while at is not None and at is not older:
            if len(steps) > MAX_LINKS:
                return None
            steps.append(at)
            at = at._older
        if at is None:
            return None
        first: dict[Key, Resource | None] = {}
        last: dict[Key, Resource | None] = {}
        for step in reversed(steps):
            for key, (old, new) in step._change.items():
                first.setdefault(key, old)
                last[key] = new
        return {key: new for key, new in last.items() if _version(first[key]) != _version(new)}


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version
