"""`reconciler xds ...`: xDS of any types: a server, a client to look with, a suite to judge by."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

import typer

_MODULES: Final = ("xds_serve", "xds_get", "xds_clients", "xds_conformance")


def register(app: typer.Typer) -> None:
    """A sub-command of each module that is there; each has `register(app)` as those beside it."""
    xds = typer.Typer(help="xDS servers and clients of any types.", no_args_is_help=True)
    for name in _MODULES:
        path = f"{__package__}.{name}"
        if importlib.util.find_spec(path) is not None:
            importlib.import_module(path).register(xds)
    if xds.registered_commands:
        app.add_typer(xds, name="xds")
