"""Clients that break the protocol, ask for too much, or never read, over the wire on both
transports: each gets a clear gRPC status, and the streams of others go on.

That others go on is shown by a well-behaved client beside the bad one, which must get an update
after (and while) the bad one does what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.discovery.service import MAX_TYPES
from reconciler.core.xds.codec import MAX_NAMES
from reconciler.probe.client import Ended, Stream
from reconciler.probe.frames import Node, Request, Response, encode
from reconciler.probe.services import AGGREGATED, OWN, TYPE_PREFIX, Service, Variant
from reconciler.server.transport import TRANSPORTS
from reconciler.testing.conformance.language import Piece
from reconciler.testing.conformance.resources import content, written
from tests.conftest import PROFILE
from tests.integration.xds_own_server import Good, OwnServer, good_on, own_server
from tests.integration.xds_streams import SECONDS

CDS, EDS = OWN["CDS"].type_url, OWN["EDS"].type_url
DELTA, SOTW = Variant.DELTA, Variant.SOTW
GARBAGE = (b"\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x12\x02\xff\xff", bytes(range(256)))

both = pytest.mark.parametrize("variant", [SOTW, DELTA])


@pytest.fixture(params=sorted(TRANSPORTS))
async def good(request: pytest.FixtureRequest) -> AsyncIterator[Good]:
    async with own_server(request.param) as own, good_on(own) as found:
        yield found


@contextlib.asynccontextmanager
async def bad_on(
    own: OwnServer, variant: Variant, service: Service = AGGREGATED
) -> AsyncIterator[Stream]:
    async with own.client() as client:
        stream = client.open(service, variant)
        try:
            yield stream
        finally:
            await stream.close()


async def ended(stream: Stream) -> Ended:
    """How the stream ends, whatever comes before."""
    async with asyncio.timeout(SECONDS):
        while not isinstance(found := await stream.receive(), Ended):
            assert found is not None
    return found


async def outcome(own: OwnServer, variant: Variant, *requests: Request) -> tuple[str, str]:
    """How a stream of these ends; by gRPC's other API, which never mistakes how: with grpc.aio a
    write that is under way then is an error of its own."""
    frames = [encode(request, variant) for request in requests]

    def asked() -> tuple[str, str]:
        with grpc.insecure_channel(f"127.0.0.1:{own.port}") as channel:
            method: Any = channel.stream_stream(AGGREGATED.method(variant))
            return status_of(method(iter(frames), timeout=SECONDS))

    return await asyncio.to_thread(asked)


async def first(stream: Stream, request: Request | None = None) -> Response:
    """The first response, so that the stream is one that works."""
    await stream.send(request or Request(EDS, ("good",), node=Node("bad")))
    found = await stream.receive(SECONDS)
    assert isinstance(found, Response), found
    return found


# ------------------------------------------------------------------------- what is no request


@both
@pytest.mark.parametrize("frame", GARBAGE)
async def test_garbage_ends_its_own_stream(good: Good, variant: Variant, frame: bytes) -> None:
    for begun in (False, True):
        async with bad_on(good.own, variant) as bad:
            if begun:
                await first(bad)
            await bad.send_bytes(frame)
            found = await ended(bad)
            assert found.status == "INVALID_ARGUMENT"
            assert "DiscoveryRequest" in found.reason or "node" in found.reason
    await good.update()


@pytest.mark.parametrize(
    ("service", "type_url", "reason"),
    [
        (AGGREGATED, "", "without type_url"),
        (AGGREGATED, "Cluster", "no type URL"),
        (OWN["CDS"], EDS, "not for " + EDS),
        (OWN["CDS"], "x/y", "not for x/y"),
    ],
)
@both
async def test_a_type_that_is_not_the_services(
    good: Good, variant: Variant, service: Service, type_url: str, reason: str
) -> None:
    async with bad_on(good.own, variant, service) as bad:
        await bad.send(Request(type_url, node=Node("bad")))
        found = await ended(bad)
        assert found.status == "INVALID_ARGUMENT"
        assert reason in found.reason
    await good.update()


@both
async def test_an_unknown_type_is_a_type_of_which_nothing_is_there(
    good: Good, variant: Variant
) -> None:
    async with bad_on(good.own, variant) as bad:
        await bad.send(Request("x/no.such.Type", ("a",), node=Node("bad")))
        if variant is DELTA:
            found = await bad.receive(SECONDS)
            assert isinstance(found, Response)
            assert (found.type_url, found.removed) == ("x/no.such.Type", ("a",))
        assert (await first(bad, Request(EDS, ("good",)))).type_url == EDS
    await good.update()


@both
async def test_a_node_does_not_change_on_a_stream(good: Good, variant: Variant) -> None:
    async with bad_on(good.own, variant) as bad:
        await first(bad)
        await bad.send(Request(CDS, ("a",), node=Node("somebody-else")))
        found = await ended(bad)
        assert (found.status, found.reason) == (
            "INVALID_ARGUMENT",
            "the node of a stream can't change",
        )
    await good.update()


async def test_a_method_that_there_is_not(good: Good) -> None:
    async with bad_on(good.own, DELTA, Service("a.b.C", "D", "E")) as bad:
        assert (await ended(bad)).status == "UNIMPLEMENTED"
    await good.update()


# ------------------------------------------------------------------------- too much of it


@both
async def test_more_names_than_a_request_may_have(good: Good, variant: Variant) -> None:
    many = Request(CDS, tuple(f"n{at}" for at in range(MAX_NAMES + 1)))
    status, reason = await outcome(good.own, variant, Request(EDS, ("good",)), many)
    assert status == "INVALID_ARGUMENT"
    assert f"more than {MAX_NAMES} names" in reason
    await good.update()


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
async def test_a_million_names_bit_by_bit(transport: str) -> None:
    """The limit is on what is subscribed to, not only on one request."""
    async with own_server(transport, {"max_names": 5_000}) as own, good_on(own) as good:
        parts = (tuple(f"{part}-{at}" for at in range(5_000)) for part in range(200))
        requests = (Request(CDS, names) for names in parts)
        status, reason = await outcome(own, DELTA, Request(EDS, ("good",)), *requests)
        assert status == "RESOURCE_EXHAUSTED"
        assert "more than 5000 names" in reason
        await good.update()


@both
async def test_more_types_than_there_are(good: Good, variant: Variant) -> None:
    async with bad_on(good.own, variant) as bad:
        await first(bad)
        for at in range(MAX_TYPES):
            await bad.send(Request(f"x/type.{at}", ("a",)))
        found = await ended(bad)
        assert found.status == "RESOURCE_EXHAUSTED"
        assert f"more than {MAX_TYPES} types" in found.reason
    await good.update()


@both
async def test_a_name_of_a_mebibyte_is_a_name(good: Good, variant: Variant) -> None:
    async with bad_on(good.own, variant) as bad:
        await bad.send(Request(CDS, ("n" * (1 << 20),), node=Node("bad")))
        assert (await first(bad, Request(EDS, ("good",)))).type_url
    await good.update()


async def test_asking_again_and_again_without_reading(good: Good) -> None:
    """What is to be sent is not queued request by request: a flood is answered as one or two."""
    good.others = [written(Piece("CDS", "large", 1, 1 << 20))]
    await good.update()
    async with bad_on(good.own, DELTA) as bad:
        await bad.send(Request(CDS, ("large",), node=Node("bad")))
        for _ in range(300):
            await bad.send(Request(CDS, ("large",)))
        await good.update()
        taken = 0
        await bad.send(Request(EDS, ("good",)))  # its answer is behind all that is to be sent
        while True:
            found = await bad.receive(SECONDS)
            assert isinstance(found, Response), found
            if found.type_url == EDS:
                break
            taken += 1
        assert taken < 30
    await good.update()


# ------------------------------------------------------------------------- those who don't read


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
@both
async def test_who_never_reads_is_ended_and_holds_up_nobody(
    transport: str, variant: Variant
) -> None:
    async with own_server(transport, stall_seconds=0.3) as own, good_on(own) as good:
        async with bad_on(own, variant) as bad:
            await bad.send(Request(CDS, node=Node("bad")))
            for at in range(12):
                good.others = [written(Piece("CDS", "large", at + 1, 1 << 20))]
                await good.update()
            waiting = untaken(own)
            assert waiting <= 4 << 20  # of 12 MiB that have been published
            async with asyncio.timeout(SECONDS):
                while len(list(own.driver.clients())) > 1:
                    await good.update()
            found = await ended(bad)
            assert found.status == "RESOURCE_EXHAUSTED"
            assert "took nothing for 0.3 s" in found.reason
        await good.update()


def untaken(own: OwnServer) -> int:
    """Bytes that the transport holds for all streams."""
    server: Any = own.server
    if own.transport == "grpc":
        return sum(stream.queued for stream in server._streams.values())
    return sum(call.untaken for call in server._streams.values())


async def test_who_reads_slowly_gets_the_newest_state_and_no_other(good: Good) -> None:
    async with bad_on(good.own, DELTA) as slow:
        await slow.send(Request(CDS, node=Node("slow")))
        for at in range(12):
            good.others = [written(Piece("CDS", "large", at + 1, 1 << 20))]
            await good.update()
        seen: list[str] = []
        while seen[-1:] != ["12"]:
            found = await slow.receive(SECONDS)
            assert isinstance(found, Response), found
            for item in found.items:
                assert item.body is not None
                seen.append(content("CDS", item.body))
        assert len(seen) < 12
        assert seen == sorted(seen, key=int)


# ------------------------------------------------------------------------- floods


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
async def test_streams_beyond_the_limit_are_refused(transport: str) -> None:
    async with own_server(transport, max_streams=20) as own, good_on(own) as good:
        async with own.client() as client:
            streams = [client.open(AGGREGATED, DELTA) for _ in range(60)]
            waiting = {asyncio.create_task(stream.receive()): stream for stream in streams}
            refused: list[Any] = []
            async with asyncio.timeout(SECONDS):
                while len(refused) < 60 - 19:
                    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    refused += [each.result() for each in done]
                    for each in done:
                        del waiting[each]
            assert {each.status for each in refused} == {"RESOURCE_EXHAUSTED"}
            for stream in waiting.values():
                await stream.send(Request(EDS, ("good",), node=Node("bad")))
            taken = await asyncio.gather(*waiting)
            assert all(isinstance(each, Response) for each in taken)
            assert len(taken) == 19
            await good.update()
            await asyncio.gather(*(stream.close() for stream in streams))
        async with asyncio.timeout(SECONDS):
            while len(list(own.driver.clients())) > 1:
                await good.update()
        async with bad_on(own, DELTA) as later:  # and there is room again
            await first(later)


async def test_streams_that_come_and_go_leave_nothing(good: Good) -> None:
    own = good.own
    async with own.client() as client:
        for _ in range(10):
            streams = [client.open(AGGREGATED, DELTA) for _ in range(50)]
            for at, stream in enumerate(streams):
                await stream.send(Request(EDS, ("good",), node=Node(f"bad-{at}")))
            await asyncio.gather(*(stream.close() for stream in streams))
            await good.update()
    async with asyncio.timeout(SECONDS):
        while len(list(own.driver.clients())) > 1 or untaken(own):
            await good.update()
    server: Any = own.server
    assert len(server._streams) == 1


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def half_open() -> Iterator[bytes]:
    """What a connection may say before it says no more."""
    yield b""
    yield PREFACE[:7]
    yield PREFACE
    yield PREFACE + SETTINGS + b"\0\0\x10\1\4\0\0\0\1"  # the head of a frame, and nothing of it
    yield PREFACE + SETTINGS + b"\0\0\1\1\4\0\0\0\1\xff"  # headers that can't be read
    yield PREFACE + b"\xff\xff\xff\0\0\0\0\0\0"  # a frame that is too large
    yield b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    yield b"\x16\x03\1\2\0\1\0\1\xfc\3\3"  # TLS, where there is none
    yield random.Random(1).randbytes(4096)


async def test_connections_that_go_no_further(good: Good) -> None:
    with contextlib.ExitStack() as stack:
        for said in (*half_open(), *[b""] * 100):
            connection = socket.create_connection(("127.0.0.1", good.own.port))
            stack.enter_context(connection)
            connection.sendall(said)
        await good.update()
        async with bad_on(good.own, DELTA) as another:
            await first(another)
        await good.update()
    await good.update()


async def test_connections_that_break_in_the_middle(good: Good) -> None:
    """With a reset, right after the first request and while a large answer is on its way."""
    good.others = [written(Piece("CDS", "large", 1, 1 << 20))]
    await good.update()
    request = encode(Request(CDS, node=Node("bad")), DELTA)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", good.own.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(PREFACE + SETTINGS + call(request))
            await good.update()
    async with asyncio.timeout(SECONDS):
        while len(list(good.own.driver.clients())) > 1:
            await good.update()


def call(message: bytes) -> bytes:
    """The frames of one call of delta ADS on stream 1 (HPACK: literals that are not indexed)."""
    headers = b"\x83\x86" + b"".join(  # :method POST, :scheme http
        b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value
        for name, value in (
            (b":path", AGGREGATED.method(DELTA).encode()),
            (b":authority", b"a"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    data = b"\0" + len(message).to_bytes(4, "big") + message
    return (
        len(headers).to_bytes(3, "big") + b"\1\4\0\0\0\1" + headers
        + len(data).to_bytes(3, "big") + b"\0\0\0\0\0\1" + data
    )  # fmt: skip


# ------------------------------------------------------------------------- anything at all


NAMES = st.sampled_from(["", "*", "a", "b", "good", "\u00e4", "n" * 300])
TYPES = st.sampled_from([CDS, EDS, "x/y", "", "nonsense", TYPE_PREFIX])
REQUESTS = st.builds(
    Request,
    TYPES,
    st.lists(NAMES, max_size=4).map(tuple),
    st.lists(NAMES, max_size=4).map(tuple),
    st.dictionaries(NAMES, st.sampled_from(["", "1", "v"]), max_size=3),
    st.sampled_from(["", "1"]),
    st.sampled_from(["", "stale", "\0"]),
    st.none() | st.sampled_from(["", "no good", "x" * 5000]),
    st.none() | st.sampled_from([Node("bad"), Node(""), Node("bad", "c", {"a": [1, {"b": None}]})]),
)
FRAMES = st.lists(
    st.one_of(
        REQUESTS.map(lambda request: (request, None)),
        st.tuples(REQUESTS, st.integers(0, 2**32)),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=12,
)


def bytes_of(step: Any, variant: Variant) -> bytes:
    """A request, or one of which a byte is another one, or bytes as they are."""
    if isinstance(step, bytes):
        return step
    data = bytearray(encode(step[0], variant))
    if step[1] is not None and data:
        data[step[1] % len(data)] ^= 1 << step[1] % 7
    return bytes(data)


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
async def test_whatever_is_sent_others_go_on(transport: str) -> None:
    """A stream is served, or ended with a status that says that it is to blame."""
    async with own_server(transport) as own, good_on(own) as good:
        good.others = [written(Piece("CDS", name)) for name in ("a", "b")]
        await good.update()
        with grpc.insecure_channel(f"127.0.0.1:{own.port}") as channel:

            @settings(
                max_examples=1000 if PROFILE == "long" else 50,
                suppress_health_check=list(HealthCheck),
                deadline=None,
            )
            @given(
                st.sampled_from(list(Variant)), st.sampled_from([AGGREGATED, OWN["CDS"]]), FRAMES
            )
            def law(variant: Variant, service: Service, steps: list[Any]) -> None:
                frames = [bytes_of(step, variant) for step in steps]
                method: Any = channel.stream_stream(service.method(variant))
                code, reason = status_of(method(iter(frames), timeout=SECONDS))
                if code == "UNIMPLEMENTED":  # a changed byte has made a field of a name
                    assert "resource locators are not served" in reason
                else:
                    assert code in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), reason
                assert code == "OK" or reason

            await asyncio.to_thread(law)
        await good.update()
        async with asyncio.timeout(SECONDS):
            while len(list(own.driver.clients())) > 1:
                await good.update()


def status_of(call: Any) -> tuple[str, str]:
    """How a call ends, whatever comes before."""
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    return call.code().name, call.details()
