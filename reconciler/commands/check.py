"""`reconciler check`: the specs hold, the machines are what they say, the code does the same."""

from __future__ import annotations

import random
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from reconciler.commands import check_evidence, check_show
from reconciler.commands.output import FAILED, Format, with_json
from reconciler.commands.specs import folder
from reconciler.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from reconciler.formal.checking import Hooks, Line, Report
    from reconciler.formal.projection import Machine
    from reconciler.formal.suite import Spec, Suite

Output = Annotated[Format, typer.Option("-o", "--output", help="Form of the output.")]
TRACES: Final = Path("reconciler-traces")


def register(app: typer.Typer) -> None:
    check = typer.Typer(
        help="Check specs, machines and code against each other.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    check.callback(invoke_without_command=True)(with_json(_check))
    check_evidence.register(check)
    app.add_typer(check, name="check")


def _check(
    context: typer.Context,
    spec: Annotated[
        list[str] | None, typer.Option("--spec", help="Only this one; may be repeated.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Larger bounds too, and long random behaviours.")
    ] = False,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="Of --deep: searches, then random behaviours.")
    ] = 10,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the random behaviours; drawn and printed.")
    ] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Drop guards: the named property must fall.")
    ] = False,
    engine: Annotated[str, typer.Option("--engine", help="tlc or apalache.")] = "tlc",
    specs: Annotated[Path | None, typer.Option("--specs", help="Folder with specs.toml.")] = None,
    traces: Annotated[
        Path, typer.Option("--traces", help="Where counterexamples are saved, as ITF.")
    ] = TRACES,
    output: Output = Format.TABLE,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from reconciler.formal import suite as suites

    if engine not in ("tlc", "apalache"):
        raise ConfigError(f"--engine: {engine!r} is neither tlc nor apalache")
    if engine == "apalache" and (deep or mutants):
        raise ConfigError("--deep and --mutants are for --engine tlc")
    suite = suites.load(folder(specs))
    chosen = [suite.spec(name) for name in spec] if spec else list(suite.specs)
    if mutants:
        _mutants(suite, chosen, output)
        return
    reports: list[Report] = []
    with check_show.Progress() as progress:
        if engine == "apalache":
            reports += _ask_apalache(suite, chosen, progress)
        else:
            # Half of the time for searching larger bounds, two at a time, half for behaviours.
            searches = minutes * 60 if deep else None
            reports += _ask_tlc(suite, chosen, progress, deep, searches)
            if deep and minutes:
                first = random.SystemRandom().randrange(2**31) if seed is None else seed
                print(f"seed {first}, {minutes:g} minutes", file=sys.stderr)
                reports += _random(suite, chosen, progress, first, minutes * 30)
    _tell(suite, reports, output, traces)


def _ask_tlc(
    suite: Suite,
    specs: Sequence[Spec],
    progress: check_show.Progress,
    deep: bool,
    deep_seconds: float | None,
) -> Iterator[Report]:
    from reconciler.formal import checking
    from reconciler.formal.suite import Kind

    kinds = [kind for kind in Kind if deep or kind is not Kind.DEEP]
    yield checking.Report(tuple(checking.lint_line(suite, spec) for spec in specs))
    found = checking.jobs(suite, specs, kinds, hooks(), deep_seconds=deep_seconds)
    progress.expect(len(found))
    reports = []
    for report in checking.run_jobs(found, watch=progress.watch):
        progress.done(report)
        reports.append(report)
        yield report
    lines = (checking.coverage_line(suite, spec, reports) for spec in specs)
    yield checking.Report(tuple(line for line in lines if line is not None))
    if any(spec.machines for spec in specs) and len(specs) == len(suite.specs):
        yield checking.Report((models_line(suite),))


def _ask_apalache(
    suite: Suite, specs: Sequence[Spec], progress: check_show.Progress
) -> Iterator[Report]:
    from reconciler.formal import checking, symbolic

    version = symbolic.version()
    if version:
        print(version, file=sys.stderr)
    cancel = threading.Event()
    found = symbolic.jobs(suite, specs, cancel)
    progress.expect(len(found))
    for report in checking.run_jobs(found, watch=progress.watch, cancel=cancel):
        progress.done(report)
        yield report


def _random(
    suite: Suite,
    specs: Sequence[Spec],
    progress: check_show.Progress,
    seed: int,
    seconds: float,
) -> Iterator[Report]:
    from reconciler.formal import checking, simulation

    found = simulation.jobs(suite, specs, seed, seconds)
    progress.expect(len(found))
    for report in checking.run_jobs(found, watch=progress.watch):
        progress.done(report)
        yield report


def hooks() -> Hooks:
    """This product's machines and adapters."""
    from reconciler.formal.checking import Hooks
    from reconciler.testing.replay import adapter

    return Hooks(machines=machines, adapter=adapter)


def models_line(suite: Suite) -> Line:
    """Whether each machine of models/ is compared with some spec."""
    from reconciler.core.machine import names
    from reconciler.formal import checking

    covered = {name for spec in suite.specs for name in spec.machines}
    missing = [name for name in names() if name not in covered]
    detail = f"no spec has {', '.join(missing)}" if missing else ""
    verdict = checking.FAILED if missing else checking.PASSED
    return checking.Line("models", "", "models", "all machines", 0, 0.0, verdict, detail)


def machines(spec: Spec) -> list[Machine]:
    """The declared machines of a spec as rows. Raises ConfigError for one that is not declared."""
    from reconciler.core.machine import load, names
    from reconciler.formal.projection import Machine, Row

    found = []
    for name, variable in spec.machines.items():
        if name not in names():
            raise ConfigError(f"spec {spec.name!r}: machines: no machine {name!r} in models/")
        model = load(name)
        rows = frozenset(
            Row(name, row.trigger, row.source, row.dest, action)
            for row in model.transitions
            for action in row.actions
        )
        found.append(Machine(name, variable, frozenset(model.states), rows))
    return found


# -------------------------------------------------------------------------------------- results


def _tell(suite: Suite, reports: Sequence[Report], output: Format, traces: Path) -> None:
    from reconciler.formal import itf

    order = {key: at for at, key in enumerate(_runs(suite))}
    last = {key[0]: at for key, at in order.items()}
    lines = sorted(
        (line for report in reports for line in report.lines),
        key=lambda line: order.get((line.spec, line.run), last.get(line.spec, len(order)) + 0.5),
    )
    saved: dict[str, Path] = {}
    paths: dict[Line, Path] = {}
    for report in reports:
        if report.trace is not None:
            name = f"{report.trace.spec}-{report.trace.property or 'violation'}"
            saved[name] = traces / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}.itf.json"
            itf.write(report.trace, saved[name])
            fell = (line for line in report.lines if line.verdict == "violated")
            paths.update((line, saved[name]) for line in fell)
    rows = [_row(line, paths.get(line)) for line in lines]
    check_show.emit_lines(rows, output)
    if output is Format.TABLE:
        stories = [report.trace for report in reports if report.trace is not None]
        check_show.tell(lines, stories, saved)
    if not all(report.passed for report in reports):
        raise typer.Exit(FAILED)
    if any(line.verdict == "skipped" for line in lines):
        raise typer.Exit(UnavailableError.exit_code)


def _runs(suite: Suite) -> Iterator[tuple[str, str]]:
    """Specs and their runs as the manifest has them, whichever ended first."""
    for spec in suite.specs:
        for name in ("", *(run.name for run in spec.runs), "types"):
            yield spec.name, name
        for entry in spec.symbolic:
            yield spec.name, entry.module.stem


def _row(line: Line, path: Path | None) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(line)
    row["seconds"] = round(line.seconds, 2)
    return {**row, "trace": str(path) if path else ""}


def _mutants(suite: Suite, specs: Sequence[Spec], output: Format) -> None:
    from reconciler.formal import mutants

    names = {spec.name for spec in specs}
    chosen = [mutant for mutant in suite.mutants if mutant.spec in names]
    if not chosen:
        raise ConfigError(f"{suite.folder / 'mutants'}: no mutants of {', '.join(sorted(names))}")
    tried: dict[str, mutants.Tried] = {}
    with check_show.Progress() as progress:
        progress.expect(len(chosen))

        def started(mutant: Any) -> None:
            progress.watch(f"{mutant.spec} {mutant.name}", None)

        for each in mutants.try_all(suite, chosen, on_start=started):
            tried[f"{each.mutant.spec} {each.mutant.name}"] = each
            progress.finished(f"{each.mutant.spec} {each.mutant.name}")
    in_order = [tried[f"{mutant.spec} {mutant.name}"] for mutant in chosen]
    check_show.emit_mutants(in_order, output)
    if not all(each.passed for each in in_order):
        raise typer.Exit(FAILED)
