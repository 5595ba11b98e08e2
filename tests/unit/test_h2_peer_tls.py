"""A secured connection of the HTTP/2 server: what goes to its socket, and when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import weakref
from pathlib import Path
from typing import Any, cast

import pytest

from reconciler.address import parse_address
from reconciler.http2 import Connection
from reconciler.http2 import frames as f
from reconciler.server import h2
from reconciler.server.h2 import H2Server
from reconciler.server.h2_peer import Peer
from reconciler.server.h2_session import RECORD
from tests.integration.grpc_rig import Hub
from tests.unit.tls_rig import Client, TlsRig

_OVERHEAD = 5 + 1 + 16
"""Bytes of a record beside its content: header, type, and the cipher's tag (RFC 8446, 5.2)."""

HELLO = f.PREFACE + f.settings()


class Socket:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = self.aborted = False

    def get_extra_info(self, _: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def take(self) -> bytes:
        out, self.written = self.written, b""
        return out


class Rig:
    def __init__(self, directory: Path) -> None:
        self.tls = TlsRig(directory)
        self.server = H2Server(Hub(), parse_address("127.0.0.1:0"), None)
        self.server.loop = asyncio.get_running_loop()
        self.socket = Socket()
        self.peer = Peer(self.server, self.tls.contexts)
        self.peer.connection_made(cast("Any", self.socket))

    def shake(self, client: Client) -> bytes:
        """What the server says when it is done."""
        for _ in range(2):
            with contextlib.suppress(ssl.SSLWantReadError):
                client.object.do_handshake()
            self.peer.data_received(client.sent())
            if self.peer.established or self.socket.closing:
                break
            client.incoming.write(self.socket.take())
        return self.socket.take()

    def look(self) -> None:
        """The server's look at its connections, now."""
        self.server._look()
        assert self.server._sweep is not None
        self.server._sweep.cancel()


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_nothing_is_said_before_the_peer_is_known(rig: Rig) -> None:
    client = rig.tls.client()
    rig.peer.flush()
    assert rig.socket.written == b""
    with contextlib.suppress(ssl.SSLWantReadError):
        client.object.do_handshake()
    rig.peer.data_received(client.sent())
    assert rig.peer.connection.out
    client.incoming.write(rig.socket.take())
    client.object.do_handshake()
    assert client.incoming.pending == 0  # the handshake, and no more
    rig.peer.data_received(client.sent())
    assert rig.socket.written == b""  # whoever is known speaks first, and is answered at once
    rig.peer.data_received(client.say(HELLO))
    assert client.hear(rig.socket.take())[3] == f.SETTINGS


async def test_what_is_said_is_read_and_answered(rig: Rig) -> None:
    client = rig.tls.client()
    client.hear(rig.shake(client))
    (ours,) = rig.peer.connection.out
    assert ours[3] == f.SETTINGS
    rig.peer.data_received(client.say(HELLO + f.ping(b"12345678", 0)))
    answer = ours + f.SETTINGS_ACK + f.ping(b"12345678", f.ACK)
    assert client.hear(rig.socket.take()) == answer


async def test_large_answers_come_whole_in_records_that_are_full(rig: Rig) -> None:
    client = rig.tls.client()
    client.hear(rig.shake(client))
    frames = [bytes([number]) * (RECORD + f.HEAD) for number in range(40)]
    said = b"".join(frames)
    rig.peer.connection.out = list(frames)
    rig.peer.flush()
    sent = rig.socket.take()
    assert len(sent) - len(said) == -(-len(said) // RECORD) * _OVERHEAD
    assert client.hear(sent) == said


async def test_who_speaks_something_else_is_not_listened_to(rig: Rig) -> None:
    client = rig.tls.client(speaks="http/1.1")
    assert client.hear(rig.shake(client)) == b""
    assert rig.socket.closing


async def test_what_is_no_tls_ends_the_connection(rig: Rig) -> None:
    rig.peer.data_received(HELLO)
    assert rig.socket.closing
    assert not rig.peer.established


async def test_who_has_no_certificate_is_told_so_by_an_alert(rig: Rig) -> None:
    client = rig.tls.client(node=None)
    client.incoming.write(rig.shake(client))
    assert rig.socket.closing
    with pytest.raises(ssl.SSLError, match="certificate required"):
        client.object.read(1)


async def test_a_broken_record_ends_the_connection(rig: Rig) -> None:
    client = rig.tls.client()
    rig.shake(client)
    record = bytearray(client.say(HELLO))
    record[-1] ^= 1
    rig.peer.data_received(bytes(record))
    assert rig.socket.closing
    rig.peer.touch()
    rig.peer.flush()  # says nothing more


async def test_whose_last_was_said_is_told_ours(rig: Rig) -> None:
    client = rig.tls.client()
    client.hear(rig.shake(client))
    (ours,) = rig.peer.connection.out
    rig.peer.data_received(client.say(HELLO) + client.leave())
    assert rig.socket.closing
    assert client.hear(rig.socket.take()) == ours + f.SETTINGS_ACK
    assert client.ended
    rig.peer.close()
    assert rig.socket.written == b""


async def test_who_never_ends_the_handshake_is_closed_and_not_probed_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        rig.look()  # its turn to be probed has come
    assert (len(rig.server._probed), rig.socket.closing) == (0, False)
    monkeypatch.setattr(h2, "_IDLE_SECONDS", -1.0)
    rig.look()
    assert rig.socket.closing
    assert rig.socket.written == b""


async def test_who_is_probed_once_it_is_known(rig: Rig) -> None:
    rig.shake(rig.tls.client())
    for _ in range(20):
        rig.look()
    assert rig.server._probed


async def test_a_connection_that_is_over_needs_no_collector(rig: Rig) -> None:
    client = rig.tls.client()
    client.hear(rig.shake(client))
    rig.peer.data_received(client.say(HELLO))
    gc.collect()
    gc.disable()
    try:
        assert len(_alive()) == 2
        rig.peer.connection_lost(None)
        del rig.peer
        assert _alive() == []
    finally:
        gc.enable()


def _alive() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, Peer | Connection)]


async def test_a_lost_connection_keeps_nothing_of_openssl(rig: Rig) -> None:
    """Not even while something still has it: what is in a circle waits for the collector."""
    client = rig.tls.client()
    client.hear(rig.shake(client))
    assert rig.peer._secured is not None
    kept = weakref.ref(rig.peer._secured._object)
    rig.peer.connection_lost(None)
    assert kept() is None
    rig.peer.touch()
    rig.peer.flush()
