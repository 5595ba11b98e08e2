"""`reconciler fuzz`: generated churn against the product's rules, and its failures played again."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from reconciler.commands.output import FAILED, Format, emit, emit_value, with_json
from reconciler.config import address_of
from reconciler.errors import ConfigError

if TYPE_CHECKING:
    from reconciler.testing.fuzz import Found

SEEDS: Final = 1 << 32
Output = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml.")]


def _profile_names() -> list[str]:
    from reconciler.testing.churn import profiles

    return list(profiles())


def register(app: typer.Typer) -> None:
    fuzz = typer.Typer(help="Generated churn, against the rules.", no_args_is_help=True)
    fuzz.command("labels", help="Churn of labels, pods and policies; exit code 1 if a rule falls.")(
        with_json(_labels)
    )
    fuzz.command("replay", help="Play scenarios again; exit code 1 if a rule falls.")(
        with_json(_replay)
    )
    fuzz.command("profiles", help="The declared profiles.")(with_json(_profiles))
    app.add_typer(fuzz, name="fuzz")


def _labels(
    profile: Annotated[
        str,
        typer.Option("--profile", help="Its name, or a .toml file.", autocompletion=_profile_names),
    ] = "mixed",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the first run; default: random, printed.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Moves in one run.")] = 40,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs at most.")] = 20,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.0, help="Begin no run after this time.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Where a failure's scenario is written.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", help="Status address of a running server; else in process."),
    ] = None,
    manifests: Annotated[
        Path | None, typer.Option("--manifests", help="With --server: the directory it watches.")
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", help="With --server: status address of an agent to be asked."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    from reconciler.testing.churn import load

    chosen = load(profile)
    first = secrets.randbelow(SEEDS) if seed is None else seed
    until = None if minutes is None else time.monotonic() + 60 * minutes
    begin = time.monotonic()
    if server is not None:
        if manifests is None or not manifests.is_dir():
            raise ConfigError("--manifests: with --server, the directory that it watches")
        found = asyncio.run(
            _on_server(server, agent or [], manifests, chosen, first, steps, runs, until)
        )
    elif manifests is not None or agent:
        raise ConfigError("--manifests and --agent go with --server")
    else:
        found = _in_process(chosen, first, steps, runs, until)
    took = time.monotonic() - begin
    path = None
    if found.failure is not None:
        path = save or Path(f"fuzz-{found.failure.seed}.scenario")
        _save(path, profile, found)
    _report(found, profile, took, path, output)
    if found.failure is not None:
        raise typer.Exit(FAILED)


def _in_process(profile: Any, first: int, steps: int, runs: int, until: float | None) -> Found:
    from rich.console import Console
    from rich.progress import Progress

    from reconciler.testing.fuzz import fuzz

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("playing", total=runs)
        return fuzz(
            profile,
            first,
            steps,
            runs,
            until=until,
            told=lambda run, _: progress.update(task, completed=run),
        )


async def _on_server(
    server: str,
    agents: list[str],
    manifests: Path,
    profile: Any,
    first: int,
    steps: int,
    runs: int,
    until: float | None,
) -> Found:
    from reconciler.core.objects import Node
    from reconciler.local import Client
    from reconciler.server.manifests import load
    from reconciler.testing.churn import generate
    from reconciler.testing.fuzz import Failure, Found, shrink
    from reconciler.testing.live import Live
    from reconciler.testing.scenario import play

    asked = [Client(address_of(address)) for address in (server, *agents)]
    nodes = [item for _, item in load([manifests]).objects if isinstance(item, Node)]
    if agents:  # whose verdicts can be asked for
        names = [msgspec.json.decode(await each.get("/v1/status"))["node"] for each in asked[1:]]
        nodes = [node for node in nodes if node.metadata.name in names]
    played = 0
    for run in range(runs):
        if until is not None and time.monotonic() >= until:
            return Found(first, run, played, None)
        lines = generate(profile, first + run, steps)
        live = Live(asked[0], asked[1:], manifests, nodes, name=str(first + run))
        broken = await live.play(lines)
        played += len(lines)
        if broken is not None:
            # The server can't be started anew for each attempt; a cluster in process can.
            here = play(lines)
            short = (lines, broken) if here is None else shrink(lines, here, time.monotonic() + 60)
            return Found(first, run + 1, played, Failure(first + run, *short, len(lines)))
    return Found(first, runs, played, None)


def _save(path: Path, profile: str, found: Found) -> None:
    from reconciler.testing.scenario import text_of

    failure = found.failure
    assert failure is not None
    head = [
        f"reconciler fuzz labels --profile {profile} --seed {failure.seed}",
        f"{failure.broken.text}",
    ]
    path.write_text(text_of(failure.lines, head=head))


def _report(found: Found, profile: str, took: float, path: Path | None, form: Format) -> None:
    from reconciler.testing.scenario import text_of

    failure = found.failure
    if form is not Format.TABLE:
        said: dict[str, Any] = {
            "profile": profile,
            "seed": found.first,
            "runs": found.runs,
            "lines": found.lines,
            "seconds": round(took, 1),
            "failure": None,
        }
        if failure is not None:
            said["failure"] = {
                "seed": failure.seed,
                "rule": failure.broken.rule,
                "text": failure.broken.text,
                "scenario": [str(line) for line in failure.lines],
                "file": str(path),
            }
        emit_value(said, form)
        return
    last = found.first + found.runs - 1
    print(f"{profile}: seeds {found.first}..{last}, {found.lines} lines in {took:.1f} s")
    if failure is None:
        print("every rule held")
        return
    print(f"\nseed {failure.seed}: {failure.broken.text}")
    print(f"shrunk from {failure.before} lines to {len(failure.lines)}:\n")
    print(text_of(failure.lines), end="")
    print(f"\nsaved as {path}; play it again: reconciler fuzz replay {path}")


def _replay(
    files: Annotated[list[Path], typer.Argument(help="Scenario files.")],
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print each line.")] = False,
    output: Output = Format.TABLE,
) -> None:
    from reconciler.testing.scenario import Line, parse, play

    def told(line: Line) -> None:
        if verbose:
            print(f"{line.number:>4}  {line}", file=sys.stderr, flush=True)

    rows = []
    for file in files:
        try:
            lines = parse(file.read_text(), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        broken = play(lines, told)
        rows.append(
            {
                "file": str(file),
                "lines": len(lines),
                "rule": "" if broken is None else broken.rule,
                "line": 0 if broken is None else broken.line.number,
                "text": "" if broken is None else broken.text,
            }
        )
    names = ("file", "lines", "rule", "line", "text")
    emit(rows, [(name, lambda row, name=name: row[name]) for name in names], output)  # type: ignore[misc]
    if any(row["rule"] for row in rows):
        raise typer.Exit(FAILED)


def _profiles(output: Output = Format.TABLE) -> None:
    from reconciler.testing.churn import load, profiles

    rows = [
        {"name": name, "summary": load(name).summary, "moves": ",".join(load(name).moves)}
        for name in profiles()
    ]
    emit(rows, [("name", lambda row: row["name"]), ("summary", lambda row: row["summary"])], output)
