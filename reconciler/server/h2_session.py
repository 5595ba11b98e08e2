"""TLS of one connection of `h2.H2Server`, without IO.

The sessions of a server share the buffers between them and OpenSSL. Each leaves both empty, so a
connection that is quiet keeps none, and those in use stay warm. (A buffer of OpenSSL's never
shrinks: with two of its own a connection keeps room for the most that ever went through.)
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final, cast

RECORD: Final = 16 << 10
"""Bytes of plaintext in one, at most (RFC 8446, 5.1)."""


class Buffers:
    """What the sessions of one event loop share; empty between any two calls."""

    __slots__ = ("incoming", "outgoing", "plain", "view")

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.plain = bytearray(RECORD)
        self.view = memoryview(self.plain)


class Session:
    """One connection's. established: the handshake is over; ended: the peer has said its last

    What goes to the socket comes from `answers` and `encrypt`.
    """

    __slots__ = ("_answers", "_buffers", "_object", "_rest", "ended", "established")

    def __init__(self, context: ssl.SSLContext, buffers: Buffers) -> None:
        self._buffers = buffers
        self._object = context.wrap_bio(buffers.incoming, buffers.outgoing, server_side=True)
        self._rest = b""  # of a record that is not whole
        self._answers = b""
        self.established = self.ended = False

    def receive(self, data: bytes) -> bytes:
        """What these bytes of the socket say; b"": nothing yet.

        ssl.SSLError: the connection is lost; `answers` has the alert that says why.
        """
        buffers, found = self._buffers, b""
        incoming = buffers.incoming
        incoming.write(self._rest + data if self._rest else data)
        try:
            if not self.established:
                self._object.do_handshake()
                self.established = True
            while incoming.pending and not self.ended:
                size = cast("int", self._object.read(RECORD, buffers.plain))
                self.ended = not size
                plain = bytes(buffers.view[:size])
                found = found + plain if found else plain
        except ssl.SSLWantReadError:
            pass
        finally:
            rest = incoming.read() if incoming.pending else b""
            self._rest = b"" if self.ended else rest
            if buffers.outgoing.pending:
                self._answers += buffers.outgoing.read()
        return found

    def answers(self) -> bytes:
        """What TLS itself has to say after `receive`."""
        out, self._answers = self._answers, b""
        return out

    def encrypt(self, data: bytes) -> bytes:
        """Not before the session is established."""
        self._object.write(data)
        return self._buffers.outgoing.read()

    def end(self) -> bytes:
        """Our last words; b"" when the peer can't hear them."""
        if not self.established:
            return b""
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()
        return self._buffers.outgoing.read()

    def certificate(self) -> bytes | None:
        """DER of the peer's, which the handshake has verified."""
        return self._object.getpeercert(True)

    def protocol(self) -> str | None:
        """That both sides agreed on (ALPN)."""
        return self._object.selected_alpn_protocol()
