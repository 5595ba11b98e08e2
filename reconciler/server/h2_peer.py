"""One connection of `h2.H2Server` and the calls on it: between asyncio's socket and `http2`."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING, Final, cast

from reconciler.http2 import Connection, Stream
from reconciler.http2.headers import Header

if TYPE_CHECKING:
    from reconciler.server.h2 import H2Server
    from reconciler.server.h2_calls import Rpc
    from reconciler.server.streams import Traffic

_JOIN: Final = 4096  # bytes up to which a copy is cheaper than a list of buffers
_CONTROL_BYTES: Final = 4 << 20  # answers to PING and the like that a peer may leave unread


class Call:
    """One stream of ours. node: None until it is proven or claimed."""

    __slots__ = (
        "id", "left", "method", "node", "peer", "pending", "rpc", "since", "stream", "timer",
        "traffic", "untaken",
    )  # fmt: skip

    def __init__(self, id: int, peer: Peer, stream: Stream, method: str) -> None:
        self.id, self.peer, self.stream, self.method = id, peer, stream, method
        self.node: str | None = None
        self.untaken = 0  # bytes sent since everything was taken
        self.left, self.since = -1, 0.0  # bytes that waited at the last look, and since when
        self.traffic: Traffic | None = None  # once it is taken
        self.pending: list[bytes] | None = None  # what came before that
        self.timer: asyncio.TimerHandle | None = None
        self.rpc: Rpc | None = None  # of another service than xDS


_peers: Final = itertools.count()


class Peer(asyncio.Protocol):
    """One connection: bytes between the socket and `http2.Connection`, which tells it what came.

    sent: calls that were sent something which has not been taken yet
    """

    __slots__ = (
        "_busy", "_encrypted", "_queued", "_server", "_transport", "connection", "number", "sent",
        "used",
    )  # fmt: skip

    def __init__(self, server: H2Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._busy = self._queued = self._encrypted = False
        self.connection = Connection(self, server.wires, server.budget, server.limits)
        self.number = next(_peers)
        self.sent: dict[Call, None] = {}
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
        # Not asked for its class: uvloop's over TLS is none of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._server.peers.add(self)
        encrypted = transport.get_extra_info("ssl_object")
        self._encrypted = encrypted is not None
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
        self.connection.writable = True
        self._told()  # before what others wait to send fills the connection again
        self.connection.unblock()
        self.touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.peers.discard(self)
        self.connection.lost()
        self.connection.out.clear()
        self._transport = None
        self._server.gone()

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
                connection.out = []
                if transport.is_closing():
                    pass
                elif sum(map(len, out)) > _JOIN:
                    if self._encrypted:
                        for each in out:  # a record's size: what OpenSSL's buffer grows to stays
                            transport.write(each)
                    else:
                        transport.writelines(out)  # shared bytes are not copied
                else:
                    transport.write(out[0] if len(out) == 1 else b"".join(out))
            if connection.closed:
                transport.close()
                return
            if not self._told():
                break
        if self.buffered() > _CONTROL_BYTES + self._server.queue_bytes:
            self.abort()

    def _told(self) -> bool:
        """Tell of calls of which everything is taken; true when there is more to send."""
        if self.sent and self.connection.writable:
            taken = [call for call in self.sent if call.stream.queue is None]
            for call in taken:
                call.untaken = 0
                self.sent.pop(call, None)
            self._busy = True
            try:
                for call in taken:
                    if call.stream.owner is call:
                        self._server.told_drained(call)
            finally:
                self._busy = False
        return bool(self.connection.out)

    def buffered(self) -> int:
        """Bytes that the socket has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

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
        if stream.owner is not None:
            self._server.over(stream.owner)

    def drained(self, stream: Stream) -> None:
        """Of xDS, `flush` tells it once the socket has it too."""
        if stream.owner is not None and stream.owner.rpc is not None:
            stream.owner.rpc.drained()
