"""The local HTTP server: which methods a route answers, and where its socket can be."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from reconciler import local
from reconciler.address import parse_address
from reconciler.errors import UnavailableError


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


async def _read(request: web.Request) -> web.Response:
    return local.json({"bytes": len(await request.read())})


async def test_a_body_that_is_not_what_it_says_is_the_clients_fault(tmp_path: Path) -> None:
    address = parse_address(f"unix:{tmp_path}/s.sock")
    async with (
        local.serve({"PUT /put": _read}, address),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(address.path)) as client,
        client.put(
            "http://localhost/put", data=b"no gzip", headers={"Content-Encoding": "gzip"}
        ) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"].startswith("the body can't be read: ")


def test_a_socket_has_its_directory_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "s.sock"
    local.clear_socket(str(path))
    assert path.parent.is_dir()
    local.unix_listener(str(path)).close()  # and is left, as by a process that was killed
    local.clear_socket(str(path))
    assert list(path.parent.iterdir()) == []


def test_where_no_socket_can_be_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, reason in (
        (file, "exists and is not a socket"),
        (file / "s.sock", "Not a directory"),
        (file / "new" / "s.sock", "Not a directory"),
        (tmp_path / ("a" * 300), "File name too long"),
    ):
        with pytest.raises(UnavailableError, match=f"unix:{path}: {reason}"):
            local.clear_socket(str(path))
