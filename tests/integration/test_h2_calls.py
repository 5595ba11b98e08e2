"""What only our own HTTP/2 can be asked: calls on one connection, and requests that nobody takes.

The client is the h2 library on a socket, which reads and gives windows when a test says so.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from reconciler.config import Address
from reconciler.http2.frames import prefix
from reconciler.server import certs, h2_peer
from reconciler.server.h2 import H2Server
from reconciler.server.streams import METHOD
from reconciler.tls import KeyPair, Proof
from tests.integration.grpc_rig import NOW, Hub, keys_of, request

ANY_PORT = Address("127.0.0.1", 0)
SLOW = "/test.Service/Slow"


def framed(message: bytes) -> bytes:
    """As gRPC sends it."""
    return prefix(len(message)) + message


class Client:
    """read: of which streams what comes is taken, so that its window opens again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.read: Callable[[int], bool] = lambda stream: True
        self.got: dict[int, int] = defaultdict(int)
        self.status: dict[int, str] = {}
        self.text: dict[int, str] = {}
        self.pongs = 0
        self.settled = False

    @classmethod
    async def to(cls, server: H2Server, keys: KeyPair | None) -> Self:
        context = None
        if keys is not None:
            context = ssl.create_default_context(cadata=keys.ca.decode())
            context.set_alpn_protocols(["h2"])
        return cls(*await asyncio.open_connection("127.0.0.1", server.port, ssl=context))

    def open(self, method: str, *more: tuple[str, str]) -> int:
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(
            stream,
            [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "a"),
             ("content-type", "application/grpc"), ("te", "trailers"), *more],
        )  # fmt: skip
        return stream

    def say(self, stream: int, message: bytes) -> None:
        """The window lets all of it through."""
        data = framed(message)
        assert self.say_bytes(stream, data) == len(data)

    def say_bytes(self, stream: int, data: bytes) -> int:
        """As many as the window lets through; how many that is."""
        size = min(len(data), self.http.local_flow_control_window(stream))
        most = self.http.max_outbound_frame_size
        for at in range(0, size, most):
            self.http.send_data(stream, data[at : min(at + most, size)])
        return size

    def widen(self) -> None:
        """All windows, as far as they go; to be said before streams are opened."""
        wide = (1 << 31) - 1
        self.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: wide})
        self.http.increment_flow_control_window(wide - 65_535)

    async def send(self) -> None:
        self._writer.write(self.http.data_to_send())
        await self._writer.drain()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self.send()
                data = await self._reader.read(1 << 16)
                assert data, "the server closed the connection"
                for event in self.http.receive_data(data):
                    self._on(event)
        await self.send()

    def _on(self, event: Any) -> None:
        match event:
            case h2.events.DataReceived():
                self.got[event.stream_id] += len(event.data)
                if not event.flow_controlled_length:
                    return
                if self.http.inbound_flow_control_window < 1 << 30:
                    self.http.increment_flow_control_window(event.flow_controlled_length)
                if self.read(event.stream_id):
                    self.http.increment_flow_control_window(
                        event.flow_controlled_length, event.stream_id
                    )
            case h2.events.SettingsAcknowledged():
                self.settled = True
            case h2.events.PingAckReceived():
                self.pongs += 1
            case h2.events.TrailersReceived() | h2.events.ResponseReceived():
                headers = {bytes(name): bytes(value) for name, value in event.headers}
                if b"grpc-status" in headers:
                    self.status[event.stream_id] = headers[b"grpc-status"].decode()
                    self.text[event.stream_id] = headers.get(b"grpc-message", b"").decode()

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def served(
    keys: KeyPair | None = None, **options: Any
) -> AsyncIterator[tuple[Hub, H2Server, Client]]:
    hub = Hub()
    server = H2Server(hub, ANY_PORT, keys, **options)
    await server.start()
    client = await Client.to(server, keys)
    try:
        yield hub, server, client
    finally:
        await client.close()
        await server.stop(1.0)


async def test_a_stream_that_is_not_read_ends_alone() -> None:
    async with served(stall_seconds=0.4) as (hub, server, client):
        client.read = lambda stream: stream != stuck
        stuck, good = client.open(METHOD), client.open(METHOD)
        client.say(stuck, request("node-1"))
        client.say(good, request("node-2"))
        await client.until(lambda: len(hub.nodes) == 2)
        numbers = {node: number for number, node in hub.nodes.items()}
        server.send(numbers["node-1"], bytes(1 << 20))
        sent = 0

        def ended() -> bool:
            """Until then the other one is sent more whenever it has taken everything."""
            nonlocal sent
            if client.got[good] == sent * 5 + sent * 40_000:
                server.send(numbers["node-2"], bytes(40_000))
                sent += 1
            return stuck in client.status

        await client.until(ended)
        assert client.status == {stuck: "8"}
        assert hub.closed == [numbers["node-1"]]
        server.send(numbers["node-2"], bytes(40_000))
        sent += 1
        await client.until(lambda: client.got[good] == sent * 40_005)


class Slow:
    """A service that takes no request until it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.taken: list[int] = []

    async def call(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await self.may.wait()
        async for each in requests:
            self.taken.append(len(each))
            yield b"ok"

    def add(self, server: Any) -> None:
        handler: Any = grpc.stream_stream_rpc_method_handler(self.call)
        server.add_registered_method_handlers("test.Service", {"Slow": handler})


@pytest.mark.parametrize(
    ("data", "most"),
    [(framed(bytes(30_000)), 2 << 20), (framed(b"") * 2_000, 500_000)],
    ids=["large ones", "without a byte"],
)
async def test_requests_that_a_service_does_not_take_are_bounded(data: bytes, most: int) -> None:
    slow = Slow()
    async with served(add=slow.add) as (_, _, client):
        stream = client.open(SLOW)
        said = 0
        while stream not in client.status and said < most:
            assert client.say_bytes(stream, data) == len(data)
            said += len(data)
            await client.until(
                lambda: (
                    stream in client.status
                    or client.http.local_flow_control_window(stream) >= len(data)
                )
            )
        assert client.status[stream] == "8"


async def test_a_service_takes_what_waits_when_it_can() -> None:
    slow = Slow()
    async with served(add=slow.add) as (_, _, client):
        stream = client.open(SLOW)
        for _ in range(20):
            client.say(stream, bytes(2_000))
        slow.may.set()
        for sent in range(20, 80):
            await client.until(lambda sent=sent: client.got[stream] == sent * 7)  # type: ignore[misc]
            client.say(stream, bytes(30_000))
        await client.until(lambda: client.got[stream] == 80 * 7)
        assert slow.taken == [2_000] * 20 + [30_000] * 60, "more than may wait at a time"


async def test_a_call_that_is_given_up_at_once_leaves_nothing() -> None:
    slow = Slow()
    async with served(add=slow.add) as (_, server, client):
        given_up = [client.open(SLOW) for _ in range(5)]
        for stream in given_up:
            client.http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        last = client.open(SLOW)
        client.say(last, b"x")
        slow.may.set()
        await client.until(lambda: client.got[last] > 0)
        assert len(server._tasks) == 1


FETCH = "/test.Service/Fetch"


class Fetch:
    """A service that answers with so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def one(self, request: bytes, context: Any) -> bytes:
        return bytes(self.size)

    def add(self, server: Any) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(self.one)
        server.add_registered_method_handlers("test.Service", {"Fetch": handler})


async def test_an_answer_that_is_not_read_ends_and_others_go_on() -> None:
    async with served(add=Fetch(200_000).add, stall_seconds=0.4) as (_, server, client):
        client.read = lambda stream: stream != stuck
        stuck, good = client.open(FETCH), client.open(FETCH)
        for stream in (stuck, good):
            client.say(stream, b"?")
        await client.until(lambda: len(client.status) == 2)
        assert client.status == {stuck: "8", good: "0"}
        assert "took nothing for 0.4 s" in client.text[stuck]
        assert client.got[good] == 200_005
        (peer,) = server.peers
        assert (peer.waiting, peer.sent) == (0, {})
        assert len(server._tasks) == 0


async def test_who_reads_nothing_at_all_of_its_answers_is_gone() -> None:
    async with served(add=Fetch(20 << 20).add, stall_seconds=0.4) as (_, server, client):
        client.widen()
        client.say(client.open(FETCH), b"?")
        await client.send()
        (peer,) = server.peers
        async with asyncio.timeout(20):
            while server.peers:
                server._gone.clear()
                await server._gone.wait()
        assert peer.waiting == 0


@pytest.mark.parametrize("wide", [False, True])
async def test_answers_that_wait_on_one_connection_are_bounded_together(wide: bool) -> None:
    """Whether it is windows that they wait for, or the socket."""
    async with served(add=Fetch(300_000).add, queue_bytes=1_000_000) as (_, server, client):
        client.read = lambda stream: False
        if wide:
            client.widen()
        await client.until(lambda: client.settled)
        streams = [client.open(FETCH) for _ in range(50)]
        for stream in streams:
            client.say(stream, b"?")
        await client.until(lambda: len(client.status) >= 40)
        assert set(client.status.values()) <= {"8", "0"} if wide else {"8"}
        (peer,) = server.peers
        assert peer.waiting <= 900_000
        for stream in set(streams) - client.status.keys():
            client.http.increment_flow_control_window(300_000, stream)
        await client.until(lambda: len(client.status) == 50)
        taken = [stream for stream in streams if client.status[stream] == "0"]
        assert 1 <= len(taken) <= 10
        assert {client.got[stream] for stream in taken} == {300_005}
        assert (peer.waiting, peer.sent) == (0, {})


async def test_a_long_answer_is_taken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_peer, "_OTHERS_BYTES", 100_000)
    async with served(add=Fetch(300_000).add) as (_, _, client):
        client.read = lambda stream: stream == again
        first, second, again = (client.open(FETCH) for _ in range(3))
        client.say(first, b"?")
        await client.until(lambda: client.got[first] > 0)
        client.say(second, b"?")
        await client.until(lambda: second in client.status)
        client.http.increment_flow_control_window(300_000, first)
        await client.until(lambda: first in client.status)
        client.say(again, b"?")
        await client.until(lambda: again in client.status)
        assert client.status == {first: "0", second: "8", again: "0"}


@pytest.mark.parametrize("reads", [True, False])
async def test_what_waits_for_who_has_said_its_last_goes_before_the_end(reads: bool) -> None:
    async with served(stall_seconds=0.4) as (hub, server, client):
        client.read = lambda stream: False
        stream = client.open(METHOD)
        client.say(stream, request("node-1"))
        await client.until(lambda: len(hub.nodes) == 1)
        (number,) = hub.nodes
        server.send(number, bytes(300_000))
        client.http.end_stream(stream)
        await client.until(lambda: client.got[stream] == 65_535 and hub.closed == [number])
        server.send(number, b"not any more")
        if reads:
            client.http.increment_flow_control_window(300_000, stream)
        await client.until(lambda: stream in client.status)
        assert client.status == {stream: "0" if reads else "8"}
        assert client.got[stream] == (300_005 if reads else 65_535)
        assert server.traffic["node-1"].streams == 0


class Tokens:
    """Takes its time."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def prove(self, token: str) -> Proof:
        await self.may.wait()
        return Proof(token, "token", 4e9)


async def test_who_has_not_proven_anything_yet_is_taken_one_window_of(authority: Path) -> None:
    tokens = Tokens()
    keys = keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))
    async with served(keys, tokens=tokens) as (hub, _, client):
        stream = client.open(METHOD, ("authorization", "Bearer node-1"))
        message = request("node-1", "t" * 200_000)
        data = framed(message)
        assert client.say_bytes(stream, data) == 65_535
        client.http.ping(b"12345678")
        await client.until(lambda: client.pongs == 1)
        assert client.http.local_flow_control_window(stream) <= 1  # SETTINGS gave 1
        assert hub.nodes == {}
        tokens.may.set()
        said = 65_535
        while said < len(data):
            await client.until(lambda: client.http.local_flow_control_window(stream) > 0)
            said += client.say_bytes(stream, data[said:])
        await client.send()
        await hub.wait(lambda: [len(frame) for _, frame in hub.frames] == [len(message)])
        assert list(hub.nodes.values()) == ["node-1"]


class Broken:
    async def prove(self, token: str) -> Proof:
        raise RuntimeError("a secret of ours")


async def test_a_proof_that_breaks_ends_its_call_and_is_told(authority: Path) -> None:
    keys = keys_of(authority, certs.issue_server(authority, names=("127.0.0.1",), now=NOW))
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with served(keys, tokens=Broken()) as (hub, server, client):
        stream = client.open(METHOD, ("authorization", "Bearer node-1"))
        client.say(stream, request("node-1"))
        await client.until(lambda: stream in client.status)
        assert client.status == {stream: "2"}
        assert client.text == {stream: "who calls can't be found out: the server is broken"}
        assert hub.nodes == {}
        assert server.refused == {"UNKNOWN": 1}
        assert [type(each["exception"]) for each in told] == [RuntimeError]
