"""The conformance suite on a small server: all passes when that is right, and each way in which it
can be wrong is found by the scenario that is meant to find it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from reconciler.address import Address
from reconciler.cli import build
from reconciler.errors import ReconcilerError
from reconciler.probe.client import Client
from reconciler.probe.frames import Node
from reconciler.probe.services import Variant
from reconciler.server.transport import TRANSPORTS
from reconciler.testing.conformance import language, report
from reconciler.testing.conformance.adapters import Adapter, DirectoryAdapter, NotSupported
from reconciler.testing.conformance.language import Scenario
from reconciler.testing.conformance.runner import Outcome, Result, Target, run, run_all
from tests.conftest import PROFILE
from tests.integration.xds_own_server import own_server
from tests.integration.xds_processes import Replica
from tests.xds_small_server import FAULTS, SmallServer, small_server, xds_cli

SCENARIOS = {scenario.name: scenario for scenario in language.load()}


def target(adapter: Adapter, port: int, wait: float) -> Target:
    return Target(lambda: Client(Address("127.0.0.1", port)), adapter, wait=wait)


def chosen(scenario: Scenario, at: int) -> Collection[tuple[Variant, str, str]]:
    """Of which runs: all in the long profile, else one of each variant, of another type each time
    (and of the aggregated service as of the type's own)."""
    runs = list(scenario.runs())
    if PROFILE == "long":
        return runs
    each: dict[str, list[tuple[Variant, str, str]]] = {}
    for one in runs:
        each.setdefault(one[0], []).append(one)
    return [found[(at * 5 + n * 3) % len(found)] for n, found in enumerate(each.values())]


async def passes_everything(adapter: Adapter, port: int) -> None:
    for at, scenario in enumerate(SCENARIOS.values()):
        for variant, service, type in chosen(scenario, at):
            found = await run(target(adapter, port, 10.0), scenario, variant, service, type)
            assert found.outcome is Outcome.PASS, found


async def test_a_right_server_passes_everything() -> None:
    async with small_server() as (small, port):
        await passes_everything(small, port)


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
async def test_our_own_server_passes_everything(transport: str) -> None:
    async with own_server(transport) as own:
        await passes_everything(own, own.port)


FINDS = {
    "a name twice": ("names-only",),
    "absent names unsaid": ("absent-is-said",),
    "all names": ("names-only", "names-updates"),
    "delta requests have stale nonces": ("stale-nonce-honoured",),
    "initial removals unsaid": ("resume-behind", "resume-wildcard"),
    "initial versions unread": ("resume-in-step", "restart-versions"),
    "left beside star is no question": ("star-name-left",),
    "nack sent again": ("nack-not-sent-again", "nack-in-wildcard-not-sent-again"),
    "nack told by version": ("nack-only-by-error-detail",),
    "names that are not there forgotten": ("names-created-later",),
    "no heartbeats": ("ttl-heartbeat",),
    "no names is everything": ("unsubscribe-from-all", "no-wildcard-after-names"),
    "no nonce": ("names-only",),
    "no version": ("names-only",),
    "one subscription for all streams": ("streams-are-apart",),
    "one writer for all": ("slow-reader",),
    "part of the state": ("wildcard-updates", "removed-among-names"),
    "removals and additions in any order": ("make-before-break",),
    "removals unsaid": ("removed-is-said", "removed-by-absence", "removed-from-wildcard"),
    "resubscribing does nothing": (
        "resubscribe-held",
        "resubscribe-after-leaving",
        "name-beside-star-is-sent",
    ),
    "sent twice": ("names-updates",),
    "stale nonces count": ("stale-nonce-ignored",),
    "star is a name": ("star-is-everything",),
    "star takes names with it": ("star-left-keeps-names",),
    "ttl to all": ("ttl-needs-the-feature",),
    "unsubscribing does nothing": ("unsubscribe-one-by-one",),
    "versions of a run": ("restart-versions",),
    "versions of streams before": ("resume-with-other-names",),
    "wildcard of the beginning": ("wildcard-new-resources",),
}
"""Fault → the scenarios that are meant to find it; `report` says at which step they did."""


def test_every_fault_has_its_scenario() -> None:
    assert set(FINDS) == FAULTS


@pytest.mark.parametrize("fault", sorted(FINDS))
async def test_a_fault_is_found(fault: str) -> None:
    async with small_server([fault]) as (small, port):
        for name in FINDS[fault]:
            outcomes = [
                result.outcome
                async for result in run_all(
                    target(small, port, 0.5), [SCENARIOS[name]], services=("ads",), types=("CDS",)
                )
            ]
            assert Outcome.FAIL in outcomes, name
            assert Outcome.NOT_SUPPORTED not in outcomes


async def one(adapter: Adapter, port: int, name: str, wait: float = 0.5) -> Result:
    scenario = SCENARIOS[name]
    return await run(target(adapter, port, wait), scenario, Variant.DELTA, "ads", "CDS")


async def test_a_failure_names_the_step_what_was_expected_and_what_came() -> None:
    async with small_server(["all names"]) as (small, port):
        found = await one(small, port, "names-only")
    assert found.why == "line 3: expect a c: [a=1 b=1 c=1 d=1] came, and b is not asked for"
    async with small_server(["absent names unsaid"]) as (small, port):
        found = await one(small, port, "absent-is-said")
    assert found.why == "line 3: expect -x: nothing came in 0.5 s; wanted: -x"


async def test_a_server_that_has_no_such_service_fails() -> None:
    async with small_server() as (small, port):
        small.methods = {}
        found = await one(small, port, "names-only")
    assert found.outcome is Outcome.FAIL
    assert "the stream ended with UNIMPLEMENTED" in found.why


async def test_what_an_adapter_can_not_do_is_not_supported() -> None:
    async with small_server(ttl=False) as (small, port):
        small.restarts = False
        for name in ("ttl-heartbeat", "restart-serves"):
            assert (await one(small, port, name)).outcome is Outcome.NOT_SUPPORTED


# ----------------------------------------------------------------------------- the command line


async def test_a_directory_is_an_adapter_too(tmp_path: Path) -> None:
    """Of our server as a process, which is restarted by a command."""
    resources = tmp_path / "resources"
    resources.mkdir()
    replicas = [Replica(resources, tmp_path / "first")]
    port = replicas[0].port
    try:

        async def restart() -> None:
            replicas[-1].process.end()
            again = await asyncio.to_thread(Replica, resources, tmp_path / "second", port=port)
            replicas.append(again)

        address = Address("127.0.0.1", port)
        adapter = DirectoryAdapter(resources, lambda: Client(address), Node("test-id"), restart)
        async with adapter:
            names = ["names-updates", "removed-is-said", "ttl-heartbeat"]
            for name in (*names, "restart-versions") if PROFILE == "long" else names:
                found = await one(adapter, port, name, 10.0)
                assert found.outcome is Outcome.PASS, found
        assert list(resources.iterdir()) == []
    finally:
        replicas[-1].process.end()


@asynccontextmanager
async def adapter_of(small: SmallServer) -> AsyncIterator[str]:
    """The adapter's HTTP interface on the small server."""

    async def put(request: web.Request) -> web.Response:
        try:
            await small.put((await request.json())["resources"])
        except NotSupported:
            return web.Response(status=501)
        return web.Response(status=204)

    async def restart(request: web.Request) -> web.Response:
        return web.Response(status=501, text="never")

    app = web.Application()
    app.router.add_put("/resources", put)
    app.router.add_post("/restart", restart)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_command_prints_a_table_and_ends_with_1_on_a_failure() -> None:
    async with (
        small_server(["nack sent again"], ttl=False) as (small, port),
        adapter_of(small) as url,
    ):
        where = ("--target", f"127.0.0.1:{port}", "--adapter", url, "--wait", "1")
        only = ("--only", "names-only", "--only", "restart-*", "--only", "nack-not-sent-again")
        code, out, err = await xds_cli(
            "conformance", *where, *only, "--type", "CDS", "--service", "ads"
        )
        assert (code, err) == (1, "")
        lines = [line.split() for line in out.splitlines()]
        assert ["names-only", "pass", "-", "pass", "-"] in lines
        assert ["nack-not-sent-again", "fail", "-", "fail", "-"] in lines
        assert ["restart-versions", "-", "-", "not", "supported", "-"] in lines
        assert out.endswith("\n7 runs: 2 pass, 2 fail, 3 not supported\n")
        code, out, err = await xds_cli(
            "conformance", *where, "--only", "names-only", "--type", "EDS", "--json"
        )
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert found["counts"] == {"pass": 4, "fail": 0, "not supported": 0}
        assert {(run["variant"], run["service"]) for run in found["runs"]} == {
            (variant, service) for variant in ("sotw", "delta") for service in ("ads", "own")
        }


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("--target x", 2, "--target: x: expected host:port"),
        ("--target 127.0.0.1:1", 2, "either --adapter or --resources"),
        ("--target 127.0.0.1:1 --resources /nonesuch", 2, "/nonesuch: not a directory"),
        ("--only none-such", 2, "no scenario has such a name"),
        ("--type xds", 2, "--type XDS: not of CDS"),
        ("--target 127.0.0.1:1 --adapter http://127.0.0.1:1", 3, "Cannot connect"),
    ],
)
def test_the_command_says_what_is_wrong_with_it(line: str, code: int, reason: str) -> None:
    done = CliRunner().invoke(build(), ["xds", "conformance", *line.split()])
    assert isinstance(done.exception, ReconcilerError)
    assert done.exception.exit_code == code
    assert reason in str(done.exception)


def test_differences_are_told_by_scenario_and_target() -> None:
    def made(name: str, variant: Variant, outcome: Outcome) -> Result:
        return Result(name, variant, "ads", "CDS", outcome, "", 0.1)

    delta, sotw = Variant.DELTA, Variant.SOTW
    good = [made("names-only", delta, Outcome.PASS), made("names-only", sotw, Outcome.PASS)]
    bad = [made("names-only", delta, Outcome.FAIL), made("names-only", sotw, Outcome.PASS)]
    scenarios = [SCENARIOS["names-only"]]
    assert report.differences(scenarios, {"one": good}) == []
    assert report.differences(scenarios, {"one": good, "two": bad}) == [
        (SCENARIOS["names-only"], {"one": "pass", "two": "fail (delta)"})
    ]
