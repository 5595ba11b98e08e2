"""The lint of the fragment: what the tool refused in recorded runs, each rule, and all specs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.formal.fragment import lint
from reconciler.formal.source import Source, read_sources
from tests.apalache_runs import INPUT

SPECS = Path(__file__).resolve().parents[2] / "specs"


@pytest.mark.parametrize("module", sorted(SPECS.glob("*.tla")), ids=lambda path: path.stem)
def test_specs_are_inside(module: Path) -> None:
    assert [str(one) for one in lint(module)] == []


def findings(tmp_path: Path, *lines: str) -> list[str]:
    """Findings in a module of these lines; the first is line 3."""
    path = tmp_path / "Spec.tla"
    path.write_text("\n".join(["---- MODULE Spec ----", "EXTENDS Integers", *lines, "===="]))
    return [f"{one.line}:{one.column}: {one.rule}" for one in lint(path)]


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("InfiniteSeq", "6:15: sequences: Seq(S) is infinite"),  # exit code 75
        ("NoAnnotation", "3:10: type: VARIABLE x has no @type"),
        ("Unbounded", "7:14: infinite: ranges over Int"),  # an exception in the tool
        ("Fermat", "11:9: infinite: ranges over Int"),  # the tool takes it, TLC does not
    ],
)
def test_what_the_tool_refused(module: str, found: str) -> None:
    path = INPUT / f"{module}.tla"
    assert [str(one) for one in lint(path)] == [f"{path}:{found}"]


@pytest.mark.parametrize("module", ["Consts", "Deadlock", "Kinds", "Labels", "Live", "Many"])
def test_what_the_tool_took(module: str) -> None:
    assert lint(INPUT / f"{module}.tla") == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("CONSTANT N", ["3:10: type"]),
        ("CONSTANTS \\* @type: Int;", []),
        ("RECURSIVE F(_)", ["3:1: recursive"]),
        ("f[i \\in 1..3] == IF i = 1 THEN 1 ELSE f[i - 1]", ["3:1: recursive"]),
        ("f[i \\in 1..3] == i", []),
        ("A == \\E x : x = 1", ["3:6: unbounded"]),
        ("A == \\A x, y : x = y", ["3:6: unbounded"]),
        ("A == CHOOSE x : x = 1", ["3:6: unbounded"]),
        ("A == \\E x, y \\in {1}, z \\in {2} : x = y", []),
        ("A == \\E <<x, y>> \\in {1} \\X {2} : x = y", []),
        ("A == CHOOSE x \\in {1} : TRUE", []),
        ("A == \\EE x : x = 1", ["3:6: temporal"]),
        ("A == \\A x \\in Nat : x >= 0", ["3:6: infinite"]),
        ("A == [x \\in Int |-> 1]", ["3:6: infinite"]),
        ("A == {x \\in Nat : x < 3}", ["3:6: infinite"]),
        ("A == {x \\in (Nat \\cap {1}) : x < 3}", []),
        ("A(x) == x \\in Nat", []),  # membership is fine
        ("A(s) == s \\in Seq({1})", ["3:15: sequences"]),
        ("A(s) == \\E k \\in 2..Len(s) : TRUE", ["3:19: range"]),
        ("A(s, n) == 1..n", ["3:13: range"]),
        ("A(s, n) == 1..n B == A(2, 3 + 4) C == A(B, 1)", []),
        ("A(s, n) == 1..n B == A(2, 3 + 4) C(x) == A(1, x)", ["3:13: range"]),
        ("A(s, n) == 1..n C(x) == A(1, x) D == C(7)", []),
        ("A == 1..(2 + 3 * 4)", []),
        ("B == 4 A == 0..B-1", []),
        ("B(n) == n + 1 A == -B(2)..B(1)", []),
        ("A(x) == x[1]..2", ["3:13: range"]),
        ('A == "1..x \\\\E y : RECURSIVE"', []),
        ("A == 1 \\* RECURSIVE \\E x : 1..y", []),
        ("(* RECURSIVE (* 1..y *) \\E x : *)", []),
        ("A == IF TRUE THEN 1..2 ELSE 3..4", []),
        ("A(b) == IF TRUE THEN 1..2 ELSE 3..b", ["3:33: range"]),
    ],
)
def test_rule(tmp_path: Path, line: str, found: list[str]) -> None:
    assert findings(tmp_path, line) == found


def test_ranges_of_constants_and_variables(tmp_path: Path) -> None:
    declared = ["CONSTANT", "  \\* @type: Int;", "  N", "VARIABLES", "  \\* @type: Int;", "  x, y"]
    assert findings(
        tmp_path, *declared, "A == 1..N", "B == 1..N + x", "C == {i \\in 0..N : i <= x}"
    ) == [
        "8:6: type",  # the annotation belongs to one name
        "10:7: range",
    ]


def test_annotation_stands_before_its_name(tmp_path: Path) -> None:
    lines = [
        *("VARIABLES", "  \\* @type: Int;", "  a,  \\* says what a is"),
        *("  b,  \\* @type: Int;", "  (* @type: Set(Str); *)", "  c,"),
        *("  \\* @type: Int -> Str", "  d"),
    ]
    # the annotation behind b is c's by place, and c has its own; d's has no semicolon
    assert findings(tmp_path, *lines) == ["6:3: type", "10:3: type"]


def test_what_a_module_extends_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "wrappers").mkdir()
    (tmp_path / "Core.tla").write_text("---- MODULE Core ----\nCONSTANT N\nA == 1..N\n====\n")
    wrapper = tmp_path / "wrappers" / "APCore.tla"
    wrapper.write_text("---- MODULE APCore ----\nEXTENDS Core, Integers\nB == 2..N\n====\n")
    assert [str(one) for one in lint(wrapper, [tmp_path])] == [
        f"{tmp_path}/Core.tla:2:10: type: CONSTANT N has no @type"
    ]
    assert [source.path.name for source in read_sources(wrapper, [tmp_path])] == [
        *("APCore.tla", "Core.tla")
    ]


def test_definitions() -> None:
    text = """---- MODULE Spec ----
VARIABLE x
A == LET B == 1 IN B
C(y, z) ==
    /\\ y \\* D == 2
    /\\ [q |-> z]
f[i \\in {1}] == i
THEOREM A
----
E == x
====
F == after the end
"""
    source = Source(Path("Spec.tla"), text)
    assert {name: [t.text for t in one.body] for name, one in source.definitions.items()} == {
        "A": ["LET", "B", "==", "1", "IN", "B"],
        "C": ["/\\", "y", "/\\", "[", "q", "|->", "z", "]"],
        "f": ["i"],
        "E": ["x"],
    }
    assert source.definitions["C"].parameters == ("y", "z")
    assert source.definitions["f"].function


@given(st.text(alphabet="ab12 \n\\*()[]{}<>/=.,:_\"'-|ELTIN", max_size=120))
def test_any_text_has_tokens_at_their_places(text: str) -> None:
    source = Source(Path("Spec.tla"), text)
    lines = text.split("\n")
    for token in source.all_tokens:
        first = token.text.split("\n")[0]
        assert lines[token.line - 1][token.column - 1 :].startswith(first)
    assert source.definitions is not None
    assert source.declarations is not None
