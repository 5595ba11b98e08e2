"""What every way to carry the xDS service has in common: who is told of streams, who may open one,
and for how long. `grpc.XdsServer` and `h2.H2Server` are the two ways.

A proof counts from the stream's start until it expires: then, or when the stream is as old as
`max_stream_age` (a tenth more or less, so that nodes don't come back together), the stream is ended
and the node comes back with versions and the proof that it has by then. What it enforces meanwhile
does not change.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypedDict, TypeVar, Unpack

import msgspec

from reconciler.address import Address
from reconciler.errors import ProtocolError
from reconciler.server.proofs import Tokens
from reconciler.tls import KeyFiles, KeyPair, Proof

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

STALL_SECONDS: Final = 30.0
QUEUE_BYTES: Final = 256 << 20
MAX_FRAME: Final = 64 << 20  # a first request lists every version that the node holds
STOPPING: Final = ("UNAVAILABLE", "the server is shutting down")

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a half of the traffic
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.server_max_unrequested_time_in_server", 60),
    # Streams that wait for their handler: when all nodes come back at once they are many.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
)

Opened = Callable[[int, str], None]
"""Told of a new stream, with its node; may raise nothing."""


class Hub(Protocol):
    """Who is told about streams. Called on the event loop; must not block."""

    def stream_opened(self, stream: int, node: str) -> None: ...

    def received(self, stream: int, frame: bytes) -> None:
        """ProtocolError: this stream is closed with its status and reason."""

    def stream_closed(self, stream: int) -> None: ...


class Traffic(msgspec.Struct):
    """What went over a node's streams since the server started; messages and their bytes.

    Or over a method's streams; see `StreamServer`.
    """

    streams: int = 0
    opened: int = 0
    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class Options(TypedDict, total=False):
    """What a server may be told besides; nothing of it has to be said."""

    methods: Mapping[str, Opened] | None
    """Full name → what is told of a stream of it; None: agents' delta ADS only."""
    named: Collection[str] | None
    """Methods whose nodes have names; None: all. Without TLS the name is that of the first request,
    which is waited for, and traffic is counted by it. Of other methods it is "" where it is not
    proven, and traffic is counted by method."""
    drained: Callable[[int], None]
    """Told when all that was sent on a stream has been taken."""
    options: Sequence[tuple[str, int]]
    """Of gRPC, over `OPTIONS`; to our own HTTP/2 the times of keepalive alone mean something."""
    add: Callable[[Any], None]
    """Registers what else is served on the port, at a grpc.aio server or what stands for one."""
    cluster: str
    """Whose nodes' SPIFFE IDs are believed."""
    tokens: Tokens | None
    token_listen: Address | None
    max_stream_age: float
    """Seconds; 0: as long as the proof."""
    max_streams: int
    """Beyond it streams are refused (RESOURCE_EXHAUSTED); 0: no limit."""
    stall_seconds: float
    queue_bytes: int
    clock: Callable[[], float]
    """Unix time, as expiry is written in."""
    refused: Callable[[str, str, str], None]
    """Told the peer's address, status and reason of each stream that is not taken."""


S = TypeVar("S")


class StreamServer(Generic[S]):
    """What `listen` takes as proof: with `tokens` but no `token_listen`, tokens; else certificates.
    `token_listen` is the second port, for tokens. Without `tls` there is one port and no proof.

    refused: streams that were not taken, by gRPC status: nobody's, not provable now, or too many
    """

    def __init__(
        self,
        hub: Hub,
        listen: Address,
        tls: KeyPair | KeyFiles | None,
        **options: Unpack[Options],
    ) -> None:
        methods, named = options.get("methods"), options.get("named")
        self._hub = hub
        self._listen, self._token_listen = listen, options.get("token_listen")
        self._tls, self._tokens = tls, options.get("tokens")
        self._cluster = options.get("cluster", "default")
        self._clock = options.get("clock", time.time)
        self._methods = {METHOD: hub.stream_opened} if methods is None else dict(methods)
        self._named = self._methods.keys() if named is None else frozenset(named)
        self.drained = options.get("drained")
        self._options = {**dict(OPTIONS), **dict(options.get("options", ()))}
        self._add_others = options.get("add")
        self._max_age = options.get("max_stream_age", 0.0)
        self._max_streams = options.get("max_streams", 0)
        self._stall = options.get("stall_seconds", STALL_SECONDS)
        self.queue_bytes = options.get("queue_bytes", QUEUE_BYTES)
        self._tell_refused = options.get("refused")
        self._numbers = itertools.count(1)
        self._streams: dict[int, S] = {}  # that are open, by number
        self._stopping = False
        self.port = self.token_port = 0
        self.traffic: dict[str, Traffic] = {}
        self.refused: dict[str, int] = {}

    def _may_open(self) -> None:
        """ProtocolError: not one stream more."""
        if self._stopping:
            raise ProtocolError(*STOPPING)
        if self._max_streams and len(self._streams) >= self._max_streams:
            reason = f"{self._max_streams} streams are open, and no more are taken"
            raise ProtocolError("RESOURCE_EXHAUSTED", reason)

    def _note_refused(self, peer: str, error: ProtocolError) -> None:
        self.refused[error.status] = self.refused.get(error.status, 0) + 1
        if self._tell_refused is not None:
            self._tell_refused(peer, error.status, error.reason)

    def _traffic_of(self, method: str, node: str) -> Traffic:
        """Of a stream that is taken; counts it."""
        key = node if method in self._named else method
        traffic = self.traffic.get(key)
        if traffic is None:
            traffic = self.traffic[key] = Traffic()
        traffic.streams += 1
        traffic.opened += 1
        return traffic

    def _life(self, proof: Proof | None) -> tuple[float, str, str] | None:
        """Seconds after which a new stream is to be ended, with which status and reason."""
        left = float("inf") if proof is None else proof.expires - self._clock()
        age = self._max_age * random.uniform(0.9, 1.1) if self._max_age else left
        if age < left:
            reason = "the stream has the age at which streams are ended; connect again"
            return age, "UNAVAILABLE", reason
        if proof is None:
            return None
        return left, "UNAUTHENTICATED", f"the {proof.by} has expired"

    def _too_much(self) -> str:
        return f"more than {self.queue_bytes} bytes wait for the node to read them"

    def _took_nothing(self) -> str:
        return f"the node took nothing for {self._stall:g} s"


def one_by_one(count: int, drain: float) -> list[float]:
    """When so many streams are ended at a stop: seconds from now, in random order."""
    times = [drain * at / count for at in range(count)]
    random.shuffle(times)
    return times
