"""`reconciler xds ...`: xDS of any types: a server, a client to look with, a suite to judge by."""

from __future__ import annotations

import typer

from reconciler.commands import xds_clients, xds_conformance, xds_get, xds_serve


def register(app: typer.Typer) -> None:
    xds = typer.Typer(help="xDS servers and clients of any types.", no_args_is_help=True)
    for module in (xds_serve, xds_get, xds_clients, xds_conformance):
        module.register(xds)
    app.add_typer(xds, name="xds")
