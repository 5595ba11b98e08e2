"""The client's part of HTTP: errors, lines, silence, credentials that are refused.

A web server of a few lines answers here, since the API server can't be made to answer like this;
everything that the API server does itself is in test_client.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp.web
import pytest

from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError, verb_and_resource
from reconciler.server.kubernetes.credentials import Credentials

Handler = Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves every path with one handler; gives the URL."""
    runners: list[aiohttp.web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = aiohttp.web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def credentials(host: str, token: str = "") -> Credentials:
    return Credentials(host, None, None, None, token, lambda: token)


async def client_of(url: str) -> ApiClient:
    return await ApiClient.load(lambda: credentials(url))


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods", ("list", "pods")),
        ("WATCH", "/api/v1/pods", ("watch", "pods")),
        ("GET", "/api/v1/namespaces", ("list", "namespaces")),
        ("GET", "/api/v1/namespaces/shop", ("get", "namespaces")),
        ("PUT", "/api/v1/namespaces/shop/finalize", ("update", "namespaces/finalize")),
        ("GET", "/api/v1/namespaces/shop/pods", ("list", "pods")),
        ("GET", "/api/v1/namespaces/shop/pods/web", ("get", "pods")),
        ("PATCH", "/api/v1/namespaces/shop/pods/web/status", ("patch", "pods/status")),
        ("POST", "/api/v1/namespaces/shop/pods", ("create", "pods")),
        ("POST", "/api/v1/namespaces/shop/pods/web/eviction", ("create", "pods/eviction")),
        ("DELETE", "/api/v1/namespaces/shop/pods", ("deletecollection", "pods")),
        ("DELETE", "/apis/cilium.io/v2/ciliumidentities/300", ("delete", "ciliumidentities")),
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/reconciler",
            ("update", "leases"),
        ),
        (
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            ("create", "tokenreviews"),
        ),
        ("GET", "/version", ("get", "/version")),
        ("GET", "/apis/cilium.io/v2", ("get", "/apis/cilium.io/v2")),
    ],
)
def test_a_request_is_named_as_rbac_names_it(
    method: str, path: str, expected: tuple[str, str]
) -> None:
    assert verb_and_resource(method, path) == expected


async def test_an_error_carries_what_its_status_says(serve: Serve) -> None:
    async def handler(request: aiohttp.web.Request) -> aiohttp.web.Response:
        status = {
            "kind": "Status",
            "reason": "TooManyRequests",
            "message": "slow down",
            "details": {"retryAfterSeconds": 2},
        }
        return aiohttp.web.json_response(status, status=429, headers={"Retry-After": "3"})

    client = await client_of(await serve(handler))
    with pytest.raises(ApiError) as caught:
        await client.request("GET", "/api/v1/pods")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (
        429,
        "TooManyRequests",
        "slow down",
    )
    assert caught.value.retry_after == 3.0
    assert client.requests == {("list", "pods"): 1}
    await client.close()


async def test_an_error_without_a_status_is_told_as_it_is(serve: Serve) -> None:
    async def handler(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(status=502, text="<html>bad gateway</html>")

    client = await client_of(await serve(handler))
    with pytest.raises(ApiError, match="502 BadGateway: <html>bad gateway</html>"):
        await client.request("GET", "/api/v1/pods")
    await client.close()


async def test_lines_of_any_length_come_whole(serve: Serve) -> None:
    lines = [b"a", b"b" * 3_000_000, b"c"]

    async def handler(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        assert request.query["watch"] == "true"
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        await response.write(lines[0] + b"\n" + lines[1][:100])
        await response.write(lines[1][100:] + b"\n" + lines[2])
        await response.write(b"\n")
        return response

    client = await client_of(await serve(handler))
    async with client.stream("/api/v1/pods") as got:
        assert [line async for line in got] == lines
    await client.close()


async def test_a_silent_watch_ends_as_unavailable(serve: Serve) -> None:
    over = asyncio.Event()

    async def handler(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await over.wait()
        return response

    client = await client_of(await serve(handler))
    async with client.stream("/api/v1/pods", silence=0.05) as lines:
        assert await anext(lines) == b"first"
        with pytest.raises(UnavailableError, match="no answer in time to WATCH /api/v1/pods"):
            await anext(lines)
    over.set()
    await client.close()


async def test_a_server_that_is_not_there_is_unavailable(serve: Serve) -> None:
    client = await client_of("http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
        await client.request("GET", "/api/v1/pods")
    await client.close()


async def test_refused_credentials_are_read_again_once(serve: Serve) -> None:
    """Sixteen requests meet a rotated token: one reading, and each gets its answer."""
    valid, readings = "Bearer new", 0

    async def handler(request: aiohttp.web.Request) -> aiohttp.web.Response:
        right = request.headers.get("Authorization") == valid
        return aiohttp.web.json_response({}, status=200 if right else 401)

    url = await serve(handler)
    tokens = iter(["Bearer old", "Bearer new"])

    def load() -> Credentials:
        nonlocal readings
        readings += 1
        return credentials(url, next(tokens))

    client = await ApiClient.load(load)
    client._read_at -= 100.0  # connected a while ago
    answers = await asyncio.gather(*(client.request("GET", "/api/v1/pods") for _ in range(16)))
    assert [answer.status for answer in answers] == [200] * 16
    assert readings == 2

    valid = "Bearer none"
    with pytest.raises(ApiError, match="401"):
        await client.request("GET", "/api/v1/pods")
    assert readings == 2, "a reading so soon after the last"
    await client.close()
