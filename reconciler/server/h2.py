"""The xDS service on our own HTTP/2, for very many streams: no task and no thread a stream.

It takes the place of `grpc.XdsServer` (same calls, same answers, the same proofs; the same tests
hold both) where the cost of a stream matters: what is sent to many streams is framed once, an ACK
is read without a copy, and a quiet stream costs two small objects and its socket.

Frames that are queued in one turn of the event loop leave together. A stream whose peer doesn't
read keeps what the core sent (at most one state, and a short one before it, see `drained`), is
ended with RESOURCE_EXHAUSTED when nothing of it moved for `stall_seconds`, and when more than
`queue_bytes` pile up. Connections are probed with PING; those that have had no stream for a while,
or never had one, are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Unpack

import grpc

from reconciler.address import Address
from reconciler.errors import ProtocolError, UnavailableError
from reconciler.http2 import Budget, Limits, Stream, Wires
from reconciler.http2.headers import Header
from reconciler.local import clear_socket
from reconciler.server.h2_calls import Registry, Rpc
from reconciler.server.h2_peer import Call, Peer
from reconciler.server.h2_proofs import CallContext, at_once
from reconciler.server.h2_session import Buffers
from reconciler.server.h2_tls import Contexts
from reconciler.server.proofs import claimed, prove
from reconciler.server.streams import (
    MAX_FRAME,
    STOPPING,
    Hub,
    Options,
    StreamServer,
    one_by_one,
)
from reconciler.tls import KeyFiles, KeyPair, Proof

_BACKLOG: Final = 4096
_FIRST_GROUP, _GROUP = 16, 128  # streams that are sent a change before it goes
_IDLE_SECONDS: Final = 30.0  # without a stream, after which a connection is closed
_CANT_TELL: Final = "who calls can't be found out: the server is broken"


class H2Server(StreamServer[Call]):
    """The other way; what is to be served besides (`add`) is given a `Registry`."""

    def __init__(
        self,
        hub: Hub,
        listen: Address,
        tls: KeyPair | KeyFiles | None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(hub, listen, tls, **options)
        self._keepalive = self._options["grpc.keepalive_time_ms"] / 1000
        self.answer_time = self._options["grpc.keepalive_timeout_ms"] / 1000
        self._listeners: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._tick = 0
        self._probed: deque[tuple[float, Peer]] = deque()  # and when it is to be answered
        self._dirty: list[Peer] = []
        self._gone = asyncio.Event()  # set when a stream or a connection ends, at a stop
        self._tasks: set[asyncio.Task[None]] = set()
        self._others = Registry()
        if self._add_others is not None:
            self._add_others(self._others)
        self.received = hub.received
        self.peers: set[Peer] = set()
        self.wires, self.budget, self.buffers = Wires(), Budget(), Buffers()
        self.limits = Limits(message=MAX_FRAME)
        self.loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        """Listen; UnavailableError when an address can't be had."""
        self.loop = asyncio.get_running_loop()
        two = self._token_listen is not None
        self.port = await self._open(self._listen, self._tokens is not None and not two)
        if self._token_listen is not None:
            self.token_port = await self._open(self._token_listen, True)
        self._sweep = self.loop.call_later(self._pause(), self._look)

    async def _open(self, where: Address, tokens: bool) -> int:
        contexts = None if self._tls is None else Contexts(self._tls, tokens)

        def peer() -> Peer:
            return Peer(self, contexts)

        try:
            if where.path:
                clear_socket(where.path)
                server = await self.loop.create_unix_server(peer, where.path, backlog=_BACKLOG)
            else:
                server = await self.loop.create_server(
                    peer, where.host, where.port, backlog=_BACKLOG
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
        calls = list(self._streams.values())
        for call, after in zip(calls, one_by_one(len(calls), drain), strict=True):
            if after:
                self._arm(call, after, *STOPPING)
            else:
                self.end(call, *STOPPING)
        await self._wait(lambda: not self._streams, drain + grace)
        self._flush()
        for peer in list(self.peers):
            peer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._wait(lambda: not self.peers, grace)
        for peer in list(self.peers):
            peer.abort()

    async def _wait(self, over: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not over():
                    self._gone.clear()
                    await self._gone.wait()

    def gone(self) -> None:
        """A stream or a connection has ended."""
        self._gone.set()

    def send(self, stream: int, frame: bytes) -> None:
        """Queue a frame; for a stream that has ended, nothing happens."""
        call = self._streams.get(stream)
        if call is None:
            return
        size = len(frame)
        call.untaken += size
        if call.untaken > self.queue_bytes:
            self.end(call, "RESOURCE_EXHAUSTED", self._too_much())
            return
        peer, traffic = call.peer, call.traffic
        assert traffic is not None
        peer.connection.send(call.stream, frame)
        traffic.sent += 1
        traffic.sent_bytes += size
        if call not in peer.sent:
            call.left = -1
            peer.sent[call] = None
        peer.touch()

    def grouped(self, streams: Sequence[int]) -> Iterator[list[int]]:
        """By connection: what the streams of one are sent leaves together. A group is not large,
        the first ones least, so that its peers take theirs while others are still being told."""
        by_peer: dict[Peer, list[int]] = {}
        for stream in streams:
            call = self._streams.get(stream)
            if call is not None:
                by_peer.setdefault(call.peer, []).append(stream)
        group: list[int] = []
        size = _FIRST_GROUP
        for each in by_peer.values():
            group += each
            if len(group) >= size:
                yield group
                group, size = [], min(2 * size, _GROUP)
        if group:
            yield group

    def flush(self) -> bool:
        self._flush()
        return True

    def close(self, stream: int, status: str, reason: str) -> None:
        """End a stream with a gRPC status, by name."""
        call = self._streams.get(stream)
        if call is not None:
            self.end(call, status, reason)

    # ------------------------------------------------------------------------------ one stream

    def request(self, peer: Peer, stream: Stream, headers: tuple[Header, ...]) -> None:
        """A peer has opened a stream."""
        found = dict(headers)
        method = found.get(b":path", b"").decode(errors="replace")
        call = Call(next(self._numbers), peer, stream, method)
        kind = found.get(b"content-type", b"")
        if not kind.startswith(b"application/grpc") or found.get(b":method") != b"POST":
            peer.connection.finish(stream, grpc.StatusCode.UNKNOWN.value[0], "not a gRPC call")
            return
        other = None if method in self._methods else self._others.find(method, headers)
        if other is not None:
            stream.owner, call.rpc = call, Rpc(call, other, headers)
            call.rpc.task = self._start(self._run(call, call.rpc), f"call-{call.id}")
            return
        if method not in self._methods:
            unknown = f"Method not found: {method}"
            peer.connection.finish(stream, grpc.StatusCode.UNIMPLEMENTED.value[0], unknown)
            return
        stream.owner = call
        try:
            self._may_open()
            if self._tls is None:
                if method not in self._named:
                    self._take(call, "", None)
                return  # else the first request says whose it is
            context = CallContext(peer, headers)
            if context.certificates or self._tokens is None:
                # Nothing is waited for, so there is nothing to come before it.
                proof = at_once(prove(context, self._cluster, None, self._clock))
                self._take(call, proof.node, proof)
                return
        except ProtocolError as error:
            self._refuse(call, error)
            return
        call.pending = []
        peer.connection.hold(stream)
        self._start(self._prove(call, context), f"prove-{call.id}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, call: Call, rpc: Rpc) -> None:
        try:
            status, text = await rpc.run()
        except Exception as error:
            self._tell_broken(call, error)
            status, text = "UNKNOWN", f"{type(error).__name__}: {error}"
        self.end(call, status, text)

    def _tell_broken(self, call: Call, error: Exception) -> None:
        what = {"message": f"{call.method}: broken", "exception": error}
        self.loop.call_exception_handler(what)

    async def _prove(self, call: Call, context: CallContext) -> None:
        try:
            proof = await prove(context, self._cluster, self._tokens, self._clock)
            self._may_open()
        except ProtocolError as error:
            self._refuse(call, error)
            return
        except Exception as error:
            self._tell_broken(call, error)
            self._refuse(call, ProtocolError("UNKNOWN", _CANT_TELL))
            return
        if call.stream.owner is call:
            pending, call.pending = call.pending or [], None
            self._take(call, proof.node, proof)
            for message in pending:
                call.peer.message(call.stream, message)
            call.peer.connection.release(call.stream)
            call.peer.touch()

    def _take(self, call: Call, node: str, proof: Proof | None) -> None:
        call.node = node
        call.traffic = self._traffic_of(call.method, node)
        self._streams[call.id] = call
        life = self._life(proof)
        if life is not None:
            self._arm(call, *life)
        self._methods[call.method](call.id, node)

    def early(self, call: Call, message: bytes) -> None:
        """A message of a call that is not of xDS, or not taken yet."""
        if call.rpc is not None:
            if not call.rpc.message(message):
                self.end(call, "RESOURCE_EXHAUSTED", "too many requests wait for their answers")
            return
        if call.pending is not None:
            call.pending.append(message)  # its stream is held: no more than its window
            return
        try:
            self._may_open()
            self._take(call, claimed(message), None)
        except ProtocolError as error:
            self._refuse(call, error)
            return
        call.peer.message(call.stream, message)

    def ended(self, call: Call) -> None:
        """The peer has said its last."""
        if call.rpc is not None:
            call.rpc.ended()
        elif call.stream.queue is None:
            self.end(call, "OK", "")
        else:
            self._forget(call)  # what waits goes before the end

    def _refuse(self, call: Call, error: ProtocolError) -> None:
        if call.stream.owner is not call:
            return
        self._note_refused(call.peer.address, error)
        self.end(call, error.status, error.reason)

    def end(self, call: Call, status: str, reason: str) -> None:
        """Ours, with a gRPC status by name."""
        if call.stream.owner is call:
            call.peer.connection.finish(call.stream, grpc.StatusCode[status].value[0], reason)
            call.peer.touch()
            self.over(call)

    def over(self, call: Call) -> None:
        """Whoever ended it."""
        call.stream.owner = None
        call.pending = None
        call.peer.sent.pop(call, None)
        if call.rpc is not None:
            call.rpc.over()
        if call.timer is not None:
            call.timer.cancel()
        self._forget(call)
        call.peer.used = self.loop.time()
        self.gone()

    def _forget(self, call: Call) -> None:
        """It is sent nothing more."""
        if self._streams.pop(call.id, None) is not None:
            assert call.traffic is not None
            call.traffic.streams -= 1
            self._hub.stream_closed(call.id)

    def _arm(self, call: Call, after: float, status: str, reason: str) -> None:
        if call.timer is not None:
            call.timer.cancel()
        call.timer = self.loop.call_later(after, self.end, call, status, reason)

    # ------------------------------------------------------------------------------ connections

    def dirty(self, peer: Peer) -> None:
        """It has something to send; together with what others have, at the end of this turn."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(peer)

    def _flush(self) -> None:
        peers, self._dirty = self._dirty, []
        for peer in peers:
            peer.flush()

    def _pause(self) -> float:
        return min(self._keepalive / 3, self.answer_time, self._stall / 2)

    def _look(self) -> None:
        """From time to time: who is gone, who takes nothing, who never begins."""
        self._sweep = self.loop.call_later(self._pause(), self._look)
        now = self.loop.time()
        while self._probed and self._probed[0][0] <= now:
            _, peer = self._probed.popleft()
            if not peer.connection.pinged:
                continue
            if peer.moved():  # the PING is behind what the socket has not taken
                self._probed.append((now + self.answer_time, peer))
            else:
                peer.abort()
        self._tick += 1
        turns = max(1, round(self._keepalive / self._pause()))
        for peer in list(self.peers):
            if peer.sent:
                self._stalled(peer, now)
            if not peer.connection.streams and now - peer.used > _IDLE_SECONDS:
                peer.connection.leave()
                peer.flush()
                peer.close()
                continue
            due = peer.number % turns == self._tick % turns and peer.established
            if due and not peer.connection.pinged:
                peer.moved()  # since now is what counts
                peer.connection.probe()
                self._probed.append((now + self.answer_time, peer))
                peer.touch()

    def _stalled(self, peer: Peer, now: float) -> None:
        """End the calls of which nothing was taken for too long; others of the connection go on."""
        for call in list(peer.sent):
            left = call.stream.queued + peer.buffered()
            if left < call.left or call.left < 0:
                call.left, call.since = left, now
            elif now - call.since >= self._stall:
                self.end(call, "RESOURCE_EXHAUSTED", self._took_nothing())
        if not peer.sent and not peer.connection.writable:
            peer.flush()
            peer.abort()  # what it was told can't reach it
