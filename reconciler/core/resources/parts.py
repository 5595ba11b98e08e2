"""What nodes lack, cut into one part a type, so that equal parts are found and joined once.

A part is compared by its digest, and most of the time is the same object: layers keep the part that
was asked for last, and whole publications lead all nodes from one layer to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from reconciler.core.resources.types import STAGED, Resource

Key = tuple[str, str]
"""(type URL, name)"""

_ORDER: Final = {type_url: at for at, type_url in enumerate(STAGED)}


class Part:
    """Resources of one type to put and names to remove, both by ascending name; never changed."""

    __slots__ = ("_digest", "put", "removed", "type_url")

    def __init__(
        self, type_url: str, put: tuple[Resource, ...], removed: tuple[str, ...] = ()
    ) -> None:
        self.type_url = type_url
        self.put = put
        self.removed = removed
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        """Equal for equal content only: names may come from a peer, so their ends are told."""
        if self._digest is None:
            said = ([(each.name, each.version) for each in self.put], self.removed)
            self._digest = hashlib.sha256(msgspec.msgpack.encode(said)).digest()
        return self._digest

    def keys(self) -> Iterator[Key]:
        for resource in self.put:
            yield self.type_url, resource.name
        for name in self.removed:
            yield self.type_url, name

    def items(self) -> Iterator[tuple[Key, Resource | None]]:
        for resource in self.put:
            yield (self.type_url, resource.name), resource
        for name in self.removed:
            yield (self.type_url, name), None


def parts_of(missing: Mapping[Key, Resource | None]) -> tuple[Part, ...]:
    """missing: None for what is to be removed."""
    put: dict[str, list[Resource]] = {}
    removed: dict[str, list[str]] = {}
    for (type_url, name), resource in missing.items():
        if resource is None:
            removed.setdefault(type_url, []).append(name)
        else:
            put.setdefault(type_url, []).append(resource)
    return in_order(
        Part(
            type_url,
            tuple(sorted(put.get(type_url, ()), key=lambda resource: resource.name)),
            tuple(sorted(removed.get(type_url, ()))),
        )
        for type_url in put.keys() | removed.keys()
    )


def in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    """As they are sent: peer sets before the rule sets that name them, and so on."""
    return tuple(sorted(parts, key=lambda part: _ORDER.get(part.type_url, len(_ORDER))))


def missing_of(parts: Iterable[Part]) -> dict[Key, Resource | None]:
    """The other way."""
    return {key: resource for part in parts for key, resource in part.items()}
