"""What is kept of each stream, and what can be said of its client (CSDS)."""

from __future__ import annotations

from typing import Final

import msgspec

from reconciler.core.discovery.snapshot import EMPTY, NONE, Names, Said, Snapshot
from reconciler.core.discovery.types import (
    DELTA,
    SOTW,
    ClientState,
    Node,
    ResourceState,
    TypeState,
    Variant,
)
from reconciler.core.xds.codec import MAX_NAMES
from reconciler.core.xds.stream import IncrementalStream, SotwStream
from reconciler.core.xds.stream import Kind as StreamKind

MAX_REASON: Final = 4096
"""Characters of a NACK's text that are kept."""


class _Any:
    def __contains__(self, type_url: object) -> bool:
        return True


_ANY: Final = _Any()
"""Types that are served: one of which there is nothing has no resources."""


class View:
    """The resources of one class of nodes. snapshots: type URL → the newest; nothing: what it has
    of all other types."""

    __slots__ = ("clients", "name", "nothing", "published", "snapshots")

    def __init__(self, name: str) -> None:
        self.name = name
        self.published = False
        self.snapshots: dict[str, Snapshot] = {}
        self.nothing = Snapshot("", {})
        self.clients: dict[int, Client] = {}

    def snapshot(self, type_url: str) -> Snapshot:
        return self.snapshots.get(type_url, self.nothing)


NOWHERE: Final = View("")
"""Of streams that have not said who they are of; never published."""


class Refused(msgspec.Struct, frozen=True):
    version: str
    reason: str
    at: float


class Kind(StreamKind):
    """One type on a stream. base: what the client was sent; told: what the responses say that are
    not answered, oldest first; forced: what it is to be sent (names, or `*` for everything)
    whatever it has; fresh: until that is known; refused: by name, None for nothing."""

    __slots__ = ("base", "forced", "fresh", "refused", "told")

    def __init__(self) -> None:
        super().__init__()
        self.base = EMPTY
        self.forced: Names = NONE
        self.fresh = True
        self.refused: dict[str, Refused] | None = None
        self.told: tuple[Said, ...] = ()

    def bound(self) -> None:
        """Of `told`, forget what is too much, the oldest first."""
        told = self.told[-len(self.open) :]
        names = sum(len(each.names) for each in told)
        while names > MAX_NAMES and len(told) > 1:
            names -= len(told[0].names)
            told = told[1:]
        self.told = told

    def settle(self, nonce: str) -> Said | None:
        """A response is answered. What it says, None when that is forgotten."""
        if len(self.told) == 1 and not self.open:  # as nearly always
            (said,), self.told = self.told, ()
            return said if said.nonce == nonce else None
        found = None
        for said in self.told:
            if said.nonce == nonce:
                found = said
        if self.open:
            self.told = tuple(each for each in self.told if each.nonce in self.open)
        else:
            self.told = ()
        return found

    def on_its_way(self) -> Names:
        """What is there by responses that are not answered: the client may yet come to have it."""
        words: dict[str, str] = {}
        for said in self.told:
            words.update(zip(said.names, said.versions, strict=True))
        return frozenset(name for name, version in words.items() if version)

    def force(self, names: Names) -> None:
        self.forced = self.forced | names if self.forced else names

    def forget(self) -> None:
        """What is not subscribed to any more need not be sent."""
        subscription = self.subscription
        if self.forced and not subscription.wildcard:
            self.forced = self.forced & subscription.names

    def refuse(self, said: Said | None, reason: str, now: float) -> None:
        """said: None when that is forgotten."""
        if said is None:
            return
        refused = dict(self.refused or {})
        reason = reason[:MAX_REASON]  # once: each slice would be a text of its own
        for name, version in zip(said.names, said.versions, strict=True):
            refused[name] = Refused(version, reason, now)
        # Of what it neither has nor names nothing can be said: a client that refuses all must not
        # be remembered for ever for names that are gone.
        known = self.base.resources.keys() | self.subscription.names
        self.refused = {name: each for name, each in refused.items() if name in known} or None

    def accepted(self, said: Said | None) -> None:
        """said: None when that is forgotten."""
        if said is None or self.refused is None:
            return
        for name in said.names:
            self.refused.pop(name, None)
        self.refused = self.refused or None


class Client:
    """One stream."""

    __slots__ = (
        "admitted", "again", "claimed", "core", "drained", "held_until", "id", "kinds",
        "late", "mute", "node", "node_hash", "opened_at", "proven", "service", "ttl", "variant",
        "view", "waits_early",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        variant: Variant,
        service: str | None,
        proven: str | None,
        now: float,
        max_open: int,
    ) -> None:
        self.id = id
        self.variant = variant
        self.service = service
        self.proven = proven
        self.opened_at = now
        made = IncrementalStream if variant is DELTA else SotwStream
        self.core: IncrementalStream | SotwStream = made(_ANY, kind=Kind, keep=max_open)
        self.kinds: dict[str, Kind] = self.core.types  # type: ignore[assignment]  # of kind=Kind
        self.node: Node | None = None
        self.claimed = ""
        self.node_hash = 0  # of the bytes of the node, as the first request has them
        self.view = NOWHERE
        self.drained = True  # nothing is on its way to it
        self.late = False  # something may have come meanwhile
        self.admitted = False  # it had its first response
        self.ttl = False  # it can take a time to live
        self.held_until = 0.0  # while its next stage waits for its answers
        self.waits_early = False  # for those to the first stage
        self.mute = False  # it was waited for in vain
        self.again: dict[Kind, float] | None = None  # see `may_ask_again`

    def join(self, view: View) -> None:
        self.view.clients.pop(self.id, None)
        self.view = view
        view.clients[self.id] = self

    def leave(self) -> None:
        self.view.clients.pop(self.id, None)
        self.core.close()

    def may_ask_again(self, kind: Kind, now: float, seconds: float) -> bool:
        """Whether what it has, and asks for once more, is to be sent: not twice without a response
        in between that another type brought by itself, unless so much time has passed."""
        again = {} if self.again is None else self.again
        if kind in again and now < again[kind] + seconds:
            return False
        self.again = {**again, kind: now}
        return True


def client_state(client: Client) -> ClientState:
    assert client.node is not None
    return ClientState(
        stream=client.id,
        variant=client.variant,
        service=client.service,
        node=client.node,
        proven=client.proven,
        view=client.view.name,
        opened_at=client.opened_at,
        types=tuple(
            _type_state(client, type_url, kind) for type_url, kind in sorted(client.kinds.items())
        ),
    )


def _type_state(client: Client, type_url: str, kind: Kind) -> TypeState:
    target = client.view.snapshot(type_url)
    subscription = kind.subscription
    names = set(subscription.names)
    if subscription.wildcard:
        names |= kind.base.resources.keys() | target.resources.keys()
    unanswered = {name for said in kind.told for name in said.names}
    version = ""
    if client.variant is SOTW and kind.newest:
        version = kind.base.version(subscription.wildcard, subscription.names)
    return TypeState(
        type_url=type_url,
        state=kind.state,
        wildcard=subscription.wildcard,
        names=subscription.names,
        version=version,
        resources=tuple(_resource(kind, target, name, unanswered) for name in sorted(names)),
    )


def _resource(kind: Kind, target: Snapshot, name: str, unanswered: set[str]) -> ResourceState:
    sent = kind.base.resources.get(name)
    now = target.resources.get(name)
    version = "" if sent is None else sent.version
    refused = None if kind.refused is None else kind.refused.get(name)
    if name in kind.forced or version != ("" if now is None else now.version):
        status = "waiting"
    elif name in unanswered:
        status = "sent"
    elif refused is not None:
        status = "nacked"
    else:
        status = "absent" if sent is None else "acked"
    return ResourceState(
        name=name,
        status=status,
        version=version,
        updated_at=kind.base.since.get(name, 0.0),
        reason="" if refused is None else refused.reason,
        refused_version="" if refused is None else refused.version,
        refused_at=0.0 if refused is None else refused.at,
    )
