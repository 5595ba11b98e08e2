"""`reconciler check --engine apalache` as a process, with a stand-in for the tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reconciler.formal.checking import Job, Report, run_jobs
from tests.apalache_runs import INPUT, player, write_program

SUITE = """
[[spec]]
name = "Labels"
[[spec.run]]
module = "MCLabels"
kind = "safety"
[[spec.symbolic]]
module = "MCLabels"
invariants = ["Inv"]
length = 4
"""


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    folder = tmp_path / "specs"
    (folder / "mc").mkdir(parents=True)
    (folder / "specs.toml").write_text(SUITE)
    (folder / "Labels.tla").write_text((INPUT / "Labels.tla").read_text())
    (folder / "mc" / "MCLabels.tla").write_text("---- MODULE MCLabels ----\nEXTENDS Labels\n====\n")
    (folder / "mc" / "MCLabels.cfg").write_text("INIT Init\nNEXT Next\nINVARIANT Inv\n")
    return folder


def run(specs: Path, tool: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "check", "--engine", "apalache", *arguments],
        capture_output=True,
        text=True,
        cwd=specs,
        env={**os.environ, "APALACHE_MC": str(tool), "COLUMNS": "200"},
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("run_name", "types", "verdicts", "code"),
    [
        ("cinit_ok", "typecheck_ok", ["passed", "passed"], 0),
        ("labels", "typecheck_ok", ["passed", "violated"], 1),
        ("smt_timeout_ok", "typecheck_ok", ["passed", "failed"], 1),
        ("deadlock_ignored", "typecheck_ok", ["passed", "failed"], 1),
        ("cinit_ok", "type_error", ["failed", "passed"], 1),
        ("no_java", "no_java", ["failed", "failed"], 1),
    ],
)
def test_verdicts(
    specs: Path, tmp_path: Path, run_name: str, types: str, verdicts: list[str], code: int
) -> None:
    tool = player(tmp_path / "apalache-mc", run_name, types=types)
    done = run(specs, tool, "--specs", ".", "--json")
    rows = json.loads(done.stdout)
    assert [row["verdict"] for row in rows] == verdicts, done.stdout
    assert done.returncode == code


def test_violation_is_told_and_kept(specs: Path, tmp_path: Path) -> None:
    tool = player(tmp_path / "apalache-mc", "labels", types="typecheck_ok")
    done = run(specs, tool, "--specs", ".")
    assert f"Apalache 0.62.1-2-g4943c45f1 ({tool})" in done.stderr
    assert "Labels: Inv.below is violated" in done.stdout
    assert "x: 2 → 3" in done.stdout
    (kept,) = (specs / "reconciler-traces").glob("*.itf.json")
    assert len(json.loads(kept.read_text())["states"]) == 4
    assert kept.name == "Labels-Inv.below.itf.json"
    player(tmp_path / "again", "labels", types="typecheck_ok")
    (types, inv) = json.loads(run(specs, tmp_path / "again", "--specs", ".", "--json").stdout)
    assert types["trace"] == ""
    assert inv["trace"] == "reconciler-traces/Labels-Inv.below.itf.json"


def test_no_answer_says_why(specs: Path, tmp_path: Path) -> None:
    tool = player(tmp_path / "apalache-mc", "smt_timeout_ok", types="type_error")
    done = run(specs, tool, "--specs", ".")
    assert "the solver gave up on a query" in done.stdout
    assert "TypeError.tla:7:14: An operator with the signature" in done.stdout


def test_absent_is_said_once(specs: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "check", "--engine", "apalache", "--specs", "."],
        capture_output=True,
        text=True,
        cwd=specs,
        env={**os.environ, "APALACHE_MC": "", "PATH": str(tmp_path), "COLUMNS": "200"},
        timeout=100,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout.count("Install Java 21 or newer") == 1
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("skipped")]
    assert [row[1] for row in rows] == ["types", "MCLabels"]
    assert "passed" not in done.stdout


def test_without_java(specs: Path, tmp_path: Path) -> None:
    source = "sys.stderr.write('exec: java: not found\\n'); sys.exit(127)"
    done = run(specs, write_program(tmp_path / "apalache-mc", source), "--specs", ".")
    assert "Apalache without a version: exec: java: not found; install Java 21" in done.stderr
    assert "passed" not in done.stdout
    assert done.returncode == 1


def test_a_name_that_is_no_program(specs: Path, tmp_path: Path) -> None:
    done = run(specs, tmp_path / "nothing", "--specs", ".")
    assert done.returncode == 2
    assert "APALACHE_MC" in done.stderr
    assert done.stdout == ""


def test_what_is_under_way_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    """As after Ctrl-C: the runs are in process groups of their own, and get no signal by it."""
    cancel, began = threading.Event(), threading.Event()

    def stuck(on_progress: object) -> Report:
        began.set()
        assert cancel.wait(60), "never cancelled"
        return Report(())

    def quick(on_progress: object) -> Report:
        assert began.wait(60)
        return Report(())

    jobs = [Job("stuck", 1, stuck), Job("quick", 1, quick)]
    reports = run_jobs(jobs, watch=lambda name, progress: None, cancel=cancel)
    next(iter(reports))
    reports.close()  # type: ignore[attr-defined]
    assert cancel.is_set()
