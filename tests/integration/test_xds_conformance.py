"""The conformance suite on a small server: all passes when that is right, and each way in which it
can be wrong is found by the scenario that is meant to find it.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from reconciler.address import Address
from reconciler.cli import build
from reconciler.commands.xds_access import Access
from reconciler.errors import ReconcilerError, UnavailableError
from reconciler.probe.frames import Node
from reconciler.probe.services import Variant
from reconciler.server import certs
from reconciler.server.transport import TRANSPORTS
from reconciler.testing.conformance import adapters, language, report
from reconciler.testing.conformance.adapters import Adapter, DirectoryAdapter, NotSupported
from reconciler.testing.conformance.language import Scenario
from reconciler.testing.conformance.runner import Outcome, Result, Target, run, run_all
from tests.conftest import PROFILE
from tests.integration.xds_app import App
from tests.integration.xds_own_server import own_server
from tests.integration.xds_processes import Replica, reconciler
from tests.xds_small_server import FAULTS, small_server, xds_cli

OPEN = Access()
SCENARIOS = {scenario.name: scenario for scenario in language.load()}


def target(adapter: Adapter, port: int, wait: float, access: Access = OPEN) -> Target:
    return Target(access.clients(Address("127.0.0.1", port)), adapter, wait=wait)


def chosen(scenario: Scenario, at: int) -> Sequence[tuple[Variant, str, str]]:
    """Of which runs: all in the long profile, else one of each variant, of another type each time
    (and of the aggregated service as of the type's own)."""
    runs = list(scenario.runs())
    if PROFILE == "long":
        return runs
    each: dict[str, list[tuple[Variant, str, str]]] = {}
    for one in runs:
        each.setdefault(one[0], []).append(one)
    return [found[(at * 5 + n * 3) % len(found)] for n, found in enumerate(each.values())]


async def passes_everything(
    adapter: Adapter, port: int, access: Access = OPEN, *, every: int = 1
) -> None:
    """every: n of the scenarios is run"""
    at_ = target(adapter, port, 10.0, access)
    for at, scenario in list(enumerate(SCENARIOS.values()))[::every]:
        for variant, service, type in chosen(scenario, at):
            found = await run(at_, scenario, variant, service, type)
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

        clients = OPEN.clients(Address("127.0.0.1", port))
        adapter = DirectoryAdapter(resources, clients, Node("test-id"), restart)
        async with adapter:
            names = ["names-updates", "removed-is-said", "ttl-heartbeat"]
            for name in (*names, "restart-versions") if PROFILE == "long" else names:
                found = await one(adapter, port, name, 10.0)
                assert found.outcome is Outcome.PASS, found
        assert list(resources.iterdir()) == []
    finally:
        replicas[-1].process.end()


@asynccontextmanager
async def adapter_of(adapter: Adapter) -> AsyncIterator[str]:
    """The HTTP interface of one that can't restart its target."""

    async def put(request: web.Request) -> web.Response:
        try:
            await adapter.put((await request.json())["resources"])
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


# ------------------------------------------------------------------------------------- mutual TLS

NODE = "test-id"
EVERY = 1 if PROFILE == "long" else 8


class Mutual:
    """`reconciler xds serve` with mutual TLS, whose state is set by files of one node only: that
    of the certificate of `access`."""

    def __init__(self, home: Path, authority: Path, transport: str, stack: AsyncExitStack) -> None:
        now = datetime.datetime.now(datetime.UTC)
        server = certs.issue_server(authority, names=("127.0.0.1",), now=now)
        node = certs.issue_node(authority, NODE, now=now)
        ca = str(authority / "ca.crt")
        self.access = Access(tls_cert=str(node.certificate), tls_key=str(node.key), tls_ca=ca)
        self.options = (
            "--tls-cert", str(node.certificate), "--tls-key", str(node.key), "--tls-ca", ca,
        )  # fmt: skip
        self._home, self._stack = home, stack
        self._config = {
            "transport": transport, "insecure": False, "tls_ca": ca,
            "tls_cert": str(server.certificate), "tls_key": str(server.key),
        }  # fmt: skip
        self.files = home / "resources" / "nodes" / NODE

    async def start(self, port: int = 0) -> None:
        listen = f"127.0.0.1:{port}"
        app = App(self._home, listen=listen, **self._config)
        self._app = await self._stack.enter_async_context(app)
        self.files.mkdir(parents=True, exist_ok=True)

    @property
    def port(self) -> int:
        return self._app.port

    async def restart(self) -> None:
        await self._app.stop()
        await self.start(self.port)

    def adapter(self) -> DirectoryAdapter:
        """As another node, which the server does not believe."""
        clients = self.access.clients(Address("127.0.0.1", self.port))
        return DirectoryAdapter(self.files, clients, Node("another"), self.restart)


@pytest.fixture(params=sorted(TRANSPORTS))
async def mutual(
    request: pytest.FixtureRequest, tmp_path: Path, authority: Path
) -> AsyncIterator[Mutual]:
    async with AsyncExitStack() as stack:
        found = Mutual(tmp_path, authority, request.param, stack)
        await found.start()
        yield found


async def test_our_own_server_passes_over_mutual_tls(mutual: Mutual) -> None:
    async with mutual.adapter() as adapter:
        await passes_everything(adapter, mutual.port, mutual.access, every=EVERY)
        restarted = SCENARIOS["restart-serves"]
        found = await run(
            target(adapter, mutual.port, 10.0, mutual.access),
            restarted,
            *chosen(restarted, 0)[0],
        )
        assert found.outcome is Outcome.PASS, found


async def test_the_command_asks_with_the_node_of_its_certificate(mutual: Mutual) -> None:
    code, out, err = await xds_cli(
        "conformance", "--target", f"127.0.0.1:{mutual.port}", "--resources", str(mutual.files),
        "--only", "names-updates", "--type", "CDS", *mutual.options,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.endswith("\n4 runs: 4 pass, 0 fail, 0 not supported\n")  # behind the server's log


def another_ca(mutual: Mutual, other: Path) -> tuple[str, ...]:
    return (*mutual.options[:4], "--tls-ca", str(other / "ca.crt"))


def another_node(mutual: Mutual, other: Path) -> tuple[str, ...]:
    """Of a CA that the server does not know."""
    issued = certs.issue_node(other, NODE, now=datetime.datetime.now(datetime.UTC))
    keys = ("--tls-cert", str(issued.certificate), "--tls-key", str(issued.key))
    return (*keys, *mutual.options[4:])


def no_certificate(mutual: Mutual, other: Path) -> tuple[str, ...]:
    return mutual.options[4:]


def no_tls(mutual: Mutual, other: Path) -> tuple[str, ...]:
    return ()


async def test_who_is_not_let_in_is_told_at_once(
    mutual: Mutual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    certs.init(other, cluster="other", now=datetime.datetime.now(datetime.UTC))
    at = ("conformance", "--target", f"127.0.0.1:{mutual.port}")
    wrong = [each(mutual, other) for each in (another_ca, another_node, no_certificate, no_tls)]
    async with mutual.adapter() as adapter, adapter_of(adapter) as url:
        for options in wrong:
            with pytest.raises(UnavailableError, match=r"^the target: UNA[A-Z]+: "):
                await xds_cli(*at, *options, "--adapter", url)
    monkeypatch.setattr(adapters, "SECONDS", 0.5)
    for options in wrong:
        with pytest.raises(UnavailableError, match=r"UNA[A-Z]+: "):
            await xds_cli(*at, *options, "--resources", str(mutual.files))


async def test_a_wrong_ca_ends_the_command_with_one_line(mutual: Mutual, tmp_path: Path) -> None:
    certs.init(tmp_path / "other", cluster="other", now=datetime.datetime.now(datetime.UTC))
    async with mutual.adapter() as adapter, adapter_of(adapter) as url:
        done = await reconciler(
            "xds", "conformance", "--adapter", url,
            "--target", f"127.0.0.1:{mutual.port}", *another_ca(mutual, tmp_path / "other"),
        )  # fmt: skip
    err = done.stderr.decode()
    assert (done.returncode, done.stdout) == (UnavailableError.exit_code, b"")
    said = err.splitlines()
    assert [line for line in said if line.startswith("reconciler: the target: UNAVAILABLE: ")]
    assert "CERTIFICATE_VERIFY_FAILED" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [
        "get --server xds.invalid:1",
        "watch --server xds.invalid:1",
        "conformance --target xds.invalid:1 --adapter http://127.0.0.1:1",
    ],
)
def test_what_is_wrong_with_the_files_names_option_and_file(
    command: str, tmp_path: Path, authority: Path
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    node = certs.issue_node(authority, NODE, now=now)
    other = certs.issue_node(authority, "other", now=now)
    text, ended = (
        tmp_path / "text",
        certs.issue_node(authority, "ended", now=now - datetime.timedelta(days=2), days=1),
    )
    text.write_text("hello")
    folder, cert = str(tmp_path), f"--tls-cert {node.certificate}"
    for line, reason in {
        cert: "--tls-cert and --tls-key go together",
        f"--tls-key {node.key}": "--tls-cert and --tls-key go together",
        "--tls-ca /nonesuch": "--tls-ca: /nonesuch: No such file or directory",
        f"{cert} --tls-key /nonesuch": "--tls-key: /nonesuch: No such file or directory",
        f"--tls-cert {folder} --tls-key {node.key}": f"--tls-cert: {folder}: Is a directory",
        f"--tls-ca {text}": f"--tls-ca: {text}: not a PEM file",
        f"{cert} --tls-key {other.key}": f"--tls-key: {other.key}: not the key of --tls-cert: ",
        f"--tls-cert {ended.certificate} --tls-key {ended.key}": "--tls-cert: "
        f"{ended.certificate}: expired at ",
        "--tls --token-file /nonesuch": "--token-file: /nonesuch: No such file or directory",
        f"--token-file {text}": "--token-file: a token goes over TLS only",
    }.items():
        done = CliRunner().invoke(build(), ["xds", *command.split(), *line.split()])
        assert isinstance(done.exception, ReconcilerError), line
        assert done.exception.exit_code == 2
        assert str(done.exception).startswith(reason)
