"""Reads models/*.toml and refuses what is inconsistent, with file, row and reason.

A model file:

    name = "door"                        # the file's name
    where = "server, per door"
    summary = "one sentence"
    initial = "open"
    final = []                           # states without a way out
    unlisted = "ignore"                  # or "error", "protocol-error"
    states.open = "meaning"
    states.shut = "meaning"
    guards.unlocked = "meaning"          # a bool attribute or method of the object
    effects.ring = "meaning"             # a method of the object
    transitions = [
      { on = "push", from = "open", to = "shut", do = ["ring"], action = "Push" },
      { on = "pull", from = ["open", "shut"], to = "=", guard = "unlocked", action = "Pull" },
    ]

`from` may list several states and `action` several actions of the spec; `to = "="` stays where
it is. Rows of one state and event are tried in the order of the file, so a row without a guard
comes last; `why` is for rows that surprise. An inline table of TOML stays on its line. TOML, not
YAML: YAML reads `on` as true.
"""

from __future__ import annotations

import functools
import importlib.resources
import keyword
import pathlib
import tomllib
from collections.abc import Iterable
from importlib.resources.abc import Traversable

import msgspec

from reconciler.core.machine.model import Model, State, Transition, Unlisted, build
from reconciler.errors import ModelError

STAY = "="


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    on: str
    source: str | list[str] = msgspec.field(name="from")
    to: str
    action: str | list[str]
    guard: str = ""
    do: list[str] = []
    why: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    where: str
    summary: str
    initial: str
    unlisted: Unlisted
    states: dict[str, str]
    transitions: list[_Row]
    final: list[str] = []
    guards: dict[str, str] = {}
    effects: dict[str, str] = {}


def directory() -> Traversable:
    """Where the model files are: inside the installed package, or beside it in a checkout."""
    package = importlib.resources.files("reconciler")
    installed = package.joinpath("models")
    if installed.is_dir():
        return installed
    return pathlib.Path(str(package)).parent / "models"


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all machines, sorted."""
    found = sorted(
        entry.name.removesuffix(".toml")
        for entry in directory().iterdir()
        if entry.name.endswith(".toml")
    )
    if not found:
        raise ModelError(f"{directory()}: no model files")
    return tuple(found)


@functools.cache
def load(name: str) -> Model:
    """The machine of models/<name>.toml, checked; the same object every time."""
    file = directory().joinpath(f"{name}.toml")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{name}.toml: no such model; there are {', '.join(names())}") from None
    return parse(text, f"{name}.toml")


def parse(text: str, file: str) -> Model:
    """A machine from the text of its file; `file` is its name, for messages."""
    try:
        content = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ModelError(f"{file}: {error}") from error
    if f"{content.name}.toml" != file:
        raise ModelError(f"{file}: name is {content.name!r}, it must be the file's")
    _check_names(file, content)
    rows = tuple(_rows(file, content))
    _check_use(file, content, rows)
    _check_choices(file, rows)
    _check_ways(file, content, rows)
    return build(
        name=content.name,
        where=content.where,
        summary=content.summary,
        initial=content.initial,
        states={
            state: State(meaning, state in content.final)
            for state, meaning in content.states.items()
        },
        rows=rows,
        unlisted=content.unlisted,
        guards=content.guards,
        effects=content.effects,
    )


def _check_names(file: str, content: _File) -> None:
    for kind, meanings in (
        ("state", content.states),
        ("guard", content.guards),
        ("effect", content.effects),
    ):
        for name, meaning in meanings.items():
            if not meaning.strip():
                raise ModelError(f"{file}: {kind} {name!r} has no meaning")
    for kind, listed in (
        ("guard", content.guards),
        ("effect", content.effects),
        ("event", [row.on for row in content.transitions]),
    ):
        for name in listed:
            if not name.isidentifier() or keyword.iskeyword(name) or name == "state":
                raise ModelError(f"{file}: {kind} {name!r} can't be the name of a method")
    if content.initial not in content.states:
        raise ModelError(f"{file}: initial: unknown state {content.initial!r}")
    for state in content.final:
        if state not in content.states:
            raise ModelError(f"{file}: final: unknown state {state!r}")


def _rows(file: str, content: _File) -> Iterable[Transition]:
    for index, row in enumerate(content.transitions):
        where = _where(file, index, row.on)
        sources = [row.source] if isinstance(row.source, str) else row.source
        if not sources:
            raise ModelError(f"{where}: from names no state")
        for state in sources if row.to == STAY else (*sources, row.to):
            if state not in content.states:
                raise ModelError(f"{where}: unknown state {state!r}")
        for state in sources:
            if state in content.final:
                raise ModelError(f"{where}: {state!r} is final, nothing leads out of it")
        if row.guard and row.guard not in content.guards:
            raise ModelError(f"{where}: unknown guard {row.guard!r}")
        for effect in row.do:
            if effect not in content.effects:
                raise ModelError(f"{where}: unknown effect {effect!r}")
        actions = (row.action,) if isinstance(row.action, str) else tuple(row.action)
        if not actions:
            raise ModelError(f"{where}: action names none")
        for action in actions:
            if not action.isidentifier():
                raise ModelError(f"{where}: action {action!r} is not a TLA+ name")
        for state in sources:
            yield Transition(
                trigger=row.on,
                source=state,
                dest=state if row.to == STAY else row.to,
                guard=row.guard or None,
                effects=tuple(row.do),
                actions=actions,
                why=row.why,
            )


def _where(file: str, index: int, trigger: str) -> str:
    return f"{file}: transitions[{index}] ({trigger})"


def _check_use(file: str, content: _File, rows: tuple[Transition, ...]) -> None:
    used_guards = {row.guard for row in rows}
    used_effects = {effect for row in rows for effect in row.effects}
    for guard in content.guards:
        if guard not in used_guards:
            raise ModelError(f"{file}: guard {guard!r} is never used")
    for effect in content.effects:
        if effect not in used_effects:
            raise ModelError(f"{file}: effect {effect!r} is never used")


def _check_choices(file: str, rows: tuple[Transition, ...]) -> None:
    """Two rows for one state and event need different guards, the one without comes last."""
    seen: dict[tuple[str, str], set[str | None]] = {}
    for row in rows:
        guards = seen.setdefault((row.source, row.trigger), set())
        where = f"{file}: {row.trigger} in {row.source}"
        if row.guard in guards:
            by = f"guard {row.guard!r}" if row.guard else "no guard"
            raise ModelError(f"{where}: two ways with {by}")
        if None in guards:
            raise ModelError(
                f"{where}: the row with guard {row.guard!r} comes after the one without a guard, "
                "it would never be taken"
            )
        guards.add(row.guard)


def _check_ways(file: str, content: _File, rows: tuple[Transition, ...]) -> None:
    forward: dict[str, set[str]] = {}
    backward: dict[str, set[str]] = {}
    for row in rows:
        forward.setdefault(row.source, set()).add(row.dest)
        backward.setdefault(row.dest, set()).add(row.source)
    reached = closure([content.initial], forward)
    for state in content.states:
        if state not in reached:
            raise ModelError(f"{file}: state {state!r} can't be reached from {content.initial!r}")
    alive = closure([content.initial, *content.final], backward)
    for state in content.states:
        if state not in alive:
            raise ModelError(
                f"{file}: state {state!r} is a dead end: neither the initial nor a final state "
                "can be reached from it"
            )


def closure(start: Iterable[str], ways: dict[str, set[str]]) -> set[str]:
    """Every state that `ways` lead to from `start`, those included."""
    found: set[str] = set()
    front = list(start)
    while front:
        state = front.pop()
        if state not in found:
            found.add(state)
            front.extend(ways.get(state, ()))
    return found
