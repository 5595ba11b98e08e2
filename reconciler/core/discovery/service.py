"""The server's side of xDS for any types and both variants, without IO.

What is served is published whole, view by view (the resources of one class of nodes); each stream
is of one node, and so of one view. A stream holds for each type the snapshot that it was sent;
whenever it can take more it is led from there to the newest one, however many there were in
between. So nothing is ever queued here, a slow stream gets the newest state and nothing else, and
streams in step share every byte.

It promises (section names are those of the xDS protocol document):

* what a client asks for it is sent, once a version; what it asks for again it is sent again; what
  it never asked for it is not sent;
* a refused response is never sent again as it is: only a change is, or what is asked for anew. A
  client that does not answer is sent all changes like any other ("When to send an update");
* on a new stream, equal versions are not sent again: of `initial_resource_versions` in the delta
  variant, of version_info in a wildcard subscription in the other. To names the latter does not
  apply: what is named on a stream for the first time must be sent ("How the client specifies what
  resources to return"), and a version does not tell whether the client still has it all;
* of types in `full_state` a state-of-the-world response is complete, and empty when there is
  nothing; of all others it has what is new to the client, and what is gone is not said ("Deleting
  Resources");
* in one publication additions and changes go in the order of `types.ORDER`, removals behind them
  the other way round ("Eventual consistency considerations"): when several types change, what is
  removed goes in responses of its own, and complete ones have for the time being both old and new
  (`delivery` says what waits for which answers);
* a delta client that subscribes to everything hears at once, if only that there is nothing;
* a stream of a view that was never published waits for it.

A request that breaks the protocol is a `ProtocolError`; the caller ends that stream with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from reconciler.core.discovery.clients import Client, Kind, View, client_state
from reconciler.core.discovery.delivery import Delivery
from reconciler.core.discovery.frames import Frames
from reconciler.core.discovery.requests import Decoder, Parsed
from reconciler.core.discovery.snapshot import NONE, Snapshot
from reconciler.core.discovery.types import (
    CDS,
    DELTA,
    LDS,
    SOTW,
    TTL_FEATURE,
    WRAPPED_FEATURE,
    ClientState,
    Node,
    Variant,
    ttl_of,
)
from reconciler.core.resources.types import Resource
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request
from reconciler.core.xds.effects import Close, Send
from reconciler.core.xds.stream import (
    Acked,
    IncrementalStream,
    Nacked,
    Resubscribed,
    StreamEvent,
    Subscribed,
)
from reconciler.core.xds.subscription import WILDCARD
from reconciler.errors import ProtocolError

MAX_TYPES: Final = 64
"""Types on one stream; Envoy knows a dozen."""

MAX_OPEN: Final = 64
"""Responses of one type that a client may leave unanswered; answers to older ones are stale."""

AGAIN_SECONDS: Final = 1.0
"""A state-of-the-world client that asks again for what it has already (its list unchanged, its last
answer given) is sent it. After that it must have been sent something else, or so much time must
have passed, before it is again: two ends that answer each other would never stop."""


_LOOKED_AT: Final = 500
"""Streams, at least, by which it is told how many have not answered."""


class Polled(msgspec.Struct, frozen=True):
    """frame: a DiscoveryResponse; new: who asked says that it has another version, or none"""

    frame: bytes
    new: bool


Grouping = Callable[[Sequence[int]], Iterable[Sequence[int]]]
"""Streams → the same in groups, one after the other."""


class Service:
    """Not thread safe. `now`: seconds of any clock that never goes back.

    After every call take `effects()`: what is to be sent, stream by stream in this order. When all
    of a stream has been taken by its transport say so with `drained`; until then nothing else is
    sent.
    """

    def __init__(
        self,
        view_of: Callable[[Node], str],
        *,
        full_state: Collection[str] = (LDS, CDS),
        response_bytes: int = codec.MAX_RESPONSE,
        max_names: int = codec.MAX_NAMES,
        initial_rate: float | None = None,
    ) -> None:
        """view_of: the view that a node is served; ProtocolError: it is served none.
        response_bytes: of resources and removals in one response that may be split
        max_names: in one request, and in all subscriptions of a stream together
        initial_rate: first responses of streams a second; None: any number
        """
        self._view_of = view_of
        self._max_names = max_names
        self._delivery = Delivery(Frames(full_state, response_bytes), initial_rate)
        self._decoder = Decoder(max_names)
        self._views: dict[str, View] = {}
        self._behind: dict[str, None] = {}  # views
        self._clients: dict[int, Client] = {}

    # ----------------------------------------------------------------------------- what is served

    def publish(
        self,
        view: str,
        resources: Mapping[str, Mapping[str, Resource]],
        now: float,
        *,
        lead: bool = True,
    ) -> None:
        """The whole new state of a view: type URL → name → resource.

        lead: its streams to it, now; else when `lead` is called, and what is asked for meanwhile is
        answered from it already
        """
        of = self._view(view)
        changed = not of.published
        of.published = True
        for type_url in resources.keys() | of.snapshots.keys():
            old = of.snapshot(type_url)
            new = _succeed(type_url, old, resources.get(type_url, {}), now)
            if new is not old:
                changed = True
                of.snapshots[type_url] = new
                old.superseded()
        if changed:
            of.nothing.superseded()
            if of.clients:
                self._behind[view] = None
            if lead:
                self.lead(now)

    def lead(self, now: float) -> None:
        """Lead all streams to what was published."""
        for _ in self.leading(now, lambda streams: (streams,)):
            pass

    def leading(self, now: float, grouped: Grouping) -> Iterator[None]:
        """Likewise, with a break behind each group, in which streams may be closed: what is to be
        sent to its streams is in `effects` by then. To be gone through to the end."""
        views, self._behind = self._behind, {}
        for group in grouped([each for name in views for each in self._view(name).clients]):
            for stream in group:
                client = self._clients.get(stream)
                if client is not None:
                    self._delivery.flush(client, now)
            yield

    @property
    def behind(self) -> bool:
        """Something was published that streams were not led to."""
        return bool(self._behind)

    def unanswered(self) -> float:
        """The part of the streams that was sent what it has not answered yet; of many streams it is
        told by some, spread over all."""
        every = max(1, len(self._clients) // _LOOKED_AT)
        looked = waiting = 0
        for client in islice(self._clients.values(), 0, None, every):
            looked += 1
            for kind in client.kinds.values():
                if kind.open:
                    waiting += 1
                    break
        return waiting / max(1, looked)

    def reassign(self, now: float) -> None:
        """`view_of` may say something else now: lead every stream to its view."""
        for client in list(self._clients.values()):
            if client.node is None:
                continue
            try:
                view = self._view(self._view_of(client.node))
            except ProtocolError as error:
                self._forget(client)
                self._delivery.close(client, error.status, error.reason)
                continue
            if view is not client.view:
                client.join(view)
                self._delivery.flush(client, now)

    def drop(self, view: str) -> bool:
        """Forget a view; False when it has streams."""
        found = self._views.get(view)
        if found is not None and found.clients:
            return False
        if found is not None:
            del self._views[view]
            self._behind.pop(view, None)
            for snapshot in found.snapshots.values():
                snapshot.superseded()
        return True

    @property
    def views(self) -> Collection[str]:
        """Names of the views that were published or have streams."""
        return self._views.keys()

    # ------------------------------------------------------------------------------------ streams

    def stream_opened(
        self,
        stream: int,
        variant: Variant,
        type_url: str | None,
        now: float,
        node: str | None = None,
    ) -> None:
        """stream: a number that no other open stream has; type_url: of a per-type service, None
        for ADS; node: the proven name, which outranks what the first request claims."""
        self._clients[stream] = Client(stream, variant, type_url, node, now, MAX_OPEN)

    def received(self, stream: int, frame: bytes, now: float) -> bool:
        """A request. False: and as nearly always nothing is to be done for it.

        ProtocolError: the stream is to be closed with its status and reason.
        """
        client = self._clients.get(stream)
        if client is None:
            return False  # closed meanwhile
        if client.node is None:
            node, client.node_hash, parsed = self._decoder.first(client.variant, frame)
            self._checked(client, parsed)
            client.claimed = node.id
            if client.proven is not None:
                node = msgspec.structs.replace(node, id=client.proven)
            client.node = node
            client.ttl = TTL_FEATURE in node.features and (
                client.variant is DELTA or WRAPPED_FEATURE in node.features
            )
            client.join(self._view(self._view_of(node)))
        else:
            parsed = self._decoder.later(client.variant, frame, client.node_hash)
            if parsed.plain and self._acked(client, parsed.request):
                return self._delivery.answered(client, now)
            self._checked(client, parsed)
        request = parsed.request
        if client.service is not None and not request.type_url:
            request = msgspec.structs.replace(request, type_url=client.service)
        due = False
        for event in client.core.take(request):
            due |= self._happened(client, event, parsed, now)
        if due:
            self._delivery.flush(client, now)
        return True

    def poll(self, type_url: str, data: bytes, node: str | None = None) -> Polled:
        """What a request without a stream is answered ("REST-JSON polling subscriptions").

        type_url: that the service is for; node: the proven name. ProtocolError as of `received`,
        and UNAVAILABLE as long as nothing was published for the node.
        """
        said, _, parsed = self._decoder.first(SOTW, data)
        request = parsed.request
        if request.type_url not in ("", type_url):
            raise _other_type(type_url, request.type_url)
        if node is not None:
            said = msgspec.structs.replace(said, id=node)
        view = self._view(self._view_of(said))
        if not view.published:
            raise ProtocolError("UNAVAILABLE", "there is nothing yet")
        wildcard = not request.names or WILDCARD in request.names
        names = NONE if wildcard else frozenset(request.names)
        snapshot = view.snapshot(type_url)
        new = request.version != snapshot.version(wildcard, names)
        return Polled(self._delivery.whole(type_url, snapshot, wildcard, names), new)

    def drained(self, stream: int, now: float) -> bool:
        """The transport has taken everything that was sent to the stream. False: and as nearly
        always nothing came meanwhile, so nothing is to be done."""
        client = self._clients.get(stream)
        if client is None:
            return False
        client.drained = True
        if client.late:
            client.late = False
            self._delivery.flush(client, now)
            return True
        return False

    def stream_closed(self, stream: int) -> None:
        client = self._clients.get(stream)
        if client is not None:
            self._forget(client)

    # --------------------------------------------------------------------------------------- time

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._delivery.tick(self._clients.values(), now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._delivery.next_deadline()

    def effects(self) -> list[Send | Close]:
        """What is to be done since the last call, in this order."""
        effects, self._delivery.effects = self._delivery.effects, []
        return effects

    def clients(self) -> Iterator[ClientState]:
        """Every stream whose node is known, and what its client has."""
        for client in list(self._clients.values()):  # the caller may do other things in between
            if client.node is not None:
                yield client_state(client)

    # ------------------------------------------------------------------------------------- inside

    def _view(self, name: str) -> View:
        found = self._views.get(name)
        if found is None:
            found = self._views[name] = View(name)
        return found

    def _forget(self, client: Client) -> None:
        del self._clients[client.id]
        self._delivery.closed(client)
        client.leave()

    def _checked(self, client: Client, parsed: Parsed) -> None:
        """What a request may say on this stream, besides what its variant says."""
        request = parsed.request
        type_url = request.type_url
        if client.service is None:
            if "/" not in type_url:
                what = f"{type_url!r} is no type URL" if type_url else "a request without type_url"
                raise ProtocolError("INVALID_ARGUMENT", f"{what} on an aggregated stream")
        elif type_url and type_url != client.service:
            raise _other_type(client.service, type_url)
        if request.node and client.node is not None and request.node != client.claimed:
            raise ProtocolError("INVALID_ARGUMENT", "the node of a stream can't change")
        if len(client.kinds) >= MAX_TYPES and type_url not in client.kinds:
            raise ProtocolError("RESOURCE_EXHAUSTED", f"more than {MAX_TYPES} types on a stream")

    def _acked(self, client: Client, request: Request) -> bool:
        """Take an ACK by the short way; False: it is of no response that is open."""
        core, nonce = client.core, request.nonce
        kind = client.kinds.get(request.type_url)
        if kind is None or not isinstance(core, IncrementalStream):
            return False
        if not core.ack_of(request.type_url, kind, nonce):
            return False
        kind.accepted(kind.settle(nonce))
        return True

    def _happened(self, client: Client, event: StreamEvent, parsed: Parsed, now: float) -> bool:
        """Take an event; True when something may have to be sent for it."""
        match event:
            case Acked(type_url=type_url, nonce=nonce):
                kind = client.kinds[type_url]
                kind.accepted(kind.settle(nonce))
                self._delivery.answered(client, now)
                return False
            case Nacked(type_url=type_url, nonce=nonce, reason=reason):
                kind = client.kinds[type_url]
                kind.refuse(kind.settle(nonce), reason, now)
                self._delivery.answered(client, now)
                return False
            case Subscribed(type_url=type_url, wanted=wanted, initial=initial, version=version):
                kind = client.kinds[type_url]
                kind.force(wanted.names.difference(initial))
                if parsed.base is not None:
                    kind.base = parsed.base
                elif wanted.everything:
                    kind.force(frozenset((WILDCARD,)))
                if version and wanted.everything and not kind.subscription.names:
                    self._resume(client, kind, type_url, version, now)
            case Resubscribed(type_url=type_url, wanted=wanted, again=again):
                kind = client.kinds[type_url]
                if again and not client.may_ask_again(kind, now, AGAIN_SECONDS):
                    return False
                kind.force(wanted.names | wanted.answer)
                if wanted.began and kind.told and client.variant is DELTA:
                    # It may have given up what it is to have only now, and has it then for ever if
                    # it is gone by the time of the answer.
                    kind.force(kind.on_its_way())
                if wanted.everything:
                    kind.force(frozenset((WILDCARD,)))
                kind.forget()
            case _:
                return False
        names = 0
        for each in client.kinds.values():
            names += len(each.subscription.names)
        if names > self._max_names:
            reason = f"more than {self._max_names} names are subscribed to on one stream"
            raise ProtocolError("RESOURCE_EXHAUSTED", reason)
        return True

    def _resume(self, client: Client, kind: Kind, type_url: str, version: str, now: float) -> None:
        """A state-of-the-world client that subscribes to everything says what it has."""
        if not client.view.published:
            return
        target = client.view.snapshot(type_url)
        if target.version(True, NONE) == version:
            kind.base, kind.forced, kind.fresh = target, NONE, False
            if target.ttl is not None:
                self._delivery.renew(client, type_url, target.ttl, now)


def _succeed(
    type_url: str, old: Snapshot, resources: Mapping[str, Resource], now: float
) -> Snapshot:
    """The next snapshot of a type; the old one when nothing has changed."""
    known = old.resources
    new: list[str] = []
    for name, resource in resources.items():
        before = known.get(name)
        if before is not resource and (before is None or before.version != resource.version):
            new.append(name)
    if not new and len(known) == len(resources):
        return old
    since = {**old.since, **dict.fromkeys(new, now)}
    for name in since.keys() - resources.keys():
        del since[name]
    ttls = map(ttl_of, resources.values())
    shortest = min((each for each in ttls if each is not None), default=None)
    return Snapshot(type_url, dict(resources), since, shortest)


def _other_type(service: str, type_url: str) -> ProtocolError:
    reason = f"this service is for {service}, not for {type_url}"
    return ProtocolError("INVALID_ARGUMENT", reason)
