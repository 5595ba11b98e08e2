"""Numbers for label sets: the allocator, and the journal in which numbers are given and taken."""

from reconciler.core.identity.allocator import ALARM_PERCENT, POOL, Allocator
from reconciler.core.identity.followed import Followed
from reconciler.core.identity.journal import (
    MAX_LABEL_SET_BYTES,
    Changes,
    Entry,
    Identity,
    Journal,
    JournalBatch,
    JournalState,
    apply_batch,
)

__all__ = [
    "ALARM_PERCENT",
    "MAX_LABEL_SET_BYTES",
    "POOL",
    "Allocator",
    "Changes",
    "Entry",
    "Followed",
    "Identity",
    "Journal",
    "JournalBatch",
    "JournalState",
    "apply_batch",
]
