"""`reconciler server` and `reconciler agent`: the two long-running processes."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from reconciler import starting
from reconciler.config import (
    CONFIG_ENV,
    AgentConfig,
    Configuration,
    ServerConfig,
    load,
    typer_parameters,
)

_FILE = Annotated[
    str | None, typer.Option("--config", help=f"TOML file with these options [env: {CONFIG_ENV}].")
]
_LOG = Annotated[bool, typer.Option("--log-json", help="Log as JSON lines.")]


def register(app: typer.Typer) -> None:
    """Options of both come from the configuration's own definition."""
    app.callback()(_options)
    app.command("server", help="Run the control plane.")(command_of(ServerConfig, _server))
    app.command("agent", help="Run the agent of one node.")(command_of(AgentConfig, _agent))


def _version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("reconciler"))
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """A central control plane for identity-based network policy."""


def command_of(cls: type[Configuration], run: Callable[[Any], Coroutine[Any, Any, None]]) -> Any:
    """A typer command with the options of a configuration; `run` is a process with it."""

    def command(**values: Any) -> None:
        path, log_json = values.pop("config"), values.pop("log_json")
        loaded = load(cls, flags=values, environ=os.environ, file=path)
        _log_to_stderr(json=log_json)
        _run(run(loaded.config))

    parameters = [
        *typer_parameters(cls),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_FILE),
        inspect.Parameter(
            "log_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_LOG
        ),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _run(main: Coroutine[Any, Any, None]) -> None:
    import asyncio

    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except* Exception as group:
        raise _only(group) from None


def _only(group: BaseException) -> BaseException:
    """The first error of a task group: the others are what it dragged along."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def _server(config: ServerConfig) -> None:
    with starting.imports():
        from reconciler.server.app import run

    await run(config)


async def _agent(config: AgentConfig) -> None:
    with starting.imports():
        from reconciler.agent.app import run

    await run(config)


def _log_to_stderr(*, json: bool) -> None:
    with starting.imports():
        import structlog  # not at the top: most commands never log

    if json:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines, of handshakes, are no JSON
        form: Any = structlog.processors.JSONRenderer()
    else:
        form = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            form,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
