"""One connection of `h2.H2Server` and the calls on it: between asyncio's socket and `http2`."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from typing import TYPE_CHECKING, Final, cast

from reconciler.errors import ProtocolError
from reconciler.http2 import Connection, Stream
from reconciler.http2.headers import Header
from reconciler.server.h2_session import RECORD, Session
from reconciler.server.h2_tls import Contexts

if TYPE_CHECKING:
    from reconciler.server.h2 import H2Server
    from reconciler.server.h2_calls import Rpc
    from reconciler.server.streams import Traffic

_JOIN: Final = 4096  # bytes up to which a copy is cheaper than a list of buffers
_RECORDS: Final = 16 * RECORD  # bytes to encrypt at once: what OpenSSL's buffer grows to stays
_CONTROL_BYTES: Final = 4 << 20
"""What a socket may not have taken beside `queue_bytes`, before its connection is aborted: answers
to PING and the like wait for no window."""
_OTHERS_BYTES: Final = 64 << 20
"""What all calls of other services than xDS on one connection may have waiting, or `queue_bytes` if
that is less. One message alone may be longer: no other way would it ever be sent."""
_MOVED: Final = 1 << 62  # more than can wait


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
    waiting: bytes of it, of other services than xDS
    """

    __slots__ = (
        "_behind", "_busy", "_queued", "_secured", "_server", "_transport", "connection", "number",
        "sent", "used", "waiting",
    )  # fmt: skip

    def __init__(self, server: H2Server, contexts: Contexts | None = None) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._busy = self._queued = False
        self._behind = 0  # bytes that the socket had not taken when `moved` was last asked
        self._secured = None if contexts is None else Session(contexts.current(), server.buffers)
        self.connection = Connection(self, server.wires, server.budget, server.limits)
        self.number = next(_peers)
        self.sent: dict[Call, None] = {}
        self.used = server.loop.time()
        self.waiting = 0

    @property
    def address(self) -> str:
        if self._transport is None:
            return ""
        found = self._transport.get_extra_info("peername")
        if isinstance(found, tuple):
            family = "ipv6" if len(found) > 2 else "ipv4"
            return f"{family}:{found[0]}:{found[1]}"
        return "unix:"

    @property
    def established(self) -> bool:
        """Nothing can be said before."""
        return self._secured is None or self._secured.established

    def certificate(self) -> bytes | None:
        """DER of the peer's, which the handshake has verified."""
        return None if self._secured is None else self._secured.certificate()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's
        self._server.peers.add(self)

    def data_received(self, data: bytes) -> None:
        secured = self._secured
        if secured is not None:
            data = self._decrypted(secured, data)
        if data:  # a client speaks at once, and our SETTINGS go with what it is answered
            self._busy = True
            try:
                self.connection.receive(data)
            finally:
                self._busy = False
            self.flush()
        if secured is not None and secured.ended:
            self.close()

    def _decrypted(self, secured: Session, data: bytes) -> bytes:
        """What is to be read now; b"": nothing."""
        assert self._transport is not None
        began = secured.established
        try:
            data = secured.receive(data)
            answers = secured.answers()
            broken = secured.established and not began and secured.protocol() != "h2"
        except ssl.SSLError:
            answers, broken = secured.answers(), True  # they tell the peer why
        if answers:
            self._transport.write(answers)
        if broken:
            self._shut(self._transport)
            return b""
        return data

    def pause_writing(self) -> None:
        self.connection.writable = False

    def resume_writing(self) -> None:
        self.connection.writable = True
        self._behind = _MOVED
        self._told()  # before what others wait to send fills the connection again
        self.connection.unblock()
        self.touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.peers.discard(self)
        self.connection.lost()
        self.connection.out.clear()
        self._transport = None
        self._secured = None  # tens of KB, whoever still has the peer
        self._server.gone()

    def touch(self) -> None:
        """There may be something to send."""
        if not self._busy and not self._queued:
            self._queued = True
            self._server.dirty(self)

    def flush(self) -> None:
        self._queued = False
        transport, connection = self._transport, self.connection
        if transport is None or not self.established:
            return
        if self.sent and sum(map(len, connection.out)) <= RECORD and not self.buffered():
            self._told()  # so little will be taken: what is sent next goes with it
        while True:
            out = connection.out
            if out:
                connection.out = []
                if not transport.is_closing():
                    self._write(transport, out)
            if connection.closed:
                self.close()
                return
            if not self._told():
                break
        if self.buffered() > _CONTROL_BYTES + self._server.queue_bytes:
            self.abort()

    def _write(self, transport: asyncio.Transport, out: list[bytes]) -> None:
        secured = self._secured
        if secured is None and sum(map(len, out)) > _JOIN:
            transport.writelines(out)  # shared bytes are not copied
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        if secured is None:
            transport.write(data)
            return
        for at in range(0, len(data), _RECORDS):  # whole records, but for the last one
            transport.write(secured.encrypt(data[at : at + _RECORDS]))

    def _told(self) -> bool:
        """Tell of calls of which everything is taken; true when there is more to send."""
        if self.sent and self.connection.writable:
            taken = [call for call in self.sent if call.stream.queue is None]
            for call in taken:
                call.untaken = 0
                del self.sent[call]
            drained = self._server.drained
            self._busy = True
            try:
                for call in taken:
                    if call.stream.owner is not call:
                        continue
                    if call.rpc is not None:
                        call.rpc.taken()
                    elif drained is not None:
                        drained(call.id)
            finally:
                self._busy = False
        return bool(self.connection.out)

    def note(self, call: Call) -> None:
        """It is sent something."""
        if call not in self.sent:
            call.left = -1
            self.sent[call] = None

    def has_room(self, size: int) -> bool:
        """For a message of another service than xDS."""
        most = self._server.queue_bytes
        if self.waiting:
            most = min(most, _OTHERS_BYTES)
        return self.waiting + size <= most

    def buffered(self) -> int:
        """Bytes that the socket has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def moved(self) -> bool:
        """The socket has taken something since this was last asked."""
        waits = self.buffered() + sum(map(len, self.connection.out))
        before, self._behind = self._behind, waits
        return self._behind < before

    def close(self) -> None:
        transport, secured = self._transport, self._secured
        if transport is None or transport.is_closing():
            return
        if secured is not None:
            transport.write(secured.end())
        self._shut(transport)

    def _shut(self, transport: asyncio.Transport) -> None:
        """Once all is taken; who doesn't take it is not waited for."""
        if self.buffered():
            self._server.loop.call_later(self._server.answer_time, self.abort)
        transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # http2's side

    def request(self, stream: Stream, headers: tuple[Header, ...]) -> None:
        self._server.request(self, stream, headers)

    def message(self, stream: Stream, message: bytes) -> None:
        call: Call | None = stream.owner
        if call is None:
            return
        traffic = call.traffic
        if traffic is None:
            self._server.early(call, message)
            return
        traffic.received += 1
        traffic.received_bytes += len(message)
        try:
            self._server.received(call.id, message)
        except ProtocolError as error:
            self._server.end(call, error.status, error.reason)

    def ended(self, stream: Stream) -> None:
        if stream.owner is not None:
            self._server.ended(stream.owner)

    def reset(self, stream: Stream) -> None:
        if stream.owner is not None:
            self._server.over(stream.owner)

    def drained(self, stream: Stream) -> None:
        """Whose peer has said its last was only waited for. Of others `flush` tells once the socket
        has it too."""
        call: Call | None = stream.owner
        if call is not None and call.rpc is None and stream.ended:
            self._server.end(call, "OK", "")
