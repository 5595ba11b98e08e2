"""`reconciler xds get` and `watch` on a small server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reconciler.cli import build
from reconciler.errors import ConfigError, UnavailableError
from reconciler.testing.conformance.language import Piece
from reconciler.testing.conformance.resources import written
from tests.xds_small_server import SmallServer, small_server, xds_cli

A, B = written(Piece("CDS", "a")), written(Piece("CDS", "b"))


@pytest.fixture
async def served() -> AsyncIterator[tuple[SmallServer, str]]:
    async with small_server() as (small, port):
        await small.put([A, B, written(Piece("EDS", "a"))])
        yield small, f"127.0.0.1:{port}"


def without(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "version"}


async def test_get_prints_what_is_served(served: tuple[SmallServer, str]) -> None:
    small, server = served
    at = ("get", "--server", server)
    everything = await xds_cli(*at)
    named = await xds_cli(*at, "--json", "--type", "EDS", "--own", "a", "nonesuch")
    sotw = await xds_cli(*at, "--sotw", "b", "-o", "table")
    own = await xds_cli(
        *at, "*", "--json", "--sotw", "--own", "--node", "me", "--metadata", "n:=[1]"
    )
    assert everything[0::2] == (0, "")
    rows = yaml.safe_load(everything[1])
    assert [without(row) for row in rows] == [
        {"name": "a", "resource": A},
        {"name": "b", "resource": B},
    ]
    assert all(row["version"] for row in rows)
    assert (named[0], named[2]) == (1, "reconciler: not there: nonesuch\n")
    assert [row["name"] for row in json.loads(named[1])] == ["a"]
    assert sotw[0] == 0
    assert [line.split() for line in sotw[1].splitlines()] == [["NAME", "VERSION"], ["b", "<none>"]]
    assert [row["name"] for row in json.loads(own[1])] == ["a", "b"]
    (node,) = (each.node for each in small.requests if each.node.id == "me")
    assert list(node.metadata["n"]) == [1]


async def test_watch_prints_each_response_and_answers_it(served: tuple[SmallServer, str]) -> None:
    small, server = served
    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            xds_cli("watch", "--server", server, "--json", "--nack", "too green", "--count", "2")
        )
        async with asyncio.timeout(20):
            while not any(each.HasField("error_detail") for each in small.requests):
                await small.requested.wait()
                small.requested.clear()
        await small.put([A])
    code, out, err = running.result()
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert [row["name"] for row in first["resources"]] == ["a", "b"]
    assert (second["resources"], second["removed"]) == ([], ["b"])
    first_, *answers = small.requests
    assert first_.node.id == "reconciler-probe"
    assert [(each.response_nonce, each.error_detail.message) for each in answers] == [
        (first["nonce"], "too green"),
        (second["nonce"], "too green"),
    ]


async def test_what_is_held_is_said(served: tuple[SmallServer, str]) -> None:
    _small, server = served
    (row, _) = json.loads((await xds_cli("get", "--server", server, "--json"))[1])
    held = ("--have", f"a={row['version']}", "--have", "gone=1")
    code, out, _ = await xds_cli("watch", "--server", server, "--json", "--count", "1", *held)
    assert code == 0
    found = json.loads(out)
    assert [each["name"] for each in found["resources"]] == ["b"]
    assert found["removed"] == ["gone"]


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("get --server x", ConfigError, "--server: x: expected host:port"),
        ("get --type x", ConfigError, "x: neither a type URL nor one of LDS"),
        ("get --type some.Thing --own", ConfigError, "no service is its own"),
        ("get --type VHDS --own --sotw", ConfigError, "has no sotw method"),
        ("get --metadata x", ConfigError, "expected KEY=VALUE or KEY:=JSON"),
        ("get --metadata x:=y", ConfigError, "--metadata x:=y: "),
        ("get --have x", ConfigError, "expected NAME=VERSION"),
        ("get --sotw --have x --have y", ConfigError, "one version of all"),
        ("get --tls-cert x", ConfigError, "--tls-cert and --tls-key go together"),
        ("watch -o csv", ConfigError, "this command prints yaml and json"),
        ("get --server 127.0.0.1:1", UnavailableError, "127.0.0.1:1: UNAVAILABLE: "),
    ],
)
def test_what_is_wrong_is_one_line(line: str, kind: type[Exception], reason: str) -> None:
    done = CliRunner().invoke(build(), ["xds", *line.split()])
    assert isinstance(done.exception, kind)
    assert reason in str(done.exception)
