"""`reconciler xds serve`: an xDS server of any types, from files."""

from __future__ import annotations

import typer

from reconciler import starting
from reconciler.commands.run import command_of
from reconciler.config import DiscoveryConfig


def register(app: typer.Typer) -> None:
    """Options come from the configuration's own definition."""
    app.command("serve", help="Serve resources of any xDS types from files.")(
        command_of(DiscoveryConfig, _serve)
    )


async def _serve(config: DiscoveryConfig) -> None:
    with starting.imports():
        from reconciler.server.discovery.app import run

    await run(config)
