"""The whole state graph of a spec at small constants, with the arguments of each action.

TLC's dump of a graph names actions without their arguments. So a module is generated that extends
the one to explore and adds a variable, the step that led here:

    Next__ == \\/ \\E n \\in Nodes : Send(n) /\\ act__' = <<"Send", <<n>>>>

States that differ in that variable only are one state of the graph; every edge keeps what it says.
A configuration for this has neither SYMMETRY nor VIEW: both leave edges out.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ConfigError, ReconcilerError
from reconciler.formal import config as configs
from reconciler.formal import jvm
from reconciler.formal import module as modules
from reconciler.formal.trace import State
from reconciler.formal.values import Record, Value, parse_prefix, parse_tla

STEP: Final = "act__"
_CONSTANTS: Final = re.compile(r'<<\s*"constants__"')
_KEPT: Final = ("CONSTANT", "CONSTRAINT", "ACTION_CONSTRAINT")


class Edge(msgspec.Struct, frozen=True, order=True):
    """A step from one state to another (or the same); both are indices into the graph's states."""

    source: int
    action: str
    args: tuple[Value, ...]
    target: int


class Graph(msgspec.Struct, frozen=True):
    """Reachable states, and every step between them; breadth first from the initial states."""

    states: tuple[State, ...]
    initial: tuple[int, ...]
    edges: tuple[Edge, ...]
    constants: Mapping[str, Value]


def explore(
    module: Path, config: Path, libraries: Sequence[Path] = (), timeout: float = 60
) -> Graph:
    """The graph of `module` under `config`. Raises ConfigError, ReconcilerError with TLC's words.

    libraries: folders that are searched for modules before the module's own.
    """
    family = modules.family(module, libraries)
    given = configs.read(config)
    for keyword in ("SYMMETRY", "VIEW"):
        if keyword in given.sections:
            raise ConfigError(f"{config}: {keyword} leaves edges out of a graph")
    with tempfile.TemporaryDirectory(prefix="graph-") as scratch:
        folder = Path(scratch)
        name = f"{module.stem}Graph__"
        init, following = given.behaviour(family)
        wrapper = folder / f"{name}.tla"
        wrapper.write_text(wrapping(name, family, init, following), encoding="utf-8")
        (folder / f"{name}.cfg").write_text(
            given.text(_KEPT) + "INIT Init__\nNEXT Next__\n", encoding="utf-8"
        )
        dump = folder / "graph.dot"
        ran = jvm.invoke(
            "tlc2.TLC",
            [
                *("-deadlock", "-workers", "1", "-metadir", "{scratch}/states"),
                *("-dump", "dot,actionlabels", str(dump), "-config", f"{name}.cfg", name),
            ],
            folder=folder,
            libraries=(*libraries, module.parent),
            timeout=timeout,
        )
        if ran.code != 0 or not dump.is_file():
            what = "took too long" if ran.code == jvm.TIMED_OUT else f"exit code {ran.code}"
            raise ReconcilerError(f"{module.stem}: graph: {what}\n{ran.output}")
        return parse_dot(dump.read_text(encoding="utf-8"), printed_constants(ran.output))


def together(graphs: Sequence[Graph]) -> Graph:
    """All of them as one, side by side; the constants are those of the first."""
    states: list[State] = []
    initial: list[int] = []
    edges: list[Edge] = []
    for graph in graphs:
        base = len(states)
        states += graph.states
        initial += [base + at for at in graph.initial]
        edges += [
            Edge(base + edge.source, edge.action, edge.args, base + edge.target)
            for edge in graph.edges
        ]
    return Graph(tuple(states), tuple(initial), tuple(edges), graphs[0].constants)


def wrapping(name: str, family: Sequence[modules.Module], init: str, following: str) -> str:
    """Text of the module that extends family[0] and records each step."""
    names = modules.constants(family)
    values = ", ".join(f"{constant} |-> {constant}" for constant in names)
    # not by ASSUME: a simulation does not look at those
    shown = f'PrintT(<<"constants__", [{values}]>>) /\\ ' if values else ""
    lines = [
        f"---- MODULE {name} ----",
        f"EXTENDS {family[0].name}, TLC",
        f"VARIABLE {STEP}",
        f'Init__ == {shown}{init} /\\ {STEP} = <<"", <<>>>>',
        "Next__ ==",
        *(f"    {line}" for line in recording(modules.actions(family, following))),
    ]
    return "\n".join([*lines, "====", ""])


def recording(actions: Sequence[modules.Action]) -> list[str]:
    """The actions as the disjuncts of a relation that says in STEP' which of them was taken."""
    return [
        f'\\/ {action.text} /\\ {STEP}\' = <<"{action.name}", <<{", ".join(action.args)}>>>>'
        for action in actions
    ]


def printed_constants(output: str) -> Mapping[str, Value]:
    """The constants' values that a generated module had printed."""
    found = _CONSTANTS.search(output)
    if found is None:
        return {}
    value, _ = parse_prefix(output, found.start())
    assert isinstance(value, tuple)
    record = value[1]
    assert isinstance(record, Record)
    return {str(name): item for name, item in record.items()}


# ------------------------------------------------------------------------------------------ dot

_NODE: Final = re.compile(r'^(-?\d+) \[label="((?:[^"\\]|\\.)*)"(,style = filled)?\]', re.MULTILINE)
_EDGE: Final = re.compile(r"^(-?\d+) -> (-?\d+) \[", re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_CONJUNCT: Final = re.compile(r"^/\\ (\w+) = ", re.MULTILINE)


def parse_dot(text: str, constants: Mapping[str, Value] | None = None) -> Graph:
    """The graph of a dump of TLC whose states have the variable of the step."""
    reader = StateReader()
    nodes: dict[str, tuple[int, str, tuple[Value, ...]]] = {}
    states: dict[State, int] = {}
    initial: dict[int, None] = {}
    for number, label, start in _NODE.findall(text):
        if number in nodes:
            continue
        plain = _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], label)
        values = reader.read(plain)
        step = values.pop(STEP)
        assert isinstance(step, tuple)
        name, args = step
        assert isinstance(name, str)
        assert isinstance(args, tuple)
        at = states.setdefault(Record(values), len(states))
        nodes[number] = (at, name, args)
        if start:
            initial[at] = None
    edges: dict[Edge, None] = {}
    for source, target in _EDGE.findall(text):
        to, name, args = nodes[target]
        edges[Edge(nodes[source][0], name, args, to)] = None
    return Graph(tuple(states), tuple(initial), tuple(edges), dict(constants or {}))


class StateReader:
    """Reads states as TLC prints them, `/\\ name = value` a variable; remembers equal texts."""

    def __init__(self) -> None:
        self._seen: dict[str, Value] = {}

    def read(self, text: str) -> dict[str, Value]:
        """Variables of one state. A state of one variable has no `/\\`."""
        found = list(_CONJUNCT.finditer(text))
        if not found:
            name, _, rest = text.partition(" = ")
            return {name.strip(): self._value(rest)}
        ends = [match.start() for match in found[1:]] + [len(text)]
        return {
            match.group(1): self._value(text[match.end() : end])
            for match, end in zip(found, ends, strict=True)
        }

    def _value(self, text: str) -> Value:
        text = text.strip()
        if text not in self._seen:
            self._seen[text] = parse_tla(text)
        return self._seen[text]
