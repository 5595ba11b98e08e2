"""Bugs planted on purpose: each must be found by the joined cluster's test.

    python -m tests.planted [NAME ...]

copies the sources to a temporary directory, plants one bug at a time (a replacement of one piece of
text, which must be there exactly once) and runs generated schedules until a rule falls. Exit code 1
if one is not found. tests/README.md says what each bug is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[1]


class Bug(msgspec.Struct, frozen=True):
    name: str
    file: str
    text: str
    instead: str


BUGS = (
    Bug(
        "types-take-effect-as-they-arrive",
        "reconciler/core/dataplane/cut.py",
        "        self.out.append(Write(self._token, tuple(ops)))",
        "        from reconciler.core.dataplane.ops import Flip\n\n"
        "        now = Flip(self.tables.idle, self.revision, self.root)\n"
        "        self.out.append(Write(self._token, (*ops, now)))",
    ),
    Bug(
        "staging-that-a-packet-sees",
        "reconciler/core/dataplane/indices.py",
        "    def idle(self) -> int:\n        return 1 - self.active\n",
        "    def idle(self) -> int:\n        return self.active\n",
    ),
    Bug(
        "halves-not-made-equal",
        "reconciler/core/dataplane/tables.py",
        "        self._equalise()\n",
        "",
    ),
    Bug(
        "a-birth-ignored",
        "reconciler/core/resources/decode.py",
        '(f"{namespace}/{each.group.hex()}", each.number, each.birth)',
        '(f"{namespace}/{each.group.hex()}", each.number, 1)',
    ),
    Bug(
        "lost-removal",
        "reconciler/core/dataplane/agent.py",
        "            changes.append(Change(type_url, name, None))\n",
        "",
    ),
    Bug(
        "number-back-at-once",
        "reconciler/core/plane.py",
        "        return self.revision if found is None else found\n",
        "        return self.revision\n",
    ),
    Bug(
        "absence-is-an-ack",
        "reconciler/core/xds/nodes.py",
        '        return self.state != "gone"\n',
        '        return self.state not in ("gone", "disconnected")\n',
    ),
    Bug(
        "publish-before-the-numbers",
        "reconciler/core/intake.py",
        "        return self._holding or self.allocator.unserved()\n",
        "        return False\n",
    ),
    Bug(
        "believed-before-the-commit",
        "reconciler/core/xds/rollout.py",
        "    def send_commit(self) -> None:\n        assert self.target is not None\n",
        "    def send_commit(self) -> None:\n        assert self.target is not None\n"
        "        self.acked = Enforced(self.target.revision, self.target.root, self.target)\n"
        "        self.floor = self.target.revision\n",
    ),
    Bug(
        "scope-leaves-out-a-named-peer",
        "reconciler/core/resources/build.py",
        "if group in local or number in named:",
        "if group in local:",
    ),
)


def find(bug: Bug, seconds: int) -> str:
    """What fell, "" if nothing did within the time."""
    with tempfile.TemporaryDirectory(prefix="planted-") as scratch:
        copy = Path(scratch)
        for folder in ("reconciler", "models", "tests"):
            shutil.copytree(
                ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
        path = copy / bug.file
        text = path.read_text()
        if text.count(bug.text) != 1:
            raise SystemExit(
                f"{bug.name}: the text is not once in {bug.file}; adapt tests/planted.py"
            )
        path.write_text(text.replace(bug.text, bug.instead))
        done = subprocess.run(
            [sys.executable, "-m", "tests.property.joined_runs", str(seconds)],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    return "" if done.returncode == 0 else done.stdout.strip().splitlines()[-1]


def main(names: list[str]) -> int:
    missed = 0
    for bug in BUGS:
        if names and bug.name not in names:
            continue
        found = find(bug, 60)
        missed += not found
        print(f"{'found ' if found else 'MISSED'}  {bug.name}: {found}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
