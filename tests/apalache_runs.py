"""Recorded runs of Apalache, and a program that plays them."""

from __future__ import annotations

import functools
import json
import stat
import sys
from pathlib import Path

import msgspec

from reconciler.formal.apalache.tool import Output

FOLDER = Path(__file__).parent / "data" / "apalache"
INPUT = FOLDER / "input"
RUNS = sorted(path.stem for path in (FOLDER / "runs").glob("*.json"))


class Run(msgspec.Struct, frozen=True):
    """`command` as it was typed, environment first."""

    command: str
    output: Output


@functools.cache
def load(name: str) -> Run:
    value = json.loads((FOLDER / "runs" / f"{name}.json").read_text())
    output = Output(
        command=tuple(value["command"].split()),
        ended="exited",
        exit=value["exit"],
        stdout="\n".join(value["stdout"]),
        stderr="\n".join(value["stderr"]),
        traces={name: json.dumps(trace) for name, trace in value["files"].items()},
    )
    return Run(value["command"], output)


def write_program(path: Path, source: str) -> Path:
    """A Python program with the tool's name; `source` may use the names that the head gives."""
    head = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
options = dict(a[2:].split("=", 1) for a in arguments if "=" in a)
run_dir = pathlib.Path(options.get("run-dir", "."))
"""
    path.write_text(head + source)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def player(path: Path, *names: str, before: str = "", types: str = "") -> Path:
    """A stand-in for the tool that plays the named runs, one a call; `version` is always answered.

    types: a run that every call of the type checker plays, apart from the others.
    As the tool does, it leaves its files in --run-dir and --out-dir, and litter in TMPDIR.
    """
    files = [str(FOLDER / "runs" / f"{name}.json") for name in names]
    checker = str(FOLDER / "runs" / f"{types}.json") if types else ""
    return write_program(
        path,
        f"""
calls = pathlib.Path({str(path)!r} + ".calls")
if arguments == ["version"]:
    print("v0.62.1-2-g4943c45f1")
    sys.exit(0)
checker = {checker!r} if arguments[0] == "typecheck" else ""
if checker:
    calls = calls.with_suffix(".types")
seen = calls.read_text().splitlines() if calls.exists() else []
with calls.open("a") as log:
    log.write(json.dumps({{"arguments": arguments, "environ": dict(os.environ),
                          "cwd": os.getcwd(), "sources": sorted(os.listdir("."))}}) + "\\n")
{before}
run = json.loads(pathlib.Path(checker or {files!r}[len(seen)]).read_text())
(pathlib.Path(os.environ["TMPDIR"]) / "SANY0123456789").mkdir()
(pathlib.Path(options["out-dir"]) / "Spec.tla").mkdir()
for name, trace in run["files"].items():
    stem = name.split(".")[0].rstrip("0123456789")
    for file in (name, stem + ".itf.json"):
        (run_dir / file).write_text(json.dumps(trace))
    (run_dir / (stem + ".tla")).write_text("---- MODULE counterexample ----")
sys.stdout.write("\\n".join(run["stdout"]))
sys.stderr.write("\\n".join(run["stderr"]))
sys.exit(run["exit"])
""",
    )


def calls(program: Path) -> list[dict[str, object]]:
    """What the player was called with, in order."""
    log = Path(f"{program}.calls")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
