"""What a client of one delta stream asks for of one type: everything, names, or both.

The rules are those of the xDS protocol for its incremental variant ("How the client specifies what
resources to return"): a first request without names is a wildcard, as `*` is; names that are added
later stand beside it; only unsubscribing from `*` ends it, and then no names means nothing;
unsubscribing from what was never subscribed is fine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

WILDCARD: Final = "*"

_NONE: Final[frozenset[str]] = frozenset()  # one for all: there is a subscription a stream and type


class Wanted(msgspec.Struct, frozen=True):
    """What one request asks to be sent now.

    names:    (re)requested by name: sent, or answered as removed, even if it was sent before
    everything: the wildcard was asked for in this request
    answer:   unsubscribed by name while the wildcard goes on: resource or removal is sent
    dropped:  no longer wanted: forget that they were sent
    """

    names: frozenset[str] = frozenset()
    everything: bool = False
    answer: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()


class Subscription:
    __slots__ = ("names", "wildcard")

    def __init__(self) -> None:
        self.names = _NONE
        self.wildcard = False

    def begin(self, subscribe: Iterable[str], unsubscribe: Iterable[str] = ()) -> Wanted:
        """The first request of the type on a stream."""
        names = set(subscribe)
        if not names:
            self.wildcard = True
            return Wanted(everything=True)
        return self.change(names, unsubscribe)

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> Wanted:
        """A name that is in both is not subscribed to afterwards."""
        removed = set(unsubscribe)
        added = set(subscribe) - removed
        if WILDCARD in added:
            self.wildcard = True
        if WILDCARD in removed:
            self.wildcard = False
        known = self.names & removed
        self.names = (self.names - removed) | (added - {WILDCARD}) or _NONE
        return Wanted(
            names=frozenset(added - {WILDCARD}),
            everything=WILDCARD in added,
            answer=frozenset(known) if self.wildcard else frozenset(),
            dropped=frozenset() if self.wildcard else frozenset(known),
        )

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names
