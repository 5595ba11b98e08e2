"""`validate`, `verdicts`, `models`, `certs`: commands that need no server."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from reconciler.commands.output import FAILED, Format, emit, emit_value, table, with_json, working
from reconciler.errors import ConfigError, Rejected

if TYPE_CHECKING:
    from reconciler.core.objects import KubeObject
    from reconciler.core.verdicts import Probe, Row, Verdicts

Output = Annotated[Format, typer.Option("-o", "--output", help="Form of the output.")]
Paths = Annotated[
    list[str], typer.Argument(help="Files or directories of manifests; - for standard input.")
]
_COLUMNS = ("from", "to", "protocol", "port", "egress", "ingress", "verdict")


def register(app: typer.Typer) -> None:
    app.command("validate", help="Check manifests; exit code 1 if there are errors.")(
        with_json(_validate)
    )
    app.command("verdicts", help="Who may talk to whom, from manifests alone.")(
        with_json(_verdicts)
    )
    models = typer.Typer(help="The declared state machines.", no_args_is_help=True)
    models.command("list", help="Names and meanings.")(with_json(_list_models))
    models.command("show", help="States and transitions of one.")(with_json(_show_model))
    models.command("diagram", help="One as a diagram.")(_diagram)
    app.add_typer(models, name="models")
    certs = typer.Typer(help="A laboratory certificate authority.", no_args_is_help=True)
    certs.command("init", help="Make a CA: ca.crt and ca.key.")(_init)
    certs.command("issue", help="Issue a server's or a node's certificate.")(_issue)
    app.add_typer(certs, name="certs")


# ----------------------------------------------------------------------------------- manifests


def _validate(paths: Paths, output: Output = Format.TABLE) -> None:
    from reconciler.core.verdicts import Verdicts
    from reconciler.server.manifests import load

    with working(f"reading {', '.join(paths)}"):
        loaded = load(paths)
        problems = list(loaded.problems)
        problems += Verdicts(item for _, item in loaded.objects).warnings
    errors = sum(problem.severity == "error" for problem in problems)
    if output is Format.TABLE:
        for problem in problems:
            print(f"{problem.severity}: {problem}")
        count = len(loaded.objects) + len(loaded.workloads)
        print(f"{count} objects, {errors} errors, {len(problems) - errors} warnings")
    else:
        rows = [msgspec.structs.asdict(problem) for problem in problems]
        emit(rows, (), output)
    if errors:
        raise typer.Exit(FAILED)


def _verdicts(
    paths: Paths,
    ports: Annotated[
        str, typer.Option("--probe", "--ports", help="Ports to ask about: 80/tcp,53/udp,icmp.")
    ] = "80/tcp",
    external: Annotated[
        list[str] | None, typer.Option("--external", help="An address beside the pods.")
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option("-n", "--namespace", help="Only rows with a pod of it.")
    ] = None,
    diff: Annotated[
        list[str] | None, typer.Option("--diff", help="Manifests before: show what changed.")
    ] = None,
    cluster_cidr: Annotated[
        list[str] | None, typer.Option("--cluster-cidr", help="CIDR of pods.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="Label filter rule.")] = None,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="Ask the eBPF programs, with probe packets (root).")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    from reconciler.core.verdicts import diff as differences
    from reconciler.core.verdicts import parse_probes

    try:
        probes = parse_probes(ports)
    except ValueError as error:
        raise ConfigError(f"--ports: {error}") from None
    options = _Options(tuple(label or ()), tuple(cluster_cidr or ()))
    rows = _matrix(paths, probes, external or (), namespace, options)
    if kernel:
        _check_with_kernel(paths, rows, options)
    if diff:
        before = _matrix(diff, probes, external or (), namespace, options)
        changed = differences(before, rows)
        columns = [(name, _column(name)) for name in ("from", "to", "protocol", "port")]
        columns += [(name, _column(name)) for name in ("before", "after")]
        emit([msgspec.to_builtins(row) for row in changed], columns, output)
        if changed:
            raise typer.Exit(FAILED)
        return
    emit([msgspec.to_builtins(row) for row in rows], [(n, _column(n)) for n in _COLUMNS], output)


class _Options(msgspec.Struct, frozen=True):
    labels: tuple[str, ...]
    cluster_cidrs: tuple[str, ...]


def _column(name: str) -> Any:
    return lambda row: row[name]


def _objects(paths: Sequence[str]) -> tuple[list[KubeObject], tuple[Rejected, ...]]:
    """The objects, with one pod standing for each workload of which no pod is there."""
    from reconciler.core.objects import representative
    from reconciler.server.manifests import load

    loaded = load(paths)
    objects = [item for _, item in loaded.objects]
    objects += [representative(workload) for _, workload in loaded.workloads]
    return objects, tuple(p for p in loaded.problems if p.severity == "error")


def _compiled(paths: Sequence[str], options: _Options) -> Verdicts:
    from reconciler.core.verdicts import Verdicts
    from reconciler.server.app import label_filter, prefix

    objects, problems = _objects(paths)
    if problems:
        raise ConfigError(f"{len(problems)} errors (see `reconciler validate`): {problems[0]}")
    try:
        cidrs = tuple(map(prefix, options.cluster_cidrs))
    except ValueError as error:
        raise ConfigError(f"--cluster-cidr: {error}") from None
    return Verdicts(objects, label_filter=label_filter(options.labels, ""), cluster_cidrs=cidrs)


def _matrix(
    paths: Sequence[str],
    probes: Sequence[Probe],
    externals: Sequence[str],
    namespaces: Sequence[str] | None,
    options: _Options,
) -> list[Row]:
    try:
        with working(f"working out the verdicts of {', '.join(paths)}"):
            compiled = _compiled(paths, options)
            return list(compiled.rows(probes, externals, namespaces=namespaces or None))
    except ValueError as error:
        raise ConfigError(f"--external: {error}") from None


def _check_with_kernel(paths: Sequence[str], rows: Sequence[Row], options: _Options) -> None:
    from reconciler.commands.kernel_verdicts import disagreements

    objects, _ = _objects(paths)
    with working("asking the kernel"):
        wrong = disagreements(objects, rows, options.labels, options.cluster_cidrs)
    for line in wrong:
        typer.echo(line, err=True)
    if wrong:
        raise typer.Exit(FAILED)


# -------------------------------------------------------------------------------------- models


def _list_models(output: Output = Format.TABLE) -> None:
    from reconciler.core.machine import load, names

    rows = [
        {"name": model.name, "where": model.where, "summary": model.summary}
        for model in map(load, names())
    ]
    emit(rows, [(name, _column(name)) for name in ("name", "where", "summary")], output)


def _model(name: str) -> Any:
    from reconciler.core.machine import load, names

    if name not in names():
        raise ConfigError(f"no machine {name!r}; there are {', '.join(names())}")
    return load(name)


def _model_names() -> list[str]:
    from reconciler.core.machine import names

    return list(names())


ModelName = Annotated[
    str, typer.Argument(help="As `models list` prints it.", autocompletion=_model_names)
]


def _show_model(
    name: ModelName,
    output: Output = Format.TABLE,
) -> None:
    model = _model(name)
    if output is not Format.TABLE:
        value = {
            field: getattr(model, field)
            for field in ("name", "where", "summary", "initial", "unlisted", "states")
        }
        emit_value({**value, "transitions": model.transitions}, output)
        return
    print(f"{model.name} ({model.where}): {model.summary}\n")
    states = [
        (
            name,
            state.meaning,
            "initial" if name == model.initial else "final" if state.final else "",
        )
        for name, state in model.states.items()
    ]
    print(table(("state", "meaning", ""), [[a, b, c or " "] for a, b, c in states]))
    print()
    rows = [
        [row.trigger, row.source, row.dest, row.guard or " ", ", ".join(row.effects) or " "]
        for row in model.transitions
    ]
    print(table(("on", "from", "to", "guard", "do"), rows))


def _diagram(
    name: ModelName,
    form: Annotated[str, typer.Option("--format", help="mermaid or dot.")] = "mermaid",
) -> None:
    from reconciler.core.machine import diagram

    if form not in ("mermaid", "dot"):
        raise ConfigError("--format: mermaid or dot")
    kind: Literal["mermaid", "dot"] = "dot" if form == "dot" else "mermaid"
    print(diagram(_model(name), kind), end="")


# --------------------------------------------------------------------------------------- certs

Directory = Annotated[Path, typer.Option("--dir", help="Directory of the CA.")]
Days = Annotated[int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")]


def _init(
    directory: Directory = Path("pki"),
    cluster: Annotated[str, typer.Option("--cluster-name")] = "default",
    days: Days = 3650,
) -> None:
    from reconciler.server import certs

    issued = certs.init(directory, cluster=cluster, now=_now(), days=days)
    print(f"{issued.certificate}\n{issued.key}")


def _issue(
    directory: Directory = Path("pki"),
    node: Annotated[str, typer.Option("--node", help="For the agent of this node.")] = "",
    san: Annotated[
        list[str] | None,
        typer.Option("--san", help="For the server: a DNS name or address it is reached by."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Stem of the files' names.")] = "",
    cluster: Annotated[
        str, typer.Option("--cluster-name", help="Add the node's SPIFFE ID in this cluster.")
    ] = "",
    days: Days = 365,
) -> None:
    from reconciler.server import certs

    if bool(node) == bool(san):
        raise ConfigError("give either --node (an agent's) or --san (a server's)")
    if node:
        issued = certs.issue_node(
            directory, node, now=_now(), days=days, stem=name, cluster=cluster
        )
    else:
        names = tuple(san or ())
        stem = name or "server"
        issued = certs.issue_server(directory, names=names, now=_now(), days=days, stem=stem)
    print(f"{issued.certificate}\n{issued.key}")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
