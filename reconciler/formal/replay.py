"""Spec → code: the state graph of a spec, replayed on the classes that implement it.

An adapter drives the real objects. From every state of the graph each step that the spec allows
must be possible and lead to what the spec says (as far as the adapter can see it), and each step
that the spec knows but does not allow there must be refused by the code itself.

A graph state is visited once, in breadth-first order, by a fork of the adapter that came there
first; at most `keep` forks wait at a time, the others are made again from the path to them.
What the first visitor of a state does not show, and a later one would, is not found: simulation
traces (`replay_trace`) go other ways into the same states.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal.graph import Graph
from reconciler.formal.trace import Trace
from reconciler.formal.values import Record, Value, to_tla

KEEP: Final = 2_000
"""Forks that wait for their turn; an adapter of a small core is some 10 KB."""

State = Mapping[Any, Value]
"""A value a variable."""


class Disabled(Exception):
    """The code refuses this step here. The text says how: it is shown to people."""


class Adapter(Protocol):
    """Drives real objects as the actions of one spec.

    `step` raises Disabled when the code refuses or has nothing of the kind to do; never because a
    guard of the spec was written again in the adapter.

    An adapter may have `narrower`, action → why: actions for which the spec leaves open what the
    code has decided (which free number, say). The code may refuse such a step where the spec
    allows it, but must take the action somewhere.

    It may have `refuses_cleanly = True`, if a refused step leaves everything as it was: then one
    fork serves for all that is to be refused in a state, which is what most of the time goes into.
    """

    def start(self, constants: Mapping[str, Value], state: State) -> None:
        """Be in this initial state."""

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        """Take it, or raise Disabled."""

    def observe(self) -> Mapping[str, Value]:
        """Variables of the spec, as the code has them now; some may be left out."""

    def fork(self) -> Adapter:
        """An independent copy."""


class Call(msgspec.Struct, frozen=True):
    """One action with its arguments."""

    action: str
    args: tuple[Value, ...] = ()

    def __str__(self) -> str:
        return f"{self.action}({', '.join(map(to_tla, self.args))})"


class Mismatch(msgspec.Struct, frozen=True):
    """What differs after `path` (from an initial state; the last call is the one that differs)."""

    path: tuple[Call, ...]
    problem: str

    def __str__(self) -> str:
        steps = "".join(f"\n  {number}. {call}" for number, call in enumerate(self.path, 1))
        return f"{self.problem}{steps or ' (in the initial state)'}"


class Report(msgspec.Struct, frozen=True):
    """states, edges, non_edges: what was compared. narrowed: action → allowed steps that the code
    does not take and need not. unreached: states that no replayed path came to."""

    states: int
    edges: int
    non_edges: int
    narrowed: Mapping[str, int]
    unreached: int
    variables: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    found: int

    @property
    def passed(self) -> bool:
        return not self.found

    def __str__(self) -> str:
        head = (
            f"{self.states} states, {self.edges} edges, {self.non_edges} non-edges, "
            f"{self.unreached} unreached; seen: {', '.join(self.variables)}"
        )
        for action, count in sorted(self.narrowed.items()):
            head += f"\n{action}: {count} allowed steps are not the code's choice"
        if self.passed:
            return head
        shown = "\n".join(map(str, self.mismatches))
        return f"{head}\n{self.found} mismatches, of which {len(self.mismatches)}:\n{shown}"


def replay_graph(
    make: Callable[[], Adapter],
    graph: Graph,
    *,
    non_edges: bool = True,
    show: int = 10,
    keep: int = KEEP,
    enough: int | None = None,
) -> Report:
    """Walk every edge and every non-edge. `show` mismatches are kept, all are counted.

    enough: end after the state in which so many are found
    """
    return _Walk(make, graph, show, keep).run(non_edges, enough)


def replay_trace(make: Callable[[], Adapter], trace: Trace) -> Mismatch | None:
    """Play a behaviour from its initial state; None: the code does the same.

    It ends early where the code refuses an action of `narrower`: from there on it has decided
    otherwise.
    Raises ConfigError for a step whose arguments are not known.
    """
    first, *steps = trace.steps
    adapter = make()
    adapter.start(trace.constants, first.state)
    difference = differences(adapter.observe(), first.state)
    if difference:
        return Mismatch((), difference)
    path: list[Call] = []
    for number, step in enumerate(steps, 1):
        if step.args is None:
            raise ConfigError(f"step {number}, {step.action}: its arguments are not known")
        path.append(Call(step.action, step.args))
        try:
            adapter.step(step.action, step.args)
        except Disabled as reason:
            if step.action in getattr(adapter, "narrower", {}):
                return None
            return Mismatch(tuple(path), _refuses(reason))
        except Exception as error:
            return Mismatch(tuple(path), _breaks(error))
        difference = differences(adapter.observe(), step.state)
        if difference:
            return Mismatch(tuple(path), difference)
    return None


def differences(observed: Mapping[str, Value], state: State) -> str:
    """How what the code shows differs from the state, in words; empty if it does not."""
    lines = []
    for name, value in observed.items():
        if name not in state:
            lines.append(f"{name} is no variable of the spec")
        elif value != state[name]:
            lines.append(f"{name}{_difference(state[name], value)}")
    return "; ".join(lines)


def _difference(expected: Value, found: Value) -> str:
    """Of functions with the same domain only what differs in them."""
    if isinstance(expected, Record) and isinstance(found, Record):
        keys = [key for key in expected if expected[key] != found.get(key)]
        if set(expected) == set(found):
            parts = [f"[{to_tla(key)}]{_difference(expected[key], found[key])}" for key in keys]
            return "; ".join(parts)
    return f": the spec says {to_tla(expected)}, the code {to_tla(found)}"


class _Walk:
    def __init__(
        self,
        make: Callable[[], Adapter],
        graph: Graph,
        show: int,
        keep: int,
    ) -> None:
        self._make, self._graph = make, graph
        self._show, self._keep = show, keep
        self._out: dict[int, dict[Call, list[int]]] = defaultdict(dict)
        self._calls: dict[Call, None] = {}
        for edge in graph.edges:
            call = Call(edge.action, edge.args)
            self._calls[call] = None
            targets = self._out[edge.source].setdefault(call, [])
            if edge.target not in targets:
                targets.append(edge.target)
        example = make()
        self._narrower: Mapping[str, str] = getattr(example, "narrower", {})
        self._clean: bool = getattr(example, "refuses_cleanly", False)
        self._came: dict[int, tuple[int, Call] | None] = {}  # state → how it was first reached
        self._queue: deque[tuple[int, Adapter | None]] = deque()
        self._waiting = 0  # adapters in the queue
        self._edges = self._non_edges = self._found = 0
        self._narrowed: dict[str, int] = defaultdict(int)
        self._taken: set[str] = set()
        self._variables: dict[str, None] = {}
        self._mismatches: list[Mismatch] = []

    def run(self, non_edges: bool, enough: int | None) -> Report:
        for index in self._graph.initial:
            adapter = self._begin(index)
            if self._agrees(adapter, index, ()):
                self._arrived(index, None, adapter)
        while self._queue and (enough is None or self._found < enough):
            index, waiting = self._queue.popleft()
            if waiting is not None:
                self._waiting -= 1
            adapter = waiting or self._again(index)
            self._edges_of(index, adapter)
            if non_edges:
                self._non_edges_of(index, adapter)
        for action in set(self._narrowed) - self._taken:
            self._differs((), f"{action}: the code never takes it")
        return Report(
            states=len(self._came),
            edges=self._edges,
            non_edges=self._non_edges,
            narrowed=dict(self._narrowed),
            unreached=len(self._graph.states) - len(self._came),
            variables=tuple(self._variables),
            mismatches=tuple(self._mismatches),
            found=self._found,
        )

    def _edges_of(self, index: int, adapter: Adapter) -> None:
        for call, targets in self._out[index].items():
            self._edges += 1
            fork = adapter.fork()
            try:
                fork.step(call.action, call.args)
            except Disabled as reason:
                if call.action in self._narrower:
                    self._narrowed[call.action] += 1
                else:
                    self._differs((*self._path(index), call), _refuses(reason))
                continue
            except Exception as error:
                self._differs((*self._path(index), call), _breaks(error))
                continue
            self._taken.add(call.action)
            fits = [
                target
                for target in targets
                if not differences(fork.observe(), self._graph.states[target])
            ]
            if not fits:
                self._agrees(fork, targets[0], (*self._path(index), call))
            elif len(fits) > 1:
                path = (*self._path(index), call)
                self._differs(path, f"its arguments leave open which of {len(fits)} states follows")
            elif fits[0] not in self._came:
                self._arrived(fits[0], (index, call), fork)

    def _non_edges_of(self, index: int, adapter: Adapter) -> None:
        enabled = self._out[index]
        fork: Adapter | None = None
        for call in self._calls:
            if call in enabled:
                continue
            self._non_edges += 1
            fork = fork or adapter.fork()
            problem = "the spec does not allow it here, the code does it"
            try:
                fork.step(call.action, call.args)
            except Disabled:
                fork = fork if self._clean else None
                continue
            except Exception as error:
                problem = _breaks(error)
            self._differs((*self._path(index), call), problem)
            fork = None
        changed = differences(fork.observe(), self._graph.states[index]) if fork else ""
        if changed:
            self._differs(self._path(index), f"what it refuses here leaves a trace: {changed}")

    def _arrived(self, index: int, came: tuple[int, Call] | None, adapter: Adapter) -> None:
        self._came[index] = came
        kept = adapter if self._waiting < self._keep else None
        self._waiting += kept is not None
        self._queue.append((index, kept))

    def _again(self, index: int) -> Adapter:
        first, path = self._way(index)
        adapter = self._begin(first)
        for call in path:
            adapter.step(call.action, call.args)
        return adapter

    def _begin(self, index: int) -> Adapter:
        adapter = self._make()
        adapter.start(self._graph.constants, self._graph.states[index])
        return adapter

    def _way(self, index: int) -> tuple[int, list[Call]]:
        path: list[Call] = []
        while (came := self._came[index]) is not None:
            index, call = came
            path.append(call)
        return index, path[::-1]

    def _path(self, index: int) -> tuple[Call, ...]:
        return tuple(self._way(index)[1])

    def _agrees(self, adapter: Adapter, index: int, path: tuple[Call, ...]) -> bool:
        observed = adapter.observe()
        self._variables.update(dict.fromkeys(observed))
        difference = differences(observed, self._graph.states[index])
        if difference:
            self._differs(path, difference)
        return not difference

    def _differs(self, path: tuple[Call, ...], problem: str) -> None:
        self._found += 1
        if len(self._mismatches) < self._show:
            self._mismatches.append(Mismatch(path, problem))


def _refuses(reason: Disabled) -> str:
    return f"the spec allows it, the code refuses: {reason}"


def _breaks(error: Exception) -> str:
    """Neither done nor refused: a fault of the code or of the adapter, and a difference too."""
    return f"{type(error).__name__}: {error}"
