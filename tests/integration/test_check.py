"""`reconciler check` as a user runs it, on a spec of a door that is small enough to break."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reconciler.formal import checking, suite
from reconciler.formal.projection import Machine, Row
from reconciler.formal.replay import Disabled
from reconciler.formal.suite import Kind
from reconciler.formal.values import Value

DOOR = r"""
-------------------------------- MODULE Door --------------------------------
EXTENDS Naturals
CONSTANTS
    \* @type: Int;
    Most
VARIABLES
    \* @type: Str;
    at,
    \* @type: Int;
    passed,
    \* @type: Set({machine: Str, on: Str, from: Str, to: Str});
    fired
vars == <<at, passed, fired>>
Fired(on, from, to) == {[machine |-> "door", on |-> on, from |-> from, to |-> to]}

Init == at = "shut" /\ passed = 0 /\ fired = {}
Open ==
    /\ at = "shut"
    /\ at' = "open"
    /\ fired' = Fired("push", "shut", "open")
    /\ UNCHANGED passed
Go(n) ==
    /\ at = "open"
    /\ passed + n <= Most
    /\ passed' = passed + n
    /\ fired' = {}
    /\ UNCHANGED at
Shut ==
    /\ at = "open"
    /\ at' = "shut"
    /\ fired' = Fired("pull", "open", "shut")
    /\ UNCHANGED passed
Next ==
    \/ Open
    \/ \E n \in 1..2 : Go(n)
    \/ Shut
Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ WF_vars(Next) /\ SF_vars(\E n \in 1..2 : Go(n))

Limit == passed <= Most
OnlyUp == [][passed' >= passed]_vars
Full == <>(passed = Most)
=============================================================================
"""
MANIFEST = """
[[spec]]
name = "Door"
machines = { door = "at" }
adapter = "tests.integration.test_check:Door"
[[spec.run]]
module = "MCDoor"
kind = "safety"
states = 5
[[spec.run]]
module = "MCDoor"
config = "MCDoorLive"
kind = "liveness"
states = 5
[[spec.run]]
module = "MCDoor"
config = "MCDoorGraph"
kind = "graph"
states = 5
"""
MUTANTS = """
[[mutant]]
name = "no-limit"
run = "MCDoor"
find = "passed + n <= Most"
replace = "passed <= Most"
falls = "Limit"
"""
CONFIG = "SPECIFICATION {}\nCONSTANTS Most = {}\n{}\n"


class Door:
    """The code that the spec is of."""

    def __init__(self) -> None:
        self.open, self.passed, self.most = False, 0, 0

    def start(self, constants: Mapping[str, Value], state: Mapping[str, Value]) -> None:
        most = constants["Most"]
        assert isinstance(most, int)
        self.most = most

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        if action == "Open" and not self.open:
            self.open = True
        elif action == "Shut" and self.open:
            self.open = False
        elif action == "Go" and self.open and self._fits(args[0]):
            self.passed += int(str(args[0]))
        else:
            raise Disabled(action)

    def _fits(self, count: Value) -> bool:
        return self.passed + int(str(count)) <= self.most

    def observe(self) -> Mapping[str, Value]:
        return {"at": "open" if self.open else "shut", "passed": self.passed}

    def fork(self) -> Door:
        other = type(self)()
        other.open, other.passed, other.most = self.open, self.passed, self.most
        return other


class Turnstile(Door):
    """One that lets two through at a time too many."""

    def _fits(self, count: Value) -> bool:
        return self.passed < self.most


class Narrow(Door):
    """One through which only one at a time goes."""

    def _fits(self, count: Value) -> bool:
        return count == 1 and super()._fits(count)


ROWS = (Row("door", "push", "shut", "open", "Open"), Row("door", "pull", "open", "shut", "Shut"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mc").mkdir()
    (tmp_path / "mutants").mkdir()
    (tmp_path / "Door.tla").write_text(DOOR)
    (tmp_path / "mc" / "MCDoor.tla").write_text("---- MODULE MCDoor ----\nEXTENDS Door\n====\n")
    for name, spec, checked in (
        ("MCDoor", "Spec", "INVARIANT Limit\nPROPERTY OnlyUp"),
        ("MCDoorLive", "FairSpec", "PROPERTY Full"),
        ("MCDoorGraph", "Spec", ""),
    ):
        (tmp_path / "mc" / f"{name}.cfg").write_text(CONFIG.format(spec, 3, checked))
    (tmp_path / "specs.toml").write_text(MANIFEST)
    (tmp_path / "mutants" / "Door.toml").write_text(MUTANTS)
    return tmp_path


def verdicts(
    folder: Path,
    adapter: Callable[[], Door] = Door,
    rows: tuple[Row, ...] = ROWS,
    *kinds: Kind,
    at_random: bool = False,
) -> dict[str, checking.Line]:
    loaded = suite.load(folder)
    hooks = checking.Hooks(
        machines=lambda spec: [Machine("door", "at", frozenset({"open", "shut"}), frozenset(rows))],
        adapter=lambda name: adapter,
    )
    found = checking.jobs(loaded, loaded.specs, kinds or list(Kind), hooks, at_random=at_random)
    reports = list(checking.run_jobs(found, watch=lambda name, progress: None))
    lines = [line for report in reports for line in report.lines]
    lines.append(checking.lint_line(loaded, loaded.specs[0]))
    return {
        f"{line.check} {line.kind}" if line.check == "replay" else line.check: line
        for line in lines
    }


def test_all_of_it(folder: Path) -> None:
    found = verdicts(folder, at_random=True)
    assert {name: line.verdict for name, line in found.items()} == dict.fromkeys(
        ("Limit", "OnlyUp", "Full", "graph", "projection", "replay graph", "replay replay", "lint"),
        "passed",
    )
    assert found["Limit"].states >= 8
    assert found["replay graph"].states > found["graph"].states


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        (ROWS[:1], "only the spec: door: pull from open to shut by Shut"),
        (
            (*ROWS, Row("door", "slam", "open", "shut", "Shut")),
            "only the model: door: slam from open to shut by Shut",
        ),
    ],
)
def test_a_model_that_differs(folder: Path, rows: tuple[Row, ...], detail: str) -> None:
    line = verdicts(folder, Door, rows, Kind.GRAPH)["projection"]
    assert (line.verdict, line.detail) == ("failed", detail)


def test_code_that_differs(folder: Path) -> None:
    line = verdicts(folder, Turnstile, ROWS, Kind.GRAPH)["replay graph"]
    assert line.verdict == "failed"
    assert "the spec does not allow it here, the code does it" in line.detail


def test_code_that_does_less(folder: Path) -> None:
    found = verdicts(folder, Narrow, ROWS, Kind.GRAPH, at_random=True)
    assert found["replay graph"].verdict == "failed"
    line = found["replay replay"]
    assert line.verdict == "failed"
    assert "seed 1: the spec allows it, the code refuses: Go" in line.detail


def test_too_little_to_search(folder: Path) -> None:
    (folder / "specs.toml").write_text(MANIFEST.replace("states = 5", "states = 500"))
    found = verdicts(folder)
    assert {found[name].verdict for name in ("Limit", "Full", "graph")} == {"failed"}
    assert "of at least 500" in found["Limit"].detail


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "check", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environ},
    )


def no_machines(folder: Path, *, safety: bool = False) -> None:
    """The door is no machine of this product, and its code is in a test.

    safety: only that run
    """
    text = MANIFEST.replace('machines = { door = "at" }', "")
    text = text.replace("adapter =", "# ")
    if safety:
        text = "[[spec.run]]".join(text.split("[[spec.run]]")[:2])
    (folder / "specs.toml").write_text(text)


def test_command(folder: Path) -> None:
    no_machines(folder)
    done = run("--specs", str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["SPEC", "RUN", "PROPERTY", "STATES", "TIME", "VERDICT"]
    assert sorted(line.split()[2] for line in lines[1:]) == sorted(
        ("lint", "Limit", "OnlyUp", "Full", "graph", "all")
    )
    assert all(line.endswith("passed") for line in lines[1:])


def test_a_violation_is_a_story_and_a_file(folder: Path) -> None:
    no_machines(folder, safety=True)
    (folder / "Door.tla").write_text(DOOR.replace("passed + n <= Most", "passed <= Most"))
    done = run("--specs", str(folder), "--spec", "Door", cwd=folder)
    assert done.returncode == 1
    file = Path("reconciler-traces") / "Door-Limit.itf.json"
    for text in (
        "Door: Limit is violated",
        "  1  Open",
        '     at: "shut" → "open"',
        "  2  Go(",
        f"saved as {file}",
        "not decided: Limit fell first",
        "mutants: no-limit: its text is 0 times in Door.tla",
    ):
        assert text in done.stdout
    saved = json.loads((folder / file).read_text())
    assert saved["states"][1]["action"] == "Open"
    assert saved["#meta"]["spec"] == "Door"


def test_json(folder: Path) -> None:
    no_machines(folder, safety=True)
    (folder / "Door.tla").write_text(DOOR.replace("passed' = passed + n", "passed' = n - 1"))
    done = run("--specs", str(folder), "--json", "--traces", str(folder / "here"), cwd=folder)
    assert done.returncode == 1
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows["OnlyUp"]["verdict"] == "violated"
    assert rows["OnlyUp"]["trace"] == str(folder / "here" / "Door-OnlyUp.itf.json")
    assert Path(rows["OnlyUp"]["trace"]).is_file()


def test_mutants(folder: Path) -> None:
    no_machines(folder, safety=True)
    done = run("--specs", str(folder), "--mutants", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "1 mutants, 0 survive with a reason, 0 not as they say" in done.stdout
    (folder / "mutants" / "Door.toml").write_text(MUTANTS.replace("passed <= Most", "n # 3"))
    (folder / "mutants" / "Door.toml").write_text(
        MUTANTS.replace('replace = "passed <= Most"', 'replace = "passed + n <= Most - 1"')
    )
    done = run("--specs", str(folder), "--mutants", "-o", "csv", cwd=folder)
    assert done.returncode == 1
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["verdict"], row["detail"]) == ("survived, unexplained", "Limit was to fall")


def test_deep(folder: Path) -> None:
    no_machines(folder, safety=True)
    done = run("--specs", str(folder), "--deep", "--minutes", "0.05", "--seed", "7", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "seed 7" in done.stderr
    assert "MCDoor at random" in done.stdout
    assert re.search(r"seeds? 7\b.*: \d+ behaviours of at most 100 steps", done.stdout)


def test_without_apalache_nothing_is_passed(folder: Path) -> None:
    no_machines(folder, safety=True)
    only_python = str(Path(sys.executable).parent)
    done = run("--specs", str(folder), "--engine", "apalache", cwd=folder, PATH=only_python)
    assert done.returncode == 3
    assert "skipped" in done.stdout
    assert "passed" not in done.stdout
    assert "Install" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "hope"], "'hope' is neither tlc nor apalache"),
        (["--engine", "apalache", "--mutants"], "are for --engine tlc"),
        (["--spec", "Gate"], "no spec 'Gate'; there are Door"),
        (["--specs", "nowhere"], "nowhere/specs.toml: No such file"),
    ],
)
def test_usage(folder: Path, arguments: list[str], said: str) -> None:
    done = run("--specs", str(folder), *arguments, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_java_that_is_not_there(folder: Path) -> None:
    no_machines(folder, safety=True)
    done = run("--specs", str(folder), cwd=folder, JAVA_HOME=str(folder))
    assert done.returncode == 3
    assert "java: not found" in done.stderr
