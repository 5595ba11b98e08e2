"""Traces of specs that are kept with them, as files: the code can be held to them without TLC.

They stand in <specs>/golden/<Spec>/*.itf.json and are ways through the graph of one of the spec's
runs, which their field `config` names; when the spec changes they are to be written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reconciler.formal import itf
from reconciler.formal.graph import Graph
from reconciler.formal.trace import Trace


def files(folder: Path) -> tuple[Path, ...]:
    """All kept traces of a folder of specs."""
    return tuple(sorted((folder / "golden").glob("*/*.itf.json")))


def of_run(folder: Path, spec: str, config: str) -> dict[Path, Trace]:
    """Those of one run. Raises ConfigError."""
    read = {path: itf.read(path) for path in files(folder) if path.parent.name == spec}
    return {path: trace for path, trace in read.items() if trace.config == config}


def stale(traces: dict[Path, Trace], graph: Graph) -> Sequence[str]:
    """What in them is not (or no longer) a step of the graph."""
    number = {state: at for at, state in enumerate(graph.states)}
    edges = {(edge.source, edge.action, edge.args, edge.target) for edge in graph.edges}
    found = []
    for path, trace in traces.items():
        at = [number.get(step.state, -1) for step in trace.steps]
        steps = zip(at, at[1:], trace.steps[1:], strict=False)
        wrong = [
            str(step)
            for source, target, step in steps
            if (source, step.action, step.args, target) not in edges
        ]
        if at[0] not in graph.initial:
            wrong.insert(0, "the initial state")
        if wrong:
            found.append(f"{path}: {wrong[0]} is not of this spec: write the kept traces again")
    return found
