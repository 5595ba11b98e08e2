"""`reconciler xds serve --push`: resources over HTTP, in force or refused as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from reconciler.address import Address
from reconciler.core.discovery.types import CDS
from reconciler.probe.client import Client, Ended
from reconciler.probe.follow import Follower
from reconciler.probe.frames import Node, Response
from reconciler.probe.services import AGGREGATED, Variant
from tests.integration.xds_processes import Serve, free_port, wait
from tests.pushed import cluster


class Server(Serve):
    """One that is given resources over HTTP; it waits for them when this returns."""

    def __init__(self, home: Path, transport: str, drain: str = "0") -> None:
        self.push = free_port()
        super().__init__(
            home, "--push", f"127.0.0.1:{self.push}", "--listen", "127.0.0.1:0",
            "--transport", transport, "--drain", drain,
        )  # fmt: skip
        self.wait_said("waiting for resources")

    def ask(self, method: str, body: object) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.push, timeout=20)
        connection.request(method, "/resources", json.dumps(body))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data) if data else None

    def clients_port(self) -> int:
        return int(self.wait_said("serving")["port"])


@pytest.fixture(params=["grpc", "http2"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    found = Server(tmp_path, request.param)
    yield found
    found.process.end()


async def test_what_is_pushed_is_served_whole_or_not_at_all(server: Server) -> None:
    bad = {**cluster("b"), "connectTimeout": "soon"}
    status, said = server.ask("PUT", {"resources": [cluster("a"), bad]})
    assert status == 400
    assert said["problems"] == [said["error"]]
    assert "Cluster b: resources[1].connectTimeout: " in said["error"]
    assert not server.said("serving"), "nobody is told that there is nothing"

    assert server.ask("PUT", {"resources": [cluster("a"), cluster("b")]}) == (204, None)
    address = Address("127.0.0.1", server.clients_port())
    async with Client(address) as client:
        stream = client.open(AGGREGATED, Variant.DELTA)
        follower = Follower(CDS, Variant.DELTA)
        await stream.send(follower.first(node=Node("me")))

        async def follow() -> Response:
            response = await stream.receive(20)
            assert isinstance(response, Response), response
            follower.received(response)
            await stream.send(follower.ack())
            return response

        await follow()
        assert sorted(follower.held) == ["a", "b"]

        # One that is refused changes nothing: what comes next on the stream is the one after it.
        status, said = server.ask("PATCH", {"resources": [cluster("b", 2), bad]})
        assert status == 400
        status, said = server.ask("PATCH", {"resources": [cluster("c"), cluster("c", 2)]})
        assert (status, said["error"]) == (400, "resources.json#1: Cluster c: comes twice")
        assert server.ask("PATCH", {"resources": [cluster("c")]}) == (204, None)
        response = await follow()
        assert ([each.name for each in response.items], response.removed) == (["c"], ())

        assert server.ask("PUT", {"resources": [cluster("c", 3)]}) == (204, None)
        while sorted(follower.held) != ["c"]:
            await follow()
        assert server.ask("PUT", {"resources": []}) == (204, None)
        while follower.held:
            await follow()
        await stream.close()


def test_it_is_alive_while_it_waits(server: Server) -> None:
    """And not ready: it has nothing to serve."""

    def health() -> bytes:
        try:
            return server.get("/healthz")
        except OSError:
            return b""

    wait(lambda: health() == b'{"status":"ok"}', server.process)
    assert server.get("/readyz") == b'{"error":"waiting for resources"}'
    assert b"reconciler_xds_views 0.0" in server.get("/metrics")
    assert json.loads(server.get("/v1/status"))["resources"] == {}
    assert server.ask("PUT", {"resources": []}) == (204, None)
    assert server.get("/readyz") == b'{"status":"ok"}'


def test_directory_and_push_exclude_each_other(tmp_path: Path) -> None:
    for options, reason in (
        ((), "is needed, the directory that is served, or --push"),
        (("--resources", str(tmp_path), "--push", "127.0.0.1:1"), "exclude each other"),
        (("--push", "192.0.2.1:1"), "only a Unix socket or a loopback address"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "reconciler.cli", "xds", "serve", "--insecure", *options],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr


async def test_a_stop_takes_nothing_away(tmp_path: Path) -> None:
    """Streams that are ended one after the other keep what they were given until then."""
    server = Server(tmp_path, "grpc", drain="1")
    try:
        assert server.ask("PUT", {"resources": [cluster("a")]}) == (204, None)
        address = Address("127.0.0.1", server.clients_port())
        async with Client(address) as client:
            streams = [client.open(AGGREGATED, Variant.DELTA) for _ in range(3)]
            for stream in streams:
                follower = Follower(CDS, Variant.DELTA)
                await stream.send(follower.first(node=Node("me")))
                response = await stream.receive(20)
                assert isinstance(response, Response), response
                follower.received(response)
                await stream.send(follower.ack())
            server.process.signal(SIGTERM)
            for stream in streams:
                ended = await stream.receive(20)
                assert isinstance(ended, Ended), ended
                assert ended.status == "UNAVAILABLE"
    finally:
        server.process.end()
