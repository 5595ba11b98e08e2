"""A spec's state graph against the tables of the machines that it stands for, both ways.

The spec says in its variable `fired` which rows of which machine each step takes:

    fired' = {[machine |-> "door", on |-> "push", from |-> "open", to |-> "shut"]}

and holds each machine's state in a variable of its own, a function from instances to state names
(or one name, for a machine of one instance). Over the whole graph the rows that are fired, with the
action that fires them, must be the declared ones, no more and no fewer; and every change of an
instance's state must be a chain of rows that the step fired, every fired row a part of one.

A step that puts new instances in the place of old ones (a process restarts) fires, besides, a row
without trigger and source that names the state in which they begin; the old ones' rows come first:

    [machine |-> "door", on |-> "", from |-> "", to |-> "open"]
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from reconciler.formal.graph import Graph
from reconciler.formal.values import Record, Value, to_tla

FIRED: Final = "fired"
_FIELDS: Final = frozenset(("machine", "on", "from", "to"))


class Row(msgspec.Struct, frozen=True, order=True):
    """One transition of one machine, and the action of the spec that takes it."""

    machine: str
    on: str
    source: str
    dest: str
    action: str

    def __str__(self) -> str:
        return f"{self.machine}: {self.on} from {self.source} to {self.dest} by {self.action}"


class Machine(msgspec.Struct, frozen=True):
    """A declared machine, as plain data; `variable` is where the spec holds its state."""

    name: str
    variable: str
    states: frozenset[str]
    rows: frozenset[Row]


class Problem(msgspec.Struct, frozen=True, order=True):
    """Where spec and tables differ. `kind`: "only the model", "only the spec" or "spec"."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def compare(
    graph: Graph, machines: Sequence[Machine], others: Collection[str] = ()
) -> tuple[Problem, ...]:
    """All differences; none if the graph and the machines say the same.

    others: machines that the spec moves too and that are not compared here.
    """
    known = {machine.name: machine for machine in machines}
    missing = [
        name
        for name in (FIRED, *(machine.variable for machine in machines))
        if name not in graph.states[0]
    ]
    if missing:
        return tuple(Problem("spec", f"it has no variable {name!r}") for name in missing)
    problems: dict[Problem, None] = {}
    seen: set[Row] = set()
    checked: set[tuple[Value, ...]] = set()
    for state in graph.states:
        problems.update(dict.fromkeys(_unknown_states(state, machines)))
    for edge in graph.edges:
        before, after = graph.states[edge.source], graph.states[edge.target]
        pairs = [(before[machine.variable], after[machine.variable]) for machine in machines]
        key = (edge.action, after[FIRED], *(part for pair in pairs for part in pair))
        if key in checked:
            continue
        checked.add(key)
        fired, wrong = _fired(after[FIRED], edge.action, known, others)
        problems.update(dict.fromkeys(wrong))
        seen |= fired
        for machine, (old, new) in zip(machines, pairs, strict=True):
            rows = {row for row in fired if row.machine == machine.name}
            problems.update(dict.fromkeys(_chains(machine, edge.action, old, new, rows)))
    declared = {row for machine in machines for row in machine.rows}
    seen = {row for row in seen if row.source}
    difference = [Problem("only the model", str(row)) for row in sorted(declared - seen)]
    difference += [Problem("only the spec", str(row)) for row in sorted(seen - declared)]
    return (*difference, *sorted(problems))


def instances(value: Value) -> dict[str, str]:
    """State names by instance, however deep the functions nest; "" for a machine of one."""
    if isinstance(value, str):
        return {"": value}
    items: Iterator[tuple[str, Value]]
    if isinstance(value, Record):
        items = ((to_tla(key), item) for key, item in value.items())
    elif isinstance(value, tuple):
        items = ((str(at), item) for at, item in enumerate(value, 1))
    else:
        return {}
    found: dict[str, str] = {}
    for key, item in items:
        for inner, state in instances(item).items():
            found[f"{key}, {inner}" if inner else key] = state
    return found


def _unknown_states(state: Record, machines: Sequence[Machine]) -> Iterator[Problem]:
    for machine in machines:
        for name in instances(state[machine.variable]).values():
            if name not in machine.states:
                text = f"{machine.variable} is {name!r}, which is no state of {machine.name}"
                yield Problem("spec", text)


def _fired(
    value: Value, action: str, known: Mapping[str, Machine], others: Collection[str]
) -> tuple[set[Row], list[Problem]]:
    rows: set[Row] = set()
    problems: list[Problem] = []
    for item in value if isinstance(value, frozenset) else ():
        if not isinstance(item, Record) or set(item) != _FIELDS:
            text = f"{FIRED} after {action} has {to_tla(item)}: not machine, on, from and to"
            problems.append(Problem("spec", text))
        elif item["machine"] in others:
            continue
        elif item["machine"] not in known:
            text = f"{FIRED} after {action} names the machine {item['machine']!r}: not declared"
            problems.append(Problem("spec", text))
        else:
            machine, on, source, dest = (str(item[f]) for f in ("machine", "on", "from", "to"))
            rows.add(Row(machine, on, source, dest, action))
    if not isinstance(value, frozenset):
        problems.append(Problem("spec", f"{FIRED} is not a set: {to_tla(value)}"))
    return rows, problems


def _chains(
    machine: Machine, action: str, old: Value, new: Value, rows: set[Row]
) -> Iterator[Problem]:
    """Each change is a chain of the rows, and each row is a part of some instance's chain."""
    before, after = instances(old), instances(new)
    ways: dict[str, set[str]] = {}
    anew = {row.dest for row in rows if not row.source}
    rows = {row for row in rows if row.source}
    for row in rows:
        ways.setdefault(row.source, set()).add(row.dest)
    reached = {state: _closure(state, ways) for state in {*before.values(), *ways, *anew}}
    for row in rows:
        reached.setdefault(row.dest, _closure(row.dest, ways))
    begun = frozenset[str]().union(*(reached[state] for state in anew))
    for state in before.values():
        reached[state] = reached[state] | begun
    for key in sorted({*before, *after}):
        a, b = before.get(key), after.get(key)
        if a is None or b is None:
            yield Problem("spec", f"{machine.variable} gains or loses the instance {key}")
        elif b not in reached[a]:
            said = ", ".join(f"{row.source}→{row.dest}" for row in sorted(rows)) or "nothing"
            where = f"{machine.variable}[{key}]" if key else machine.variable
            text = f"{action} moves {where} from {a} to {b}, and {FIRED} says {said}"
            yield Problem("spec", text)
    for row in sorted(rows):
        used = any(
            row.source in reached[before[key]] and after[key] in reached[row.dest] | begun
            for key in before
            if key in after
        )
        if not used:
            yield Problem("spec", f"{row}: fired, and no instance of {machine.name} takes it")


def _closure(start: str, ways: Mapping[str, set[str]]) -> frozenset[str]:
    found: set[str] = set()
    front = [start]
    while front:
        state = front.pop()
        if state not in found:
            found.add(state)
            front.extend(ways.get(state, ()))
    return frozenset(found)
