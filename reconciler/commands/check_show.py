"""How `reconciler check` looks: what is under way, the table, and the story of a violation."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from reconciler.commands.output import Format, emit

if TYPE_CHECKING:
    from rich.progress import TaskID

    from reconciler.formal.checking import Line, Report
    from reconciler.formal.mutants import Tried
    from reconciler.formal.tlc_output import Progress as Searched
    from reconciler.formal.trace import Trace


class Progress:
    """What is under way, on standard error: one line a job; nothing without a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._all = self._bars.add_task("all", total=0, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *of: object) -> None:
        self._bars.stop()

    def expect(self, jobs: int) -> None:
        """So many jobs more."""
        total = self._bars.tasks[0].total or 0
        self._bars.update(self._all, total=total + jobs)

    def watch(self, name: str, searched: Searched | None) -> None:
        """A job begins, or says how far it is."""
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None, note="")
        if searched is not None:
            note = f"{searched.distinct or searched.states:,} states"
            if searched.queue > 0:
                note += f", {searched.queue:,} to go"
            self._bars.update(self._tasks[name], note=note)

    def done(self, report: Report) -> None:
        """A job is over."""
        first = report.lines[0]
        self.finished(f"{first.spec} {first.run}")

    def finished(self, name: str) -> None:
        """The job of that name is over."""
        self._bars.advance(self._all)
        with self._lock:
            task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)


def emit_lines(rows: Sequence[Mapping[str, Any]], output: Format) -> None:
    """The table of what was checked; machine forms have every field."""
    emit(
        rows,
        [
            ("spec", lambda row: row["spec"]),
            ("run", lambda row: row["run"] or row["kind"]),
            ("property", lambda row: row["check"]),
            ("states", lambda row: f"{row['states']:,}" if row["states"] else "-"),
            ("time", lambda row: f"{row['seconds']:.1f}s"),
            ("verdict", lambda row: row["verdict"]),
        ],
        output,
    )


def tell(lines: Sequence[Line], traces: Sequence[Trace], saved: Mapping[str, Path]) -> None:
    """Below the table: why something is not passed, and each violation as a story."""
    from rich.console import Console

    from reconciler.formal import story

    for reason in dict.fromkeys(line.detail for line in lines if line.verdict == "skipped"):
        print(f"\nskipped: {reason}")
    for line in lines:
        if line.detail and line.verdict not in ("violated", "skipped"):
            print(f"\n{line.spec}: {line.run or line.kind}: {line.check}: {line.verdict}")
            print("\n".join(f"  {text}" for text in line.detail.splitlines()))
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for trace in traces:
        print()
        console.print(story.as_rich(trace), end="")
        path = saved.get(f"{trace.spec}-{trace.property or 'violation'}")
        print(f"saved as {path}; `reconciler check replay {path}` plays it on the code")


def emit_mutants(tried: Sequence[Tried], output: Format) -> None:
    """The table of mutants, and the reasons of those that did not do as they say."""
    rows = [
        {
            "spec": each.mutant.spec,
            "mutant": each.mutant.name,
            "run": each.mutant.run.name,
            "expected": " or ".join(each.mutant.falls) or "survives",
            "fell": each.fell,
            "states": each.distinct,
            "seconds": round(each.seconds, 2),
            "verdict": str(each.verdict),
            "passed": each.passed,
            "detail": each.detail or each.mutant.survives,
        }
        for each in tried
    ]
    emit(
        rows,
        [
            ("spec", lambda row: row["spec"]),
            ("mutant", lambda row: row["mutant"]),
            ("expected", lambda row: row["expected"]),
            ("states", lambda row: f"{row['states']:,}"),
            ("time", lambda row: f"{row['seconds']:.1f}s"),
            ("verdict", lambda row: row["verdict"]),
        ],
        output,
    )
    if output is not Format.TABLE:
        return
    for row in rows:
        if not row["passed"]:
            print(f"\n{row['spec']} {row['mutant']}: {row['verdict']}: {row['detail']}")
    wrong = sum(not row["passed"] for row in rows)
    survivors = sum(row["verdict"] == "survived" for row in rows)
    print(f"\n{len(rows)} mutants, {survivors} survive with a reason, {wrong} not as they say")
