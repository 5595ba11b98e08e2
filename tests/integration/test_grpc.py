"""The xDS service and its client over real sockets; the hub only writes down what it sees."""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from reconciler import tls
from reconciler.agent import grpc as client_side
from reconciler.config import Address
from reconciler.server import certs
from reconciler.server import streams as server_streams
from reconciler.server.streams import METHOD
from tests.integration.grpc_rig import NOW, client_of, keys_of, request, serving, transport

__all__ = ["transport"]  # a fixture of every test here

SERVER_OPTIONS = server_streams.OPTIONS
CLIENT_OPTIONS = client_side.OPTIONS


@pytest.mark.parametrize("name", [name for name, _ in (*SERVER_OPTIONS, *CLIENT_OPTIONS)])
def test_grpc_knows_each_option(name: str) -> None:
    """It takes any name in silence: a misspelt one left pings at a default that ended streams."""
    library = Path(str(import_module("grpc._cython.cygrpc").__file__)).read_bytes()
    assert name.encode() + b"\0" in library


async def test_frames_go_both_ways_in_order(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with serving(address, None) as (hub, server), client_of(address, None) as (client, seen):
        client.connect()
        await seen.wait(lambda: seen.up == 1)
        frames = [request("node-1")] + [b"frame %d" % i for i in range(50)]
        for frame in frames:
            client.send(frame)
        await hub.wait(lambda: len(hub.frames) == len(frames))
        assert hub.nodes == {1: "node-1"}
        assert [frame for _, frame in hub.frames] == frames
        back = [b"answer %d" % i for i in range(50)]
        for frame in back:
            server.send(1, frame)
        await seen.wait(lambda: len(seen.frames) == len(back))
        assert seen.frames == back
        assert server.traffic["node-1"].sent_bytes == sum(map(len, back))
        assert server.traffic["node-1"].received_bytes == sum(map(len, frames))


async def test_a_bad_frame_ends_its_own_stream_only(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with (
        serving(address, None) as (hub, server),
        client_of(address, None) as (one, seen_one),
        client_of(address, None) as (two, seen_two),
    ):
        for client, seen, node in ((one, seen_one, "n1"), (two, seen_two, "n2")):
            client.connect()
            await seen.wait(lambda seen=seen: seen.up == 1)  # type: ignore[misc]
            client.send(request(node))
        await hub.wait(lambda: len(hub.frames) == 2)
        one.send(b"\xff")
        await seen_one.wait(lambda: bool(seen_one.reasons))
        assert seen_one.reasons == ["INVALID_ARGUMENT: not a request"]
        stream = next(stream for stream, node in hub.nodes.items() if node == "n2")
        server.send(stream, b"still here")
        await seen_two.wait(lambda: seen_two.frames == [b"still here"])
        assert len(hub.closed) == 1
        one.connect()  # and it may come back
        await seen_one.wait(lambda: seen_one.up == 2)


@pytest.mark.parametrize("frame", [b"\xff\xff", request(""), request("Not A Node")])
async def test_without_tls_the_first_request_must_name_a_node(tmp_path: Path, frame: bytes) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with serving(address, None) as (hub, _), client_of(address, None) as (client, seen):
        client.connect()
        await seen.wait(lambda: seen.up == 1)
        client.send(frame)
        await seen.wait(lambda: bool(seen.reasons))
        assert seen.reasons[0].startswith("INVALID_ARGUMENT: the first request names no node")
        assert hub.nodes == {}


async def test_the_certificate_alone_names_the_node(authority: Path) -> None:
    server_keys = keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))
    node_keys = keys_of(authority, certs.issue_node(authority, "node-1", now=NOW))
    async with serving(Address("127.0.0.1", 0), server_keys) as (hub, server):
        address = Address("127.0.0.1", server.port)
        async with client_of(address, node_keys) as (client, seen):
            client.connect()
            await seen.wait(lambda: seen.up == 1)
            client.send(request("node-2"))  # what it claims
            await hub.wait(lambda: len(hub.frames) == 1)
            assert hub.nodes == {1: "node-1"}


async def test_a_stop_waits_for_nobody_who_was_told_that_it_is_over(authority: Path) -> None:
    server_keys = keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))
    node_keys = keys_of(authority, certs.issue_node(authority, "node-1", now=NOW))
    async with (
        serving(Address("127.0.0.1", 0), server_keys) as (_, server),
        client_of(Address("127.0.0.1", server.port), node_keys) as (client, seen),
    ):
        client.connect()
        await seen.wait(lambda: seen.up == 1)
        async with asyncio.timeout(15):  # half of what uvloop's own TLS waits for the last words
            await server.stop(grace=1_000.0)


async def test_a_certificate_that_is_no_node_is_refused(authority: Path) -> None:
    server_keys = keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))
    async with serving(Address("127.0.0.1", 0), server_keys) as (hub, server):
        address = Address("127.0.0.1", server.port)
        # a server's certificate is not for client use: TLS itself refuses it
        async with client_of(address, server_keys, connect_seconds=5) as (client, seen):
            client.connect()
            await seen.wait(lambda: bool(seen.reasons))
            assert hub.nodes == {}


async def test_another_authoritys_node_is_refused(authority: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    certs.init(other, cluster="other", now=NOW)
    issued = certs.issue_node(other, "node-1", now=NOW)
    stranger = tls.load(str(issued.certificate), str(issued.key), str(authority / "ca.crt"))
    server_keys = keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))
    async with serving(Address("127.0.0.1", 0), server_keys) as (hub, server):
        async with client_of(Address("127.0.0.1", server.port), stranger) as (client, seen):
            client.connect()
            await seen.wait(lambda: bool(seen.reasons))
        async with client_of(Address("127.0.0.1", server.port), None) as (client, seen):
            client.connect()
            await seen.wait(lambda: bool(seen.reasons))
        assert hub.nodes == {}


async def test_a_server_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    async with client_of(Address(path=str(tmp_path / "none.sock")), None) as (client, seen):
        client.connect()
        await seen.wait(lambda: bool(seen.reasons))
        assert seen.up == 0
        assert "none.sock" in seen.reasons[0]


async def test_a_node_that_takes_nothing_is_closed(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with (
        serving(address, None, stall_seconds=0.2) as (hub, server),
        grpc.aio.insecure_channel(address.target) as channel,
    ):
        call: Any = channel.stream_stream(METHOD)()
        await call.write(request("n1"))
        await hub.wait(lambda: bool(hub.nodes))
        for _ in range(64):
            server.send(1, bytes(1 << 20))
        await hub.wait(lambda: hub.closed == [1])
        taken, status = 0, None
        try:
            while True:  # what was on its way, then the status
                await call.read()
                taken += 1
        except grpc.aio.AioRpcError as error:
            status = error.code()
        assert taken < 64
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_no_queue_grows_beyond_its_limit(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with (
        serving(address, None, queue_bytes=1000) as (hub, server),
        client_of(address, None) as (client, seen),
    ):
        client.connect()
        await seen.wait(lambda: seen.up == 1)
        client.send(request("n1"))
        await hub.wait(lambda: bool(hub.nodes))
        server.send(1, bytes(600))
        server.send(1, bytes(600))
        await seen.wait(lambda: bool(seen.reasons))
        assert seen.reasons[0].startswith("RESOURCE_EXHAUSTED: more than 1000 bytes")


async def test_stopping_sends_nodes_elsewhere(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with client_of(address, None) as (client, seen):
        async with serving(address, None) as (hub, _):
            client.connect()
            await seen.wait(lambda: seen.up == 1)
            client.send(request("n1"))
            await hub.wait(lambda: bool(hub.nodes))
        await seen.wait(lambda: bool(seen.reasons))
        assert seen.reasons == ["UNAVAILABLE: the server is shutting down"]
        assert hub.closed == [1]


async def test_a_client_that_goes_is_noticed(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with serving(address, None) as (hub, _):
        async with client_of(address, None) as (client, seen):
            client.connect()
            await seen.wait(lambda: seen.up == 1)
            client.send(request("n1"))
            await hub.wait(lambda: bool(hub.nodes))
        await hub.wait(lambda: hub.closed == [1])


async def test_the_core_ends_a_stream(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with serving(address, None) as (hub, server), client_of(address, None) as (client, seen):
        client.connect()
        await seen.wait(lambda: seen.up == 1)
        client.send(request("n1"))
        await hub.wait(lambda: bool(hub.nodes))
        server.close(1, "ABORTED", "start anew")
        await seen.wait(lambda: seen.reasons == ["ABORTED: start anew"])
        server.send(1, b"late")  # effects may be late for a stream that has ended
        server.close(1, "ABORTED", "again")


async def test_the_agents_core_ends_a_stream(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "xds.sock"))
    async with serving(address, None) as (hub, _), client_of(address, None) as (client, seen):
        client.connect()
        await seen.wait(lambda: seen.up == 1)
        client.send(request("n1"))
        await hub.wait(lambda: bool(hub.nodes))
        client.close("roots differ")
        await seen.wait(lambda: seen.reasons == ["roots differ"])
        await hub.wait(lambda: hub.closed == [1])
        client.connect()
        await seen.wait(lambda: seen.up == 2)
