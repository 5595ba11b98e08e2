"""Traces as ITF files and as stories."""

from __future__ import annotations

import json
from pathlib import Path

import itf_py
import msgspec
import pytest

from reconciler.errors import ConfigError
from reconciler.formal import itf, story
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import ModelValue, Record, Value, function

N1, N2 = ModelValue("n1"), ModelValue("n2")


def state(rollout: str, down: tuple[Value, ...], held: Value, revision: int = 1) -> Record:
    at = Record({N1: rollout, N2: "absent"})
    return Record(rollout=at, down=Record({N1: down}), held=held, revision=revision)


ONE = Record(kind="stage", rev=2)
TWO = Record(kind="commit", rev=2)
TRACE = Trace(
    steps=(
        Step("", (), state("absent", (), frozenset({1}))),
        Step("Begin", (N1, Record({N1: 2})), state("staging", (ONE, TWO), frozenset({1, 2}), 2)),
        Step("Stage", None, state("staging", (TWO,), frozenset({2}), 2)),
        Step("Rest", (), state("staging", (TWO,), frozenset({2}), 2)),
    ),
    spec="StageCommit",
    config="MCStageCommit",
    property="OneCut",
    constants={"Nodes": frozenset({N1, N2}), "Max": 2},
    loop=2,
)


def test_itf_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trace.itf.json"
    itf.write(TRACE, path)
    assert itf.read(path) == TRACE
    assert itf.encode(itf.read(path)) == path.read_bytes()


def test_itf_is_read_by_others() -> None:
    read = itf_py.trace_from_json(json.loads(itf.encode(TRACE)))
    assert read.params == ["Max", "Nodes"]
    assert read.vars == ["action", "args", "down", "held", "revision", "rollout"]
    assert read.loop == 2
    assert [each.values["action"] for each in read.states] == ["", "Begin", "Stage", "Rest"]
    assert read.states[1].values["held"] == frozenset({1, 2})
    assert read.states[1].values["args"][0] == "n1"


APALACHE = {
    "#meta": {"format": "ITF", "varTypes": {"x": "Int"}, "description": "Created by Apalache"},
    "params": ["N"],
    "vars": ["x", "N", "__InLoop"],
    "states": [
        {
            "#meta": {"index": 0},
            "x": {"#bigint": "0"},
            "N": {"#set": ["1_OF_A"]},
            "__InLoop": False,
        },
        {"#meta": {"index": 1}, "x": {"#bigint": "1"}, "N": {"#set": ["1_OF_A"]}, "__InLoop": True},
    ],
}


def test_itf_of_apalache() -> None:
    read = itf.decode(json.dumps(APALACHE).encode())
    assert read.constants == {"N": frozenset({"1_OF_A"})}
    assert read.steps == (Step("", (), Record(x=0)), Step("", None, Record(x=1)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", r"x\.json: not a trace of ITF"),
        (b"[]", "not a trace of ITF"),
        (b"{}", "'states'"),
        (b'{"states": []}', "no states"),
        (b'{"states": [{"x": 1}, {"x": {"#unserializable": "Nat"}}]}', r"states\[1\]: .*Nat"),
        (b'{"states": [{"x": 1, "action": 3}]}', r"states\[0\]: action"),
        (b'{"states": [{"x": 1, "args": 3}]}', r"states\[0\]: args"),
    ],
)
def test_itf_that_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        itf.decode(content, "x.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        itf.read(tmp_path / "none.itf.json")


def test_a_variable_of_that_name_is_refused() -> None:
    steps = (Step("", (), Record(action=1)),)
    with pytest.raises(ConfigError, match="'action'"):
        itf.encode(Trace(steps))


STORY = """\
StageCommit: OneCut is violated
  0  initial state
     down = (n1 :> <<>>)
     held = {1}
     revision = 1
     rollout = (n1 :> "absent" @@ n2 :> "absent")
  1  Begin(n1, (n1 :> 2))
     down[n1]: + [kind |-> "stage", rev |-> 2] at the end
     down[n1]: + [kind |-> "commit", rev |-> 2] at the end
     held: + 2
     revision: 1 → 2
     rollout[n1]: "absent" → "staging"
  2  Stage(…)
     down[n1]: - [kind |-> "stage", rev |-> 2] from the front
     held: - 1
  3  Rest
     nothing changes
     this is state 2 again: it goes round for ever"""


def test_story() -> None:
    assert story.as_text(TRACE) == STORY
    assert story.as_rich(TRACE).plain == STORY + "\n"


def test_a_story_that_stays() -> None:
    stays = msgspec.structs.replace(TRACE, loop=3, property="deadlock")
    lines = story.as_text(stays).splitlines()
    assert lines[0] == "StageCommit: deadlock reached"
    assert lines[-1] == "     and there it stays for ever (state 3)"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Record(a=Record(x=1, y=2)), Record(a=Record(x=1, y=3)), ["a.y: 2 → 3"]),
        (Record(a=(1, 2)), Record(a=(1, 3)), ["a[2]: 2 → 3"]),
        (Record(a=(1, 2)), Record(a=(3,)), ["a: <<1, 2>> → <<3>>"]),
        (Record(a=function({2: "x"})), Record(a=function({2: "y"})), ['a[2]: "x" → "y"']),
        (Record(a=Record(x=1)), Record(a=Record(y=1)), ["a: [x |-> 1] → [y |-> 1]"]),
        (Record(a=Record({2: 1})), Record(a=Record({2: 1, 3: 4})), ["a[3]: + 4"]),
        (Record(a=True), Record(a=1), ["a: TRUE → 1"]),
        (Record(a=1), Record(a=1), []),
    ],
)
def test_changes(before: Record, after: Record, said: list[str]) -> None:
    assert [str(change) for change in story.changes(before, after)] == said
