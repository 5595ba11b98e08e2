"""One connection's TLS without IO, against the standard library's client."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest

from reconciler import tls
from reconciler.server import certs
from reconciler.server.h2_tls import Buffers, Contexts, Session

NOW = datetime.datetime.now(datetime.UTC)


class Client:
    """The other half; what it sends is kept until it is given to a session."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")

    def shake(self, session: Session) -> None:
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._object.do_handshake()
            data = self.sent()
            if data:
                assert session.receive(data) == b""
            self._in.write(session.answers())
        assert session.established

    def say(self, data: bytes) -> bytes:
        self._object.write(data)
        return self.sent()

    def sent(self) -> bytes:
        return self._out.read()

    def hear(self, data: bytes) -> bytes:
        """What the server says; b"": that was its last."""
        self._in.write(data)
        heard = b""
        while self._in.pending:
            more = self._object.read(1 << 16)
            if not more:
                return b""
            heard += more
        return heard

    def leave(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self._object.unwrap()
        return self.sent()


class Rig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = certs.init(directory, cluster="c", now=NOW)
        server = certs.issue_server(directory, names=("127.0.0.1",), now=NOW)
        self.files = (str(server.certificate), str(server.key), str(self.ca.certificate))
        self.buffers = Buffers()
        self.contexts = Contexts(tls.load(*self.files), tokens=False)

    def client(self, node: str | None = "node-1") -> Client:
        context = ssl.create_default_context(cafile=str(self.ca.certificate))
        context.set_alpn_protocols(["h2"])
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


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_session_says_who_the_peer_is_and_what_both_speak(rig: Rig) -> None:
    session, _ = rig.pair("node-7")
    der = session.certificate()
    assert der is not None
    assert tls.node_of(ssl.DER_cert_to_PEM_cert(der).encode()) == "node-7"
    assert session.protocol() == "h2"


@pytest.mark.parametrize("piece", [1, 7, 1_000, 1 << 20])
def test_what_comes_in_pieces_of_any_size_is_read_whole(rig: Rig, piece: int) -> None:
    session, client = rig.pair()
    said = bytes(range(256)) * 200  # some records
    sent, heard = client.say(said) + client.say(b"end"), b""
    for at in range(0, len(sent), piece):
        heard += session.receive(sent[at : at + piece])
        assert rig.empty()
    assert heard == said + b"end"


def test_what_was_said_with_the_handshakes_last_flight_is_not_lost(rig: Rig) -> None:
    session, client = rig.session(), rig.client()
    with pytest.raises(ssl.SSLWantReadError):
        client._object.do_handshake()
    session.receive(client.sent())
    client._in.write(session.answers())
    client._object.do_handshake()
    assert session.receive(client.sent() + client.say(b"at once")) == b"at once"


def test_sessions_that_take_turns_mix_nothing(rig: Rig) -> None:
    pairs = [rig.pair(f"node-{number}") for number in range(3)]
    asked = [client.say(b"question %d" % n) for n, (_, client) in enumerate(pairs)]
    for part in (slice(None, 20), slice(20, None)):  # each with half a record, then the rest
        for number, (session, _) in enumerate(pairs):
            heard = session.receive(asked[number][part])
            assert heard == (b"" if part.start is None else b"question %d" % number)
            assert rig.empty()
    told = [session.encrypt(b"answer %d" % n) for n, (session, _) in enumerate(pairs)]
    for number, (_, client) in reversed(list(enumerate(pairs))):
        assert client.hear(told[number]) == b"answer %d" % number


def test_a_broken_handshake_leaves_nothing_for_others_and_its_alert(rig: Rig) -> None:
    half, client = rig.session(), rig.client()
    with pytest.raises(ssl.SSLWantReadError):
        client._object.do_handshake()
    half.receive(client.sent())  # is answered, and waits
    client._in.write(half.answers())
    broken = rig.session()
    with pytest.raises(ssl.SSLError):
        broken.receive(b"GET / HTTP/1.1\r\n\r\n" * 10)
    assert rig.empty()
    assert not broken.established
    assert broken.end() == b""
    client._object.do_handshake()
    half.receive(client.sent())
    assert half.established


def test_who_has_no_certificate_is_refused_and_told(rig: Rig) -> None:
    session, client = rig.session(), rig.client(node=None)
    with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
        client.shake(session)
    assert not session.established
    client._in.write(session.answers())
    with pytest.raises(ssl.SSLError, match="certificate required"):
        client._object.read(1)


def test_a_certificate_of_another_authority_is_refused(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Rig(tmp_path / "other")
    stranger = certs.issue_node(other.directory, "node-1", now=NOW)
    context = ssl.create_default_context(cafile=str(rig.ca.certificate))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(stranger.certificate, stranger.key)
    session = rig.session()
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        Client(context).shake(session)
    assert not session.established


def test_both_can_say_their_last(rig: Rig) -> None:
    session, client = rig.pair()
    assert session.receive(client.say(b"bye") + client.leave() + b"more") == b"bye"
    assert session.ended
    assert rig.empty()
    session, client = rig.pair("node-2")
    assert client.hear(session.end()) == b""


def test_rotated_files_count_from_the_next_connection_on(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    old, new = Rig(tmp_path), Rig(tmp_path / "new")
    files = tls.KeyFiles(*old.files)
    old.contexts = Contexts(files, tokens=False)
    session, client = old.pair()
    first = old.contexts.current()
    for path, by in zip(old.files, new.files, strict=True):
        Path(path).write_bytes(Path(by).read_bytes())
    assert old.contexts.current() is not first
    assert session.receive(client.say(b"goes on")) == b"goes on"
    new.client().shake(old.session())
