"""The server's side of one stream, for any types: subscriptions, nonces, ACK and NACK.

It decides what a request *means* and tells the caller as events; what is sent, and when, is the
caller's. Each type on a stream is the machine models/stream.toml, walked as a table because it runs
once a message. `IncrementalStream` and `SotwStream` differ in how a request changes the
subscription and in what a stale nonce means; everything else is one.

It promises: a NACK is what has error_detail, never a guess from versions; an answer with a stale
nonce says nothing about the present, and of the delta variant a change of subscription in it counts
all the same, while of the other one nothing is ever sent for it (the client has a newer response on
its way, and says it all again when it answers that); the node is read from the first message only;
a type that is not served is refused by name, and so is anything but one wildcard subscription to a
type that is served whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container

import msgspec

from reconciler.core.machine import load
from reconciler.core.trace import Event, Trace
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Frame, Request
from reconciler.core.xds.subscription import WILDCARD, Subscription, Wanted
from reconciler.errors import ProtocolError, Refusal

MODEL = load("stream")
_ROWS = MODEL.unguarded()


class Subscribed(msgspec.Struct, frozen=True):
    """First request of a type. initial: name → version that the client holds; version: in the
    other variant, that of the last response that it accepted on the stream before, "" for none.

    instance: of the client's process, "" where the stream's first request does not say
    """

    type_url: str
    wanted: Wanted
    initial: dict[str, str]
    version: str = ""
    instance: str = ""


class Resubscribed(msgspec.Struct, frozen=True):
    """again: in the state-of-the-world variant the same names, asked for although the last response
    was answered already: the client is in want of them (a cluster that warms anew is)."""

    type_url: str
    wanted: Wanted
    again: bool = False


class Acked(msgspec.Struct, frozen=True):
    """last: nothing of this type is left to be answered."""

    type_url: str
    nonce: str
    last: bool


class Nacked(msgspec.Struct, frozen=True):
    type_url: str
    nonce: str
    reason: str
    refusal: Refusal | None


class Stale(msgspec.Struct, frozen=True):
    """An answer to nothing that is open. refused: it was a NACK."""

    type_url: str
    nonce: str
    refused: bool = False


StreamEvent = Subscribed | Resubscribed | Acked | Nacked | Stale


class Kind:
    """One type on a stream. Callers may put what they keep of it into a class of their own."""

    __slots__ = ("asked", "newest", "open", "state", "subscription")

    def __init__(self) -> None:
        self.state = MODEL.initial
        self.subscription = Subscription()
        # Nonces that are not answered, oldest first. Few, and there are many of these objects.
        self.open: tuple[str, ...] = ()
        self.newest = ""  # nonce of the last response
        self.asked = False  # anew, before the last response was read (state of the world)

    def step(self, trigger: str) -> None:
        row = _ROWS.get((self.state, trigger)) or MODEL.step(self.state, trigger)
        if row is not None:
            self.state = row.dest


class Stream(ABC):
    """What both variants share."""

    __slots__ = (
        "_first", "_keep", "_kind", "_served", "_trace", "_types", "_whole", "instance", "node",
    )  # fmt: skip

    def __init__(
        self,
        served: Container[str],
        whole: Container[str] = (),
        trace: Trace | None = None,
        *,
        kind: type[Kind] = Kind,
        keep: int | None = None,
    ) -> None:
        """served: type URLs; whole: those of them that have the wildcard subscription only;
        keep: how many responses of a type may be unanswered, the answers to older ones are stale.
        """
        self._trace = trace
        self._served = served
        self._whole = whole
        self._kind = kind
        self._keep = keep
        self._types: dict[str, Kind] = {}
        self.node = self.instance = ""
        self._first = True

    def take(self, request: Request) -> tuple[StreamEvent, ...]:
        """What a request means. ProtocolError: the stream is to be closed with it."""
        if self._first:
            self.node, self.instance, self._first = request.node, request.instance, False
        state = self._types.get(request.type_url)
        if state is None:
            if request.type_url not in self._served:
                raise ProtocolError(
                    "INVALID_ARGUMENT", f"type {request.type_url!r} is not served here"
                )
            state = self._type(request.type_url)
        if request.type_url in self._whole:
            _check_whole(request, state.state == MODEL.initial)
        if state.state == MODEL.initial:
            return (self._begin(request, state),)
        return self._go_on(request, state)

    def sent(self, frame: Frame) -> None:
        """A response is on its way."""
        self.sent_of(self._type(frame.type_url), frame)

    def sent_of(self, state: Kind, frame: Frame) -> None:
        """The same, where what is kept of the type is at hand."""
        state.step("send")
        state.open += (frame.nonce,)
        state.newest = frame.nonce
        if self._keep is not None and len(state.open) > self._keep:
            state.open = state.open[-self._keep :]
        if self._trace is not None:
            self._record("Send", frame.type_url, nonce=frame.nonce)

    @property
    def types(self) -> dict[str, Kind]:
        """Type URL → what is kept of it."""
        return self._types

    def close(self) -> None:
        """The stream is over, whoever ended it."""
        for type_url, state in self._types.items():
            state.step("close")
            self._record("Close", type_url)

    def subscription(self, type_url: str) -> Subscription | None:
        state = self._types.get(type_url)
        return None if state is None else state.subscription

    def state(self, type_url: str) -> str:
        """State of models/stream.toml."""
        found = self._types.get(type_url)
        return MODEL.initial if found is None else found.state

    # ------------------------------------------------------------------------------- inside

    def _type(self, type_url: str) -> Kind:
        found = self._types.get(type_url)
        if found is None:
            found = self._types[type_url] = self._kind()
        return found

    def _begin(self, request: Request, state: Kind) -> StreamEvent:
        # Of the two ways to list names each variant has one, as it has one to say what it holds.
        names = request.subscribe or request.names
        wanted = state.subscription.begin(names, request.unsubscribe)
        state.step("subscribe")
        self._record("Subscribe", request.type_url, request)
        return Subscribed(request.type_url, wanted, request.initial, request.version, self.instance)

    @abstractmethod
    def _go_on(self, request: Request, state: Kind) -> tuple[StreamEvent, ...]:
        """Any later request of the type."""

    def _stale(self, request: Request, state: Kind) -> StreamEvent:
        refused = request.error is not None
        state.step("stale_nack" if refused else "stale_ack")
        action = "StaleNack" if refused else "StaleAck"
        self._record(action, request.type_url, nonce=request.nonce)
        return Stale(request.type_url, request.nonce, refused)

    def _answered(
        self, type_url: str, state: Kind, nonce: str, request: Request | None
    ) -> StreamEvent:
        """Of a response that is not answered any more."""
        if request is not None and request.error is not None:
            state.step("nack")
            self._record("Nack", type_url, nonce=nonce)
            return Nacked(type_url, nonce, request.error, request.refusal)
        return Acked(type_url, nonce, self._acked(type_url, state, nonce))

    def _acked(self, type_url: str, state: Kind, nonce: str) -> bool:
        """True: nothing of the type is left to be answered."""
        last = not state.open
        state.step("ack_last" if last else "ack")
        if self._trace is not None:
            self._record("AckLast" if last else "Ack", type_url, nonce=nonce)
        return last

    def _record(
        self, action: str, type_url: str, request: Request | None = None, nonce: str = ""
    ) -> None:
        """After the step: what was asked for or answered, and what was seen."""
        if self._trace is None:
            return
        state = self._types[type_url]
        args: dict[str, object] = {"type": short(type_url), "state": state.state}
        if request is not None:
            args["add"], args["drop"] = sorted(request.subscribe), sorted(request.unsubscribe)
            args["wild"] = state.subscription.wildcard
            args["names"] = sorted(state.subscription.names)
        if nonce:
            args["nonce"] = nonce
        self._trace(Event("XdsStream", action, args))


class IncrementalStream(Stream):
    """The delta variant, for requests that are decoded already."""

    __slots__ = ()

    def ack_of(self, type_url: str, state: Kind, nonce: str) -> bool:
        """Take an ACK that says nothing else, where what is kept of the type is at hand. False: it
        is of no response that is open."""
        if nonce not in state.open:
            return False
        self._resolve(type_url, state, nonce)
        self._acked(type_url, state, nonce)
        return True

    def _go_on(self, request: Request, state: Kind) -> tuple[StreamEvent, ...]:
        events: list[StreamEvent] = []
        if request.nonce or request.error is not None:
            events.append(self._answer(request, state))
        if request.subscribe or request.unsubscribe:
            wanted = state.subscription.change(request.subscribe, request.unsubscribe)
            state.step("resubscribe")
            self._record("Resubscribe", request.type_url, request)
            events.append(Resubscribed(request.type_url, wanted))
        return tuple(events)

    def _answer(self, request: Request, state: Kind) -> StreamEvent:
        if request.nonce not in state.open:
            return self._stale(request, state)
        self._resolve(request.type_url, state, request.nonce)
        return self._answered(request.type_url, state, request.nonce, request)

    def _resolve(self, type_url: str, state: Kind, nonce: str) -> None:
        """The oldest response with this nonce is answered: answers come in their order."""
        nonces = state.open
        at = nonces.index(nonce)
        state.open = nonces[:at] + nonces[at + 1 :] if len(nonces) > 1 else ()


class DeltaStream(IncrementalStream):
    """ACKs that say nothing else are recognised by comparing bytes with the one that is due."""

    def __init__(
        self,
        served: Container[str],
        whole: Container[str] = (),
        trace: Trace | None = None,
    ) -> None:
        super().__init__(served, whole, trace)
        self._acks: dict[bytes, str] = {}  # bytes of an ACK that is due → type

    def receive(self, data: bytes) -> tuple[StreamEvent, ...]:
        """What a frame of the client means. ProtocolError: the stream is to be closed with it."""
        type_url = self._acks.get(data)
        if type_url is not None:
            state = self._types[type_url]
            if state.open and data == codec.ack(type_url, state.open[0]):
                nonce = state.open[0]
                self._resolve(type_url, state, nonce)
                return (self._answered(type_url, state, nonce, None),)
        return self.take(codec.decode_request(data))

    def sent(self, frame: Frame) -> None:
        super().sent(frame)
        self._acks[codec.ack(frame.type_url, frame.nonce)] = frame.type_url

    def close(self) -> None:
        super().close()
        self._acks.clear()

    def _resolve(self, type_url: str, state: Kind, nonce: str) -> None:
        super()._resolve(type_url, state, nonce)
        if nonce not in state.open:
            self._acks.pop(codec.ack(type_url, nonce), None)


class SotwStream(Stream):
    """The state-of-the-world variant, for requests that are decoded already.

    The newest response is the one that an answer is about; it answers all before it. A request
    without a nonce is as stale as one with an old one while a response is on its way; when all are
    answered it is taken for what it says. A stale one that answers nothing and repeats its list
    asks for all that it lists once more; so does the answer to the newest, then.
    """

    __slots__ = ()

    def _go_on(self, request: Request, state: Kind) -> tuple[StreamEvent, ...]:
        events: list[StreamEvent] = []
        nonce = request.nonce
        subscription = state.subscription
        before = (subscription.wildcard, subscription.names)
        listed = frozenset(request.names)
        same = (WILDCARD in listed, listed - {WILDCARD}) == before
        if nonce != state.newest and (nonce or state.open):
            answers = not nonce or nonce in state.open or request.error is not None
            state.asked |= same and not answers
            subscription.narrow(request.names)
            return (self._stale(request, state),)
        again = False
        if nonce and state.open:
            again, state.asked = state.asked, False
            state.open = ()
            events.append(self._answered(request.type_url, state, nonce, request))
        elif request.error is not None:
            events.append(self._stale(request, state))
        else:
            again = not state.open and bool(state.newest)
        again = again and same and bool(subscription.names)
        wanted = subscription.replace(listed, again=again)
        if again or (subscription.wildcard, subscription.names) != before:
            state.step("resubscribe")
            self._record("Resubscribe", request.type_url, request)
            events.append(Resubscribed(request.type_url, wanted, again))
        return tuple(events)


def short(type_url: str) -> str:
    """The type's own name, as it is recorded."""
    return type_url.rpartition(".")[2]


def _check_whole(request: Request, first: bool) -> None:
    names = {*request.subscribe, *request.unsubscribe} - ({WILDCARD} if first else set())
    if names or (first and request.unsubscribe):
        raise ProtocolError(
            "INVALID_ARGUMENT",
            f"type {request.type_url!r} is served whole: subscribe once, to {WILDCARD!r} only",
        )
