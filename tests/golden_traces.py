"""Traces of specs that are kept with them, so that the code can be held to them without Java.

    python -m tests.golden_traces [SPEC ...]

writes specs/golden/<Spec>/*.itf.json anew: short ways through the state graphs of the spec that
take every action at least once, as far as `MOST` traces of `LENGTH` steps a graph go.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from reconciler.formal import graph as graphs
from reconciler.formal import itf, suite
from reconciler.formal.graph import Edge, Graph
from reconciler.formal.suite import Kind
from reconciler.formal.trace import Step, Trace

SPECS: Final = Path(__file__).resolve().parents[1] / "specs"
MOST: Final = 4
LENGTH: Final = 24
PATIENCE: Final = 5
"""Times the seconds of a run in specs.toml: nobody waits for this."""


def ways(graph: Graph, taken: Collection[str] = ()) -> list[list[Edge]]:
    """Walks from an initial state that go to the nearest action that is not taken yet."""
    out: dict[int, list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        out[edge.source].append(edge)
    left = {edge.action for edge in graph.edges}.difference(taken)
    found: list[list[Edge]] = []
    while left and len(found) < MOST:
        at, walk = graph.initial[0], list[Edge]()
        while left and (way := _nearest(at, out, left)):
            if walk and len(walk) + len(way) > LENGTH:
                break
            walk += way
            left -= {edge.action for edge in way}
            at = walk[-1].target
        if not walk:
            break
        found.append(walk)
    return found


def _nearest(start: int, out: dict[int, list[Edge]], wanted: set[str]) -> list[Edge]:
    """The shortest way from a state that ends with one of these actions; empty if there is none."""
    came: dict[int, Edge | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for edge in out[state]:
            if edge.action in wanted:
                way = [edge]
                while (before := came[way[0].source]) is not None:
                    way.insert(0, before)
                return way
            if edge.target not in came:
                came[edge.target] = edge
                queue.append(edge.target)
    return []


def traces(spec: str, config: str, graph: Graph, taken: Collection[str] = ()) -> list[Trace]:
    found = []
    for walk in ways(graph, taken):
        first = Step("", (), graph.states[walk[0].source])
        steps = [Step(edge.action, edge.args, graph.states[edge.target]) for edge in walk]
        found.append(Trace((first, *steps), spec, config, "", graph.constants))
    return found


def compact(trace: Trace) -> bytes:
    """The trace in few bytes: constants in the first state only, one state a line."""
    content = msgspec.json.decode(itf.encode(trace))
    first, *states = content.pop("states")
    short = [{k: v for k, v in state.items() if k not in trace.constants} for state in states]
    lines = b",\n".join(msgspec.json.encode(state) for state in (first, *short))
    return msgspec.json.encode(content)[:-1] + b',"states":[\n' + lines + b"\n]}\n"


def main(names: list[str]) -> int:
    known = suite.load(SPECS)
    for spec in known.specs:
        runs = spec.of(Kind.GRAPH)
        if (names and spec.name not in names) or not runs or not spec.adapter:
            continue
        folder = SPECS / "golden" / spec.name
        for old in folder.glob("*.itf.json"):
            old.unlink()
        taken: set[str] = set()
        for run in runs:
            graph = graphs.explore(run.module, run.config, known.libraries, run.seconds * PATIENCE)
            for number, trace in enumerate(traces(spec.name, run.name, graph, taken), 1):
                taken.update(step.action for step in trace.steps)
                path = folder / f"{run.name}-{number}.itf.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(compact(trace))
                print(f"{path}: {len(trace.steps) - 1} steps, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
