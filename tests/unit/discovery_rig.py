"""An xDS service and clients of it that speak in frames, of both variants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import Lasting, Variant
from reconciler.core.resources.types import Resource
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request
from reconciler.core.xds.effects import Close, Send
from reconciler.probe import frames

ROUNDS = 1000
"""More than anything here takes."""

State = Mapping[str, Mapping[str, str]]
"""type URL → name → version"""


def resource(type_url: str, name: str, version: str) -> Resource:
    """Its body says what it is: state-of-the-world responses give no names."""
    return Resource(type_url, name, version, f"{name}@{version}".encode())


def lasting(type_url: str, name: str, version: str, ttl: float | None) -> Lasting:
    made = resource(type_url, name, version)
    return Lasting(made.type_url, made.name, made.version, made.body, ttl)


def resources(state: State) -> dict[str, dict[str, Resource]]:
    return {
        type_url: {name: resource(type_url, name, version) for name, version in of.items()}
        for type_url, of in state.items()
    }


def encode(variant: Variant, request: Request) -> bytes:
    if variant is Variant.DELTA:
        return codec.encode_request(request)
    asked = frames.Request(
        request.type_url,
        request.names,
        version=request.version,
        nonce=request.nonce,
        error=request.error,
        node=frames.Node(request.node) if request.node else None,
    )
    return frames.encode(asked, variant)


class Answer(msgspec.Struct, frozen=True):
    """A response as it was read. put: name → version; nothing: names without a body
    (heartbeats)."""

    type_url: str
    nonce: str
    put: Mapping[str, str]
    removed: tuple[str, ...] = ()
    version: str = ""
    nothing: tuple[str, ...] = ()
    frame: bytes = b""


def read(variant: Variant, frame: bytes) -> Answer:
    delta = variant is Variant.DELTA
    put: dict[str, str] = {}
    nothing: list[str] = []
    if delta:
        message = discovery_pb2.DeltaDiscoveryResponse.FromString(frame)
    else:
        message = discovery_pb2.DiscoveryResponse.FromString(frame)
    for each in message.resources:
        wrapped = discovery_pb2.Resource()
        if delta:
            wrapped.CopyFrom(each)
        elif not each.Unpack(wrapped):
            wrapped.resource.CopyFrom(each)
        if not wrapped.HasField("resource"):
            nothing.append(wrapped.name)
            continue
        assert wrapped.resource.type_url == message.type_url
        name, _, version = wrapped.resource.value.decode().rpartition("@")
        assert name not in put, "a name comes twice in one response"
        assert wrapped.name == name or not delta
        assert wrapped.version == version or not delta
        put[name] = version
    return Answer(
        message.type_url,
        message.nonce,
        put,
        tuple(message.removed_resources) if delta else (),
        "" if delta else message.version_info,
        tuple(nothing),
        frame,
    )


class Peer:
    """One stream. slow: its transport takes nothing until it is told to."""

    def __init__(self, rig: Rig, id: int, variant: Variant, service: str | None) -> None:
        self.rig = rig
        self.service = service
        self.id = id
        self.variant = variant
        self.inbox: deque[bytes] = deque()
        self.slow = False
        self.busy = False  # something was sent, and it has not taken it
        self.closed: tuple[str, str] | None = None
        self.accepted: dict[str, str] = {}  # type → version_info
        self.last: dict[str, str] = {}  # type → nonce of the last response that was read
        self.listed: dict[str, tuple[str, ...]] = {}

    @property
    def delta(self) -> bool:
        return self.variant is Variant.DELTA

    def ask(
        self,
        type_url: str,
        *names: str,
        drop: Iterable[str] = (),
        initial: Mapping[str, str] | None = None,
        version: str | None = None,
        nonce: str | None = None,
        error: str | None = None,
        node: str = "",
    ) -> None:
        """Delta: subscribe to more names, unsubscribe from those of `drop`; the other variant: all
        of these names, from now on. A nonce is that of the last response read, unless given."""
        if self.delta:
            request = Request(
                type_url=type_url,
                node=node,
                subscribe=names,
                unsubscribe=tuple(drop),
                initial=dict(initial or {}),
                nonce=nonce or "",
                error=error,
            )
        else:
            self.listed[type_url or self.service or ""] = names
            request = Request(
                type_url=type_url,
                node=node,
                names=names,
                version=self.accepted.get(type_url, "") if version is None else version,
                nonce=self.last.get(type_url, "") if nonce is None else nonce,
                error=error,
            )
        self.say(request)

    def say(self, request: Request) -> None:
        service = self.rig.service
        due = service.next_deadline()
        done = service.received(self.id, encode(self.variant, request), self.rig.now)
        if not done:
            assert service.next_deadline() == due, "a deadline moved, and nobody was told"
        assert self.rig.pump() == 0 or done, "something was to be sent, and nobody was told"

    def take(self) -> Answer:
        """The next response, not answered."""
        answer = read(self.variant, self.inbox.popleft())
        self.last[answer.type_url] = answer.nonce
        return answer

    def answer(self, answer: Answer, error: str | None = None) -> None:
        type_url = answer.type_url
        if error is None:
            self.accepted[type_url] = answer.version
        if self.delta:
            self.ask(type_url, nonce=answer.nonce, error=error)
        else:
            listed = self.listed.get(type_url, ())
            self.ask(type_url, *listed, nonce=answer.nonce, error=error)

    def got(self) -> list[Answer]:
        """All responses until nothing comes any more, each acknowledged."""
        answers = []
        while self.inbox:
            answers.append(self.take())
            self.answer(answers[-1])
        return answers

    def put(self) -> list[dict[str, str]]:
        """What was put by each of them."""
        return [dict(each.put) for each in self.got()]

    def drain(self) -> None:
        self.slow = self.busy = False
        self.rig.service.drained(self.id, self.rig.now)
        self.rig.pump()

    def close(self) -> None:
        self.rig.service.stream_closed(self.id)
        del self.rig.peers[self.id]


class Rig:
    def __init__(self, service: Service | None = None) -> None:
        self.service = service or Service(lambda node: "")
        self.now = 0.0
        self.peers: dict[int, Peer] = {}
        self.opened = 0
        self.on_send: Callable[[int, bytes], None] = lambda stream, frame: None

    def open(self, variant: Variant, type_url: str | None = None, node: str | None = None) -> Peer:
        self.opened += 1
        peer = self.peers[self.opened] = Peer(self, self.opened, variant, type_url)
        self.service.stream_opened(peer.id, variant, type_url, self.now, node)
        return peer

    def publish(self, state: State, view: str = "") -> None:
        self.service.publish(view, resources(state), self.now)
        self.pump()

    def wait(self, seconds: float) -> None:
        """Time passes; what is due on the way is done when it is."""
        end = self.now + seconds
        rounds = 0
        while (due := self.service.next_deadline()) is not None and due <= end:
            rounds += 1
            assert rounds < ROUNDS, "what is due is not done"
            self.now = max(self.now, due)
            self.service.tick(self.now)
            self.pump()
        self.now = end

    def pump(self) -> int:
        """Carry out what is to be done; transports that are not slow take all at once. Gives how
        many times there was something."""
        rounds = 0
        while effects := self.service.effects():
            rounds += 1
            assert rounds < ROUNDS, "it sends without end"
            taken = []
            for effect in effects:
                match effect:
                    case Send(stream=stream, frame=frame):
                        self.on_send(stream, frame)
                        self.peers[stream].inbox.append(frame)
                        taken.append(stream)
                    case Close(stream=stream, status=status, reason=reason):
                        self.peers[stream].closed = (status, reason)
            for stream in dict.fromkeys(taken):
                assert not self.peers[stream].busy, "more was sent than the stream could take"
                self.peers[stream].busy = self.peers[stream].slow
                if not self.peers[stream].slow:
                    self.service.drained(stream, self.now)
        return rounds
