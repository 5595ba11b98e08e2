"""Puts the CNI plugin into a node: its program, and its place at the end of the node's chain.

The program is `agent/cni.py` as one file: the node needs a Python of its own (3.8 or newer), and
nothing of ours. Where there is none the plugin says so for each pod, and no pod starts.

Which chain: the runtime takes the first file of the directory by name, so that one is changed, by a
rename, and everything else in it stays as it is. Done twice, it changes nothing. What another
plugin's installer writes anew later has lost ours: install again.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
from pathlib import Path
from typing import Any, Final

from reconciler.agent import cni
from reconciler.errors import ConfigError

NAME: Final = "reconciler-cni"
SUFFIXES: Final = (".conf", ".conflist", ".json")
"""Of what a runtime reads."""

_HEAD: Final = """\
#!/bin/sh
''':'
for python in python3 /usr/libexec/platform-python; do
  command -v "$python" >/dev/null 2>&1 && exec "$python" -IS "$0"
done
[ "$CNI_COMMAND" = DEL ] && exit 0
echo '{"cniVersion": "0.3.0", "code": 100, "msg": "reconciler-cni needs a Python on the node"}'
exit 1
'''
"""
"""For a shell a program that looks for a Python, for Python a text."""

_TAIL: Final = """

if __name__ == "__main__":
    import sys

    sys.exit(main(os.environ, sys.stdin.buffer, sys.stdout))
"""


def install(
    bin_dir: Path, conf_dir: Path, *, socket: str = cni.DEFAULT_SOCKET, wait_seconds: float = 0.0
) -> Path:
    """The file of the chain. ConfigError: there is none yet, or none that can be extended."""
    path = next(iter(_files(conf_dir)), None)
    if path is None:
        raise ConfigError(f"{conf_dir}: no network configuration yet, to which ours is chained")
    config = _read(path)
    ours: dict[str, Any] = {"type": NAME, "socket": socket, "waitSeconds": wait_seconds}
    _replace(bin_dir / NAME, program().encode(), 0o755)
    _put(path, config, ours)
    return path


def remove(bin_dir: Path, conf_dir: Path) -> None:
    """Out of every chain, then the program. Before the agent goes: without it no pod starts on a
    node that has the plugin."""
    for path in _files(conf_dir):
        try:
            config = _read(path)
        except ConfigError:
            continue  # nothing that we could be in
        _put(path, config)
    (bin_dir / NAME).unlink(missing_ok=True)


def program() -> str:
    """The plugin's text, to be run by itself."""
    source = inspect.getsource(cni)
    about = ast.parse(source).body[0].end_lineno
    rest = "".join(source.splitlines(keepends=True)[about:])
    return f"{_HEAD}{rest}{_TAIL}"


def _files(conf_dir: Path) -> list[Path]:
    """As the runtime sees them: the first one is what it takes."""
    if not conf_dir.is_dir():
        raise ConfigError(f"{conf_dir}: is no directory")
    return sorted(path for path in conf_dir.iterdir() if path.suffix in SUFFIXES)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    plugins = config.get("plugins") if isinstance(config, dict) else None
    if not isinstance(plugins, list) or not all(isinstance(each, dict) for each in plugins):
        raise ConfigError(f"{path}: is no list of plugins (a .conflist), to which ours is chained")
    found: dict[str, Any] = config
    return found


def _put(path: Path, config: dict[str, Any], *ours: dict[str, Any]) -> None:
    """The chain with (or without) us at its end; not written where it is so already."""
    plugins = [each for each in config["plugins"] if each.get("type") != NAME]
    wanted = {**config, "plugins": [*plugins, *ours]}
    if wanted != config:
        _replace(path, (json.dumps(wanted, indent=2) + "\n").encode(), path.stat().st_mode & 0o777)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """At once: whoever reads it sees the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")  # no suffix that a runtime reads
    try:
        beside.write_bytes(data)
        beside.chmod(mode)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
