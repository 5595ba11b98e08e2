"""The xDS service on our own HTTP/2, for very many streams: no task and no thread a stream.

It takes the place of `grpc.XdsServer` (same calls, same answers, the same proofs; the same tests
hold both) where the cost of a stream matters: what is sent to many streams is framed once, an ACK
is read without a copy, and a quiet stream costs two small objects and its socket.

Frames that are queued in one turn of the event loop leave together. A stream whose peer doesn't
read keeps what the core sent (at most one state, see `drained`), is ended with RESOURCE_EXHAUSTED
when nothing of it moved for `stall_seconds`, and when more than `queue_bytes` pile up. Connections
are probed with PING; those that never open a stream are closed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc

from reconciler.address import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.http2 import Connection, Limits
from reconciler.http2.connection import Budget, Stream, Wires
from reconciler.http2.headers import Header
from reconciler.local import clear_socket
from reconciler.server.grpc import (
    MAX_FRAME,
    METHOD,
    QUEUE_BYTES,
    STALL_SECONDS,
    Hub,
    Opened,
    Traffic,
)
from reconciler.server.proofs import Tokens, claimed, prove
from reconciler.tls import KeyFiles, KeyPair, Proof

_BACKLOG: Final = 4096
_TICK_SECONDS: Final = 10.0  # between looks at connections; a third of them is probed each time
_FIRST_STREAM_SECONDS: Final = 30.0  # to open a stream, for one who has connected
_HANDSHAKE_SECONDS: Final = 30.0
_CONTROL_BYTES: Final = 4 << 20  # answers to PING and the like that a peer may leave unread


class _Call:
    """One stream of ours. node: None until it is proven or claimed."""

    __slots__ = ("id", "method", "node", "peer", "pending", "stream", "timer", "traffic")

    def __init__(self, id: int, peer: _Peer, stream: Stream, method: str) -> None:
        self.id, self.peer, self.stream, self.method = id, peer, stream, method
        self.node: str | None = None
        self.traffic: Traffic | None = None  # once it is taken
        self.pending: list[bytes] | None = None  # what came before that
        self.timer: asyncio.TimerHandle | None = None


class H2Server:
    """See `grpc.XdsServer` for the arguments; `services` take the place of its `add`."""

    def __init__(
        self,
        hub: Hub,
        listen: Address,
        tls: KeyPair | KeyFiles | None,
        *,
        methods: Mapping[str, Opened] | None = None,
        named: bool = True,
        drained: Callable[[int], None] | None = None,
        cluster: str = "default",
        tokens: Tokens | None = None,
        token_listen: Address | None = None,
        max_stream_age: float = 0.0,
        max_streams: int = 0,
        stall_seconds: float = STALL_SECONDS,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.time,
        refused: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._hub = hub
        self._methods = {METHOD: hub.stream_opened} if methods is None else dict(methods)
        self._named = named
        self._drained = drained
        self._listen, self._token_listen = listen, token_listen
        self._tls = tls
        self._cluster = cluster
        self._tokens = tokens
        self._max_age = max_stream_age
        self._max_streams = max_streams
        self._stall = stall_seconds
        self._limit = queue_bytes
        self._clock = clock
        self._tell_refused = refused
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._listeners: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._tick = 0
        self._probed: list[_Peer] = []
        self._dirty: list[_Peer] = []
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: set[_Peer] = set()
        self.wires, self.budget = Wires(), Budget()
        self.limits = Limits(message=MAX_FRAME)
        self.loop: asyncio.AbstractEventLoop
        self.port = self.token_port = 0
        self.traffic: dict[str, Traffic] = {}
        self.refused: dict[str, int] = {}

    async def start(self) -> None:
        """Listen; UnavailableError when an address can't be had."""
        self.loop = asyncio.get_running_loop()
        two = self._token_listen is not None
        self.port = await self._open(self._listen, self._tokens is not None and not two)
        if self._token_listen is not None:
            self.token_port = await self._open(self._token_listen, True)
        self._sweep = self.loop.call_later(self._pause(), self._look)

    async def _open(self, where: Address, tokens: bool) -> int:
        context = None if self._tls is None else _context(self._tls, tokens)
        options: dict[str, Any] = {}
        if context is not None:
            options = {"ssl": context, "ssl_handshake_timeout": _HANDSHAKE_SECONDS}

        def peer() -> _Peer:
            return _Peer(self)

        try:
            if where.path:
                clear_socket(where.path)
                server = await self.loop.create_unix_server(
                    peer, where.path, backlog=_BACKLOG, **options
                )
            else:
                server = await self.loop.create_server(
                    peer, where.host, where.port, backlog=_BACKLOG, **options
                )
        except OSError:
            raise UnavailableError(f"{where.target}: can't listen there") from None
        self._listeners.append(server)
        return 0 if where.path else int(server.sockets[0].getsockname()[1])

    async def stop(self, grace: float = 5.0, drain: float = 0.0) -> None:
        """Take no new streams, tell the open ones to go elsewhere, wait for them to end."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        if self._sweep is not None:
            self._sweep.cancel()
        for peer in list(self.peers):
            peer.connection.leave()
            peer.touch()
        calls = list(self._calls.values())
        random.shuffle(calls)
        reason = "the server is shutting down"
        for at, call in enumerate(calls):
            if drain and at:
                self._arm(call, drain * at / len(calls), "UNAVAILABLE", reason)
            else:
                self._end(call, "UNAVAILABLE", reason)
        end = self.loop.time() + drain + grace
        while self._calls and self.loop.time() < end:
            await asyncio.sleep(min(0.05, grace))
        self._flush()
        for peer in list(self.peers):
            peer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        end = self.loop.time() + grace
        while self.peers and self.loop.time() < end:
            await asyncio.sleep(min(0.05, grace))
        for peer in list(self.peers):
            peer.abort()

    def send(self, stream: int, frame: bytes) -> None:
        """Queue a frame; for a stream that has ended, nothing happens."""
        call = self._calls.get(stream)
        if call is None:
            return
        if call.stream.queued + len(frame) > self._limit:
            reason = f"more than {self._limit} bytes wait for the node to read them"
            self._end(call, "RESOURCE_EXHAUSTED", reason)
            return
        peer = call.peer
        peer.connection.send(call.stream, frame)
        if call.traffic is not None:
            call.traffic.sent += 1
            call.traffic.sent_bytes += len(frame)
        if not peer.sent:
            peer.backlog, peer.moved = -1, self.loop.time()
        peer.sent[call] = None
        peer.touch()

    def close(self, stream: int, status: str, reason: str) -> None:
        """End a stream with a gRPC status, by name."""
        call = self._calls.get(stream)
        if call is not None:
            self._end(call, status, reason)

    # ------------------------------------------------------------------------------ one stream

    def request(self, peer: _Peer, stream: Stream, headers: tuple[Header, ...]) -> None:
        """A peer has opened a stream."""
        found = dict(headers)
        method = found.get(b":path", b"").decode(errors="replace")
        call = _Call(next(self._numbers), peer, stream, method)
        kind = found.get(b"content-type", b"")
        if not kind.startswith(b"application/grpc") or found.get(b":method") != b"POST":
            peer.connection.finish(stream, grpc.StatusCode.UNKNOWN.value[0], "not a gRPC call")
            return
        if method not in self._methods:
            unknown = f"Method not found: {method}"
            peer.connection.finish(stream, grpc.StatusCode.UNIMPLEMENTED.value[0], unknown)
            return
        stream.owner = call
        try:
            self._may_open()
            if self._tls is None:
                if not self._named:
                    self._take(call, "", None)
                return  # else the first request says whose it is
            context = _Context(peer, headers)
            if context.certificates or self._tokens is None:
                # Nothing is waited for, so there is nothing to come before it.
                self._proven(call, _now(prove(context, self._cluster, None, self._clock)))
                return
        except ProtocolError as error:
            self._refuse(call, error)
            return
        call.pending = []
        task = asyncio.create_task(self._prove(call, context), name=f"prove-{call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prove(self, call: _Call, context: _Context) -> None:
        try:
            proof = await prove(context, self._cluster, self._tokens, self._clock)
            self._may_open()
        except ProtocolError as error:
            self._refuse(call, error)
            return
        if call.stream.owner is call:
            pending, call.pending = call.pending or [], None
            self._proven(call, proof)
            for message in pending:
                self.message(call, message)

    def _proven(self, call: _Call, proof: Proof) -> None:
        self._take(call, proof.node, proof)

    def _take(self, call: _Call, node: str, proof: Proof | None) -> None:
        call.node = node
        traffic = self.traffic.setdefault(node or call.method, Traffic())
        traffic.streams += 1
        traffic.opened += 1
        call.traffic = traffic
        self._calls[call.id] = call
        self._limit_age(call, proof)
        self._methods[call.method](call.id, node)

    def message(self, call: _Call, message: bytes) -> None:
        if call.pending is not None:
            call.pending.append(message)
            if sum(map(len, call.pending)) > MAX_FRAME:
                self._refuse(call, ProtocolError("RESOURCE_EXHAUSTED", "too much before the proof"))
            return
        try:
            if call.node is None:
                self._may_open()
                self._take(call, claimed(message), None)
            assert call.traffic is not None
            call.traffic.received += 1
            call.traffic.received_bytes += len(message)
            self._hub.received(call.id, message)
        except ProtocolError as error:
            if call.traffic is None:
                self._refuse(call, error)
            else:
                self._end(call, error.status, error.reason)

    def ended(self, call: _Call) -> None:
        """The peer has said its last."""
        self._end(call, "OK", "")

    def _refuse(self, call: _Call, error: ProtocolError) -> None:
        if call.stream.owner is not call:
            return
        self.refused[error.status] = self.refused.get(error.status, 0) + 1
        if self._tell_refused is not None:
            self._tell_refused(call.peer.address, error.status, error.reason)
        self._end(call, error.status, error.reason)

    def _end(self, call: _Call, status: str, reason: str) -> None:
        if call.stream.owner is call:
            call.peer.connection.finish(call.stream, grpc.StatusCode[status].value[0], reason)
            call.peer.touch()
            self.over(call)

    def over(self, call: _Call) -> None:
        """Whoever ended it."""
        call.stream.owner = None
        call.pending = None
        call.peer.sent.pop(call, None)
        if call.timer is not None:
            call.timer.cancel()
        if self._calls.pop(call.id, None) is not None:
            assert call.traffic is not None
            call.traffic.streams -= 1
            self._hub.stream_closed(call.id)

    def _may_open(self) -> None:
        if self._stopping:
            raise ProtocolError("UNAVAILABLE", "the server is shutting down")
        if self._max_streams and len(self._calls) >= self._max_streams:
            raise ProtocolError("RESOURCE_EXHAUSTED", f"{self._max_streams} streams are open")

    def _limit_age(self, call: _Call, proof: Proof | None) -> None:
        left = float("inf") if proof is None else proof.expires - self._clock()
        status, reason = "UNAUTHENTICATED", f"the {proof.by if proof else ''} has expired"
        age = self._max_age * random.uniform(0.9, 1.1) if self._max_age else left
        if age < left:
            left, status = age, "UNAVAILABLE"
            reason = "the stream has the age at which streams are ended; connect again"
        if left < float("inf"):
            self._arm(call, left, status, reason)

    def _arm(self, call: _Call, after: float, status: str, reason: str) -> None:
        if call.timer is not None:
            call.timer.cancel()
        call.timer = self.loop.call_later(after, self._end, call, status, reason)

    # ------------------------------------------------------------------------------ connections

    def dirty(self, peer: _Peer) -> None:
        """It has something to send; together with what others have, at the end of this turn."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(peer)

    def _flush(self) -> None:
        peers, self._dirty = self._dirty, []
        for peer in peers:
            peer.flush()

    def told_drained(self, call: _Call) -> None:
        if self._drained is not None:
            self._drained(call.id)

    def _pause(self) -> float:
        return min(_TICK_SECONDS, self._stall / 2)

    def _look(self) -> None:
        """From time to time: who is gone, who takes nothing, who never begins."""
        self._sweep = self.loop.call_later(self._pause(), self._look)
        now = self.loop.time()
        for peer in self._probed:
            if peer.connection.pinged:
                peer.abort()
        self._probed = []
        self._tick += 1
        for peer in list(self.peers):
            if peer.sent:
                self._stalled(peer, now)
            if not peer.connection.streams and now - peer.used > _FIRST_STREAM_SECONDS:
                peer.connection.leave()
                peer.flush()
                peer.close()
            elif peer.number % 3 == self._tick % 3 and peer.connection.probe():
                self._probed.append(peer)
                peer.touch()

    def _stalled(self, peer: _Peer, now: float) -> None:
        backlog = peer.waiting()
        if backlog < peer.backlog or peer.backlog < 0:
            peer.backlog, peer.moved = backlog, now
        elif now - peer.moved >= self._stall:
            reason = f"the node took nothing for {self._stall:g} s"
            for call in list(peer.sent):
                self._end(call, "RESOURCE_EXHAUSTED", reason)
            if not peer.connection.writable:
                peer.flush()
                peer.abort()  # what it was told can't reach it


_peers: Final = itertools.count()


class _Peer(asyncio.Protocol):
    """One connection: bytes between the socket and `http2.Connection`, which tells it what came.

    sent: calls that were sent something which has not been taken yet
    """

    __slots__ = (
        "_busy", "_queued", "_server", "_transport", "backlog", "connection", "moved", "number",
        "sent", "used",
    )  # fmt: skip

    def __init__(self, server: H2Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._busy = self._queued = False
        self.connection = Connection(self, server.wires, server.budget, server.limits)
        self.number = next(_peers)
        self.sent: dict[_Call, None] = {}
        self.backlog, self.moved = -1, 0.0
        self.used = server.loop.time()

    @property
    def address(self) -> str:
        if self._transport is None:
            return ""
        found = self._transport.get_extra_info("peername")
        if isinstance(found, tuple):
            family = "ipv6" if len(found) > 2 else "ipv4"
            return f"{family}:{found[0]}:{found[1]}"
        return "unix:"

    def certificate(self) -> bytes | None:
        """DER of the peer's, which the handshake has verified."""
        found = self._transport and self._transport.get_extra_info("ssl_object")
        der: bytes | None = found.getpeercert(True) if found else None
        return der

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.peers.add(self)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
            transport.close()
            return
        found = transport.get_extra_info("socket")
        if found is not None and found.family != socket.AF_UNIX:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._busy = True
        try:
            self.connection.receive(data)
        finally:
            self._busy = False
        self.flush()

    def pause_writing(self) -> None:
        self.connection.writable = False

    def resume_writing(self) -> None:
        self.connection.unblock()
        self.touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.peers.discard(self)
        self.connection.lost()
        self.connection.out.clear()
        self._transport = None

    def touch(self) -> None:
        """There may be something to send."""
        if not self._busy and not self._queued:
            self._queued = True
            self._server.dirty(self)

    def flush(self) -> None:
        self._queued = False
        transport, connection = self._transport, self.connection
        if transport is None:
            return
        while True:
            out = connection.out
            if out:
                data = out[0] if len(out) == 1 else b"".join(out)
                out.clear()
                if not transport.is_closing():
                    transport.write(data)
            if connection.closed:
                transport.close()
                return
            if not self._told():
                break
        if transport.get_write_buffer_size() > _CONTROL_BYTES + self._server._limit:
            self.abort()

    def _told(self) -> bool:
        """Tell of calls of which everything is taken; true when there is more to send."""
        if self.sent and self.connection.writable:
            taken = [call for call in self.sent if call.stream.queue is None]
            for call in taken:
                self.sent.pop(call, None)
            self._busy = True
            try:
                for call in taken:
                    if call.stream.owner is call:
                        self._server.told_drained(call)
            finally:
                self._busy = False
        return bool(self.connection.out)

    def waiting(self) -> int:
        """Bytes that the peer has not taken."""
        buffered = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return buffered + sum(call.stream.queued for call in self.sent)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # http2's side

    def request(self, stream: Stream, headers: tuple[Header, ...]) -> None:
        self._server.request(self, stream, headers)

    def message(self, stream: Stream, message: bytes) -> None:
        if stream.owner is not None:
            self._server.message(stream.owner, message)

    def ended(self, stream: Stream) -> None:
        if stream.owner is not None:
            self._server.ended(stream.owner)

    def reset(self, stream: Stream) -> None:
        self.used = self._server.loop.time()
        if stream.owner is not None:
            self._server.over(stream.owner)

    def drained(self, stream: Stream) -> None:
        """`flush` tells it, once the socket has it too."""


class _Context:
    """What `prove` asks of a call."""

    def __init__(self, peer: _Peer, headers: tuple[Header, ...]) -> None:
        der = peer.certificate()
        self.certificates = [] if der is None else [ssl.DER_cert_to_PEM_cert(der).encode()]
        self._headers = headers

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": self.certificates} if self.certificates else {}

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(k.decode("latin-1"), v.decode("latin-1")) for k, v in self._headers]


def _now(proving: Any) -> Proof:
    """What a coroutine gives that waits for nothing."""
    try:
        proving.send(None)
    except StopIteration as done:
        proof: Proof = done.value
        return proof
    proving.close()
    raise AssertionError("it waited")


def _context(tls: KeyPair | KeyFiles, tokens: bool) -> ssl.SSLContext:
    """For one port; rotated files are used from the next handshake on."""
    used = tls.current() if isinstance(tls, KeyFiles) else tls
    first = _made(used, tokens)
    if not isinstance(tls, KeyFiles):
        return first
    newest = first

    def hello(connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """Before each handshake; the context brings certificate and trusted CA with it."""
        nonlocal used, newest
        keys = tls.current()
        if keys is not used:
            newest, used = _made(keys, tokens), keys
        if newest is not first:
            connection.context = newest

    first.sni_callback = hello
    return first


def _made(keys: KeyPair, tokens: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    # The module reads a chain from files only; this one is nowhere on a disk.
    file = os.memfd_create("keys", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as out:
            out.write(keys.key.rstrip() + b"\n" + keys.certificate)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    if not tokens:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=keys.ca.decode())
    return context
