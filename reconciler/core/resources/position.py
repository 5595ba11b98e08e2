"""Up to where the objects of a cluster have been read, kind by kind, and the journal.

Where several replicas serve the same nodes, each reads the objects for itself, at its own pace, and
no number says for all of them which of two states is the newer one: the resource versions of one
kind are in order, those of two kinds are not known to be complete at the same instant. So a cut
says the position that it was made at, and a replica serves a node only from a position that covers
that of the node's last cut. Equal positions have equal views, whoever made them.

The revision is the sum of the parts: it rises along every way that a node can be led.

As text: `journal=12,namespaces=830,pods=911` (kinds in order). Agents keep and report it unread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

MAX_TEXT: Final = 1024

_TEXT: Final = re.compile(r"[a-z]{1,63}=[0-9]{1,19}(,[a-z]{1,63}=[0-9]{1,19})*")

JOURNAL: Final = "journal"


class Position(msgspec.Struct, frozen=True):
    """journal: its revision. objects: kind → resource version, sorted by kind."""

    journal: int
    objects: tuple[tuple[str, int], ...]

    @property
    def revision(self) -> int:
        return self.journal + sum(version for _, version in self.objects)

    def covers(self, other: Position) -> bool:
        """Nothing that `other` has read is missing here, of the kinds that are read here at all:
        servers of two versions may differ in these."""
        mine = dict(self.objects)
        return self.journal >= other.journal and all(
            mine.get(kind, version) >= version for kind, version in other.objects
        )

    def __str__(self) -> str:
        parts = {JOURNAL: self.journal, **dict(self.objects)}
        return ",".join(f"{kind}={parts[kind]}" for kind in sorted(parts))


def position_of(journal: int, objects: Mapping[str, int]) -> Position:
    return Position(journal, tuple(sorted(objects.items())))


def parse_position(text: str) -> Position | None:
    """None: not the text of a position."""
    if len(text) > MAX_TEXT or not _TEXT.fullmatch(text):
        return None
    parts = {kind: int(number) for kind, _, number in (p.partition("=") for p in text.split(","))}
    if JOURNAL not in parts or len(parts) != text.count(",") + 1:
        return None
    return position_of(parts.pop(JOURNAL), parts)
