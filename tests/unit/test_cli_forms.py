"""What every command of this kind has: --json, -h, --version, and completion in the shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.unit.test_cli import SHOP, run


@pytest.mark.parametrize(
    "line", [("models", "list"), ("models", "show", "cut"), ("verdicts", str(SHOP))]
)
def test_json_is_short_for_an_output_form(line: tuple[str, ...]) -> None:
    short = run(*line, "--json")
    assert short.returncode == 0
    assert json.loads(short.stdout) == json.loads(run(*line, "-o", "json").stdout)


def test_help_is_short_too() -> None:
    assert run("get", "-h").stdout == run("get", "--help").stdout != ""


def test_help_says_what_a_command_does() -> None:
    """Also where that is said by the function's own text only."""
    said = " ".join(run("xds", "clients", "--help").stdout.split())
    assert "Print what each client was sent, and what it made of it." in said


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout.strip() == version("reconciler")


def complete(shell: str, *words: str) -> list[str]:
    """What the shell is offered for the last word."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")}
    line = " ".join(("reconciler", *words))
    environ |= {
        "_RECONCILER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    script = str(Path(sys.executable).parent / "reconciler")
    done = subprocess.run([script], capture_output=True, text=True, timeout=60, env=environ)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_kinds_are_completed_in_each_shell(shell: str) -> None:
    assert any("endpoints" in each for each in complete(shell, "get", "e"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("agent", "--datapath", ""), {"kernel", "memory"}),
        (("server", "--scope", ""), {"all", "selected"}),
        (("models", "show", "c"), {"client", "cut"}),
        (("expl",), {"explain"}),
    ],
)
def test_values_are_completed(words: tuple[str, ...], offered: set[str]) -> None:
    assert set(complete("bash", *words)) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    done = run("--show-completion", shell)
    assert done.returncode == 0
    assert "_RECONCILER_COMPLETE" in done.stdout or "reconciler" in done.stdout
