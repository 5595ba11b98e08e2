"""`cni-install`: put the CNI plugin into a node, as the agent's init container does, or take it
out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reconciler.agent.cni import DEFAULT_SOCKET


def register(app: typer.Typer) -> None:
    app.command("cni-install", help="Put the CNI plugin into a node, or take it out.")(_install)


def _install(
    bin_dir: Annotated[
        Path, typer.Option("--bin-dir", help="Where the node's CNI plugins are.")
    ] = Path("/opt/cni/bin"),
    conf_dir: Annotated[
        Path, typer.Option("--conf-dir", help="Where its network configurations are.")
    ] = Path("/etc/cni/net.d"),
    socket: Annotated[
        str, typer.Option("--socket", help="The agent's, as the node sees it.")
    ] = DEFAULT_SOCKET,
    wait_seconds: Annotated[
        float,
        typer.Option(
            "--wait-seconds", min=0, max=600,
            help="How long a pod's start waits for its rules; 0: only until it is closed.",
        ),
    ] = 0.0,
    remove: Annotated[bool, typer.Option("--remove", help="Take it out.")] = False,
) -> None:  # fmt: skip
    from reconciler.agent import cni_install

    if remove:
        cni_install.remove(bin_dir, conf_dir)
        return
    path = cni_install.install(bin_dir, conf_dir, socket=socket, wait_seconds=wait_seconds)
    typer.echo(f"{bin_dir / cni_install.NAME} is chained in {path}")
