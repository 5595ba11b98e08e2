"""`reconciler xds conformance`: judge any xDS server by scenarios."""

from __future__ import annotations

import asyncio
import fnmatch
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from reconciler.commands.output import FAILED, Format, emit_value, table, with_json
from reconciler.commands.xds_access import Access, with_structs
from reconciler.config import address_of
from reconciler.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from reconciler.probe.client import Client
    from reconciler.probe.frames import Node
    from reconciler.testing.conformance.adapters import Adapter
    from reconciler.testing.conformance.language import Scenario
    from reconciler.testing.conformance.runner import Result, Target

_ALL: Final = "all"


def register(app: typer.Typer) -> None:
    app.command("conformance", help="Run scenarios of the xDS protocol against a server.")(
        with_json(with_structs(_conformance))
    )


def _conformance(
    *,
    target: Annotated[str, typer.Option("--target", help="host:port of the xDS server.")] = "",
    access: Access,
    adapter: Annotated[
        str, typer.Option("--adapter", help="URL of what sets the server's state.")
    ] = "",
    resources: Annotated[
        Path | None,
        typer.Option("--resources", help="Or the directory that the server reads its state from."),
    ] = None,
    restart: Annotated[
        str,
        typer.Option("--restart", help="With --resources: a command that restarts the server."),
    ] = "",
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Scenarios by name; * and ? are wildcards.")
    ] = None,
    variant: Annotated[
        str, typer.Option("--variant", help="sotw or delta; both if not said.")
    ] = _ALL,
    service: Annotated[str, typer.Option("--service", help="ads or own; both if not said.")] = _ALL,
    type_: Annotated[
        str, typer.Option("--type", help="CDS, LDS, EDS or RDS; all if not said.")
    ] = _ALL,
    node: Annotated[str, typer.Option("--node", help="Node id that the client has.")] = "test-id",
    wait: Annotated[
        float, typer.Option("--wait", help="Seconds until what did not come counts as missing.")
    ] = 5.0,
    scenarios: Annotated[
        Path | None, typer.Option("--scenarios", help="A folder of other scenarios.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the scenarios and end.")] = False,
    output: Annotated[
        Format, typer.Option("-o", "--output", help="table, yaml or json.")
    ] = Format.TABLE,
) -> None:
    from reconciler.probe.frames import Node
    from reconciler.testing.conformance import language, report
    from reconciler.testing.conformance.runner import Target

    found = [
        scenario
        for scenario in language.load(scenarios or language.FOLDER)
        if not only or any(fnmatch.fnmatchcase(scenario.name, each) for each in only)
    ]
    if not found:
        raise ConfigError(f"--only {' '.join(only or ())}: no scenario has such a name")
    if list_:
        _list(found, output)
        return
    chosen = {
        "variants": _chosen(variant, ("sotw", "delta"), "--variant"),
        "services": _chosen(service, language.SERVICES, "--service"),
        "types": _chosen(type_.upper(), language.TYPES, "--type"),
    }
    clients = access.clients(address_of(target, "--target"))
    used = _adapter(adapter, resources, restart, clients, Node(node))
    made = asyncio.run(_run(Target(clients, used, Node(node), wait), found, chosen))
    if output is Format.TABLE:
        _show(made)
    else:
        emit_value(report.as_json(made), output)
    if report.counts(made)["fail"]:  # type: ignore[index]
        raise typer.Exit(FAILED)


def _chosen(given: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    if given.lower() == _ALL:
        return tuple(known)
    if given not in known:
        raise ConfigError(f"{option} {given}: not of {', '.join(known)}")
    return (given,)


def _list(found: Sequence[Scenario], form: Format) -> None:
    rows = [
        {
            "name": scenario.name,
            "section": scenario.section,
            "says": scenario.says,
            "variants": [str(each) for each in scenario.variants],
            "services": list(scenario.services),
            "types": list(scenario.types),
        }
        for scenario in found
    ]
    if form is not Format.TABLE:
        emit_value(rows, form)
        return
    print(table(("name", "says"), [[row["name"], row["says"]] for row in rows]))


def _adapter(
    url: str, resources: Path | None, restart: str, clients: Callable[[], Client], node: Node
) -> Adapter:
    from reconciler.testing.conformance.adapters import DirectoryAdapter, HttpAdapter

    if bool(url) == (resources is not None):
        raise ConfigError("either --adapter or --resources: how is the state set?")
    if resources is None:
        return HttpAdapter(url)
    if not resources.is_dir():
        raise ConfigError(f"--resources {resources}: not a directory")
    again = (lambda: _shell(restart)) if restart else None
    return DirectoryAdapter(resources, clients, node, again)


async def _run(
    target: Target, found: Sequence[Scenario], chosen: dict[str, tuple[str, ...]]
) -> list[Result]:
    from reconciler.testing.conformance.runner import reach, run_all

    made = []
    async with target.adapter:
        await reach(target)
        async for result in run_all(target, found, **chosen):
            made.append(result)
            _progress(result, len(made))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if not made:
        raise ConfigError("no scenario is of that variant, service and type")
    return made


async def _shell(command: str) -> None:
    """Run a command of the user's; UnavailableError when it fails."""
    process = await asyncio.create_subprocess_shell(command)
    if await process.wait():
        raise UnavailableError(f"--restart {command}: ended with {process.returncode}")


def _progress(result: Result, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{count} {result.scenario}", end="", file=sys.stderr, flush=True)


def _show(made: Sequence[Result]) -> None:
    from reconciler.testing.conformance import report
    from reconciler.testing.conformance.runner import Outcome

    found: list[dict[str, Any]] = report.rows(made)
    header = ("scenario", *report.COLUMNS)
    print(table(header, [[row[name] for name in header] for row in found]))
    for result in made:
        if result.outcome is not Outcome.PASS:
            what = f"{result.scenario}, {report.column(result)} {result.type}: {result.outcome}"
            print(f"\n{what}\n    {result.why}")
    print(f"\n{report.summary(made)}")
