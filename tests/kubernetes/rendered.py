"""The plain manifests, from the Helm chart: `python -m tests.kubernetes.rendered` rewrites them.

rendered(values)    # the chart's objects, by Helm itself
"""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from reconciler.testing.kubernetes import binaries
from tests.kubernetes.deployed import CHART, DEPLOY, NAMESPACE

FILES: Final = {  # in deploy/ → the chart's template, with the values that it is made with
    "rbac.yaml": ("rbac.yaml", {"createNamespace": True}),
    "manifests/server.yaml": ("server.yaml", {}),
    "manifests/agent.yaml": ("agent.yaml", {}),
}


def helm(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Helm's answer, whatever it is. ConfigError: it is not built."""
    return subprocess.run(
        [str(binaries.helm()), *arguments], input=given, capture_output=True, text=True, timeout=60
    )


def template(
    values: Mapping[str, Any], *options: str, namespace: str = NAMESPACE
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values over the chart's own."""
    command = ("template", "reconciler", str(CHART), "--namespace", namespace, "--values", "-")
    return helm(*command, *options, given=json.dumps(values))


def rendered(values: Mapping[str, Any], *, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """New objects each time, from one run of Helm for the same values."""
    return copy.deepcopy(_rendered(json.dumps(values), namespace))


@functools.cache
def _rendered(values: str, namespace: str) -> list[dict[str, Any]]:
    done = template(json.loads(values), namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [object for object in yaml.safe_load_all(done.stdout) if object is not None]


def files() -> dict[Path, str]:
    """What each of the plain manifests has to hold."""
    return {DEPLOY / name: _file(*made) for name, made in FILES.items()}


def _file(name: str, values: Mapping[str, Any]) -> str:
    done = template(values, "--show-only", f"templates/{name}")
    assert done.returncode == 0, done.stderr
    documents = re.split(r"^---\n", done.stdout, flags=re.MULTILINE)
    texts = (re.sub(r"^# Source: .*\n", "", each, flags=re.MULTILINE) for each in documents)
    return "---\n".join(f"{text.strip()}\n" for text in texts if text.strip())


def main(arguments: Sequence[str]) -> int:
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path.relative_to(DEPLOY.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
