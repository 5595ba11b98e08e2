"""Numbers for label sets: the allocator, and the journal in which numbers are given and taken."""

from reconciler.core.identity.allocator import ALARM_PERCENT, POOL, Allocator
from reconciler.core.identity.followed import Followed
from reconciler.core.identity.journal import (
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
