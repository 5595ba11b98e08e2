"""What a client must remember of one type on one stream, and the requests that follow from it.

Sans-io. The rules are those of the xDS protocol: in SotW each request lists all names, carries the
newest nonce and the version that was accepted last; in delta a request says what changes, a nonce
only where it answers a response, and held versions only in the first request of the type.

It follows the protocol, and judges nothing: a wrong response is taken for what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from reconciler.probe.frames import Item, Node, Request, Response
from reconciler.probe.services import FULL_STATE, Variant

WILDCARD: Final = "*"


class Follower:
    """One type on one stream.

    subscribed: names that are asked for; `*` among them for all, said or by the legacy rule
    held:       name → the resource as it was last accepted or not yet answered
    absent:     delta: names that the server said are not there
    """

    def __init__(self, type_url: str, variant: Variant, *, typed: bool = True) -> None:
        """typed: say the type in requests, which only the aggregated service needs."""
        self.type_url, self.variant = type_url, variant
        self._said_type = type_url if typed else ""
        self.subscribed: dict[str, None] = {}
        self.held: dict[str, Item] = {}
        self.absent: set[str] = set()
        self.nonce = self.stale_nonce = self.version = self.stale_version = ""
        self.unanswered: Response | None = None
        self._asked = self._named = False

    @property
    def wildcard(self) -> bool:
        return WILDCARD in self.subscribed

    @property
    def full_state(self) -> bool:
        """Whether a response is everything that there is."""
        return self.variant is Variant.SOTW and self.type_url in FULL_STATE

    # ------------------------------------------------------------------------------- requests

    def first(
        self,
        names: Collection[str] = (),
        *,
        node: Node | None = None,
        held: Mapping[str, Item] | None = None,
        version: str = "",
    ) -> Request:
        """The first request of the type on a stream; without names it asks for everything.

        held, version: what is there from an earlier stream
        """
        self._asked, self._named = True, bool(names)
        self.subscribed = dict.fromkeys(names or (WILDCARD,))
        self.held = dict(held or {})
        self.version = version
        delta = self.variant is Variant.DELTA
        return Request(
            self._said_type,
            tuple(names),
            initial={name: item.version for name, item in self.held.items()} if delta else {},
            version=version,
            node=node,
        )

    def subscribe(self, names: Collection[str], *, node: Node | None = None) -> Request:
        """Ask for more names; with none, and as the first request, for everything."""
        if not self._asked:
            return self.first(names, node=node)
        self._named = self._named or bool(names)
        self.subscribed |= dict.fromkeys(names)
        return self._changed(tuple(names), ())

    def unsubscribe(self, names: Collection[str]) -> Request:
        """Ask no more for names. Of what is no longer asked for nothing is held."""
        self._named = True
        for name in names:
            self.subscribed.pop(name, None)
        if not self.wildcard:
            self.held = {name: item for name, item in self.held.items() if name in self.subscribed}
        self.absent &= self.subscribed.keys()
        return self._changed((), tuple(names))

    def ack(self) -> Request:
        """Accept the response that came last."""
        if self.unanswered is not None:
            self.stale_version, self.version = self.version, self.unanswered.version
        self.unanswered = None
        return self._answer(self.version, None)

    def nack(self, reason: str) -> Request:
        """Refuse the response that came last."""
        self.unanswered = None
        return self._answer(self.version, reason)

    def ack_with_stale_version(self) -> Request:
        """Accept, but say the version before: only `error_detail` makes a NACK."""
        stale = self.version
        self.ack()
        return self._answer(stale, None)

    def with_stale_nonce(self, names: Collection[str]) -> Request:
        """Ask for more names under the nonce of the response before the last.

        In SotW such a request counts for nothing, and is not remembered here; in delta it does.
        """
        if self.variant is Variant.SOTW:
            every = tuple(dict.fromkeys((*self.subscribed, *names)))
            version, nonce = self.stale_version, self.stale_nonce
            return Request(self._said_type, every, version=version, nonce=nonce)
        request = self.subscribe(names)
        return Request(request.type_url, request.names, nonce=self.stale_nonce)

    def nothing(self) -> Request:
        """A request without names that is not the first: what it asks for is not changed by it."""
        return self._changed((), ())

    def _changed(self, added: tuple[str, ...], gone: tuple[str, ...]) -> Request:
        if self.variant is Variant.DELTA:
            return Request(self._said_type, added, gone)
        return self._answer(self.version, None)

    def _answer(self, version: str, error: str | None) -> Request:
        if self.variant is Variant.DELTA:
            return Request(self._said_type, nonce=self.nonce, error=error)
        names = tuple(self.subscribed) if self._named else ()
        return Request(self._said_type, names, version=version, nonce=self.nonce, error=error)

    # ------------------------------------------------------------------------------ responses

    def received(self, response: Response) -> None:
        """Take what a response says; `ack` or `nack` must follow."""
        self.unanswered = response
        self.stale_nonce, self.nonce = self.nonce, response.nonce
        if self.full_state:
            before, self.held = self.held, {}
        else:
            before = self.held
        for item in response.items:
            self.absent.discard(item.name)
            if item.body is not None:
                self.held[item.name] = item
            elif item.name in before:  # only its time to live is renewed
                self.held[item.name] = before[item.name]
        for name in response.removed:
            self.held.pop(name, None)
            if name in self.subscribed:
                self.absent.add(name)

    def missing(self) -> tuple[str, ...]:
        """Names that are asked for, and neither there nor said to be absent."""
        known = self.held.keys() | self.absent | {WILDCARD}
        return tuple(name for name in self.subscribed if name not in known)
