"""What `pip wheel .` makes of a clean tree works where nothing else of the repository is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.integration.conftest import own_pins
from tests.integration.netns import Namespace, wait_until

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("reconciler", "models", "specs", "kernel", "proto")
GENERATED = ("*.so", "*.o", "*_pb2.py*", "layout.h", "__pycache__", "*.egg-info")


def build(directory: Path, **environment: str) -> Path:
    """A wheel of a tree that has no more than the sources, where no other `reconciler` is."""
    tree, other = directory / "tree", directory / "other"
    other.mkdir()
    (other / "reconciler.py").write_text("raise ImportError('not the one that is built')\n")
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns(*GENERATED))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(REPOSITORY / name, tree / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--quiet", "--disable-pip-version-check", "-w", str(directory)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(other), **environment},
        check=True,
        timeout=100,
    )
    (wheel,) = directory.glob("*.whl")
    shutil.rmtree(tree)
    return wheel


def install(wheel: Path) -> dict[str, str]:
    """The environment that runs it: its files before everything else, but for what it needs."""
    into = wheel.parent / "installed"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "-q",
    ]
    subprocess.run(
        [*command, "--no-compile", "--target", str(into), str(wheel)], check=True, timeout=60
    )
    # What the first run compiles is there for the next ones
    return {**os.environ, "PYTHONPATH": str(into), "PYTHONDONTWRITEBYTECODE": ""}


def python(environment: dict[str, str], at: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment, cwd=at, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_agent_and_a_server_from_a_wheel(kernel: None, tmp_path: Path) -> None:
    wheel = build(tmp_path)
    assert wheel.name.endswith(f"-cp3{sys.version_info[1]}-linux_{os.uname().machine}.whl")
    environment = install(wheel)
    where = python(environment, tmp_path, "-c", "import reconciler.cli as c; print(c.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert "--kubernetes" in python(environment, tmp_path, "-m", "reconciler.cli", "server", "-h")
    listed = python(environment, tmp_path, "-m", "reconciler.cli", "models", "list")
    assert "leadership" in listed
    shown = "from reconciler.server.kubernetes.install import definitions as d; print(len(d()))"
    assert int(python(environment, tmp_path, "-c", shown)) >= 2

    node = Namespace()
    log = tmp_path / "agent.log"
    try:
        with own_pins("wheel") as pins, open(log, "wb") as output, node.entered():
            options = {
                "--server": "127.0.0.1:1", "--node": "n1", "--pin-dir": str(pins),
                "--cache-dir": str(tmp_path), "--cni-socket": "",
                "--status": f"unix:{tmp_path}/agent.sock",
            }  # fmt: skip
            flat = [part for option in options.items() for part in option]
            agent = subprocess.Popen(
                [sys.executable, "-m", "reconciler.cli", "agent", "--insecure", *flat],
                env=environment, cwd=tmp_path, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                wait_until(lambda: "starting" in log.read_text(), "the agent starts", 60)
                assert "datapath=kernel" in log.read_text()
                wait_until(lambda: "disconnected" in log.read_text(), "it asks for a server", 60)
            finally:
                agent.send_signal(signal.SIGTERM)
                code = agent.wait(30)
            assert code == 0, log.read_text()
    finally:
        node.close()


def test_a_wheel_without_the_kernels_half(tmp_path: Path) -> None:
    """For a server's image, which has no compiler."""
    wheel = build(tmp_path, RECONCILER_KERNEL="no")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "reconciler/wire/resources_pb2.py" in names
    assert not [name for name in names if name.endswith((".so", ".o"))]
