"""What a client of one delta stream asks for of one type: everything, names, or both.

The rules are those of the xDS protocol ("How the client specifies what resources to return"):
a first request without names is a wildcard as `*` is, but only until any name is subscribed to;
`*` and names may stand together; unsubscribing from what was never subscribed is fine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

WILDCARD: Final = "*"


class Wanted(msgspec.Struct, frozen=True):
    """What one request asks to be sent now.

    names:    (re)requested by name: sent, or answered as removed, even if it was sent before
    everything: the wildcard began with this request
    answer:   unsubscribed by name while the wildcard goes on: resource or removal is sent
    dropped:  no longer wanted: forget that they were sent
    """

    names: frozenset[str] = frozenset()
    everything: bool = False
    answer: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()


class Subscription:
    __slots__ = ("_legacy", "names", "wildcard")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.wildcard = False
        self._legacy = False

    def begin(self, subscribe: Iterable[str], unsubscribe: Iterable[str] = ()) -> Wanted:
        """The first request of the type on a stream."""
        names = set(subscribe)
        if not names:
            self.wildcard = self._legacy = True
            return Wanted(everything=True)
        return self.change(names, unsubscribe)

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> Wanted:
        added, removed = set(subscribe), set(unsubscribe)
        before = self.wildcard
        if added and self._legacy:
            self.wildcard = self._legacy = False
        if WILDCARD in added:
            self.wildcard = True
        if WILDCARD in removed:
            self.wildcard = self._legacy = False
        added.discard(WILDCARD)
        removed.discard(WILDCARD)
        known = self.names & removed
        self.names -= removed
        self.names |= added - removed
        return Wanted(
            names=frozenset(added - removed),
            everything=self.wildcard and not before,
            answer=frozenset(known) if self.wildcard else frozenset(),
            dropped=frozenset() if self.wildcard else frozenset(known),
        )

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names
