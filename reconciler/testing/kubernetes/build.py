"""Builds kube-apiserver, Helm and KWOK from their Go modules, once: `python -m` this module.

What is there already is not built again. A build that was interrupted goes on where Go's own build
cache is; two at a time are one, since the second waits for the first. A program appears under its
name when it is whole, or not at all. The wall time of a first build is about ten minutes on two
processors, nothing but the link of the last program needs more than 1 GB.

How Go is found and run: `reconciler.testing.golang`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ReconcilerError
from reconciler.testing.golang import TRIES, BuildError, Go, alone, find_go, run, say
from reconciler.testing.kubernetes import binaries

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


def build() -> None:
    """Make what is missing. BuildError or ConfigError says what failed."""
    root = binaries.cache()
    root.mkdir(parents=True, exist_ok=True)
    with alone(root / "build.lock"):
        programs = {
            binaries.apiserver_path(): _kube_apiserver,
            binaries.helm_path(): _helm,
            binaries.kwok_path(): _kwok,
        }
        missing = [path for path in programs if not os.access(path, os.X_OK)]
        if not missing:
            say(
                f"kube-apiserver {binaries.KUBERNETES}, Helm {binaries.HELM} and KWOK "
                f"{binaries.KWOK} are in {root}"
            )
            return
        try:
            go = Go(find_go(root))
            for path in missing:
                programs[path](go)
        except ReconcilerError as error:
            binaries.failure_path().write_text(f"{error}\n")
            raise
        binaries.failure_path().unlink(missing_ok=True)


# --------------------------------------------------------------------------------- the programs


class _Download(msgspec.Struct, rename="pascal"):
    go_mod: str


def _read_go_mod(go: Go, module: str, version: str, at: Path) -> str:
    said = go.run("mod", "download", "-json", f"{module}@{version}", at=at, tries=TRIES)
    return Path(msgspec.json.decode(said, type=_Download).go_mod).read_text()


def _kube_apiserver(go: Go) -> None:
    version, target = binaries.KUBERNETES, binaries.apiserver_path()
    say(f"kube-apiserver {version}: reading its modules")
    work = target.parent / "build"
    work.mkdir(parents=True, exist_ok=True)
    (work / "go.mod").write_text(go_mod(_read_go_mod(go, MODULE, version, work), version))
    (work / "main.go").write_text(MAIN)
    go.run("mod", "tidy", at=work, tries=TRIES)
    say(f"kube-apiserver {version}: compiling, about ten minutes of processor time")
    part = work / "kube-apiserver"
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={stamp[key]}" for key in stamp)
    go.run("build", "-v", "-ldflags", f"-s -w {flags}", "-o", str(part), ".", at=work)
    _check(part, "--version", version)
    os.replace(part, target)
    shutil.rmtree(work)
    say(f"kube-apiserver {version}: {target}, {target.stat().st_size >> 20} MB")


def _helm(go: Go) -> None:
    version, target = binaries.HELM, binaries.helm_path()
    say(f"Helm {version}: compiling")
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
    say(f"Helm {version}: {target}, {target.stat().st_size >> 20} MB")


def _kwok(go: Go) -> None:
    version, target = binaries.KWOK, binaries.kwok_path()
    say(f"KWOK {version}: compiling")
    work = target.parent / "build"
    work.mkdir(parents=True, exist_ok=True)
    what = f"sigs.k8s.io/kwok/cmd/kwok@{version}"
    env = {"GOBIN": str(work)}
    go.run("install", "-v", "-ldflags", "-s -w", what, at=work, tries=TRIES, env=env)
    _check(work / "kwok", "--version", version)
    os.replace(work / "kwok", target)
    shutil.rmtree(work)
    say(f"KWOK {version}: {target}, {target.stat().st_size >> 20} MB")


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
    said = run([str(program), argument], program.parent, {})
    if version not in said:
        raise BuildError(f"{program} {argument}: says {said.strip()!r}, not {version}")


def main() -> int:
    try:
        build()
    except (ReconcilerError, OSError) as error:
        print(f"kubernetes build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
