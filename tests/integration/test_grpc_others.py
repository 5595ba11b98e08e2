"""Other services on the port of the xDS service: health, reflection, and one of each shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from reconciler.config import Address
from tests.integration.grpc_rig import serving, transport

__all__ = ["transport"]  # a fixture of every test here

ANY_PORT = Address("127.0.0.1", 0)
SERVICE = "test.Service"


class Shapes:
    """One method of each shape, on bytes."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def one_one(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing; 100 %")
        if request == b"raise":
            raise ValueError("broken")
        if request == b"who":
            return str(dict(context.invocation_metadata()).get("who", "")).encode()
        return request * 2

    async def one_many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for at in range(int(request)):
            yield bytes(100_000 + at)

    async def many_one(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([each async for each in requests])

    async def many_many(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            async for each in requests:
                yield each + b"!"
        finally:
            self.cancelled.set()

    def add(self, server: Any) -> None:
        handlers: dict[str, Any] = {
            "OneOne": grpc.unary_unary_rpc_method_handler(self.one_one),
            "OneMany": grpc.unary_stream_rpc_method_handler(self.one_many),
            "ManyOne": grpc.stream_unary_rpc_method_handler(self.many_one),
            "ManyMany": grpc.stream_stream_rpc_method_handler(self.many_many),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def sent(*messages: bytes) -> AsyncIterator[bytes]:
    for each in messages:
        yield each


async def test_health_and_reflection() -> None:
    servicer = health.HealthServicer()

    def add(server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflecting = reflection.aio.ReflectionServicer([SERVICE])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)

    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    async with (
        serving(ANY_PORT, None, add=add) as (_, server),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as made,
    ):
        channel: Any = made
        stub: Any = health_pb2_grpc.HealthStub(channel)
        said = await stub.Check(health_pb2.HealthCheckRequest())
        assert said.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND

        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()

        reflect: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = reflect.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = [each.name for each in (await call.read()).list_services_response.service]
        assert SERVICE in names
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_each_shape() -> None:
    shapes = Shapes()
    async with (
        serving(ANY_PORT, None, add=shapes.add) as (_, server),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as made,
    ):
        channel: Any = made
        one = channel.unary_unary(f"/{SERVICE}/OneOne")
        assert await one(b"x" * 300_000) == b"x" * 600_000
        assert await one(b"who", metadata=(("who", "me"),)) == b"me"
        for request, code, details in (
            (b"abort", grpc.StatusCode.NOT_FOUND, "nothing; 100 %"),
            (b"raise", grpc.StatusCode.UNKNOWN, "ValueError"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await one(request)
            assert error.value.code() is code
            assert details in (error.value.details() or "")

        many = channel.unary_stream(f"/{SERVICE}/OneMany")(b"30")
        assert [len(each) async for each in many] == [100_000 + at for at in range(30)]

        joined = channel.stream_unary(f"/{SERVICE}/ManyOne")
        assert await joined(sent(b"a", b"bc" * 70_000, b"")) == b"a" + b"bc" * 70_000

        talk = channel.stream_stream(f"/{SERVICE}/ManyMany")()
        await talk.write(b"hello")
        assert await talk.read() == b"hello!"
        talk.cancel()
        async with asyncio.timeout(10):
            await shapes.cancelled.wait()


async def test_what_nobody_serves() -> None:
    async with (
        serving(ANY_PORT, None) as (_, server),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as made,
    ):
        channel: Any = made
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/test.Nobody/Call")(b"")
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
