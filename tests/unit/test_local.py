"""The local HTTP server: which methods a route answers."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from reconciler import local
from reconciler.address import parse_address


async def _hello(request: web.Request) -> web.Response:
    return local.json({"method": request.method})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/plain", 200),
        ("HEAD", "/plain", 200),
        ("PUT", "/plain", 405),
        ("PUT", "/put", 200),
        ("GET", "/put", 405),
        ("HEAD", "/put", 405),
        ("GET", "/none", 404),
    ],
)
async def test_a_path_is_of_get_and_head_or_of_what_it_says(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    """HEAD is what load balancers and `curl -I` ask health with."""
    address = parse_address(f"unix:{tmp_path}/s.sock")
    routes: dict[str, local.Handler] = {"/plain": _hello, "PUT /put": _hello}
    async with (
        local.serve(routes, address),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(address.path)) as client,
        client.request(method, f"http://localhost{path}") as answer,
    ):
        assert answer.status == status
        assert (await answer.read() == b"") is (method == "HEAD")
