"""Scenarios as text, profiles as files, and how a failure is made short."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.errors import ConfigError
from reconciler.testing import churn
from reconciler.testing.fuzz import fuzz, shrink
from reconciler.testing.scenario import Broken, Line, parse, play, text_of

SCENARIOS = sorted((Path(__file__).parents[1] / "scenarios").glob("*.scenario"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_holds(path: Path) -> None:
    lines = parse(path.read_text(), path.name)
    assert len(lines) > 3
    assert play(lines) is None


@pytest.mark.parametrize("name", churn.profiles())
def test_what_is_generated_is_text_that_means_the_same(name: str) -> None:
    lines = churn.generate(churn.load(name), 3, 60)
    again = parse(text_of(lines))
    assert [str(line) for line in again] == [str(line) for line in lines]
    assert lines[0].verb == "cluster"
    assert lines[-1].verb == "settle"
    assert lines == churn.generate(churn.load(name), 3, 60)
    assert lines != churn.generate(churn.load(name), 4, 60)


def test_every_move_is_drawn_by_some_profile() -> None:
    drawn = {move for name in churn.profiles() for move in churn.load(name).moves}
    assert drawn == set(churn.MOVES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fly n1", "story:1: 'fly' is no step"),
        ("cluster\n\npod a/p0 n1", "story:3: as: pod NAMESPACE/NAME NODE"),
        ("labels p0 app=x", "story:1: 'p0' is not namespace/name"),
        ('policy a/b {"podSelectors": {}}', "unknown field `podSelectors`"),
        ("policy a/b not json", "the spec of the policy"),
    ],
)
def test_a_bad_line_is_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "story")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cluster nodes=many", "line 1"),
        ("cluster colour=red", "line 1: as: cluster"),
        ("sync n9", "line 1: sync n9: there is no node 'n9'"),
        ("pod a/b n7 10.1.0.1", "there is no node 'n7'"),
        ("up n1 often", "'often' is no count"),
        ("wait long", "'long' is no time"),
        ("journal maybe", "as: journal"),
        ("delete house a", "as: delete"),
    ],
)
def test_a_line_that_can_not_be_played_is_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        play(parse(text))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing required field"),
        ('moves = { fly = 1 }', "moves.fly"),
        ("moves = { sync = -1 }", "not negative"),
        ("moves = { sync = 0 }", "1 or more"),
        ("moves = { sync = 1 }\npools = []", "pools"),
        ("colour = 1", "unknown field"),
        ("[", "TOML"),
    ],
)  # fmt: skip
def test_a_bad_profile_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    fields = {
        "summary": '"s"', "nodes": "1", "namespaces": '["a"]', "pods": "1", "pools": "[4]",
        "scopes": '["all"]', "policies": "[60]",
    }  # fmt: skip
    given = "" if not text else "".join(
        f"{key} = {value}\n" for key, value in fields.items() if f"{key} =" not in text
    )  # fmt: skip
    path = tmp_path / "mine.toml"
    path.write_text(given + text)
    with pytest.raises(ConfigError) as error:
        churn.load(str(path))
    assert "mine.toml" in str(error.value)
    assert reason.lower() in str(error.value).lower()


def falls_with(*needed: str) -> object:
    """A stand-in for playing: a rule falls at the last of these lines, when all of them are there
    in this order."""

    def play(lines: Sequence[Line]) -> Broken | None:
        left = list(needed)
        for line in lines:
            if left and str(line).startswith(left[0]):
                left.pop(0)
                if not left:
                    return Broken(line, "R3", "fell")
        return None

    return play


def test_shrinking_leaves_what_is_needed() -> None:
    lines = churn.generate(churn.load("mixed"), 11, 200)
    needed = [str(line) for line in lines[3::60]][:3]
    play = falls_with(*needed)
    broken = play(lines)  # type: ignore[operator]
    short, how = shrink(lines, broken, time.monotonic() + 60, play)  # type: ignore[arg-type]
    assert [line.verb for line in short] == [text.split()[0] for text in needed]
    assert how.rule == "R3"
    assert how.line == short[-1]


def test_shrinking_keeps_to_the_rule_that_fell() -> None:
    lines = parse("sync n1\nsync n2\nsettle")

    def play(lines: Sequence[Line]) -> Broken | None:
        if len(lines) == 3:
            return Broken(lines[-1], "R3", "the one that was found")
        return Broken(lines[-1], "R1", "another one")

    short, _ = shrink(lines, Broken(lines[-1], "R3", ""), time.monotonic() + 60, play)
    assert len(short) == 3


def test_runs_end_at_the_first_failure() -> None:
    told: list[int] = []
    profile = churn.load("mixed")
    found = fuzz(
        profile, 5, 10, 8, told=lambda run, _: told.append(run), play=falls_with("settle")  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.runs == 1 == len(told)
    assert found.failure is not None
    assert found.failure.seed == 5
    assert [line.verb for line in found.failure.lines] == ["settle"]
    assert fuzz(profile, 5, 10, 8, until=0.0).runs == 0
