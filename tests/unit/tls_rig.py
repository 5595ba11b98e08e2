"""Clients and sessions of `h2_session`, without IO."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler import tls
from reconciler.server import certs
from reconciler.server.h2_session import Buffers, Session
from reconciler.server.h2_tls import Contexts

NOW = datetime.datetime.now(datetime.UTC)


class Client:
    """The other half; what it sends is kept until it is given to a session.

    ended: the server has said its last
    """

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming, self.outgoing, server_hostname="127.0.0.1", session=session
        )
        self.ended = False

    def again(self) -> Client:
        """The same one, who wants to go on with this session."""
        return Client(self.object.context, self.object.session)

    def shake(self, session: Session) -> None:
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.object.do_handshake()
            data = self.sent()
            if data:
                assert session.receive(data) == b""
            self.incoming.write(session.answers())
        assert session.established

    def say(self, data: bytes) -> bytes:
        self.object.write(data)
        return self.sent()

    def sent(self) -> bytes:
        return self.outgoing.read()

    def hear(self, data: bytes) -> bytes:
        """What the server says."""
        self.incoming.write(data)
        heard = b""
        try:
            while more := self.object.read(1 << 16):
                heard += more
            self.ended = True
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return heard

    def leave(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.object.unwrap()
        return self.sent()


class TlsRig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = certs.init(directory, cluster="c", now=NOW)
        server = certs.issue_server(directory, names=("127.0.0.1",), now=NOW)
        self.files = (str(server.certificate), str(server.key), str(self.ca.certificate))
        self.buffers = Buffers()
        self.contexts = Contexts(tls.load(*self.files), tokens=False)

    def client(
        self, node: str | None = "node-1", speaks: str = "h2", ciphers: Sequence[str] = ()
    ) -> Client:
        """ciphers: of TLS 1.2, which it speaks then, the one that it likes most first"""
        context = ssl.create_default_context(cafile=str(self.ca.certificate))
        context.set_alpn_protocols([speaks])
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(":".join(ciphers))
        if node is not None:
            issued = certs.issue_node(self.directory, node, now=NOW)
            context.load_cert_chain(issued.certificate, issued.key)
        return Client(context)

    def session(self) -> Session:
        return Session(self.contexts.current(), self.buffers)

    def pair(self, node: str = "node-1") -> tuple[Session, Client]:
        session, client = self.session(), self.client(node)
        client.shake(session)
        return session, client

    def empty(self) -> bool:
        return not self.buffers.incoming.pending and not self.buffers.outgoing.pending
