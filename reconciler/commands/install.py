"""`install`: put the kinds that the server needs into a Kubernetes cluster."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer

from reconciler.commands.output import Column, Format, emit, with_json

COLUMNS: Final[tuple[Column, ...]] = (
    ("name", lambda row: row["name"]),
    ("kind", lambda row: row["kind"]),
    ("versions", lambda row: row["versions"]),
    ("done", lambda row: row["done"]),
)


def register(app: typer.Typer) -> None:
    app.command("install", help="Put the kinds that the server needs into a cluster.")(
        with_json(_install)
    )


def _install(
    kubeconfig: Annotated[
        str,
        typer.Option("--kubeconfig", help="Path; without it a pod's own account, or kubectl's."),
    ] = "",
    context: Annotated[str, typer.Option("--context", help="Of the kubeconfig.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="The API server checks; nothing is written.")
    ] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="Form of the output.")] = (
        Format.TABLE
    ),
) -> None:
    import msgspec

    rows: list[dict[str, Any]] = msgspec.to_builtins(
        asyncio.run(_run(kubeconfig, context, dry_run))
    )
    emit(rows, COLUMNS, output)


async def _run(kubeconfig: str, context: str, dry_run: bool) -> Any:
    from reconciler.server.kubernetes.client import ApiClient
    from reconciler.server.kubernetes.install import install

    client = await ApiClient.connect(kubeconfig, context)
    try:
        return list(await install(client, dry_run=dry_run))
    finally:
        await client.close()
