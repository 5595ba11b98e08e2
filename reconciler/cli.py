"""`reconciler`: the command line. Exit codes: see `commands.output`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from reconciler.errors import ReconcilerError

if TYPE_CHECKING:
    import typer

CNI_NAME = "reconciler-cni"


def main() -> NoReturn:
    """Entry point. An error of ours is one line on standard error, never a traceback."""
    if os.path.basename(sys.argv[0]) == CNI_NAME or sys.argv[1:2] == ["cni"]:
        # Run for every pod: nothing but the standard library is imported.
        from reconciler.agent.cni import main as cni

        sys.exit(cni(os.environ, sys.stdin.buffer, sys.stdout))
    try:
        build()()
        sys.exit(0)
    except ReconcilerError as error:
        print(f"reconciler: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def build() -> typer.Typer:
    """The command tree; only the modules of commands are imported, not what they run."""
    import typer

    from reconciler.commands import (
        ask,
        check,
        cni_install,
        demo,
        fuzz,
        install,
        offline,
        run,
        xds,
    )

    app = typer.Typer(
        name="reconciler",
        help="A central control plane for identity-based network policy.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (run, install, cni_install, ask, check, offline, fuzz, demo, xds):
        module.register(app)
    return app


if __name__ == "__main__":
    main()
