"""What one stream has been sent of one type that is served as it changes, not in cuts.

Promises of the incremental protocol: each resource is sent once a version; what is (re)requested is
sent even if it was before; a name that is subscribed to and does not exist is answered as removed,
once, and sent when it comes to exist; what goes is removed; what the client reports to have at its
first request is sent only if it differs. A refused version is not sent again: only a change is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from reconciler.core.resources.types import Resource
from reconciler.core.trace import Trace
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
    __slots__ = ("_known", "_trace")

    def __init__(
        self, initial: Mapping[str, str] | None = None, trace: Trace | None = None
    ) -> None:
        """initial: name → version that the client has, from its first request."""
        self._trace = trace
        self._known: dict[str, str] = dict(initial or {})

    def begin(self, subscription: Subscription, current: Mapping[str, Resource]) -> Due:
        """After the first request: equal versions are not sent again."""
        return self.due(subscription, current, Wanted())

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
