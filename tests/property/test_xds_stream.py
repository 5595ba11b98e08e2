"""A stream against what a client must end with, whatever it asks, refuses and loses on the way."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import event, given
from hypothesis import strategies as st

from reconciler.core.resources.encode import version_of
from reconciler.core.resources.types import IDENTITY, Resource
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Encoder, Request, decode_response
from reconciler.core.xds.served import Due, Served
from reconciler.core.xds.stream import DeltaStream, Subscribed
from reconciler.core.xds.subscription import WILDCARD, Wanted

NAMES = ("a", "b", "c", "d")


def resource(name: str, content: int) -> Resource:
    body = f"{name}{content}".encode()
    return Resource(IDENTITY, name, version_of(body), body)


class Client:
    """Keeps what it accepted; drops by itself what it no longer asks for.

    A response is refused whole. What was refused with others it must be sent again, apart.
    """

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.refused: dict[str, str] = {}  # name → version that it did not accept alone; "": none
        self.names: set[str] = set()
        self.wildcard = False
        self.first = True
        self.legacy = False
        self.last_nonce = ""

    def reconnected(self) -> Request:
        """The first request of the next stream names what is wanted and says what is held."""
        self.first = False
        self.refused.clear()
        names = tuple(sorted(self.names)) + ((WILDCARD,) if self.wildcard else ())
        if not names:
            self.wildcard = True  # without names it is a wildcard again, on a new stream
        return Request(type_url=IDENTITY, subscribe=names, initial=dict(self.held))

    def ask(self, random: random.Random) -> Request:
        subscribe = set(random.sample((*NAMES, WILDCARD), random.randrange(3)))
        left = set(random.sample((*NAMES, WILDCARD), random.randrange(3))) - subscribe
        if self.first:
            left = set()
            self.first = False
            self.wildcard = not subscribe
        self.names = (self.names | subscribe) - left - {WILDCARD}
        if WILDCARD in subscribe:
            self.wildcard = True
        if WILDCARD in left:
            self.wildcard = False
        if not self.wildcard:
            self.held = {name: held for name, held in self.held.items() if name in self.names}
        for name in subscribe:
            self.refused.pop(name, None)
        # A nonce that was answered already, or was never heard of, must change nothing.
        nonce = random.choice(("", "", self.last_nonce, "never"))
        return Request(
            type_url=IDENTITY,
            subscribe=tuple(sorted(subscribe)),
            unsubscribe=tuple(sorted(left)),
            nonce=nonce if not subscribe or nonce != self.last_nonce else "",
        )

    def take(self, frame: bytes, refuse: bool) -> bytes:
        response = decode_response(frame)
        self.last_nonce = response.nonce
        said = {each.name: each.version for each in response.resources}
        said |= dict.fromkeys(response.removed, "")
        for name, version in said.items():
            if not (self.wildcard or name in self.names):
                continue
            if refuse:
                if len(said) == 1:
                    self.refused[name] = version
                continue
            self.refused.pop(name, None)
            if version:
                self.held[name] = version
            else:
                self.held.pop(name, None)
        return codec.encode_request(
            Request(type_url=IDENTITY, nonce=response.nonce, error="no" if refuse else None)
        )


class Run:
    def __init__(self, random: random.Random) -> None:
        self.random = random
        self.client = Client()
        self.current: dict[str, Resource] = {}
        self.encoder = Encoder()
        self.open()

    def open(self) -> None:
        self.stream = DeltaStream((IDENTITY,))
        self.served: Served | None = None
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()

    def step(self, faults: bool) -> None:
        kind = self.random.choice(("ask", "change", "serve", "serve", "read", "read", "break"))
        if kind == "ask":
            if self.client.first or faults:
                self.up.append(codec.encode_request(self.client.ask(self.random)))
        elif kind == "change" and faults:
            name = self.random.choice(NAMES)
            if self.random.random() < 0.3:
                self.current.pop(name, None)
            else:
                self.current[name] = resource(name, self.random.randrange(3))
            self.due(Wanted())
        elif kind == "serve" and self.up:
            self.serve()
        elif kind == "read" and self.down:
            self.read(refuse=faults and self.random.random() < 0.2)
        elif kind == "break" and faults and self.random.random() < 0.3 and not self.client.first:
            event("stream broke")
            self.open()
            self.up.append(codec.encode_request(self.client.reconnected()))

    def serve(self) -> None:
        for each in self.stream.receive(self.up.popleft()):
            subscription = self.stream.subscription(IDENTITY)
            assert subscription is not None
            if isinstance(each, Subscribed):
                self.served = Served(each.initial)
            assert self.served is not None
            for due in self.served.answer(each, subscription, self.current):
                self.send(due)

    def read(self, refuse: bool) -> None:
        if refuse:
            event("refused")
        self.up.append(self.client.take(self.down.popleft(), refuse))

    def due(self, wanted: Wanted) -> None:
        subscription = self.stream.subscription(IDENTITY)
        if subscription is not None and self.served is not None:
            self.send(self.served.due(subscription, self.current, wanted))

    def send(self, due: Due) -> None:
        assert self.served is not None
        frames = self.encoder.frames(IDENTITY, due.put, due.removed)
        self.served.sent(due, frames)
        for frame in frames:
            self.stream.sent(frame)
            self.down.append(frame.data)

    def settle(self) -> None:
        if self.client.first:
            self.up.append(codec.encode_request(self.client.ask(self.random)))
        while self.up or self.down:
            while self.up:
                self.serve()
            if self.down:
                self.read(refuse=False)

    def check(self) -> None:
        client = self.client
        for name in NAMES:
            now = self.current.get(name)
            if not (client.wildcard or name in client.names):
                assert name not in client.held
            elif now is None:
                assert name not in client.held or client.refused.get(name) == ""
            elif client.refused.get(name) != now.version:
                assert client.held.get(name) == now.version
        assert self.stream.state(IDENTITY) in ("subscribed", "acked", "nacked")


@given(st.randoms(use_true_random=False), st.integers(1, 80))
def test_a_client_ends_with_what_it_asks_for(random: random.Random, steps: int) -> None:
    run = Run(random)
    for _ in range(steps):
        run.step(faults=True)
    run.settle()
    run.check()
    assert not run.down, "nothing is sent for ever"
