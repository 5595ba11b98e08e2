"""`reconciler fuzz`: it finds what is broken, makes it short, and works on a running server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from reconciler.testing.scenario import parse, play
from tests.integration.test_processes import SHOP, Processes, cli, processes
from tests.planted import BUGS, plant

__all__ = ["processes"]


def fuzz(*options: str, sources: Path | None = None) -> subprocess.CompletedProcess[str]:
    """sources: a copy of the product that is run instead."""
    environ = dict(os.environ)
    if sources is not None:
        environ |= {"PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "fuzz", *options],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=sources,
        env=environ,
    )


def test_every_rule_holds_in_process() -> None:
    done = fuzz("labels", "--profile", "relabel-storm", "--seed", "1", "--runs", "4", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["runs"] == 4
    assert said["lines"] > 100
    assert said["failure"] is None


def test_a_planted_bug_is_found_and_told_as_a_short_story(tmp_path: Path) -> None:
    bug = next(each for each in BUGS if each.name == "number-back-at-once")
    plant(bug, tmp_path)
    file = tmp_path / "found.scenario"
    options = ("--profile", "flapping", "--seed", "1", "--runs", "60", "--save", str(file))
    done = fuzz("labels", *options, sources=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "shrunk from" in done.stdout
    lines = parse(file.read_text())
    assert len(lines) <= 20
    again = fuzz("replay", str(file), "--json", sources=tmp_path)
    assert again.returncode == 1
    assert json.loads(again.stdout)[0]["rule"] == "R2"
    assert play(lines) is None, "the product that is not broken falls too"
    assert fuzz("replay", str(file)).returncode == 0


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    assert fuzz("labels", "--profile", "nothing").returncode == 2
    assert fuzz("labels", "--agent", "unix:/x").returncode == 2
    assert fuzz("labels", "--server", "unix:/nobody.sock").returncode == 2
    bad = tmp_path / "bad.scenario"
    bad.write_text("fly\n")
    done = fuzz("replay", str(bad))
    assert done.returncode == 2
    assert done.stderr.startswith(f"reconciler: {bad}:1: ")


def test_a_running_server_is_fuzzed_through_its_manifests(
    processes: Processes, tmp_path: Path
) -> None:
    directory = tmp_path / "manifests"
    shutil.copytree(SHOP, directory)
    before = sorted(path.name for path in directory.iterdir())
    processes.server("--manifests", str(directory))
    processes.agent()
    processes.wait(processes.in_sync)
    done = cli(
        "fuzz", "labels", "--server", processes.server_status, "--manifests", str(directory),
        "--agent", processes.agent_status, "--profile", "near-collisions", "--seed", "2",
        "--runs", "1", "--steps", "20", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failure"] is None
    assert sorted(path.name for path in directory.iterdir()) == before
