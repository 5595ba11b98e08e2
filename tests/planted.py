"""Bugs planted on purpose: each must be found.

    python -m tests.planted [--by schedules|traces|replay] [NAME ...]

copies the sources to a temporary directory, plants one bug at a time (a replacement of one piece of
text, which must be there exactly once) and looks for it: with generated schedules of the joined
cluster until a rule falls, by what the processes of such runs record (no rule is looked at), or by
replay of the specs on the code. Exit code 1 if one is not found where tests/README.md says that it
is, or found where it says that it can't be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from tests import evidence

ROOT = Path(__file__).resolve().parents[1]


class Bug(msgspec.Struct, frozen=True):
    """unseen: the ways that don't find it; tests/README.md says why."""

    name: str
    file: str
    text: str
    instead: str
    unseen: tuple[str, ...] = ()


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
        "commit-without-its-root-check",
        "reconciler/core/dataplane/cut.py",
        "        if self.held_root != item.root:\n",
        "        if False:\n",
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
        unseen=("traces",),
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
        "min((self.mark if found is None else found, *self.nodes.elsewhere.values()))",
        "self.mark",
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
        "            if number not in named and group not in local\n",
        "            if group not in local\n",
        unseen=("traces", "replay"),
    ),
)


WAYS = ("schedules", "traces", "replay")


def plant(bug: Bug, copy: Path) -> None:
    """The sources with this bug in them, in a directory of their own."""
    for folder in ("reconciler", "models", "specs", "tests", "demo"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / bug.file
    text = path.read_text()
    if text.count(bug.text) != 1:
        raise SystemExit(f"{bug.name}: the text is not once in {bug.file}; adapt tests/planted.py")
    path.write_text(text.replace(bug.text, bug.instead))


def find(bug: Bug, way: str, evidence: Path) -> str:
    """What fell, "" if nothing did."""
    with tempfile.TemporaryDirectory(prefix="planted-") as scratch:
        copy = Path(scratch)
        plant(bug, copy)
        command = {
            "schedules": ["tests.property.joined_runs", "60"],
            "traces": ["tests.evidence", "traces"],
            "replay": ["tests.evidence", "replay", str(evidence)],
        }[way]
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{bug.name}: {done.stdout}{done.stderr}")
    if done.returncode == 0:
        return ""
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--by", choices=WAYS, default="schedules", help="how to look for them")
    given = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as scratch:
        kept = Path(scratch) / "evidence"
        if given.by == "replay":
            evidence.prepare(kept)
        for bug in BUGS:
            if given.names and bug.name not in given.names:
                continue
            found = find(bug, given.by, kept)
            expected = given.by not in bug.unseen
            missed += expected != bool(found)
            if expected:
                word = "found " if found else "MISSED"
            else:
                word = "FOUND " if found else "unseen"
            print(f"{word}  {bug.name}: {found}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
