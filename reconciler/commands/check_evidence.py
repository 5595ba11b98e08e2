"""`reconciler check trace` and `reconciler check replay`: recorded runs and traces of specs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reconciler.commands.output import FAILED, Format, emit, with_json, working
from reconciler.commands.specs import folder

if TYPE_CHECKING:
    from reconciler.testing.replay.evidence import Judged
    from reconciler.tracefile import Life

Output = Annotated[Format, typer.Option("-o", "--output", help="Form of the output.")]
Folder = Annotated[Path | None, typer.Option("--specs", help="Folder with specs.toml.")]
_TRACE_COLUMNS = ("trace", "spec", "events", "explained", "verdict")
_REPLAY_COLUMNS = ("file", "spec", "steps", "verdict")


def register(app: typer.Typer) -> None:
    """Add both to the command group `check`."""
    app.command("trace", help="Check recorded runs (--record-trace) against the specs.")(
        with_json(_trace)
    )
    app.command("replay", help="Play traces of specs (ITF) against the implementation.")(
        with_json(_replay)
    )


def _trace(
    files: Annotated[list[Path], typer.Argument(help="Files that --record-trace wrote.")],
    spec: Annotated[
        list[str] | None, typer.Option("--spec", help="Only this spec; may be repeated.")
    ] = None,
    specs: Folder = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one run of TLC.")] = 600.0,
    output: Output = Format.TABLE,
) -> None:
    """Exit code 1 if a spec can't explain a line: the first one of each trace is shown."""
    from reconciler import tracefile
    from reconciler.formal import suite
    from reconciler.testing.replay.evidence import judge

    lives: dict[str, Life] = {}
    at: dict[str, tuple[Path, Life]] = {}
    for path in files:
        for life in tracefile.read(path):
            name = f"{path}:{life.line} {life.name}"
            lives[name], at[name] = life, (path, life)
    known = suite.load(folder(specs))
    for name in spec or ():
        known.spec(name)
    with working(f"checking {len(lives)} recorded runs"):
        judged = judge(known, lives, specs=spec or (), timeout=timeout)
    rows = [_trace_row(each, *at[each.life]) for each in judged]
    emit(rows, [_column(name) for name in _TRACE_COLUMNS], output)
    refused = [each for each in judged if not each.verdict.passed]
    if output is Format.TABLE:
        for each in refused:
            print(f"\n{_where(each, *at[each.life])}: {each.verdict}")
        if not judged:
            print("none of the events is of a spec that reads traces")
    if refused or not judged:
        raise typer.Exit(FAILED)


def _trace_row(judged: Judged, path: Path, life: Life) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "trace": verdict.name,
        "file": str(path),
        "process": life.process,
        "name": life.name,
        "part": judged.part,
        "spec": judged.spec,
        "events": len(verdict.events),
        "explained": verdict.explained,
        "verdict": "explained" if verdict.passed else "refused",
        "line": None if judged.refused_at is None else life.line + judged.refused_at,
        "reason": "" if verdict.passed else str(verdict),
    }


def _where(judged: Judged, path: Path, life: Life) -> str:
    assert judged.refused_at is not None
    return f"{path}:{life.line + judged.refused_at}"


def _replay(
    files: Annotated[list[Path], typer.Argument(help="Traces in ITF, as `check` saves them.")],
    specs: Folder = None,
    output: Output = Format.TABLE,
) -> None:
    """Exit code 1 if the code does something else: the first difference of each is shown."""
    from reconciler.formal import itf, suite
    from reconciler.testing.replay.evidence import play

    known = suite.load(folder(specs))
    rows, problems = [], []
    for path in files:
        trace = itf.read(path)
        mismatch = play(known, trace, str(path))
        verdict = "same" if mismatch is None else "differs"
        row = {"file": str(path), "spec": trace.spec, "steps": len(trace.steps) - 1}
        row |= {"verdict": verdict, "difference": "" if mismatch is None else str(mismatch)}
        rows.append(row)
        if mismatch is not None:
            problems.append(f"\n{path}: after {len(mismatch.path)} steps: {mismatch}")
    emit(rows, [_column(name) for name in _REPLAY_COLUMNS], output)
    if output is Format.TABLE:
        for problem in problems:
            print(problem)
    if problems:
        raise typer.Exit(FAILED)


def _column(name: str) -> tuple[str, Any]:
    def value(row: Mapping[str, Any]) -> object:
        return row[name]

    return name, value
