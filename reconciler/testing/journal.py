"""An allocation journal in memory, held to the SQLite one by the same tests."""

from __future__ import annotations

import msgspec

from reconciler.core.identity import JournalBatch, JournalState, apply_batch


class MemoryJournal:
    """Survives the server that uses it. `open` again deposes whoever had it before."""

    def __init__(self, cursor: int = 256) -> None:
        self.state = JournalState(epoch=0, revision=0, cursor=cursor)

    def open(self) -> JournalState:
        self.state = msgspec.structs.replace(self.state, epoch=self.state.epoch + 1)
        return self.state

    def append(self, batch: JournalBatch) -> int:
        """The new revision. JournalConflict: the writer was deposed, nothing was written."""
        self.state = apply_batch(self.state, batch)
        return self.state.revision

    def close(self) -> None:
        """Nothing to let go of."""
