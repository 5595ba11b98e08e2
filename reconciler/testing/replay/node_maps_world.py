"""The agent's surroundings for specs/NodeMaps.tla: a node with maps, a disk and perhaps a process.

Writes are cut into single entries, and what a cut asks for is kept until the adapter is told to
carry it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from reconciler.core.dataplane.cut import MODEL, Cut
from reconciler.core.dataplane.layout import GroupIndex, MapId, map_specs
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.dataplane.records import Record
from reconciler.core.dataplane.values import Change
from reconciler.core.resources.decode import decode
from reconciler.core.resources.values import Commit, IdentityLabels
from reconciler.datapath.twin import TwinDatapath
from reconciler.errors import Refusal
from reconciler.testing.replay.node_maps_names import Names, Resources

Entry = tuple[MapId, bytes, bytes | None]
Single = Entry | Flip | Grace


class World:
    """What changes with the agent's steps: the node's maps and disk, and the process or none."""

    def __init__(self, names: Names) -> None:
        self.limits = {
            MapId.GROUPS: GroupIndex.FIRST_FREE + names.group_indices - names.fixed,
        }
        self.twin = TwinDatapath(map_specs(), no_time)
        self.disk: list[Record] = []
        self.cut: Cut | None = None
        self.own = False  # the cut under way is the agent's own
        self.kind = ""  # of the writes given last
        self.batch: deque[Single] = deque()
        self.token = 0
        self.faults = self.responses = 0


def no_time() -> int:
    return 0


def effects(cut: Cut, trigger: str) -> frozenset[str]:
    """What the cut machine may do at this event here."""
    rows = MODEL.table.get((cut.state, trigger), ())
    return frozenset(effect for row in rows for effect in row.effects)


def differing(cut: Cut, wanted: Resources) -> list[Change]:
    """What differs from what is held, in the order of the types' names."""
    held = cut.held.now
    changes = []
    for key in sorted(held.keys() | wanted.keys()):
        now, then = held.get(key), wanted.get(key)
        if now is None or then is None or now.version != then.version:
            changes.append(change(*key, then.version, then.body) if then else Change(*key, None))
    return changes


def change(type_url: str, name: str, version: str, body: bytes) -> Change:
    value = decode(type_url, name, version, body)
    assert not isinstance(value, Refusal | Commit | IdentityLabels), value
    return Change(type_url, name, value)


def singles(ops: Sequence[Op]) -> Iterator[Single]:
    """One entry each, in the order of the code."""
    for op in ops:
        if isinstance(op, Put):
            yield from ((op.map, key, value) for key, value in op.entries)
        elif isinstance(op, Remove):
            yield from ((op.map, key, None) for key in op.keys)
        else:
            yield op


def as_op(single: Single) -> Op:
    if isinstance(single, Flip | Grace):
        return single
    map_id, key, value = single
    return Remove(map_id, (key,)) if value is None else Put(map_id, ((key, value),))
