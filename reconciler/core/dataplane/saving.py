"""How cuts get into the disk cache: each is added to it, and at times one is written alone.

What is written alone replaces everything before it, so it has to be the cut in force: other
resources may be staged by then. A record that was lost is made up for in the same way, since those
that are added after it would differ from nothing that is on disk.
"""

from __future__ import annotations

from typing import Final

from reconciler.core.dataplane.cut import Cut
from reconciler.core.dataplane.effects import SaveCache
from reconciler.core.dataplane.records import Record, encode_record, whole_record

COMPACT_BYTES: Final = 1 << 20
"""A cache is written anew when what was appended passes this and the size of the whole."""


class Saving:
    __slots__ = ("_appended", "_due", "_whole_bytes")

    def __init__(self) -> None:
        self._whole_bytes = self._appended = 0
        self._due = False  # older records before a whole one, or not all there

    def announced(self, record: Record, *, in_force: bool) -> SaveCache:
        """in_force: a cut taken over, so that its record may replace all others."""
        data = encode_record(record)
        self._appended += len(data)
        if record.whole:
            self._whole_bytes = len(data)
            self._due = not in_force
        return SaveCache(data, record.revision, append=not in_force)

    def settled(self, cut: Cut) -> SaveCache | None:
        """The cut in force is the last record: write it alone, if it is time to."""
        limit = self._whole_bytes + max(self._whole_bytes, COMPACT_BYTES)
        if self._appended <= limit and not self._due:
            return None
        self._due = False
        record = whole_record(
            cut.node,
            cut.revision,
            cut.root,
            cut.tables.endpoints.next_id,
            cut.distrusts,
            cut.held.kept(),
            cut.position,
        )
        data = encode_record(record)
        self._whole_bytes = self._appended = len(data)
        return SaveCache(data, cut.revision, append=False)

    def failed(self) -> None:
        """A record is not on disk."""
        self._due = True
