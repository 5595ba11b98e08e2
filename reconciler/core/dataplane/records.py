"""What the agent writes to disk: each cut as what it changes, written before the flip to it.

The cache is a sequence of records, the first a whole cut, the others differences. So each record is
a generation of its own: whether the flip that it announces came about is known from the root that
the kernel's maps carry, and `replay` stops at the record with that root. The cost of a record is
that of the change; the agent asks for a whole one from time to time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from reconciler.core.resources.types import Resource

FORMAT: Final = 1
"""Rises with every change of these structs; a record of another format is not read."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One cut. whole: it stands alone; else it is what differs from the record before it.

    removed: (type URL, name). next_id: no endpoint id from it on was given out before this cut.
    distrusts: remote pods counted as unknown in it.
    """

    format: int
    node: str
    whole: bool
    revision: int
    root: bytes
    next_id: int
    distrusts: bool
    resources: tuple[Resource, ...]
    removed: tuple[tuple[str, str], ...] = ()
    position: str = ""


class CachedCut(msgspec.Struct, frozen=True):
    """A cut as the cache has it."""

    node: str
    revision: int
    root: bytes
    next_id: int
    distrusts: bool
    resources: tuple[Resource, ...]
    position: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    return _encoder.encode(record)


def decode_record(data: bytes) -> Record | None:
    """None: not a record of this format."""
    try:
        record = _decoder.decode(data)
    except msgspec.MsgspecError:
        return None
    return record if record.format == FORMAT else None


def replay(records: Iterable[Record], node: str, root: bytes | None) -> CachedCut | None:
    """The cut with this root (the last one, should it have been in force twice).

    root None: the maps are empty (the node was restarted), so the newest cut. None: there is no
    such cut, or the cache is another node's.
    """
    table: dict[tuple[str, str], Resource] = {}
    found: CachedCut | None = None
    begun = False
    for record in records:
        if record.node != node or not (begun or record.whole):
            return None
        begun = True
        if record.whole:
            table = {}
        for key in record.removed:
            table.pop(key, None)
        table.update(((each.type_url, each.name), each) for each in record.resources)
        if root is None or record.root == root:
            found = CachedCut(
                record.node,
                record.revision,
                record.root,
                record.next_id,
                record.distrusts,
                tuple(table.values()),
                record.position,
            )
        elif found is not None:
            # Ids of a cut that did not come into force may have been given out all the same.
            found = msgspec.structs.replace(found, next_id=max(found.next_id, record.next_id))
    return found


def whole_record(
    node: str,
    revision: int,
    root: bytes,
    next_id: int,
    distrusts: bool,
    held: Mapping[tuple[str, str], Resource],
    position: str,
) -> Record:
    resources = tuple(held.values())
    return Record(FORMAT, node, True, revision, root, next_id, distrusts, resources, (), position)
