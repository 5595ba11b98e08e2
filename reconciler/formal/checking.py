"""All that is checked of the specs of a suite, as rows of one table.

Each run of the manifest is one job; two go on at a time (two small searches side by side beat one
with two workers). A run of kind graph is compared with the tables of machines and, if there is an
adapter, replayed on the code; both come from the caller, this package knows neither.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ReconcilerError
from reconciler.formal import config as configs
from reconciler.formal import golden, lint, projection, replay, tlc
from reconciler.formal import module as modules
from reconciler.formal.graph import Graph, explore, together
from reconciler.formal.projection import Machine
from reconciler.formal.sample import sample
from reconciler.formal.suite import Kind, Run, Spec, Suite
from reconciler.formal.tlc_output import Progress
from reconciler.formal.trace import Trace

PASSED: Final = "passed"
VIOLATED: Final = "violated"
FAILED: Final = "failed"  # no verdict, or too little searched
OPEN: Final = "open"  # not decided: another property fell first, or a deep search ended by its time
SKIPPED: Final = "skipped"

SHOWN: Final = 20
"""Problems of one check that are written out."""


class Line(msgspec.Struct, frozen=True):
    """One row: what was checked, how much was searched, and the verdict.

    check:  a property's name, "lint", "projection" or "replay"
    states: distinct states; for a replay edges and non-edges, or steps
    detail: why it is not passed
    """

    spec: str
    run: str
    kind: str
    check: str
    states: int
    seconds: float
    verdict: str
    detail: str = ""


class Report(msgspec.Struct, frozen=True):
    """The rows of one job, the counterexample if it has one, and the actions that a graph has."""

    lines: tuple[Line, ...]
    trace: Trace | None = None
    taken: frozenset[str] = frozenset()

    @property
    def passed(self) -> bool:
        return all(line.verdict not in (VIOLATED, FAILED) for line in self.lines)


class Hooks(msgspec.Struct, frozen=True):
    """What the caller knows: the machines that a spec stands for, and the code behind it.

    machines: a spec's, as plain data
    adapter:  makes the adapter that the manifest names
    """

    machines: Callable[[Spec], Sequence[Machine]]
    adapter: Callable[[str], Callable[[], replay.Adapter]]


Watch = Callable[[str, Progress | None], None]
"""Told of each job by its name: at its start (None), and when TLC says how far it is."""


class Job(msgspec.Struct, frozen=True):
    """One thing to do; `seconds` is how long it may take, for the order."""

    name: str
    seconds: float
    work: Callable[[Callable[[Progress], None]], Report]


def jobs(
    suite: Suite,
    specs: Sequence[Spec],
    kinds: Sequence[Kind],
    hooks: Hooks,
    *,
    at_random: bool = True,
    deep_seconds: float | None = None,
) -> list[Job]:
    """What to do for these specs and kinds of run, longest first.

    at_random: replay random behaviours too, the same ones every time
    deep_seconds: of processor time for all deep runs together; None: as long as each may take
    """
    graphs = _Graphs(suite)
    runs = [(spec, run) for spec in specs for run in spec.of(*kinds)]
    deep = sum(run.seconds for _, run in runs if run.kind is Kind.DEEP)
    if deep_seconds is not None and deep > deep_seconds:
        runs = [(spec, _shorter(run, deep_seconds / deep)) for spec, run in runs]
    found = [
        Job(f"{spec.name} {run.name}", run.seconds, _work(suite, spec, run, hooks, graphs))
        for spec, run in runs
    ]
    found += [
        behaviours(suite, spec, hooks, seed=1) for spec in specs if spec.adapter and at_random
    ]
    return sorted(found, key=lambda job: -job.seconds)


def _shorter(run: Run, share: float) -> Run:
    """A deep search with a share of its time: what it has not decided by then stays open."""
    if run.kind is not Kind.DEEP:
        return run
    return msgspec.structs.replace(run, seconds=max(1.0, round(run.seconds * share)))


def behaviours(
    suite: Suite, spec: Spec, hooks: Hooks, *, seed: int, runs: int = 30, depth: int = 60
) -> Job:
    """Random behaviours at the largest bounds, replayed on the code."""
    run = (*spec.of(Kind.DEEP), *spec.of(Kind.SAFETY), *spec.runs)[0]
    name = f"{run.name} at random"

    def work(on_progress: Callable[[Progress], None]) -> Report:
        started = time.monotonic()
        steps, verdict, detail, violation = 0, PASSED, "", None
        try:
            traces = sample(
                run.module,
                run.config,
                suite.libraries,
                seed=seed,
                runs=runs,
                depth=depth,
                timeout=run.seconds,
            )
            for trace in traces:
                steps += len(trace.steps) - 1
                mismatch = replay.replay_trace(hooks.adapter(spec.adapter), trace)
                if mismatch is not None:
                    verdict, detail = FAILED, f"seed {seed}: {mismatch}"
                    violation = msgspec.structs.replace(trace, spec=spec.name, property="replay")
                    break
        except ReconcilerError as error:
            verdict, detail = FAILED, str(error)
        seconds = time.monotonic() - started
        line = Line(spec.name, name, "replay", "replay", steps, seconds, verdict, detail)
        return Report((line,), violation)

    return Job(f"{spec.name} {name}", 20.0, work)


def run_jobs(
    found: Sequence[Job], *, at_once: int = 2, watch: Watch, cancel: threading.Event | None = None
) -> Iterator[Report]:
    """Do them; reports come as they are there. cancel: is set when no more of them are wanted."""

    def work(job: Job) -> Report:
        watch(job.name, None)
        try:
            return job.work(lambda progress: watch(job.name, progress))
        except ReconcilerError:
            raise
        except Exception:  # of an adapter, say: the other jobs are worth their results
            spec, _, run = job.name.partition(" ")
            said = traceback.format_exc()
            return Report((Line(spec, run, "job", "job", 0, 0.0, FAILED, said),))

    with _many_objects(), ThreadPoolExecutor(max_workers=at_once) as pool:
        futures: list[Future[Report]] = [pool.submit(work, job) for job in found]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
            if cancel is not None:
                cancel.set()


@contextlib.contextmanager
def _many_objects() -> Iterator[None]:
    """Adapters that wait are many objects that live on: looking for cycles among them again and
    again takes a replay longer than what it finds is worth."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def lint_line(suite: Suite, spec: Spec) -> Line:
    """The lint of one spec as a row."""
    started = time.monotonic()
    found = lint.lint(suite, spec)
    return Line(
        spec=spec.name,
        run="",
        kind="lint",
        check="lint",
        states=0,
        seconds=time.monotonic() - started,
        verdict=FAILED if found else PASSED,
        detail=_joined([f"{finding.rule}: {finding.text}" for finding in found]),
    )


class _Graphs:
    """The graphs of a suite's runs, each explored once, whoever asks first."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._lock = threading.Lock()
        self._found: dict[Path, Future[Graph]] = {}

    def of(self, run: Run) -> Graph:
        """Raises ReconcilerError, to all who ask for the same."""
        with self._lock:
            known = self._found.get(run.config)
            if known is None:
                mine = self._found[run.config] = Future[Graph]()
        if known is not None:
            return known.result()
        try:
            graph = explore(run.module, run.config, self._suite.libraries, run.seconds)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(graph)
        return graph


def _work(
    suite: Suite, spec: Spec, run: Run, hooks: Hooks, graphs: _Graphs
) -> Callable[[Callable[[Progress], None]], Report]:
    if run.kind is Kind.GRAPH:
        return lambda on_progress: _graph(suite, spec, run, hooks, graphs)
    return lambda on_progress: _search(suite, run, on_progress)


def _search(suite: Suite, run: Run, on_progress: Callable[[Progress], None]) -> Report:
    result = tlc.run(
        run.module,
        run.config,
        libraries=suite.libraries,
        timeout=run.seconds,
        on_progress=on_progress,
    )
    return report(run, result)


def report(run: Run, result: tlc.TlcResult) -> Report:
    """One row a property of the run."""
    verdict, detail = FAILED, f"{result.outcome}: {result.message}".rstrip(": ")
    if result.passed and result.distinct < run.states:
        detail = f"only {result.distinct} states of at least {run.states}: too little is searched"
    elif result.passed:
        verdict, detail = PASSED, ""
    elif result.outcome == tlc.TIMED_OUT:
        verdict = OPEN if run.kind is Kind.DEEP else FAILED
        detail = f"not finished within {run.seconds:g} s"
    elif result.outcome in (tlc.VIOLATED, tlc.DEADLOCK):
        verdict, detail = OPEN, f"not decided: {result.fell or 'a property'} fell first"

    def line(name: str) -> Line:
        fell = name == result.fell and result.outcome in (tlc.VIOLATED, tlc.DEADLOCK)
        return Line(
            spec=run.spec,
            run=run.name,
            kind=str(run.kind),
            check=name,
            states=result.distinct or result.states,
            seconds=result.seconds,
            verdict=VIOLATED if fell else verdict,
            detail=f"in {len(result.trace.steps) - 1} steps" if fell and result.trace else detail,
        )

    names = run.properties
    if result.outcome in (tlc.VIOLATED, tlc.DEADLOCK) and result.fell not in names:
        names = (*names, result.fell or "a property")
        result = msgspec.structs.replace(result, fell=names[-1])
    trace = result.trace
    if trace is not None:
        trace = msgspec.structs.replace(trace, spec=run.spec)
    return Report(tuple(map(line, names)), trace)


def _graph(suite: Suite, spec: Spec, run: Run, hooks: Hooks, graphs: _Graphs) -> Report:
    started = time.monotonic()

    def line(check: str, states: int, verdict: str, detail: str = "") -> Line:
        seconds = time.monotonic() - started
        return Line(spec.name, run.name, str(run.kind), check, states, seconds, verdict, detail)

    try:
        graph = graphs.of(run)
        more = [graphs.of(other) for other in spec.runs if other.name in run.also]
    except ReconcilerError as error:
        return Report((line("graph", 0, FAILED, str(error)),))
    size = len(graph.states)
    if size < run.states:
        return Report(
            (line("graph", size, FAILED, f"only {size} states of at least {run.states}"),)
        )
    lines = [line("graph", size, PASSED)]
    if run.machines:
        started = time.monotonic()
        compared = [each for each in hooks.machines(spec) if each.name in run.machines]
        others = spec.machines.keys() - set(run.machines)
        rows = together([graph, *more])
        problems = list(map(str, projection.compare(rows, compared, others)))
        verdict = FAILED if problems else PASSED
        lines.append(line("projection", size, verdict, _joined(problems)))
    if spec.adapter:
        started = time.monotonic()
        lines.append(_replayed(spec, graph, hooks, line))
    kept = golden.of_run(suite.folder, spec.name, run.name)
    if kept:
        started = time.monotonic()
        problems = list(golden.stale(kept, graph))
        steps = sum(len(trace.steps) - 1 for trace in kept.values())
        verdict = FAILED if problems else PASSED
        lines.append(line("golden", steps, verdict, _joined(problems)))
    return Report(tuple(lines), taken=frozenset(edge.action for edge in graph.edges))


def coverage_line(suite: Suite, spec: Spec, reports: Sequence[Report]) -> Line | None:
    """Whether each action of the spec is a step of one of its graphs; None if it has no graph.

    What no graph takes is compared with no machine and replayed on no code.
    """
    runs = spec.of(Kind.GRAPH)
    if not runs:
        return None
    known: dict[str, None] = {}
    for run in runs:
        family = modules.family(run.module, suite.libraries)
        following = configs.read(run.config).behaviour(family)[1]
        known.update((action.name, None) for action in modules.actions(family, following))
    taken = {name for found in reports if found.lines[0].spec == spec.name for name in found.taken}
    never = [name for name in known if name not in taken]
    detail = f"no graph takes {', '.join(never)}" if never else ""
    verdict = FAILED if never else PASSED
    return Line(spec.name, "", "graphs", "all actions", 0, 0.0, verdict, detail)


def _replayed(spec: Spec, graph: Graph, hooks: Hooks, line: Callable[..., Line]) -> Line:
    found = replay.replay_graph(hooks.adapter(spec.adapter), graph)
    count = found.edges + found.non_edges
    if found.passed:
        return line("replay", count, PASSED)
    return line("replay", count, FAILED, str(found))


def _joined(problems: Sequence[str]) -> str:
    shown = "\n".join(problems[:SHOWN])
    more = len(problems) - SHOWN
    return f"{shown}\n… and {more} more" if more > 0 else shown
