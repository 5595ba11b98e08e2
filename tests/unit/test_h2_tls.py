"""One connection's TLS without IO, against the standard library's client."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from reconciler import tls
from reconciler.server import certs
from reconciler.server.h2_tls import Contexts
from tests.unit.tls_rig import NOW, Client, TlsRig


@pytest.fixture
def rig(tmp_path: Path) -> TlsRig:
    return TlsRig(tmp_path)


def test_a_session_says_who_the_peer_is_and_what_both_speak(rig: TlsRig) -> None:
    session, _ = rig.pair("node-7")
    der = session.certificate()
    assert der is not None
    assert tls.node_of(ssl.DER_cert_to_PEM_cert(der).encode()) == "node-7"
    assert session.protocol() == "h2"


@pytest.mark.parametrize("piece", [1, 7, 1_000, 1 << 20])
def test_what_comes_in_pieces_of_any_size_is_read_whole(rig: TlsRig, piece: int) -> None:
    session, client = rig.pair()
    said = bytes(range(256)) * 200  # some records
    sent, heard = client.say(said) + client.say(b"end"), b""
    for at in range(0, len(sent), piece):
        heard += session.receive(sent[at : at + piece])
        assert rig.empty()
    assert heard == said + b"end"


@pytest.mark.parametrize("first", [0, 1])
def test_the_client_chooses_among_the_ciphers(rig: TlsRig, first: int) -> None:
    names = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
    client = rig.client(ciphers=[names[first], names[1 - first]])
    client.shake(rig.session())
    chosen = client.object.cipher()
    assert chosen is not None
    assert chosen[0] == names[first]


@pytest.mark.parametrize("ciphers", [(), ("ECDHE-ECDSA-AES128-GCM-SHA256",)], ids=["1.3", "1.2"])
def test_who_comes_back_is_known_by_what_is_trusted_then(
    rig: TlsRig, tmp_path: Path, ciphers: tuple[str, ...]
) -> None:
    """TLS 1.3: and nobody resumes; TLS 1.2: only as long as the files are the same."""
    (tmp_path / "new").mkdir()
    other = TlsRig(tmp_path / "new")
    files = tls.KeyFiles(*rig.files)
    rig.contexts = Contexts(files, tokens=False)
    client = rig.client("node-7", ciphers=ciphers)
    client.shake(rig.session())
    session, again = rig.session(), client.again()
    again.shake(session)
    assert again.object.session_reused is bool(ciphers)
    der = session.certificate()
    assert der is not None
    assert tls.node_of(ssl.DER_cert_to_PEM_cert(der).encode()) == "node-7"
    assert rig.contexts.current().session_stats()["number"] == 0  # nothing is kept here
    Path(rig.files[2]).write_bytes(Path(other.files[2]).read_bytes())
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        client.again().shake(rig.session())


COMMENTS = (b"# CA \xc3\xa4\n", b"# CA \xe4\n", b"Subject: CN=a\r\n\r\n")


@pytest.mark.parametrize("comment", COMMENTS)
def test_text_beside_certificates_is_no_part_of_them(
    rig: TlsRig, tmp_path: Path, comment: bytes
) -> None:
    """Of two authorities both are trusted."""
    (tmp_path / "other").mkdir()
    other = TlsRig(tmp_path / "other")
    certificate, key, ca = map(Path, rig.files)
    ca.write_bytes(comment + ca.read_bytes() + comment + Path(other.files[2]).read_bytes())
    certificate.write_bytes(comment + certificate.read_bytes() + comment)
    key.write_bytes(comment + key.read_bytes())
    keys = tls.load(*rig.files)
    tls.check(keys, rig.files, NOW.timestamp())
    rig.contexts = Contexts(keys, tokens=False)
    rig.pair("node-1")
    issued = certs.issue_node(other.directory, "node-1", now=NOW)
    context = ssl.create_default_context(cadata=Path(other.files[2]).read_text())
    context.load_verify_locations(rig.files[2])
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(issued.certificate, issued.key)
    Client(context).shake(rig.session())


def test_what_was_said_with_the_handshakes_last_flight_is_not_lost(rig: TlsRig) -> None:
    session, client = rig.session(), rig.client()
    with pytest.raises(ssl.SSLWantReadError):
        client.object.do_handshake()
    session.receive(client.sent())
    client.incoming.write(session.answers())
    client.object.do_handshake()
    assert session.receive(client.sent() + client.say(b"at once")) == b"at once"


def test_sessions_that_take_turns_mix_nothing(rig: TlsRig) -> None:
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


def test_a_broken_handshake_leaves_nothing_for_others_and_its_alert(rig: TlsRig) -> None:
    half, client = rig.session(), rig.client()
    with pytest.raises(ssl.SSLWantReadError):
        client.object.do_handshake()
    half.receive(client.sent())  # is answered, and waits
    client.incoming.write(half.answers())
    broken = rig.session()
    with pytest.raises(ssl.SSLError):
        broken.receive(b"GET / HTTP/1.1\r\n\r\n" * 10)
    assert rig.empty()
    assert not broken.established
    assert broken.end() == b""
    client.object.do_handshake()
    half.receive(client.sent())
    assert half.established


def test_who_has_no_certificate_is_refused_and_told(rig: TlsRig) -> None:
    session, client = rig.session(), rig.client(node=None)
    with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
        client.shake(session)
    assert not session.established
    client.incoming.write(session.answers())
    with pytest.raises(ssl.SSLError, match="certificate required"):
        client.object.read(1)


def test_a_certificate_of_another_authority_is_refused(rig: TlsRig, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = TlsRig(tmp_path / "other")
    stranger = certs.issue_node(other.directory, "node-1", now=NOW)
    context = ssl.create_default_context(cafile=str(rig.ca.certificate))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(stranger.certificate, stranger.key)
    session = rig.session()
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        Client(context).shake(session)
    assert not session.established


def test_both_can_say_their_last(rig: TlsRig) -> None:
    session, client = rig.pair()
    assert session.receive(client.say(b"bye") + client.leave() + b"more") == b"bye"
    assert session.ended
    assert session.receive(b"and more") == b""
    assert rig.empty()
    assert session._rest == b""  # nobody asks for it
    session, client = rig.pair("node-2")
    assert client.hear(session.encrypt(b"bye") + session.end()) == b"bye"
    assert client.ended


def test_rotated_files_count_from_the_next_connection_on(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    old, new = TlsRig(tmp_path), TlsRig(tmp_path / "new")
    files = tls.KeyFiles(*old.files)
    old.contexts = Contexts(files, tokens=False)
    session, client = old.pair()
    first = old.contexts.current()
    for path, by in zip(old.files, new.files, strict=True):
        Path(path).write_bytes(Path(by).read_bytes())
    assert old.contexts.current() is not first
    assert session.receive(client.say(b"goes on")) == b"goes on"
    new.client().shake(old.session())
