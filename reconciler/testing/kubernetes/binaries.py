"""Which versions of which programs, and where they are.

Nobody publishes a kube-apiserver that a package manager installs, so it is built from its Go
modules (`build`) into a folder outside of the repository, by version: $RECONCILER_CACHE, or
`reconciler` in $XDG_CACHE_HOME or ~/.cache. etcd is the system's (Debian: etcd-server).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from reconciler.errors import ConfigError

KUBERNETES: Final = "v1.37.2"
HELM: Final = "v4.3.1"
KWOK: Final = "v0.8.0"
BUILD: Final = "python -m reconciler.testing.kubernetes.build"


def cache() -> Path:
    """The folder that builds stay in."""
    if given := os.environ.get("RECONCILER_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "reconciler"


def apiserver_path() -> Path:
    return cache() / f"kubernetes-{KUBERNETES}" / "kube-apiserver"


def helm_path() -> Path:
    return cache() / f"helm-{HELM}" / "helm"


def kwok_path() -> Path:
    return cache() / f"kwok-{KWOK}" / "kwok"


def failure_path() -> Path:
    """Why the last build failed, as text; there is none after one that succeeded."""
    return cache() / "build-failed.txt"


def apiserver() -> Path:
    """ConfigError says that it is missing, and how to get it."""
    return _built(apiserver_path())


def helm() -> Path:
    """As `apiserver`."""
    return _built(helm_path())


def kwok() -> Path:
    """As `apiserver`."""
    return _built(kwok_path())


def etcd() -> Path:
    """As `apiserver`."""
    found = shutil.which("etcd")
    if found is None:
        raise ConfigError("etcd: not on PATH; install it (Debian: the package etcd-server)")
    return Path(found)


def _built(path: Path) -> Path:
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{path}: not there; build it with `{BUILD}`{_last_failure()}")
    return path


def _last_failure() -> str:
    try:
        return f"\nthe last build failed: {failure_path().read_text()}"
    except OSError:
        return ""
