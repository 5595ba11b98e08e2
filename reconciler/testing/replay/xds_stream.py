"""XdsStream and the code: the server's stream, what it serves, and the agent's end, by real frames.

The adapter is the network and the clock between real objects: `DeltaStream`, `Served` and
`Rollout` of each replica, `Client` of the agent, and every frame encoded and decoded by
`core/xds/codec.py`. "cut" is the type Commit (the first requests of the other types of a cut
travel with its own), "labels" is Identity.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from reconciler.core.resources.encode import commit, version_of
from reconciler.core.resources.types import COMMIT, IDENTITY
from reconciler.core.xds import codec
from reconciler.core.xds.client import MODEL as CLIENT
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Frame, Request, decode_response
from reconciler.core.xds.rollout import Restart
from reconciler.core.xds.served import ABSENT
from reconciler.core.xds.stream import (
    Acked,
    Nacked,
    Resubscribed,
    Stale,
    StreamEvent,
    Subscribed,
)
from reconciler.core.xds.subscription import WILDCARD, Subscription
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record, Value, function
from reconciler.testing.replay.xds_frames import NEVER, TYPES, Reader, revision_of
from reconciler.testing.replay.xds_replica import ENCODER, GRACE, VERSIONS, Replica, root

_EVENTS: Final = {
    "Subscribe": "subscribe",
    "Resubscribe": "resubscribe",
    "Ack": "ack",
    "AckLast": "ack_last",
    "Nack": "nack",
    "StaleAck": "stale_ack",
    "StaleNack": "stale_nack",
}


class Adapter:
    """The network, the clock and who edits are the adapter's: how often they may act is the
    bound of the search that the spec has in its constants, and is refused here."""

    def start(self, constants: Mapping[str, Value], state: Mapping[str, Value]) -> None:
        order = tuple(str(name) for name in cast(tuple[str, ...], constants["NameOrder"]))
        self.star = str(constants["Star"])
        self.limits = (
            cast(int, constants["MaxRevision"]),
            cast(int, constants["MaxFaults"]),
            cast(int, constants["MaxAsks"]),
        )
        self.streams = cast(int, constants["MaxStreams"])
        self.reader = Reader(order, self.star)
        self.contents: tuple[Mapping[str, int], ...] = (dict.fromkeys((*order, self.star), 1),)
        self.now = 0.0
        self.replicas: dict[str, Replica] = {}
        self.owned: set[str] = set()
        self.heard: dict[str, str] = {}  # server → what its next request was found to be
        for name in sorted(cast(frozenset[str], constants["Servers"])):
            replica = Replica()
            replica.source.star = self.star
            replica.published(1, self.contents, self.now)
            self.replicas[name] = replica
        self.closed: frozenset[int] = frozenset()
        self.down: dict[int, tuple[bytes, ...]] = dict.fromkeys(range(1, self.streams + 1), ())
        self.up: dict[int, tuple[tuple[bytes, ...], ...]] = dict.fromkeys(self.down, ())
        self.opened = 0
        self.client = Client("n1", 0.0, 1.0)
        self.link = 0
        self.asked = False
        self.want = Subscription()
        want = cast(Mapping[str, Any], state["want"])
        self.want.wildcard = want["wild"]
        self.want.names = frozenset(map(str, want["names"]))
        self.held: dict[str, int] = {}
        self.cut = 0
        self.inbox: bytes | None = None
        self.faults = self.asks = 0

    def fork(self) -> Adapter:
        """Parts are copied when they are first changed."""
        other = copy.copy(self)
        other.replicas = dict(self.replicas)
        other.owned = set()
        other.heard = self.heard  # until it differs from this one
        other.down, other.up = dict(self.down), dict(self.up)
        self.owned = set()
        return other

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        if action in _EVENTS:
            self._serve(cast(str, args[0]), _EVENTS[action])
        else:
            getattr(self, f"_{action.lower()}")(*args)
        self.heard = {}

    # ------------------------------------------------------------------------------ the server

    def _publish(self, name: str, version: int) -> None:
        newest = self.contents[-1]
        if len(self.contents) >= self.limits[0]:
            raise Disabled("no more edits")
        if newest[name] == version or (name == self.star and not version):
            raise Disabled("no edit")
        self.contents = (*self.contents, {**newest, str(name): version})

    def _catchup(self, name: str, revision: int) -> None:
        if not self.replicas[name].source.revision < revision <= len(self.contents):
            raise Disabled("nothing newer to load")
        replica = self._own(name)
        replica.published(revision, self.contents, self.now)
        self._deliver(replica.stream, [*replica.flush(), *replica.changed()])

    def _serve(self, name: str, wanted: str) -> None:
        stream = self.replicas[name].stream
        if not stream or not self.up[stream]:
            raise Disabled("no request has arrived")
        if self.heard.get(name, wanted) != wanted:
            raise Disabled(f"it is another event: {self.heard[name]}")
        message, *rest = self.up[stream]
        self.up[stream] = tuple(rest)
        replica = self._own(name)
        events: list[StreamEvent] = []
        frames: list[Frame] = []
        for data in message:
            said, sent = replica.receive(data, self.now)
            events += said
            frames += sent
        self.heard[name] = _event(events[-1] if len(message) > 1 else events[0])
        if self.heard[name] != wanted:
            raise Disabled(f"it is another event: {events}")
        self._deliver(stream, frames)

    def _drop(self, name: str) -> None:
        stream = self.replicas[name].stream
        if not stream:
            raise Disabled("no stream")
        if stream == self.link:
            self._fault()
        self._server_end(name)

    def _retry(self, name: str) -> None:
        """The grace is over: a machine that has nothing to retry asks for nothing."""
        replica = self._own(name)
        self.now += GRACE
        replica.rollout.tick(self.now)
        if not any(isinstance(out, Restart) for out in replica.rollout.take()):
            raise Disabled("it asks for no restart")
        self._server_end(name)

    def _restart(self, name: str) -> None:
        if not self.replicas[name].source.revision:
            raise Disabled("it has just started")
        self._fault()
        self._server_end(name)
        self.replicas[name] = Replica()
        self.replicas[name].source.star = self.star

    # ------------------------------------------------------------------------------ the client

    def _dial(self) -> None:
        """The back-off is over, if there is one."""
        client = self._own_client()
        if client.retry_at is None:
            raise Disabled("no back-off runs")
        self._tick(max(self.now, client.retry_at), limit=1e9)

    def _expire(self) -> None:
        """No server was there for the limit, and the back-off, if there is one, goes on."""
        client = self._own_client()
        before, retry_at = client.state, client.retry_at
        client.retry_at = None
        self._tick(self.now, limit=1e-9)
        client.retry_at = retry_at
        if client.state == before:
            raise Disabled("its trust does not end here")

    def _fail(self) -> None:
        if not self.client.wants_stream or self.link:
            raise Disabled("no attempt is under way")
        self._fault()
        self._own_client().lost(self.now, 0.5)

    def _connect(self, name: str) -> None:
        if not self.client.wants_stream or self.link:
            raise Disabled("no attempt is under way")
        if not self.replicas[name].source.revision:
            raise Disabled("nobody listens there")
        if self.replicas[name].stream:
            self._server_end(name)
        self.opened += 1
        self.link = self.opened
        self._own(name).open(self.link)
        report = Report(self.cut, self._root(self.cut), {})
        requests = self._own_client().opened(report, self.now)
        self.up[self.link] = (tuple(requests),)
        self.asked = self.want.wildcard or bool(self.want.names)
        if self.asked:
            names = [*sorted(self.want.names), *([WILDCARD] if self.want.wildcard else [])]
            # everything can be asked for by no name at all
            self._first_labels(names if self.want.names else [])

    def _first_labels(self, names: Iterable[str]) -> None:
        initial = {name: version_of(b"%d" % held) for name, held in self.held.items() if held > 0}
        self._say(Request(type_url=IDENTITY, subscribe=tuple(names), initial=initial))

    def _stage(self) -> None:
        data = self._arrived(COMMIT)
        self._own_client().received(data, self.now)
        self.inbox = data

    def _flip(self) -> None:
        frame = self._staged()
        self.cut = revision_of(frame)
        client = self._own_client()
        client.committed(self.now)
        self._answer(client.ack(COMMIT, decode_response(frame).nonce))

    def _refuse(self) -> None:
        frame = self._staged()
        if revision_of(frame) >= self.cut:
            self._fault()
        client = self._own_client()
        client.refused(self.now)
        self._answer(client.nack(COMMIT, decode_response(frame).nonce, "the root differs"))

    def _apply(self) -> None:
        data = self._arrived(IDENTITY)
        response = self._own_client().received(data, self.now)
        said = {each.name: VERSIONS[each.version] for each in response.resources}
        said |= dict.fromkeys(response.removed, 0)
        self.held = dict(self.held)
        for name, version in said.items():
            if self.want.wants(name):
                if version or name in self.want.names:
                    self.held[name] = version
                else:
                    self.held.pop(name, None)
        self._answer(Client.ack(IDENTITY, response.nonce))

    def _reject(self) -> None:
        data = self._arrived(IDENTITY)
        self._fault()
        response = self._own_client().received(data, self.now)
        self._answer(Client.nack(IDENTITY, response.nonce, "no"))

    def _ask(self, name: str, on: bool, stale: bool) -> None:
        if not self.link or self.asks >= self.limits[2] or not (self.asked or on):
            raise Disabled("nothing to ask")
        if stale:
            if not self.asked:
                raise Disabled("nothing was answered")
            self._fault()
        self.asks += 1
        x = WILDCARD if name == self.star else str(name)
        self.want = copy.deepcopy(self.want)
        self.want.change((x,) if on else (), () if on else (x,))
        if self.asked:
            self._say(
                Request(
                    type_url=IDENTITY,
                    subscribe=(x,) if on else (),
                    unsubscribe=() if on else (x,),
                    nonce=NEVER if stale else "",
                )
            )
        else:
            self._first_labels((x,))
        self.asked = True
        self.held = {each: has for each, has in self.held.items() if self.want.wants(each)}

    def _repeat(self, kind: str, type: str) -> None:
        if not self.link or (type == "labels" and not self.asked):
            raise Disabled("nothing was answered")
        self._fault()
        nonce = f"{NEVER} of {type}"
        if kind == "ack" and type == "cut" and self.cut:
            nonce = self._commit(self.cut).nonce
        error = "no" if kind == "nack" else None
        self._say(Request(type_url=TYPES[type], nonce=nonce, error=error))

    def _break(self, late: bool) -> None:
        if not self.link:
            raise Disabled("no stream")
        if self._server_there():
            self._fault()
        if late:
            self.cut = revision_of(self._staged())
        self._own_client().lost(self.now, 0.5)
        self.down[self.link] = ()
        self.link, self.asked, self.inbox = 0, False, None

    def _forget(self) -> None:
        if self.client.state != CLIENT.initial:
            raise Disabled("its stream is lost, or its back-off over, before that")
        self._fault()
        self.client = Client("n1", self.now, 1.0)
        self.owned.add("")
        self.held = {}

    # ------------------------------------------------------------------------------ the network

    def _fault(self) -> None:
        if self.faults >= self.limits[1]:
            raise Disabled("no more faults")
        self.faults += 1

    def _own(self, name: str) -> Replica:
        if name not in self.owned:
            self.owned.add(name)
            self.replicas[name] = self.replicas[name].copied()
        return self.replicas[name]

    def _own_client(self) -> Client:
        if "" not in self.owned:
            self.owned.add("")
            self.client = copy.copy(self.client)
        return self.client

    def _tick(self, now: float, limit: float) -> None:
        self.now = now
        client = self._own_client()
        client.last_contact, client._max_stale = now - 1, limit
        client.tick(now)

    def _server_there(self) -> bool:
        return any(each.stream == self.link for each in self.replicas.values())

    def _server_end(self, name: str) -> None:
        replica = self._own(name)
        if replica.stream:
            self.up[replica.stream] = ()
            self.closed |= {replica.stream}
        replica.close(self.now)

    def _deliver(self, stream: int, frames: list[Frame]) -> None:
        for frame in frames:
            self.reader.frame(frame.data)
        if stream and stream == self.link:
            self.down[stream] += tuple(frame.data for frame in frames)

    def _say(self, request: Request) -> None:
        self._answer(codec.encode_request(request))

    def _answer(self, data: bytes) -> None:
        if self.link and self._server_there():
            self.up[self.link] += ((data,),)

    def _arrived(self, type_url: str) -> bytes:
        if not self.link or self.inbox is not None or not self.down[self.link]:
            raise Disabled("no response to read")
        data, *rest = self.down[self.link]
        if decode_response(data).type_url != type_url:
            raise Disabled("a response of another type")
        self.down[self.link] = tuple(rest)
        return data

    def _staged(self) -> bytes:
        if self.inbox is None:
            raise Disabled("nothing is staged")
        frame, self.inbox = self.inbox, None
        return frame

    def _commit(self, revision: int) -> Frame:
        return ENCODER.frames(COMMIT, [commit(revision, self._root(revision))])[0]

    def _root(self, revision: int) -> bytes:
        return root(self.contents[revision - 1][self.star]) if revision else b""

    # ------------------------------------------------------------------------------ what is seen

    def observe(self) -> Mapping[str, Value]:
        streams = range(1, self.streams + 1)
        replicas = self.replicas
        return {
            "revision": len(self.contents),
            "loaded": self._each(lambda replica: replica.source.revision),
            "serving": self._each(lambda replica: replica.stream),
            "stream": function({k: Record({t: self._state(k, t) for t in TYPES}) for k in streams}),
            "open": self._each(self._open),
            "sub": self._each(lambda replica: _subscription(_labels(replica))),
            "known": self._each(self._known),
            "rollout": self._each(lambda replica: replica.rollout.state),
            "acked": Record({name: _acked(replicas[name]) for name in replicas}),
            "target": self._each(
                lambda replica: replica.rollout.target.revision if replica.rollout.target else 0
            ),
            "down": function({k: tuple(map(self.reader.frame, self.down[k])) for k in streams}),
            "up": function({k: tuple(map(self.reader.request, self.up[k])) for k in streams}),
            "opened": self.opened,
            "client": self.client.state,
            "link": self.link,
            "asked": self.asked,
            "want": _subscription(self.want),
            "held": self.reader.body(self.held),
            "cut": self.cut,
            "inbox": self.reader.nothing("none")
            if self.inbox is None
            else self.reader.frame(self.inbox),
            "faults": self.faults,
            "asks": self.asks,
        }

    def _seen(self, frame: bytes | None) -> Value:
        return self.reader.nothing("none") if frame is None else self.reader.frame(frame)

    def _each(self, value: Any) -> Record:
        return Record({name: value(replica) for name, replica in self.replicas.items()})

    def _state(self, stream: int, type: str) -> str:
        for replica in self.replicas.values():
            if replica.stream == stream and replica.core is not None:
                return replica.core.state(TYPES[type])
        return "closed" if stream in self.closed else "idle"

    def _open(self, replica: Replica) -> Record:
        def nonces(type_url: str) -> tuple[Value, ...]:
            found = None if replica.core is None else replica.core._types.get(type_url)
            return () if found is None else tuple(self.reader.nonce(each) for each in found.open)

        return Record({name: nonces(type_url) for name, type_url in TYPES.items()})

    def _known(self, replica: Replica) -> Record:
        known = {} if replica.served is None else replica.served._known
        return self.reader.body(
            {name: 0 if version == ABSENT else VERSIONS[version] for name, version in known.items()}
        )


def _event(event: StreamEvent) -> str:
    match event:
        case Subscribed():
            return "subscribe"
        case Resubscribed():
            return "resubscribe"
        case Acked(last=last):
            return "ack_last" if last else "ack"
        case Nacked():
            return "nack"
        case Stale(refused=refused):
            return "stale_nack" if refused else "stale_ack"


def _labels(replica: Replica) -> Subscription | None:
    return None if replica.core is None else replica.core.subscription(IDENTITY)


def _subscription(subscription: Subscription | None) -> Record:
    wild = subscription is not None and subscription.wildcard
    names = frozenset() if subscription is None else frozenset(subscription.names)
    return Record({"wild": wild, "names": names})


def _acked(replica: Replica) -> int:
    """What it believes of a node without a stream is not in this spec."""
    return replica.rollout.committed if replica.rollout.state != "absent" else 0
