"""The conformance suite on our server and on go-control-plane's caches, beside each other.

`python -m bench.xds_conformance` writes docs/xds-conformance.md; a few minutes, nearly all of them
waits for what does not come.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench import xds_build
from bench.fleet import free_port
from reconciler.address import Address
from reconciler.errors import ReconcilerError, UnavailableError
from reconciler.probe.client import Client
from reconciler.probe.frames import Node
from reconciler.testing.conformance import language, report
from reconciler.testing.conformance.adapters import DirectoryAdapter, HttpAdapter
from reconciler.testing.conformance.language import Scenario
from reconciler.testing.conformance.runner import NODE, Outcome, Result, Target, run_all
from reconciler.testing.process import Process

PAGE: Final = Path(__file__).parent.parent / "docs" / "xds-conformance.md"
OURS: Final = ("ours (grpc)", "ours (http2)")
THEIRS: Final = ("linear", "snapshot")
_START: Final = 30.0
"""Seconds in which a server says where it listens."""
_WAIT: Final = 1.5
"""Seconds until what did not come counts as missing: all ends are on this machine."""

_HEAD: Final = """\
# What xDS servers do with the protocol's fine points

Written by `python -m bench.xds_conformance`. The scenarios are data,
`reconciler/testing/conformance/scenarios`; their language is described in `language.py` there. Any
server is judged by them with

    reconciler xds conformance --target HOST:PORT --adapter http://HOST:PORT
    reconciler xds conformance --target HOST:PORT --resources DIR [--restart COMMAND]

where the adapter is a few lines that take `PUT /resources` (the whole new state, as JSON) and
`POST /restart`; `reconciler xds conformance --help` has the rest, `--list` prints the scenarios.
A scenario runs for state of the world and delta, on the aggregated service and the type's own, and
for each type that it is about. It is passed when all of that is; *not supported* is what the
adapter can't do, which says nothing about the server.

A server that wants TLS is asked with the options of `reconciler xds get`: `--tls` or `--tls-ca`,
`--tls-cert` and `--tls-key` for mutual TLS, `--token-file` for a bearer token. The scenarios ask as
the node `test-id`, or what `--node` says, and the state that is set must be what that node is
served. A server that believes the certificate and not the request, as `reconciler xds serve` does,
serves the certificate's node: one of that name is needed, or a state for the node that it has. Here

    reconciler certs issue --dir DIR --node test-id

issues it, from the CA of the server's `--tls-ca` in DIR: for client use, its subject
`CN=system:node:test-id, O=system:nodes` (a SPIFFE ID, `spiffe://CLUSTER/node/test-id`, does too).

*ours* is `reconciler xds serve` with either `--transport`, *linear* and *snapshot* are a
go-control-plane server with that cache, used as its documentation shows (bench/xds/server). Of
the caches' runs a few end one way or the other from time to time.
"""

_NOTES: Final = """
What is behind the differences: the caches keep what a client was sent by version, and answer a
request from that alone. So a NACK in the state of the world, which says an older version, is
answered with what was refused (go-control-plane's issues 46 and 794); what is asked for anew while
it is held is not sent (431); and a name that is not there is not said to be. A snapshot has one
version for all of a type: whatever changes, every stream of the type is sent what it has already.
"""


def main() -> int:
    try:
        scenarios = language.load()
        PAGE.write_text(page(scenarios, asyncio.run(measure(scenarios))))
    except (ReconcilerError, OSError) as error:
        print(f"xds conformance: {error}", file=sys.stderr)
        return 1
    print(PAGE)
    return 0


async def measure(scenarios: Sequence[Scenario]) -> dict[str, list[Result]]:
    """Every run at each target."""
    programs = await asyncio.to_thread(xds_build.programs)
    made: dict[str, list[Result]] = {}
    for name in (*OURS, *THEIRS):
        with tempfile.TemporaryDirectory() as folder:
            opened = ours(name, Path(folder)) if name in OURS else theirs(name, folder, programs)
            async with opened as target:
                made[name] = [each async for each in run_all(target, scenarios)]
        print(f"{name}: {report.summary(made[name])}", file=sys.stderr)
    return made


@asynccontextmanager
async def ours(name: str, folder: Path) -> AsyncIterator[Target]:
    resources = folder / "resources"
    resources.mkdir()
    address = Address("127.0.0.1", free_port())
    command = [
        *(sys.executable, "-m", "reconciler.cli", "xds", "serve", "--insecure", "--drain", "0"),
        *("--transport", name.partition("(")[2].strip(")"), "--resources", str(resources)),
        *("--listen", address.target, "--status", f"unix:{folder}/status.sock"),
    ]
    processes = [Process(command, folder / "log")]

    async def restart() -> None:
        processes[-1].end()
        processes.append(Process(command, folder / "log"))

    def client() -> Client:
        return Client(address)

    try:
        async with DirectoryAdapter(resources, client, Node(NODE), restart) as adapter:
            yield Target(client, adapter, wait=_WAIT)
    finally:
        processes[-1].end()


@asynccontextmanager
async def theirs(name: str, folder: str, programs: Path) -> AsyncIterator[Target]:
    log = Path(folder) / "log"
    process = Process([str(programs / "server"), "-cache", name], log)
    try:
        ports = await asyncio.to_thread(_ports, process)
        host, _, port = ports["listen"].rpartition(":")
        address = Address(host, int(port))
        async with HttpAdapter(f"http://{ports['adapter']}") as adapter:
            yield Target(lambda: Client(address), adapter, wait=_WAIT)
    finally:
        process.end()


def _ports(process: Process) -> Mapping[str, str]:
    """What it prints when it listens. UnavailableError when it ended, or says nothing for long."""
    end = time.monotonic() + _START
    while time.monotonic() < end:
        process.check()
        for line in process.log.read_text().splitlines(keepends=True):
            if line.endswith("\n") and line.startswith("{"):
                found: dict[str, str] = json.loads(line)
                return found
        time.sleep(0.05)
    raise UnavailableError(f"no ports were printed in {_START:.0f} s:\n{process.tail()}")


def page(scenarios: Sequence[Scenario], made: Mapping[str, Sequence[Result]]) -> str:
    versions = xds_build.versions()
    theirs_ = "github.com/envoyproxy/go-control-plane"
    version = versions.get(theirs_, "?")
    lines = [
        _HEAD,
        f"go-control-plane {version}, reconciler {importlib.metadata.version('reconciler')}, "
        f"{len(scenarios)} scenarios.\n",
        "| | runs | " + " | ".join(str(each) for each in Outcome) + " |",
        "|---|---|" + "---|" * len(Outcome),
    ]
    for name, results in made.items():
        counts = report.counts(results)
        cells = (str(counts[each]) for each in Outcome)
        lines.append(f"| {name} | {len(results)} | " + " | ".join(cells) + " |")
    lines += [
        "\n## Where they differ\n",
        "In brackets: the variants that fail, where others pass. All others pass everywhere.\n",
        "| scenario | what the protocol's document says (section) | " + " | ".join(made) + " |",
        "|---|---|" + "---|" * len(made),
    ]
    for scenario, said in report.differences(scenarios, made):
        what = f"{scenario.says} ({scenario.section})"
        lines.append(f"| {scenario.name} | {what} | " + " | ".join(said.values()) + " |")
    lines += [
        _NOTES,
        "## All scenarios\n",
        "| scenario | what the protocol's document says (section) |",
        "|---|---|",
        *(f"| {each.name} | {each.says} ({each.section}) |" for each in scenarios),
    ]
    return "\n".join(lines) + "\n"


def failing(text: str, name: str) -> set[str]:
    """The scenarios that this target fails, wholly or in part, as the page has them. KeyError when
    it is not on the page."""
    found: set[str] = set()
    heads: dict[str, int] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heads = {}
        elif not heads:
            heads = {cell: at for at, cell in enumerate(cells)}
        elif name in heads and cells[heads[name]].startswith("fail"):
            found.add(cells[0])
    if not any(line.startswith(f"| {name} |") for line in text.splitlines()):
        raise KeyError(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
