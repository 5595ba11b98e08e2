"""What one stream has been sent of one type that is served as it changes, not in cuts.

Promises of the incremental protocol: each resource is sent once a version; what is (re)requested is
sent even if it was before; a name that is subscribed to and does not exist is answered as removed,
once, and sent when it comes to exist; what goes is removed; what the client reports to have at its
first request is sent only if it differs.

A refused response is refused whole, so what it said is sent once more, each name in a response of
its own: nothing good is lost with what was bad, a removal least of all. What is refused alone is
not sent again, only a change of it is; so refusing never leads to sending for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from reconciler.core.resources.types import Resource
from reconciler.core.xds.codec import Frame
from reconciler.core.xds.stream import Acked, Nacked, Resubscribed, StreamEvent, Subscribed
from reconciler.core.xds.subscription import Subscription, Wanted

ABSENT: Final = ""
"""Stands for a version where the client was told that there is no such resource."""


class Due(msgspec.Struct, frozen=True):
    """What is to be sent now, sorted by name; false when nothing is."""

    put: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.removed)


class Served:
    __slots__ = ("_answers", "_known", "_said", "refused")

    def __init__(self, initial: Mapping[str, str] | None = None) -> None:
        """initial: name → version that the client has, from its first request."""
        self._known: dict[str, str] = dict(initial or {})
        # Of responses that are not answered: nonce → name → version, and how many there are of it.
        self._said: dict[str, dict[str, str]] = {}
        self._answers: Counter[str] = Counter()
        # Name → version and reason, until it is acked.
        self.refused: dict[str, tuple[str, str]] = {}

    @property
    def known(self) -> Mapping[str, str]:
        """Name → version that the client was sent last, or ABSENT."""
        return self._known

    @property
    def unanswered(self) -> frozenset[str]:
        """Names that a response was about which is not answered."""
        return frozenset(name for said in self._said.values() for name in said)

    def answer(
        self, event: StreamEvent, subscription: Subscription, current: Mapping[str, Resource]
    ) -> tuple[Due, ...]:
        """What is to be sent for a request of this type, in responses of their own."""
        match event:
            case Subscribed():
                due = (self.due(subscription, current, Wanted()),)  # not what is equal there
            case Resubscribed(wanted=wanted):
                due = (self.due(subscription, current, wanted),)
            case Nacked(nonce=nonce, reason=reason):
                said = self._settle(nonce)
                for name, version in said.items():
                    if subscription.wants(name):  # else nothing is kept of it any more
                        self.refused[name] = version, reason
                return self._apart(said, subscription, current)
            case Acked(nonce=nonce):
                for name in self._settle(nonce):
                    self.refused.pop(name, None)
                return ()
            case _:
                return ()
        return tuple(each for each in due if each)

    def sent(self, due: Due, frames: Iterable[Frame]) -> None:
        """The responses that say what was due, in order."""
        said = [(each.name, each.version) for each in due.put]
        said += [(name, ABSENT) for name in due.removed]
        for frame in frames:
            self._said[frame.nonce] = dict(said[: frame.resources])
            self._answers[frame.nonce] += 1
            said = said[frame.resources :]

    def due(
        self, subscription: Subscription, current: Mapping[str, Resource], wanted: Wanted
    ) -> Due:
        """What the client lacks; counts as sent. wanted: of a request, or empty after a change.

        Without a wildcard, `current` is only asked for names.
        """
        names = subscription.names | self._known.keys()
        if subscription.wildcard:
            names |= current.keys()
        put: list[Resource] = []
        removed: list[str] = []
        for name in sorted(names):
            if not subscription.wants(name):
                self._known.pop(name, None)
                self.refused.pop(name, None)
                continue
            asked = name in wanted.names or name in wanted.answer
            known = self._known.get(name)
            resource = current.get(name)
            if resource is not None:
                if asked or wanted.everything or known != resource.version:
                    put.append(resource)
                    self._known[name] = resource.version
                continue
            named = name in subscription.names
            if asked or (known != ABSENT and (named or known is not None)):
                removed.append(name)
            if named:
                self._known[name] = ABSENT
            else:
                self._known.pop(name, None)
        return Due(tuple(put), tuple(removed))

    def _settle(self, nonce: str) -> dict[str, str]:
        self._answers[nonce] -= 1
        if self._answers[nonce] > 0:
            return self._said[nonce]
        del self._answers[nonce]
        return self._said.pop(nonce)

    def _apart(
        self, said: Mapping[str, str], subscription: Subscription, current: Mapping[str, Resource]
    ) -> tuple[Due, ...]:
        """What of a refused response still holds; nothing if it was about one name."""
        if len(said) < 2:
            return ()
        due: list[Due] = []
        for name, version in sorted(said.items()):
            if not subscription.wants(name) or self._known.get(name, ABSENT) != version:
                continue  # what has changed since was sent since
            resource = current.get(name)
            if resource is None and version == ABSENT:
                due.append(Due(removed=(name,)))
            elif resource is not None and resource.version == version:
                due.append(Due(put=(resource,)))
        return tuple(due)
