"""The manifest's loader: a whole suite, and every mistake with file, entry and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ConfigError
from reconciler.formal import suite
from reconciler.formal.suite import Kind

SPECS = """
[[spec]]
name = "Door"
rules = ["R1"]
machines = { door = "state" }
adapter = "some.module:Adapter"

[[spec.run]]
module = "MCDoor"
kind = "safety"

[[spec.run]]
module = "MCDoor"
config = "MCDoorGraph"
kind = "graph"
seconds = 5
states = 2
"""
MUTANTS = """
[[mutant]]
name = "no-key"
run = "MCDoor"
find = "key"
replace = "TRUE"
falls = "Locked"
ci = true

[[mutant]]
name = "no-bell"
run = "MCDoor"
find = "bell"
replace = "TRUE"
survives = "nobody listens"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mc").mkdir()
    (tmp_path / "mutants").mkdir()
    (tmp_path / "Door.tla").write_text("---- MODULE Door ----\nkey bell\n====\n")
    (tmp_path / "mc" / "MCDoor.tla").write_text("---- MODULE MCDoor ----\nEXTENDS Door\n====\n")
    (tmp_path / "mc" / "MCDoor.cfg").write_text("SPECIFICATION Spec\nINVARIANT Locked Shut\n")
    (tmp_path / "mc" / "MCDoorGraph.cfg").write_text("SPECIFICATION Spec\n")
    (tmp_path / "specs.toml").write_text(SPECS)
    (tmp_path / "mutants" / "Door.toml").write_text(MUTANTS)
    return tmp_path


def test_a_suite(folder: Path) -> None:
    loaded = suite.load(folder)
    (door,) = loaded.specs
    assert loaded.spec("Door") is door
    assert door.path == folder / "Door.tla"
    assert door.machines == {"door": "state"}
    assert [(run.name, run.kind, run.seconds, run.states) for run in door.runs] == [
        ("MCDoor", Kind.SAFETY, 60, 100),
        ("MCDoorGraph", Kind.GRAPH, 5, 2),
    ]
    assert door.runs[0].properties == ("Locked", "Shut")
    (graph,) = door.of(Kind.GRAPH, Kind.DEEP)
    assert (graph.name, graph.machines) == ("MCDoorGraph", ("door",))
    first, second = loaded.mutants
    assert (first.spec, first.falls, first.ci, first.run) == (
        "Door",
        ("Locked",),
        True,
        door.runs[0],
    )
    assert (second.falls, second.survives, second.file) == ((), "nobody listens", door.path)


def test_an_unknown_spec_lists_those_there_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'Window'; there are Door"):
        suite.load(folder).spec("Window")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name = "Door"', 'name = "Gate"', r"spec 'Gate': .*Gate\.tla is not a file"),
        (
            'kind = "safety"',
            'kind = "hope"',
            r"specs\.toml: Invalid enum value 'hope'.*run\[0\]\.kind",
        ),
        ('kind = "safety"', "kinds = 1", "unknown field"),
        ('module = "MCDoor"\nkind', 'module = "MCGate"\nkind', "run 'MCGate': module"),
        ("MCDoorGraph", "MCGate", "run 'MCGate': config"),
        ('config = "MCDoorGraph"', "", "run 'MCDoor' is there twice"),
        (
            'config = "MCDoorGraph"\nkind = "graph"',
            'config = "MCDoorGraph"\nkind = "deep"',
            "no prop",
        ),
        ("seconds = 5", 'machines = ["gate"]', "'gate' is not one of door"),
        ("seconds = 5", 'also = ["MCDoor"]', "also: 'MCDoor' is not of MCDoorGraph"),
        ("some.module:Adapter", "some.module", "adapter"),
        ('rules = ["R1"]', "rules = 1", r"Expected `array`, got `int`.*rules"),
        ("[[spec]]", "[[spec", "specs.toml"),
    ],
)
def test_a_wrong_manifest(folder: Path, old: str, new: str, reason: str) -> None:
    assert old in SPECS
    (folder / "specs.toml").write_text(SPECS.replace(old, new, 1))
    with pytest.raises(ConfigError, match=reason):
        suite.load(folder)


def test_a_machine_needs_a_graph(folder: Path) -> None:
    (folder / "specs.toml").write_text(SPECS.rpartition("[[spec.run]]")[0])
    with pytest.raises(ConfigError, match="machines: no run of kind graph"):
        suite.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('falls = "Locked"', 'falls = "Open"', "mutant 'no-key': falls: 'Open' is not checked"),
        ('falls = "Locked"', "", "either falls or survives"),
        ('falls = "Locked"', 'falls = "Locked"\nsurvives = "x"', "either falls or survives"),
        ('run = "MCDoor"', 'run = "MCDoorGraph"', "run: 'MCDoorGraph' is not one of MCDoor"),
        ('find = "key"', 'find = ""', "find: no text"),
        ("no-bell", "no-key", "'no-key' is there twice"),
        ("ci = true", 'spec = "Gate"', "spec: 'Gate' has a file of its own"),
        ("ci = true", 'file = "mc/MCGate.tla"', "file: .* is not a file"),
        ("ci = true", "when = 1", r"Door\.toml: .*unknown field `when`.*mutant\[0\]"),
    ],
)
def test_a_wrong_mutant(folder: Path, old: str, new: str, reason: str) -> None:
    assert old in MUTANTS
    (folder / "mutants" / "Door.toml").write_text(MUTANTS.replace(old, new, 1))
    with pytest.raises(ConfigError, match=reason):
        suite.load(folder)


def test_mutants_of_no_spec(folder: Path) -> None:
    (folder / "mutants" / "Gate.toml").write_text(MUTANTS)
    with pytest.raises(ConfigError, match="no spec 'Gate'"):
        suite.load(folder)
