"""The evidence between specs and code, for code that may be broken: the first thing that falls.

    python -m tests.evidence traces [SPEC]   recorded runs of joined clusters against the specs
    python -m tests.evidence replay FILE     state graphs and behaviours, as `prepare` wrote them

Exit code 1 and one line if something falls; the tools' own errors are tracebacks, and exit code 2.
Exceptions of the code are part of it: a run that breaks off has recorded what it did until then.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Final

from reconciler.formal import suite
from reconciler.formal.graph import Graph, explore
from reconciler.formal.replay import replay_graph
from reconciler.formal.sample import sample
from reconciler.formal.suite import Kind
from reconciler.formal.trace import Trace
from reconciler.testing.replay import adapter
from reconciler.testing.replay.evidence import judge, play
from tests.golden_traces import PATIENCE, SPECS
from tests.property.joined_runs import STORIES, record, record_story

SEEDS: Final = range(120)
Prepared = list[tuple[str, str, Graph | tuple[Trace, ...]]]


def prepare(file: Path) -> None:
    """Ask TLC once for what every planted bug is tried on."""
    known = suite.load(SPECS)
    found: Prepared = []
    for spec in known.specs:
        if not spec.adapter:
            continue
        for run in spec.of(Kind.GRAPH):
            graph = explore(run.module, run.config, known.libraries, run.seconds * PATIENCE)
            found.append((spec.name, run.name, graph))
        for run in spec.of(Kind.SAFETY):
            behaviours = sample(
                run.module, run.config, known.libraries, seed=1, runs=60, depth=60, timeout=120
            )
            found.append((spec.name, run.name, behaviours))
    file.write_bytes(pickle.dumps(found))


def replay(file: Path) -> str:
    known = suite.load(SPECS)
    prepared: Prepared = pickle.loads(file.read_bytes())
    for spec, run, content in prepared:
        try:
            fell = _replayed(known, spec, content)
        except Exception as error:  # in a constructor: steps that fail are mismatches
            fell = f"{type(error).__name__}: {error}"
        if fell:
            return f"{run}: {fell}".splitlines()[0]
    return ""


def _replayed(known: suite.Suite, spec: str, content: Graph | tuple[Trace, ...]) -> str:
    if isinstance(content, Graph):
        report = replay_graph(adapter(known.spec(spec).adapter), content, show=1, enough=1)
        if report.passed:
            return ""
        mismatch = report.mismatches[0]
        return f"after {len(mismatch.path)} steps: {mismatch.problem}"
    for trace in content:
        found = play(known, trace, spec)
        if found is not None:
            return f"a behaviour, after {len(found.path)} steps: {found.problem}"
    return ""


def traces(names: Collection[str] = ()) -> str:
    known = suite.load(SPECS)
    lives = {name: life for seed in SEEDS for name, life in record(seed, Exception).items()}
    for path in STORIES:
        lives |= record_story(path, Exception)
    for spec in known.specs:
        if names and spec.name not in names:
            continue
        refused = [
            each.verdict
            for each in judge(known, lives, specs=[spec.name], show=0)
            if not each.verdict.passed
        ]
        if refused:
            first = str(refused[0]).splitlines()[0]
            return f"{spec.name}: {len(refused)} traces refused; {first}"
    return ""


def main(arguments: list[str]) -> int:
    try:
        fell = traces(arguments[1:]) if arguments[0] == "traces" else replay(Path(arguments[1]))
    except Exception:
        traceback.print_exc()
        return 2
    if fell:
        print(fell)
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
