"""Every example of docs/formal.md is run: files are written, sessions give what they show.

A fenced block whose first line names a file (```tla specs/Lease.tla) is that file; the others are
sessions of Python or of a shell, run in order in one folder. The tool Apalache is a stand-in that
plays recorded runs: for Labels.tla the one of this spec, for Lease.tla those of others.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apalache_runs import INPUT, calls, player

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formal.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROVED = ["length0", "cinit_ok", "length0"]
PLAYED = [*PROVED, "labels", *PROVED]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.timeout(600)  # a dozen runs of TLC
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tools = tmp_path / "tools"
    tools.mkdir()
    tool = player(tools / "apalache-mc", *PLAYED, types="typecheck_ok")
    monkeypatch.setenv("APALACHE_MC", str(tool))
    kinds: dict[str, int] = {}
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner()
    text = DOCUMENT.read_text()
    for block in BLOCK.finditer(text):
        kind, file, body = block.groups()
        kinds[kind] = kinds.get(kind, 0) + 1
        if file is not None:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(body)
        elif kind == "pycon":
            line = text.count("\n", 0, block.start())
            parser = doctest.DocTestParser()
            test = parser.get_doctest(body, names, "docs/formal.md", str(DOCUMENT), line + 1)
            said: list[str] = []
            result = runner.run(test, out=said.append, clear_globs=False)
            names = test.globs
            assert result.failed == 0, "".join(said)
        elif kind == "console":
            shell(body)
        else:
            pytest.fail(f"a block of {kind!r} is neither a file nor a session")
    for module in ("lease", "adapter"):
        sys.modules.pop(module, None)
    assert kinds["pycon"] >= 9
    assert kinds["console"] == 2
    assert len(calls(tool)) == len(PLAYED)


def shell(session: str) -> None:
    """`$ command` and what it prints; a last line `exit code N` if that is not 0."""
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
        arguments = shlex.split(command)
        assert arguments[0] == "reconciler"
        done = subprocess.run(
            [sys.executable, "-m", "reconciler.cli", *arguments[1:]],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            timeout=100,
            check=False,
        )
        output = done.stdout + (f"exit code {done.returncode}\n" if done.returncode else "")
        fits = doctest.OutputChecker().check_output(expected, output, OPTIONS)
        assert fits, f"{command}\n{output}{done.stderr}"


def test_labels_is_the_recorded_one() -> None:
    """What the stand-in plays for it was said of this spec: same variables, steps, conjuncts."""
    blocks = {file: body for _, file, body in BLOCK.findall(DOCUMENT.read_text())}
    recorded = (INPUT / "Labels.tla").read_text()
    shown = blocks["Labels.tla"]
    for name, body in (("Positive", "x >= 0"), ("Below", "x < 3")):
        recorded = recorded.replace(f":: {name}", f":: {body}")
        recorded = recorded.replace(f"{name} == {body}\n", "")

    def plain(text: str) -> str:
        return re.sub(r"[-=]{4,}", "----", text).strip()

    assert plain(shown) == plain(recorded)
