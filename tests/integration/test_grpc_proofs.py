"""Who may open a stream, over real sockets and TLS: certificates and tokens, good and bad ones,
those that expire, and files that rotate under a running server."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from reconciler import tls
from reconciler.agent.grpc import XdsClient
from reconciler.config import Address
from reconciler.errors import ConfigError, ProtocolError
from reconciler.server import certs
from reconciler.server.streams import METHOD
from reconciler.tls import KeyPair, Proof
from tests.integration.grpc_rig import (
    NOW,
    Hub,
    Listener,
    client_of,
    keys_of,
    request,
    serving,
    transport,
)

__all__ = ["transport"]  # a fixture of every test here

ANY_PORT = Address("127.0.0.1", 0)
DAY = datetime.timedelta(days=1)


class Tokens:
    """Knows its tokens' nodes."""

    def __init__(self, **nodes: str) -> None:
        self.nodes = nodes
        self.expires = time.time() + 3600
        self.down = False

    async def prove(self, token: str) -> Proof:
        if self.down:
            raise ProtocolError("UNAVAILABLE", "tokens can't be verified now")
        if token not in self.nodes:
            raise ProtocolError("UNAUTHENTICATED", "unknown token")
        return Proof(self.nodes[token], "token", self.expires)


@pytest.fixture
def server_keys(authority: Path) -> KeyPair:
    return keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))


@pytest.fixture
def ca_only(authority: Path) -> KeyPair:
    return tls.load("", "", str(authority / "ca.crt"))


def node_keys(authority: Path, node: str, **options: Any) -> KeyPair:
    return keys_of(authority, certs.issue_node(authority, node, **{"now": NOW, **options}))


async def open_stream(client: XdsClient, seen: Listener, hub: Hub, node: str = "claimed") -> int:
    """Connect, send the first request, and give the stream that the hub has for it."""
    before, up = len(hub.frames), seen.up
    client.connect()
    await seen.wait(lambda: seen.up > up)
    client.send(request(node))
    await hub.wait(lambda: len(hub.frames) > before)
    return hub.frames[-1][0]


async def refusal(client: XdsClient, seen: Listener) -> str:
    before = len(seen.reasons)
    client.connect()
    await seen.wait(lambda: len(seen.reasons) > before)
    return seen.reasons[-1]


# ------------------------------------------------------------------------------------------ tokens


async def test_the_token_alone_names_the_node(server_keys: KeyPair, ca_only: KeyPair) -> None:
    tokens = Tokens(t1="node-1", t2="node-2")
    async with serving(ANY_PORT, server_keys, tokens=tokens) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with (
            client_of(address, ca_only, token=lambda: "t1") as (one, seen_one),
            client_of(address, ca_only, token=lambda: "t2") as (two, seen_two),
        ):
            first = await open_stream(one, seen_one, hub, "node-2")  # what it claims
            second = await open_stream(two, seen_two, hub, "node-2")
            assert hub.nodes == {first: "node-1", second: "node-2"}


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "t1"),),
        (("authorization", "Basic t1"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer t1"), ("authorization", "Bearer t1")),
        (("authorization", "Bearer stolen"),),
    ],
)
async def test_without_one_good_token_nothing_is_served(
    server_keys: KeyPair, metadata: tuple[tuple[str, str], ...]
) -> None:
    told: list[tuple[str, str]] = []
    refused = lambda _peer, status, reason: told.append((status, reason))  # noqa: E731
    options = {"tokens": Tokens(t1="node-1"), "refused": refused}
    async with serving(ANY_PORT, server_keys, **options) as (hub, server):
        credentials = grpc.ssl_channel_credentials(server_keys.ca)
        target = f"127.0.0.1:{server.port}"
        async with grpc.aio.secure_channel(target, credentials) as channel:
            call: Any = channel.stream_stream(METHOD)(metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert hub.nodes == {}
        assert told == [("UNAUTHENTICATED", caught.value.details())]
        assert server.refused == {"UNAUTHENTICATED": 1}


async def test_a_verifier_that_is_away_refuses_nobody(
    server_keys: KeyPair, ca_only: KeyPair
) -> None:
    tokens = Tokens(t1="node-1")
    async with serving(ANY_PORT, server_keys, tokens=tokens) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, ca_only, token=lambda: "t1") as (client, seen):
            tokens.down = True
            assert (await refusal(client, seen)).startswith("UNAVAILABLE: ")
            tokens.down = False
            await open_stream(client, seen, hub)


async def test_a_port_takes_one_kind_of_proof(
    authority: Path, server_keys: KeyPair, ca_only: KeyPair
) -> None:
    of_node = node_keys(authority, "node-1")
    options = {"tokens": Tokens(t2="node-2"), "token_listen": ANY_PORT}
    async with serving(ANY_PORT, server_keys, **options) as (hub, server):
        certificates = Address("127.0.0.1", server.port)
        tokens = Address("127.0.0.1", server.token_port)
        async with (
            client_of(certificates, of_node, token=lambda: "t2") as (one, seen_one),
            client_of(tokens, of_node, token=lambda: "t2") as (two, seen_two),
            client_of(certificates, ca_only, token=lambda: "t2") as (three, seen_three),
            client_of(tokens, of_node) as (four, seen_four),
        ):
            assert hub.nodes[await open_stream(one, seen_one, hub)] == "node-1"
            assert hub.nodes[await open_stream(two, seen_two, hub)] == "node-2"
            await refusal(three, seen_three)  # in the handshake, which gives no reason
            assert (await refusal(four, seen_four)).startswith("UNAUTHENTICATED: ")
            assert len(hub.nodes) == 2


async def test_the_token_is_read_for_each_connection(
    server_keys: KeyPair, ca_only: KeyPair, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    tokens = Tokens(new="node-1")
    async with serving(ANY_PORT, server_keys, tokens=tokens) as (hub, server):
        address = Address("127.0.0.1", server.port)
        token = lambda: tls.load_token(str(file))  # noqa: E731
        async with client_of(address, ca_only, token=token) as (client, seen):
            assert await refusal(client, seen) == f"{file}: No such file or directory"
            file.write_text("old\n")
            assert await refusal(client, seen) == "UNAUTHENTICATED: unknown token"
            file.write_text("new\n")
            await open_stream(client, seen, hub)


# --------------------------------------------------------------------------------- ends of streams


async def test_a_stream_ends_with_its_token(server_keys: KeyPair, ca_only: KeyPair) -> None:
    tokens = Tokens(t1="node-1")
    now = tokens.expires - 0.2
    options: dict[str, Any] = {"tokens": tokens, "clock": lambda: now}
    async with serving(ANY_PORT, server_keys, **options) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, ca_only, token=lambda: "t1") as (client, seen):
            assert await refusal(client, seen) == "UNAUTHENTICATED: the token has expired"
            await hub.wait(lambda: hub.closed == [1])
            assert hub.nodes == {1: "node-1"}
            tokens.expires += 3600  # it is given a new one
            await open_stream(client, seen, hub)


async def test_a_stream_ends_with_its_certificate(authority: Path, server_keys: KeyPair) -> None:
    of_node = node_keys(authority, "node-1", days=1)
    now = int((NOW + DAY).timestamp()) - 0.2
    async with serving(ANY_PORT, server_keys, clock=lambda: now) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, of_node) as (client, seen):
            assert await refusal(client, seen) == "UNAUTHENTICATED: the certificate has expired"
            assert hub.nodes == {1: "node-1"}
            now += 1.0
            assert await refusal(client, seen) == "UNAUTHENTICATED: the certificate has expired"
            assert hub.nodes == {1: "node-1"}


async def test_streams_of_a_good_proof_have_an_age_too(
    authority: Path, server_keys: KeyPair
) -> None:
    of_node = node_keys(authority, "node-1")
    async with serving(ANY_PORT, server_keys, max_stream_age=0.1) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, of_node) as (client, seen):
            for number in (1, 2):
                reason = await refusal(client, seen)
                assert reason.startswith("UNAVAILABLE: the stream has the age")
                assert len(hub.nodes) == number


# ------------------------------------------------------------------------------------ certificates


async def test_a_spiffe_id_counts_in_its_own_cluster(authority: Path, server_keys: KeyPair) -> None:
    name = "n" * 63 + ".example"
    here = node_keys(authority, name, cluster="blue")
    elsewhere = node_keys(authority, "node-1", cluster="red")
    async with serving(ANY_PORT, server_keys, cluster="blue") as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, here) as (client, seen):
            assert hub.nodes[await open_stream(client, seen, hub)] == name
        async with client_of(address, elsewhere) as (client, seen):
            reason = await refusal(client, seen)
        assert reason.startswith("PERMISSION_DENIED: ")
        assert "spiffe://blue/node/<name>" in reason


async def test_expired_certificates(authority: Path, server_keys: KeyPair) -> None:
    old = certs.issue_node(authority, "node-1", now=NOW - 2 * DAY, days=1)
    paths = (str(old.certificate), str(old.key), str(authority / "ca.crt"))

    def usable() -> KeyPair:
        keys = tls.load(*paths)
        tls.check(keys, paths, time.time())
        return keys

    async with serving(ANY_PORT, server_keys) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, None) as (client, seen):
            client._tls = usable  # an agent's: it looks before it connects
            assert (await refusal(client, seen)).startswith(f"{old.certificate}: expired at ")
        async with client_of(address, tls.load(*paths)) as (client, seen):
            await refusal(client, seen)
        assert hub.nodes == {}


async def test_an_expired_server_is_said(authority: Path) -> None:
    old = certs.issue_server(authority, names=("127.0.0.1",), now=NOW - 2 * DAY, days=1)
    of_node = node_keys(authority, "node-1")
    async with serving(ANY_PORT, keys_of(authority, old)) as (_, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, of_node) as (client, seen):
            assert "certificate has expired" in await refusal(client, seen)


# ---------------------------------------------------------------------------------------- rotation


class Pki:
    """A server's three files, replaced one after the other as a renewal does."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.paths = (f"{directory}/tls.crt", f"{directory}/tls.key", f"{directory}/ca.crt")

    def write(self, authority: Path, issued: certs.Issued) -> None:
        for path, source in zip(
            self.paths, (issued.certificate, issued.key, authority / "ca.crt"), strict=True
        ):
            shutil.copyfile(source, path)


@pytest.fixture
def rotated(authority: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes another authority with a certificate for the server and one for node-1."""

    def make() -> Path:
        other = tmp_path / "other"
        certs.init(other, cluster="test", now=NOW)
        certs.issue_server(other, names=("127.0.0.1",), now=NOW)
        certs.issue_node(other, "node-1", now=NOW)
        return other

    return make


def issued(authority: Path, stem: str) -> certs.Issued:
    return certs.Issued(authority / f"{stem}.crt", authority / f"{stem}.key")


async def test_certificates_rotate_under_open_streams(
    authority: Path, rotated: Callable[[], Path], tmp_path: Path
) -> None:
    certs.issue_server(authority, names=("127.0.0.1",), now=NOW)
    certs.issue_node(authority, "node-1", now=NOW)
    pki = Pki(tmp_path / "mounted")
    pki.write(authority, issued(authority, "server"))
    files = tls.KeyFiles(*pki.paths)
    async with serving(ANY_PORT, files) as (hub, server):
        address = Address("127.0.0.1", server.port)
        before = keys_of(authority, issued(authority, "node-node-1"))
        async with client_of(address, before) as (client, seen):
            stream = await open_stream(client, seen, hub)
            other = rotated()
            pki.write(other, issued(other, "server"))
            after = keys_of(other, issued(other, "node-node-1"))
            async with client_of(address, after) as (new, seen_new):
                await open_stream(new, seen_new, hub)
            assert files.problem() == ""
            server.send(stream, b"still here")
            await seen.wait(lambda: seen.frames == [b"still here"])
            client.close("comes back")
            await seen.wait(lambda: bool(seen.reasons))
            assert "CERTIFICATE_VERIFY_FAILED" in await refusal(client, seen)
            client._tls = lambda: after  # as the agent reads its files at each connection
            await open_stream(client, seen, hub)


async def test_bad_new_files_change_nothing(
    authority: Path, rotated: Callable[[], Path], tmp_path: Path
) -> None:
    certs.issue_server(authority, names=("127.0.0.1",), now=NOW)
    of_node = node_keys(authority, "node-1")
    pki = Pki(tmp_path / "mounted")
    pki.write(authority, issued(authority, "server"))
    files = tls.KeyFiles(*pki.paths)
    other = rotated()
    async with serving(ANY_PORT, files) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, of_node) as (client, seen):
            for number, bad in enumerate((0, 1, 2)):
                pki.write(authority, issued(authority, "server"))
                Path(pki.paths[bad]).write_bytes(b"-----BEGIN nothing")
                await open_stream(client, seen, hub)
                assert files.problem().startswith(f"{pki.paths[bad]}: ")
                client.close("next")
                await seen.wait(lambda number=number: len(seen.reasons) > number)  # type: ignore[misc]
            pki.write(authority, issued(authority, "server"))
            shutil.copyfile(other / "server.crt", pki.paths[0])  # half of a renewal
            await open_stream(client, seen, hub)
            assert files.problem() == f"{pki.paths[1]}: not the key of {pki.paths[0]}"


def test_bad_files_at_the_start_are_refused(authority: Path, tmp_path: Path) -> None:
    certs.issue_server(authority, names=("127.0.0.1",), now=NOW - 2 * DAY, days=1)
    pki = Pki(tmp_path / "mounted")
    pki.write(authority, issued(authority, "server"))
    with pytest.raises(ConfigError, match=r"tls\.crt: expired at "):
        tls.KeyFiles(*pki.paths)
