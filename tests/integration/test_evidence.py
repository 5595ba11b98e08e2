"""Recorded runs and traces of specs by the manifest, as `check trace` and `check replay` do it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from reconciler.commands import check_evidence
from reconciler.core.trace import Event
from reconciler.errors import ConfigError
from reconciler.formal import itf, suite
from reconciler.formal.replay import Disabled
from reconciler.formal.sample import sample
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record, Value
from reconciler.testing.replay import Recorded, adapter, by, recorded
from reconciler.testing.replay.evidence import judge
from reconciler.tracefile import Life, encode
from tests.integration.test_tracecheck import STOCK, TRACE, put, take

MANIFEST = f"""
[[spec]]
name = "Stock"
adapter = "{__name__}:Adapter"
trace = "{__name__}:EVENTS"
[[spec.run]]
module = "MCStock"
kind = "graph"
"""


class Adapter:
    """Counts as the spec does; `fault` is planted by a test."""

    fault = ""

    def __init__(self) -> None:
        self.held: dict[Value, int] = {}
        self.moved = self.most = 0

    def start(self, constants: Mapping[str, Value], state: Mapping[str, Value]) -> None:
        held, most = state["held"], constants["Most"]
        assert isinstance(held, Record)
        assert isinstance(most, int)
        self.held, self.most = {key: int(str(value)) for key, value in held.items()}, most

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        item, *rest = args
        if action == "Put":
            number = int(str(rest[0]))
            if self.held[item] + number > self.most:
                raise Disabled("full")
            self.held[item] += number
            return
        if not self.held[item]:
            raise Disabled("empty")
        if action == "Move":
            if rest[0] == item or self.held[rest[0]] >= self.most:
                raise Disabled("no room")
            self.held[rest[0]] += 1
            self.moved = 1 - self.moved
        self.held[item] -= 2 if self.fault == "two" and self.held[item] > 1 else 1

    def observe(self) -> Mapping[str, Value]:
        return {"held": Record(self.held), "moved": self.moved}

    def fork(self) -> Adapter:
        return copy.deepcopy(self)


EVENTS = Recorded("StockTrace", "agent", lambda events: CONSTANTS, split=by("shop"))
CONSTANTS: Mapping[str, Value] = {"Items": frozenset(("a", "b")), "Most": 3}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    for name in ("mc", "trace"):
        (folder / name).mkdir()
    (folder / "Stock.tla").write_text(STOCK)
    (folder / "trace" / "StockTrace.tla").write_text(TRACE)
    (folder / "mc" / "MCStock.tla").write_text("---- MODULE MCStock ----\nEXTENDS Stock\n====\n")
    (folder / "mc" / "MCStock.cfg").write_text(
        'INIT Init\nNEXT Next\nCONSTANTS\n  Items = {"a", "b"}\n  Most = 3\n'
    )
    (folder / "specs.toml").write_text(MANIFEST)
    return folder


def shop(name: str, event: Event) -> Event:
    return Event(event.spec, event.action, {"shop": name, **event.args})


LIVES = {
    "one": Life(
        "agent",
        "n1",
        2,
        (
            shop("x", put("a", 2)),
            Event("Other", "Step"),
            shop("y", put("b", 1)),
            shop("x", take("a", 1)),
            shop("y", take("b", 1)),
            shop("x", take("a", 0)),
        ),
    ),
    "server": Life("server", "server", 2, (Event("Stock", "Steal"),)),
}


def test_each_part_of_each_life_is_judged_and_placed(specs: Path) -> None:
    judged = judge(suite.load(specs), LIVES)
    assert [(each.part, each.verdict.passed) for each in judged] == [("x", True), ("y", False)]
    assert judged[0].at == (0, 3, 5)
    assert judged[1].refused_at == 4


def test_simulated_behaviours_are_played_on_the_code(
    specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = specs / "mc" / "MCStock.cfg"
    traces = sample(
        specs / "mc" / "MCStock.tla", config, (specs,), seed=7, runs=4, depth=12, timeout=60
    )
    assert len(traces) == 4
    assert {len(trace.steps) for trace in traces} == {12}
    assert {step.action for trace in traces for step in trace.steps} == {"", "Put", "Take", "Move"}
    files = [str(tmp_path / f"{at}.itf.json") for at in range(4)]
    for trace, file in zip(traces, files, strict=True):
        itf.write(trace, Path(file))
    done = check("replay", *files, "--specs", str(specs))
    assert done[0] == 0, done[1]
    monkeypatch.setattr(Adapter, "fault", "two")
    code, text = check("replay", *files, "--specs", str(specs))
    assert code == 1
    assert "held[" in text
    assert "the code 0" in text or "the code 1" in text


def check(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    check_evidence.register(app)
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_command_names_file_and_line(specs: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"".join(encode(life) for life in LIVES.values()))
    code, text = check("trace", str(path), "--specs", str(specs))
    assert code == 1
    assert f"{path}:6: {path}:2 n1 y: line 2 of 2: Stock can't explain Take" in text


def test_a_file_without_events_of_a_spec_is_not_explained(specs: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(encode(LIVES["server"]))
    code, text = check("trace", str(path), "--specs", str(specs))
    assert code == 1
    assert "none of the events" in text


def test_a_trace_of_no_spec_is_refused(specs: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.itf.json"
    itf.write(Trace((Step("", (), Record(held=1)),), "Elsewhere"), path)
    with pytest.raises(ConfigError, match="is of Elsewhere; there are Stock"):
        check("replay", str(path), "--specs", str(specs))


@pytest.mark.parametrize(
    ("load", "name", "problem"),
    [
        (adapter, "no.such:Adapter", "No module named"),
        (adapter, f"{__name__}:Nothing", "has no attribute"),
        (adapter, f"{__name__}:MANIFEST", "has a method 'start'"),
        (recorded, f"{__name__}:Adapter", "expected a Recorded"),
    ],
)
def test_what_the_manifest_names_must_be_there(
    load: Callable[[str], Any], name: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(name)
