"""specs/README.md, rule by rule: the properties that are checked, and code that exists."""

from __future__ import annotations

import re

from reconciler.commands.specs import folder
from reconciler.formal import suite

SPECS = folder()
CORE = SPECS.parent / "reconciler" / "core"
ROW = re.compile(r"^\| (R\d|form) \| (\w+): `(\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = ROW.findall((SPECS / "README.md").read_text())
LOADED = suite.load(SPECS)


def test_table_and_manifest_name_the_same_properties() -> None:
    checked = {
        (spec.name, name) for spec in LOADED.specs for run in spec.runs for name in run.properties
    }
    asked = {
        (spec.name, name)
        for spec in LOADED.specs
        for entry in spec.symbolic
        for name in (*entry.invariants, *([entry.inductive] if entry.inductive else []))
    }
    shown = [(spec, name) for _, spec, name, _, _ in ROWS]
    assert len(shown) == len(set(shown)) > 20
    assert sorted((checked | asked) - set(shown)) == [], "checked, and not in the table"
    assert sorted(set(shown) - checked - asked) == [], "in the table, and not checked"


def test_rules_of_each_spec() -> None:
    for spec in LOADED.specs:
        shown = {rule for rule, name, *_ in ROWS if name == spec.name} - {"form"}
        assert shown <= set(spec.rules), spec.name


def test_every_rule_is_upheld_by_something() -> None:
    assert {rule for rule, *_ in ROWS} == {*(f"R{n}" for n in range(1, 8)), "form"}


def test_code_is_there() -> None:
    for _, spec, name, _, code in ROWS:
        files = re.findall(r"`([^`]+)`", code)
        assert files, name
        assert [file for file in files if not (CORE / file).is_file()] == [], f"{spec}: {name}"
