"""Adoption: objects of before become entries of the journal, once, when a server begins to lead.

Nothing is renumbered. Of several objects with the same labels the oldest gives the label set its
number (by creationTimestamp, which has whole seconds, then by number); one that a person pinned
goes before all others. The numbers of the rest are nobody's and on their way out: no cut has them
any more, and they come back when every node has committed such a cut. Their pods are bound to the
oldest one's number with the first cut that a node gets.

Where a label set has a number in the journal already, found objects are surplus too. A number in
use whose labels are lost (its object was deleted or edited while no server led) becomes nobody's:
its label set gets another one.

A journal that begins – in a new cluster, or because somebody deleted the last one – begins far
above any birth that is written on an object and above the clock (`first_revision`, its origin):
objects with births of before count as found. Those that a leader disowned don't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from reconciler.core.identity.beginning import beginning
from reconciler.core.identity.journal import Entry
from reconciler.core.identity.objects import CiliumIdentity, nobody
from reconciler.core.identity.objects_mirror import Mirror, is_found, refused, stays
from reconciler.errors import Rejected

REVISION_GAP: Final = 1 << 20
"""Revisions that a lost journal may have been ahead of the births on objects: each is one write
whose entries' objects had not been made yet."""


class Adoption(msgspec.Struct, frozen=True):
    """Entries that are new or other than before, all with the birth `revision` + 1; may be none."""

    entries: tuple[Entry, ...]
    problems: tuple[Rejected, ...]


def first_revision(identities: Iterable[CiliumIdentity], wall: float) -> int:
    """Where a journal begins that finds these objects and no journal. wall: seconds since 1970."""
    newest = max((identity.birth for identity in identities), default=0)
    return beginning(0, newest + REVISION_GAP if newest else 0, wall).revision


def adopt(mirror: Mirror) -> Adoption:
    """What the first write of a leader adds. The mirror has all objects, read after its journal."""
    ledger = mirror.ledger
    birth = ledger.revision + 1
    owners = {entry.label_set: entry.number for entry in mirror.entries.values()}
    entries: list[Entry] = []
    problems: list[Rejected] = []
    found = [
        (number, identity, identity.label_set)
        for number, identity in mirror.objects.items()
        if number not in ledger.digests and is_found(identity, ledger.origin)
    ]
    found.sort(key=lambda each: (not each[1].pinned, each[1].metadata.creation_timestamp, each[0]))
    for number, identity, label_set in found:
        if not label_set:
            continue  # stays where it is: `Mirror.problems` says so
        owner = owners.setdefault(label_set, number)
        if owner == number:
            entries.append(Entry(number, birth, label_set, "active"))
        elif not stays(identity):
            entries.append(Entry(number, birth, nobody(number), "retiring"))
            problems.append(
                refused(
                    str(number),
                    "security-labels",
                    f"the same labels have number {owner}; this one is taken back",
                    severity="warning",
                )
            )
    for number in mirror.unresolved:
        entries.append(Entry(number, birth, nobody(number), "retiring"))
        problems.append(
            refused(
                str(number),
                "",
                "its labels are lost: no object says what the journal has; it is taken back, and "
                "its pods get another number",
            )
        )
    entries.sort(key=lambda entry: entry.number)
    return Adoption(tuple(entries), tuple(sorted(problems)))
