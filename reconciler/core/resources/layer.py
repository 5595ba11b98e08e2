"""Layers: immutable sets of resources that many node views share, linked by what changed.

A layer made from another by `changed` takes over its table, and the older one keeps only how it
differs. So the newest layer of a line is the only one with a table of its own, the difference of
two layers of a line costs what changed between them, and an older layer is gone as soon as no node
is served from it. (Links the other way – each layer keeping the one before – would keep every old
table alive.)

A second layer made from the same one begins a line of its own, with a copy of the table; the
difference to it costs what both hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from weakref import ref

from reconciler.core.resources import root
from reconciler.core.resources.parts import Key, Part, parts_of
from reconciler.core.resources.types import Resource

Change = dict[Key, tuple[Resource | None, Resource | None]]
"""Key → before, after; never the same version twice."""


class Layer:
    """What it says never changes; compare by identity."""

    __slots__ = ("__weakref__", "_change", "_latest", "_newer", "_table", "_whole", "root")

    def __init__(self, resources: Mapping[Key, Resource]) -> None:
        self.root = root.total(
            (each.type_url, each.name, each.version) for each in resources.values()
        )
        self._table: dict[Key, Resource] | None = dict(resources)
        self._newer: Layer | None = None  # the layer that has the table, or is nearer to it
        self._change: Change = {}  # from this layer to that one
        # What was asked for last: many nodes ask for the same.
        self._whole: tuple[Part, ...] | None = None
        self._latest: tuple[ref[Layer], tuple[Part, ...]] | None = None

    @property
    def resources(self) -> Mapping[Key, Resource]:
        """The whole table; a copy, unless this is the newest layer of its line."""
        if self._table is not None:
            return self._table
        newest = self._newest()
        assert newest._table is not None
        table = dict(newest._table)
        for key, (before, _) in self._change.items():
            if before is None:
                table.pop(key, None)
            else:
                table[key] = before
        return table

    def get(self, key: Key) -> Resource | None:
        at = self
        while at._table is None:
            if key in at._change:
                return at._change[key][0]
            assert at._newer is not None
            at = at._newer
        return at._table.get(key)

    def changed(self, put: Iterable[Resource] = (), removed: Iterable[Key] = ()) -> Layer:
        """The layer with these changes; itself when they change nothing."""
        change: Change = {}
        for key in removed:
            old = self.get(key)
            if old is not None:
                change[key] = (old, None)
        for resource in put:
            key = (resource.type_url, resource.name)
            old = self.get(key)
            if old is None or old.version != resource.version:
                change[key] = (old, resource)
            else:
                change.pop(key, None)
        if not change:
            return self
        layer = Layer.__new__(Layer)
        layer.root = self._root_after(change)
        layer._newer, layer._change = None, {}
        layer._whole = layer._latest = None
        if self._table is not None:
            layer._table, self._table = self._table, None
            self._newer, self._change = layer, change
            self._whole = self._latest = None
        else:
            layer._table = dict(self.resources)
        for key, (_, new) in change.items():
            if new is None:
                del layer._table[key]
            else:
                layer._table[key] = new
        return layer

    def _root_after(self, change: Change) -> int:
        total = self.root
        for key, (old, new) in change.items():
            if old is not None:
                total -= _contribution(*key, old.version)
            if new is not None:
                total += _contribution(*key, new.version)
        return total % root.MODULUS

    def since(self, older: Layer) -> dict[Key, Resource | None]:
        """What a holder of `older` lacks: key → resource, None where it is gone."""
        if older is self:
            return {}
        found = self._along(older)
        if found is not None:
            return found
        missing: dict[Key, Resource | None] = {}
        before, now = older.resources, self.resources
        for key, resource in now.items():
            old = before.get(key)
            if old is None or old.version != resource.version:
                missing[key] = resource
        missing.update((key, None) for key in before.keys() - now.keys())
        return missing

    def parts(self) -> tuple[Part, ...]:
        """All of it."""
        if self._whole is None:
            self._whole = parts_of(self.resources)
        return self._whole

    def parts_since(self, older: Layer) -> tuple[Part, ...]:
        """`since`, cut into parts."""
        if older is self:
            return ()
        if self._latest is None or self._latest[0]() is not older:
            self._latest = ref(older), parts_of(self.since(older))
        return self._latest[1]

    def shorten(self) -> None:
        """Join the links to the newest layer of the line, so that those between can go.

        Whoever holds a layer for long calls it now and then; it costs the links since the last
        time.
        """
        self._newest()

    def _newest(self) -> Layer:
        while self._newer is not None and self._newer._newer is not None:
            for key, (old, new) in self._newer._change.items():
                first = self._change[key][0] if key in self._change else old
                if _version(first) == _version(new):
                    del self._change[key]
                else:
                    self._change[key] = (first, new)
            self._newer = self._newer._newer
        return self if self._newer is None else self._newer

    def _along(self, older: Layer) -> dict[Key, Resource | None] | None:
        """The difference by the links from `older`; None when they do not lead here."""
        if older._newer is self:
            return {key: new for key, (_, new) in older._change.items()}
        first: dict[Key, Resource | None] = {}
        last: dict[Key, Resource | None] = {}
        at = older
        while at is not self:
            if at._newer is None:
                return None
            for key, (old, new) in at._change.items():
                first.setdefault(key, old)
                last[key] = new
            at = at._newer
        return {key: new for key, new in last.items() if _version(first[key]) != _version(new)}


# The same change is made to the layers of many nodes.
_contribution = lru_cache(maxsize=1 << 13)(root.contribution)


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version
