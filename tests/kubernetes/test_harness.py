"""The harness: how its programs are built and found; its processes end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reconciler.errors import ConfigError, UnavailableError
from reconciler.testing import golang
from reconciler.testing.kubernetes import Cluster, binaries, build
from reconciler.testing.process import Process, bound
from tests.kubernetes.reading import wait_until

THEIRS = """\
module k8s.io/kubernetes

go 1.26.0

godebug default=go1.26

require (
	k8s.io/api v0.0.0
	example.org/other v1.2.3
)

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/client-go => ./staging/src/k8s.io/client-go
)
"""


def test_staged_modules_are_taken_as_published() -> None:
    assert build.go_mod(THEIRS, "v1.37.2").splitlines() == [
        "module reconciler.test/kube-apiserver",
        "go 1.26.0",
        "godebug default=go1.26",
        "require k8s.io/kubernetes v1.37.2",
        "replace k8s.io/api => k8s.io/api v0.37.2",
        "replace k8s.io/client-go => k8s.io/client-go v0.37.2",
    ]
    with pytest.raises(golang.BuildError, match="not in the form that is known"):
        build.go_mod("module k8s.io/kubernetes\n\ngo 1.26.0\n", "v1.37.2")


def test_helm_is_built_with_what_kubernetes_is_built_with() -> None:
    assert build.helm_go_mod(THEIRS, "v1.37.2", "v4.3.1").splitlines() == [
        "module reconciler.test/helm",
        "go 1.26.0",
        "require helm.sh/helm/v4 v4.3.1",
        "replace k8s.io/api => k8s.io/api v0.37.2",
        "replace k8s.io/client-go => k8s.io/client-go v0.37.2",
        "replace example.org/other => example.org/other v1.2.3",
    ]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go version go1.26.8 linux/amd64\n", (1, 26, 8)),
        ("go version go1.27rc1 linux/arm64\n", (1, 27)),
        ("go version devel +abc\n", ()),
        ("", ()),
    ],
)
def test_the_version_of_go(said: str, version: tuple[int, ...]) -> None:
    assert golang.parse_go_version(said) == version
    assert (version >= (1, 26)) == bool(version)


def test_a_step_that_fails_says_its_last_words(tmp_path: Path) -> None:
    script = "echo building; echo 'no space left' >&2; exit 3"
    with pytest.raises(golang.BuildError, match=r"exit 3\nno space left\nbuilding$"):
        golang.run(["/bin/sh", "-c", script], tmp_path, {}, tries=2)


def test_a_step_that_hangs_is_ended_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golang, "STEP_SECONDS", 0.2)
    with pytest.raises(golang.BuildError, match="ended after 0 minutes"):
        golang.run(["/bin/sh", "-c", "sleep 600 & wait"], tmp_path, {})


def test_what_is_missing_is_said_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILER_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="kube-apiserver: not there; build it with `python -m"):
        Cluster()
    binaries.failure_path().write_text("go build ...: exit 1\nno space left\n")
    with pytest.raises(ConfigError, match=r"the last build failed: go build .*\nno space left"):
        binaries.apiserver()


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Also when that one is killed."""
    script = (
        "import pathlib, sys; from reconciler.testing.process import Process\n"
        "p = Process(['/bin/sleep', '600'], pathlib.Path(sys.argv[1]) / 'log')\n"
        "print(p.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        command = Path(f"/proc/{child}/cmdline")
        assert command.exists()
        parent.kill()
    _gone(command)


def test_a_process_is_not_run_when_its_parent_ended_before_it_was_bound(tmp_path: Path) -> None:
    """As then: its parent is another."""
    line = bound(["touch", str(tmp_path / "ran")])
    subprocess.run(["sh", "-c", '"$@"; true', "sh", *line], check=True)
    assert not (tmp_path / "ran").exists()
    subprocess.run(line, check=True)
    assert (tmp_path / "ran").exists()


def _gone(command: Path) -> None:
    import asyncio

    def ended() -> bool:
        try:
            return command.read_bytes() == b""  # a zombie that nobody has reaped yet
        except (FileNotFoundError, ProcessLookupError):
            return True

    asyncio.run(wait_until(ended))


def test_a_process_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    made: list[Process] = []
    thread = threading.Thread(target=lambda: made.append(_sleeper(tmp_path)))
    thread.start()
    thread.join()
    with pytest.raises(subprocess.TimeoutExpired):
        made[0]._popen.wait(0.2)
    made[0].end()


def _sleeper(folder: Path) -> Process:
    return Process(["/bin/sleep", "600"], folder / "log")


def test_a_process_that_has_ended_tells_its_last_words(tmp_path: Path) -> None:
    process = Process(["/bin/sh", "-c", "echo no such flag; exit 4"], tmp_path / "log")
    process._popen.wait(10)
    with pytest.raises(UnavailableError, match="sh ended with 4:\nno such flag"):
        process.check()
    process.end()


def test_a_stopped_process_can_be_ended(tmp_path: Path) -> None:
    process = _sleeper(tmp_path)
    process.signal(signal.SIGSTOP)
    process.end()
    with pytest.raises(UnavailableError, match="ended with -15"):
        process.check()
