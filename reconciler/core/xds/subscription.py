"""What a client of one stream asks for of one type: everything, names, or both.

The rules are those of the xDS protocol ("How the client specifies what resources to return"): a
first request without names is a wildcard, as `*` is. In the incremental variant names that are
added later stand beside it; only unsubscribing from `*` ends it, and then no names means nothing;
unsubscribing from what was never subscribed is fine. In the state-of-the-world variant each request
has the whole list: no names is a wildcard as long as none was ever given, from then on nothing.
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
    began:    and there was none before
    answer:   unsubscribed by name while the wildcard goes on: resource or removal is sent
    """

    names: frozenset[str] = frozenset()
    everything: bool = False
    began: bool = False
    answer: frozenset[str] = frozenset()


class Subscription:
    __slots__ = ("legacy", "names", "wildcard")

    def __init__(self) -> None:
        self.names = _NONE
        self.wildcard = False
        self.legacy = False  # a wildcard that no name was ever given for

    def begin(self, subscribe: Iterable[str], unsubscribe: Iterable[str] = ()) -> Wanted:
        """The first request of the type on a stream."""
        names = set(subscribe)
        if not names:
            self.wildcard = self.legacy = True
            return Wanted(everything=True, began=True)
        return self.change(names, unsubscribe)

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> Wanted:
        """A name that is in both is not subscribed to afterwards."""
        removed = set(unsubscribe)
        added = set(subscribe) - removed
        everything = WILDCARD in added
        began = everything and not self.wildcard
        if everything:
            self.wildcard = True
        if added:
            self.legacy = False
        if WILDCARD in removed:
            self.wildcard = False
        known = self.names & removed
        self.names = (self.names - removed) | (added - {WILDCARD}) or _NONE
        return Wanted(
            names=frozenset(added - {WILDCARD}),
            everything=everything,
            began=began,
            answer=frozenset(known) if self.wildcard else frozenset(),
        )

    def replace(self, listed: Iterable[str], *, again: bool = False) -> Wanted:
        """A later request of the state-of-the-world variant.

        again: the client asks for what it named already, as if it had not.
        """
        asked = frozenset(listed)
        if not asked and self.legacy:
            return Wanted()
        self.legacy = False
        names = asked - {WILDCARD}
        known, wildcard = self.names, self.wildcard
        self.wildcard = WILDCARD in asked
        if names != known:
            self.names = names or _NONE
        began = self.wildcard and not wildcard
        return Wanted(
            names=names if again else names - known,
            everything=began,
            began=began,
        )

    def narrow(self, listed: Iterable[str]) -> None:
        """A stale request of the state-of-the-world variant. It asks for nothing; but what it does
        not list any more the client may have dropped, so that if the next one does it is new."""
        asked = frozenset(listed)
        if not asked and self.legacy:
            return
        self.legacy = False
        self.wildcard = self.wildcard and WILDCARD in asked
        if not self.names <= asked:
            self.names = self.names & asked or _NONE

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names
