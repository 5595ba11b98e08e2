"""The `reconciler` command in the process of a test.

A process of its own spends a second on imports. What a command does is the same here, from its
arguments to its exit code; that it starts on its own is for one test of each command to see.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest

from reconciler.cli import main


def cli_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a process with these arguments would have printed and ended with.

    Not for commands that keep running or log: they change this process.
    """
    out, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["reconciler", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())
