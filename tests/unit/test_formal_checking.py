"""Rows of the table from what TLC and Apalache gave; the lint. The tools: integration tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.errors import ConfigError, ReconcilerError
from reconciler.formal import checking, graph, lint, suite, symbolic
from reconciler.formal.apalache import Answer, Cause, Verdict
from reconciler.formal.checking import Line, Report
from reconciler.formal.suite import Kind, Run, Suite
from reconciler.formal.tlc import TlcResult
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record

TRACE = Trace((Step("", (), Record(x=1)), Step("Go", (), Record(x=2))), spec="MC", property="B")


def run(kind: Kind = Kind.SAFETY) -> Run:
    return Run("S", Path("MC.tla"), Path("MC.cfg"), kind, 9, 5, ("A", "B"))


def rows(report: Report) -> dict[str, tuple[str, str]]:
    return {line.check: (line.verdict, line.detail) for line in report.lines}


def result(outcome: str, fell: str = "", distinct: int = 7, message: str = "") -> TlcResult:
    trace = TRACE if fell else None
    return TlcResult("MC", "MC", outcome, fell, 9, distinct, 0.5, "", message, trace)


@pytest.mark.parametrize(
    ("kind", "of", "expected"),
    [
        (Kind.SAFETY, result("passed"), {"A": ("passed", ""), "B": ("passed", "")}),
        (
            Kind.SAFETY,
            result("violated", "B"),
            {"A": ("open", "not decided: B fell first"), "B": ("violated", "in 1 steps")},
        ),
        (
            Kind.SAFETY,
            result("deadlock", "deadlock"),
            {
                "A": ("open", "not decided: deadlock fell first"),
                "B": ("open", "not decided: deadlock fell first"),
                "deadlock": ("violated", "in 1 steps"),
            },
        ),
        (
            Kind.SAFETY,
            result("no value", message="x[0]"),
            {"A": ("failed", "no value: x[0]"), "B": ("failed", "no value: x[0]")},
        ),
        (
            Kind.LIVENESS,
            result("timed out"),
            dict.fromkeys("AB", ("failed", "not finished within 9 s")),
        ),
        (Kind.DEEP, result("timed out"), dict.fromkeys("AB", ("open", "not finished within 9 s"))),
        (
            Kind.SAFETY,
            result("passed", distinct=4),
            dict.fromkeys("AB", ("failed", "only 4 states of at least 5: too little is searched")),
        ),
    ],
)
def test_report(kind: Kind, of: TlcResult, expected: Mapping[str, tuple[str, str]]) -> None:
    report = checking.report(run(kind), of)
    assert rows(report) == expected
    assert report.passed == all(v not in ("violated", "failed") for v, _ in expected.values())
    if of.trace is not None:
        assert report.trace is not None
        assert report.trace.spec == "S"


def test_a_violation_without_a_name_is_not_lost() -> None:
    report = checking.report(run(), result("violated"))
    assert not report.passed
    assert rows(report)["a property"] == ("violated", "not decided: a property fell first")


SPEC = "---- MODULE S ----\nCONSTANTS\n  \\* @type: Int;\n  N\n{}\n====\n"
NEXT = "Init == N = 1\nNext ==\n    \\/ Go\nGo == N = 2\nSpec == Init /\\ [][Next]_N"


def load(folder: Path, body: str, config: str = "") -> Suite:
    for name in ("mc", "mutants"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "S.tla").write_text(SPEC.format(body))
    (folder / "mc" / "MC.tla").write_text("---- MODULE MC ----\nEXTENDS S\n====\n")
    (folder / "mc" / "MC.cfg").write_text("SPECIFICATION Spec\nINVARIANT Go\n")
    (folder / "mc" / "MCGraph.cfg").write_text(f"SPECIFICATION Spec\n{config}")
    (folder / "specs.toml").write_text(
        '[[spec]]\nname = "S"\nrun = [{module = "MC", kind = "safety"}, '
        '{module = "MC", config = "MCGraph", kind = "graph"}]\n'
    )
    (folder / "mutants" / "S.toml").write_text(
        '[[mutant]]\nname = "m"\nrun = "MC"\nfind = "N = 2"\nreplace = ""\nfalls = "Go"\n'
    )
    return suite.load(folder)


@pytest.mark.parametrize(
    ("body", "config", "found"),
    [
        (NEXT, "", []),
        (NEXT.replace("\\/ Go", "\\/ Go \\/ Go"), "", ["next"]),
        (NEXT.replace("N = 2", "N = 3"), "", ["mutants"]),
        (NEXT + "\\* N = 2", "", ["mutants"]),
        (NEXT, "VIEW Go\n", ["graph"]),
        (NEXT, "CONSTRAINT Go\n", []),
        (NEXT + "\nRECURSIVE F(_)\nF(x) == F(x)", "", ["fragment"]),
    ],
)
def test_lint(tmp_path: Path, body: str, config: str, found: list[str]) -> None:
    loaded = load(tmp_path, body, config)
    assert [each.rule for each in lint.lint(loaded, loaded.specs[0])] == found
    line = checking.lint_line(loaded, loaded.specs[0])
    assert line.verdict == ("failed" if found else "passed")


@pytest.mark.parametrize("keyword", ["SYMMETRY", "CONSTRAINT", "VIEW", "ACTION_CONSTRAINT"])
def test_what_liveness_can_not_have(tmp_path: Path, keyword: str) -> None:
    load(tmp_path, NEXT)
    file = tmp_path / "specs.toml"
    file.write_text(file.read_text().replace("safety", "liveness"))
    config = tmp_path / "mc" / "MC.cfg"
    config.write_text(f"{config.read_text()}{keyword} Go\n")
    loaded = suite.load(tmp_path)
    found = [str(each) for each in lint.lint(loaded, loaded.specs[0])]
    assert found == [f"S: liveness: MC.cfg: {keyword} hides a part of it"]


def test_actions_that_no_graph_takes(tmp_path: Path) -> None:
    loaded = load(tmp_path, NEXT.replace("\\/ Go", "\\/ Go\n    \\/ Stay"))
    lines = checking.report(run(), result("passed")).lines
    reports = [Report(lines, taken=frozenset({"Go"}))]
    line = checking.coverage_line(loaded, loaded.specs[0], reports)
    assert line is not None
    assert (line.verdict, line.detail) == ("failed", "no graph takes Stay")
    reports.append(Report(lines, taken=frozenset({"Stay"})))
    line = checking.coverage_line(loaded, loaded.specs[0], reports)
    assert line is not None
    assert line.verdict == "passed"


def test_each_graph_is_explored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, NEXT)
    (tmp_path / "mc" / "MCMore.cfg").write_text("SPECIFICATION Spec\n")
    (tmp_path / "specs.toml").write_text(
        '[[spec]]\nname = "S"\nmachines = {door = "N"}\nrun = ['
        '{module = "MC", kind = "safety"}, '
        '{module = "MC", config = "MCGraph", kind = "graph", also = ["MCMore"]}, '
        '{module = "MC", config = "MCMore", kind = "graph", machines = []}]\n'
    )
    explored: list[str] = []

    def explore(module: Path, config: Path, *args: object) -> graph.Graph:
        explored.append(config.stem)
        if config.stem == "MCMore":
            raise ReconcilerError("too large")
        return graph.Graph((Record(N="a", fired=frozenset()),), (0,), (), {})

    monkeypatch.setattr(checking, "explore", explore)
    loaded = suite.load(tmp_path)
    hooks = checking.Hooks(machines=lambda spec: [], adapter=lambda name: pytest.fail(name))
    jobs = checking.jobs(loaded, loaded.specs, [Kind.GRAPH], hooks)
    reports = list(checking.run_jobs(jobs, watch=lambda name, progress: None))
    assert sorted(explored) == ["MCGraph", "MCMore"]
    assert [line.detail for report in reports for line in report.lines] == ["too large"] * 2


def test_a_job_that_breaks_fails_alone() -> None:
    def breaks(on_progress: object) -> Report:
        raise KeyError("x")

    fine = Report(checking.report(run(), result("passed")).lines)
    jobs = [
        checking.Job("S broken", 1.0, breaks),
        checking.Job("S fine", 1.0, lambda on_progress: fine),
    ]
    reports = list(checking.run_jobs(jobs, watch=lambda name, progress: None))
    assert fine in reports
    (line,) = next(report for report in reports if report is not fine).lines
    assert (line.spec, line.run, line.verdict) == ("S", "broken", "failed")
    assert "KeyError: 'x'" in line.detail


SYMBOLIC = """
[[spec.symbolic]]
module = "MC"
invariants = ["Go"]
length = 3
inductive = "Ind"
"""


class Tool:
    """An Apalache that gives these answers in turn."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def __call__(self, *args: object, **kwargs: object) -> Answer:
        return self.answers.pop(0)


PROVED = Answer(Verdict.PROVED)
ITF = '{"states": [{"x": {"#bigint": "1"}}, {"x": {"#bigint": "2"}}]}'


@pytest.mark.parametrize(
    ("answers", "verdicts"),
    [
        ([PROVED] * 4, ["passed"] * 4),
        (
            [
                PROVED,
                PROVED,
                Answer(Verdict.VIOLATED, traces={"violation1.itf.json": ITF}),
                Answer(Verdict.NO_ANSWER, Cause.TIMED_OUT, "600 s"),
            ],
            ["passed", "passed", "violated", "failed"],
        ),
    ],
)
def test_symbolic(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Answer],
    verdicts: list[str],
) -> None:
    load(tmp_path, NEXT)
    (tmp_path / "specs.toml").write_text((tmp_path / "specs.toml").read_text() + SYMBOLIC)
    loaded = suite.load(tmp_path)
    tool = tmp_path / "apalache-mc"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("APALACHE_MC", str(tool))
    monkeypatch.setattr("reconciler.formal.apalache.Apalache.check", Tool(*answers))
    jobs = symbolic.jobs(loaded, loaded.specs)
    types, asked = (job.work(lambda progress: None) for job in jobs)
    assert [line.verdict for line in types.lines] == ["failed"]  # this tool only fails
    assert [line.check for line in asked.lines] == [
        "Go within 3 steps",
        "Ind: init implies it",
        "Ind: steps keep it",
        "Ind: implies Go",
    ]
    assert [line.verdict for line in asked.lines] == verdicts
    if "violated" in verdicts:
        assert asked.trace is not None
        assert (asked.trace.spec, len(asked.trace.steps)) == ("S", 2)
        assert asked.lines[3].detail == "no answer: timed out: 600 s"
    else:
        assert asked.trace is None


def test_without_the_tool_all_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, NEXT)
    (tmp_path / "specs.toml").write_text((tmp_path / "specs.toml").read_text() + SYMBOLIC)
    monkeypatch.delenv("APALACHE_MC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    loaded = suite.load(tmp_path)
    (job,) = symbolic.jobs(loaded, loaded.specs)
    lines: tuple[Line, ...] = job.work(lambda progress: None).lines
    assert len(lines) == 5
    assert {line.verdict for line in lines} == {"skipped"}
    assert all("Install" in line.detail for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('invariants = ["Go"]', "", "symbolic 'MC': length: no invariants"),
        ('length = 3\ninductive = "Ind"', "", "neither length nor inductive"),
        ('module = "MC"', 'module = "AP"', "symbolic 'AP': module: .*is not a file"),
    ],
)
def test_symbolic_that_asks_nothing(tmp_path: Path, old: str, new: str, reason: str) -> None:
    load(tmp_path, NEXT)
    assert old in SYMBOLIC
    text = (tmp_path / "specs.toml").read_text() + SYMBOLIC.replace(old, new)
    (tmp_path / "specs.toml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        suite.load(tmp_path)
