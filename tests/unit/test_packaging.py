"""What is not Python and must be in the installed package: all models and all specs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [
            *(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)),
            *("build_py", "--build-lib", str(folder)),
        ],
        cwd=TOP,
        check=True,
        capture_output=True,
        timeout=100,
    )
    return folder


@pytest.mark.parametrize("folder", ["models", "specs"])
def test_everything_is_there(built: Path, folder: str) -> None:
    kinds = (".toml", ".tla", ".cfg", ".json")
    wanted = {path.relative_to(TOP) for path in (TOP / folder).rglob("*") if path.suffix in kinds}
    package = built / "reconciler"
    found = {path.relative_to(package) for path in package.rglob("*")}
    assert wanted
    assert not wanted - found


def test_kinds_for_kubernetes_are_there(built: Path) -> None:
    folder = Path("reconciler", "server", "kubernetes", "crds")
    wanted = {path.name for path in (TOP / folder).iterdir()}
    assert wanted
    assert {path.name for path in (built / folder).iterdir()} == wanted


def test_specs_are_found_there(built: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from reconciler.commands.specs import folder; print(folder())"],
        cwd=built,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(built)},
    )
    assert Path(done.stdout.strip()) == built / "reconciler" / "specs"
