"""A look at the files that fails, as no file can make it, ends the process with that error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from reconciler.config import DiscoveryConfig, ServerConfig
from reconciler.server import app as server
from reconciler.server.discovery import app as discovery
from tests.integration.xds_app import running
from tests.integration.xds_processes import cluster, put

Start = Callable[[Callable[[int], None]], Coroutine[Any, Any, None]]


def serve_files(home: Path, files: Path) -> Start:
    config = DiscoveryConfig(
        resources=str(files), listen="127.0.0.1:0", insecure=True, status="", drain=0.0
    )
    return lambda ready: discovery.run(config, ready=ready)


def serve_manifests(home: Path, files: Path) -> Start:
    return serve_agents(home, manifests=str(files))


def serve_files_beside(home: Path, files: Path) -> Start:
    return serve_agents(home, discovery_resources=str(files))


def serve_agents(home: Path, **files: str) -> Start:
    config = ServerConfig(
        state_dir=str(home),
        listen="127.0.0.1:0",
        insecure=True,
        status=f"unix:{home}/s.sock",
        **files,  # type: ignore[arg-type]  # fields that are texts
    )
    return lambda ready: server.run(config, ready=ready)


@pytest.mark.parametrize(
    ("serve", "listing"),
    [
        (serve_files, "reconciler.server.discovery.files.list_files"),
        (serve_files_beside, "reconciler.server.discovery.files.list_files"),
        (serve_manifests, "reconciler.server.manifests.list_files"),
    ],
)
async def test_a_look_that_fails_is_the_end_and_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path, Path], Start],
    listing: str,
) -> None:
    files = tmp_path / "files"
    files.mkdir()

    def fail(_: Path) -> None:
        raise ZeroDivisionError

    async def served() -> None:
        async with asyncio.timeout(20), running(serve(tmp_path, files)) as app:
            monkeypatch.setattr(listing, fail)
            put(files, "a", cluster("a"))
            await asyncio.shield(app.task)

    with pytest.raises(BaseExceptionGroup) as caught:
        await served()
    assert caught.group_contains(ZeroDivisionError)
