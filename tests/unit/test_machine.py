"""The loader refuses every inconsistent file with its reason; step and fire do what a row says."""

from __future__ import annotations

import re

import pytest

from reconciler.core.machine import Transition, diagram, load, names, parse
from reconciler.errors import ModelError, ProtocolError

DOOR = """\
name = "door"
where = "test"
summary = "A door."
initial = "open"
final = ["gone"]
unlisted = "ignore"

states.open = "people pass"
states.shut = "nobody passes"
states.gone = "a wall"

guards.unlocked = "the key was turned"
effects.ring = "a bell rings"
effects.wall_up = "bricks"

transitions = [
  { on = "push", from = "open", to = "shut", do = ["ring"], action = "Push" },
  { on = "push", from = "shut", to = "open", guard = "unlocked", action = "Push" },
  { on = "push", from = "shut", to = "=", do = ["ring"], action = "Push", why = "noise" },
{ on = "brick", from = ["open", "shut"], to = "gone", do = ["ring", "wall_up"], action = "Brick" },
]
"""


def door(unlisted: str = "ignore") -> str:
    return DOOR.replace('unlisted = "ignore"', f'unlisted = "{unlisted}"')


class Door:
    __slots__ = ("heard", "key", "state")

    def __init__(self, state: str = "open", key: bool = False) -> None:
        self.state, self.key = state, key
        self.heard: list[str] = []

    def unlocked(self) -> bool:
        return self.key

    def ring(self) -> None:
        self.heard.append(f"ring in {self.state}")

    def wall_up(self) -> None:
        self.heard.append("wall up")


class OpenDoor(Door):
    """A guard may be a plain attribute too."""

    __slots__ = ()
    unlocked = True  # type: ignore[assignment]


def test_file_becomes_rows_one_a_source_state() -> None:
    model = parse(DOOR, "door.toml")
    assert model.transitions[2:] == (
        Transition("push", "shut", "shut", None, ("ring",), ("Push",), "noise"),
        Transition("brick", "open", "gone", None, ("ring", "wall_up"), ("Brick",)),
        Transition("brick", "shut", "gone", None, ("ring", "wall_up"), ("Brick",)),
    )
    assert model.triggers() == ("push", "brick")
    assert model.states["gone"].final
    assert not model.states["open"].final
    assert model.edges() == {
        ("push", "open", "shut", "Push"),
        ("push", "shut", "open", "Push"),
        ("push", "shut", "shut", "Push"),
        ("brick", "open", "gone", "Brick"),
        ("brick", "shut", "gone", "Brick"),
    }


PUSH = '{ on = "push", from = "open", to = "shut", do = ["ring"], action = "Push" },'
PULL = '{ on = "push", from = "open", to = "open", guard = "unlocked", action = "Pull" },'
BOTH = 'from = ["open", "shut"]'
WALL = 'do = ["ring", "wall_up"]'
STAY = 'guard = "unlocked", action = "Push" },\n  { on = "push", from = "shut", to = "=",'

# What to replace, by what, and what the loader says after "door.toml: ".
REFUSED = {
    "no TOML": ('"ignore"', "ignore", "Invalid value (at line 6, column 12)"),
    "no such answer": ('"ignore"', '"crash"', "Invalid enum value 'crash' - at `$.unlisted`"),
    "field missing": ('where = "test"', "", "Object missing required field `where`"),
    "field unknown": (
        "guard =",
        "gaurd =",
        "Object contains unknown field `gaurd` - at `$.transitions[1]`",
    ),
    "other name": ('"door"', '"gate"', "name is 'gate', it must be the file's"),
    "state unexplained": ('"people pass"', '" "', "state 'open' has no meaning"),
    "guard unexplained": ('"the key was turned"', '""', "guard 'unlocked' has no meaning"),
    "effect unexplained": ('"bricks"', '""', "effect 'wall_up' has no meaning"),
    "event hides the state": (
        'on = "brick"',
        'on = "state"',
        "event 'state' can't be the name of a method",
    ),
    "event no name": (
        'on = "brick"',
        'on = "brick-up"',
        "event 'brick-up' can't be the name of a method",
    ),
    "guard no name": ("guards.unlocked", "guards.if", "guard 'if' can't be the name of a method"),
    "effect no name": (
        "effects.wall_up",
        "effects.wall-up",
        "effect 'wall-up' can't be the name of a method",
    ),
    "initial unknown": ('initial = "open"', 'initial = "a"', "initial: unknown state 'a'"),
    "final unknown": ('final = ["gone"]', 'final = ["a"]', "final: unknown state 'a'"),
    "from nothing": (BOTH, "from = []", "transitions[3] (brick): from names no state"),
    "from unknown": (
        BOTH,
        'from = ["open", "shot"]',
        "transitions[3] (brick): unknown state 'shot'",
    ),
    "to unknown": ('to = "gone"', 'to = "went"', "transitions[3] (brick): unknown state 'went'"),
    "out of a final state": (
        BOTH,
        'from = ["open", "gone"]',
        "transitions[3] (brick): 'gone' is final, nothing leads out of it",
    ),
    "guard unknown": (
        'guard = "unlocked"',
        'guard = "locked"',
        "transitions[1] (push): unknown guard 'locked'",
    ),
    "effect unknown": (
        WALL,
        'do = ["wall_down"]',
        "transitions[3] (brick): unknown effect 'wall_down'",
    ),
    "action no name": (
        'action = "Brick"',
        'action = "Brick it"',
        "transitions[3] (brick): action 'Brick it' is not a TLA+ name",
    ),
    "guard unused": (
        "guards.unlocked",
        'guards.oiled = "no noise"\nguards.unlocked',
        "guard 'oiled' is never used",
    ),
    "effect unused": (
        "effects.ring",
        'effects.creak = "noise"\neffects.ring',
        "effect 'creak' is never used",
    ),
    "two ways": (PUSH, PUSH + PUSH, "push in open: two ways with no guard"),
    "two ways with a guard": (
        STAY,
        STAY + ' guard = "unlocked",',
        "push in shut: two ways with guard 'unlocked'",
    ),
    "guard too late": (
        PUSH,
        PUSH + PULL,
        "push in open: the row with guard 'unlocked' comes after the one without a guard, "
        "it would never be taken",
    ),
    "unreachable": (
        "states.shut",
        'states.ajar = "a draught"\nstates.shut',
        "state 'ajar' can't be reached from 'open'",
    ),
}


@pytest.mark.parametrize(("old", "new", "reason"), REFUSED.values(), ids=REFUSED)
def test_inconsistent_file_is_refused(old: str, new: str, reason: str) -> None:
    assert old in DOOR
    with pytest.raises(ModelError, match=f"^door.toml: {re.escape(reason)}$"):
        parse(DOOR.replace(old, new, 1), "door.toml")


def test_dead_end_is_refused() -> None:
    text = DOOR.replace("states.shut", 'states.broken = "stuck"\nstates.shut').replace(
        PUSH, PUSH + '\n{ on = "kick", from = ["open", "broken"], to = "broken", action = "Kick" },'
    )
    message = (
        "door.toml: state 'broken' is a dead end: neither the initial nor a final state can be "
        "reached from it"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        parse(text, "door.toml")


def test_fire_sets_the_state_then_runs_effects_in_order() -> None:
    model = parse(DOOR, "door.toml")
    it = Door()
    assert model.fire(it, "brick") is model.transitions[3]
    assert (it.state, it.heard) == ("gone", ["ring in gone", "wall up"])


@pytest.mark.parametrize(
    ("it", "dest"),
    [(Door("shut"), "shut"), (Door("shut", True), "open"), (OpenDoor("shut"), "open")],
)
def test_first_row_whose_guard_holds_is_taken(it: Door, dest: str) -> None:
    row = parse(DOOR, "door.toml").fire(it, "push")
    assert row is not None
    assert (it.state, row.dest) == (dest, dest)


def test_step_looks_up_and_changes_nothing() -> None:
    model = parse(DOOR, "door.toml")
    assert model.step("shut", "push", lambda name: name == "unlocked") is model.transitions[1]
    assert model.step("shut", "push", lambda _: False) is model.transitions[2]
    assert model.step("gone", "push") is None
    with pytest.raises(
        ModelError, match=r"^guard unlocked: the caller of step\(\) gave no guards$"
    ):
        model.step("shut", "push")


def test_unlisted_is_answered_as_declared() -> None:
    ignoring, failing = parse(DOOR, "door.toml"), parse(door("error"), "door.toml")
    it = Door("gone")
    assert ignoring.fire(it, "push") is None
    assert it.state == "gone"
    message = r"^machine door: push is not allowed in state gone$"
    with pytest.raises(ModelError, match=message):
        failing.fire(it, "push")
    with pytest.raises(ModelError, match=message):
        failing.step("gone", "push")
    with pytest.raises(ProtocolError, match=message) as raised:
        parse(door("protocol-error"), "door.toml").step("gone", "push")
    assert raised.value.status == "INVALID_ARGUMENT"


def test_names_that_the_machine_lacks_are_our_fault_even_when_unlisted_is_ignored() -> None:
    model = parse(DOOR, "door.toml")
    with pytest.raises(ModelError, match=r"^machine door: there is no event 'pull'$"):
        model.fire(Door(), "pull")
    with pytest.raises(ModelError, match=r"^machine door: there is no state 'ajar'$"):
        model.step("ajar", "push")


def test_no_row_whose_guard_holds_is_unlisted() -> None:
    text = door("error").replace('  { on = "push", from = "shut", to = "=", do = ["ring"]', "#")
    with pytest.raises(ModelError, match=r"^machine door: push is not allowed in state shut$"):
        parse(text, "door.toml").fire(Door("shut"), "push")


def test_diagrams() -> None:
    model = parse(DOOR, "door.toml")
    assert "    open --> gone : brick / ring, wall_up\n" in diagram(model)
    assert "    gone --> [*]\n" in diagram(model)
    assert '  "shut" -> "open" [label="push [unlocked]"];\n' in diagram(model, "dot")
    assert '  "gone" [tooltip="a wall", peripheries=2];\n' in diagram(model, "dot")


def test_model_files_are_found_and_loaded_once() -> None:
    assert "identity" in names()
    assert load("identity") is load("identity")
    with pytest.raises(ModelError, match=r"^spaceship\.toml: no such model; there are client, "):
        load("spaceship")
