"""Mutants: a spec with one guard dropped or weakened must lose the property that the guard is for.

A mutant that survives and does not say why is a guard that nothing checks; one that loses another
property than it names is not understood; one whose text is not there exactly once is out of date.
All three are failures, and so is a mutant that was said to survive and falls.
"""

from __future__ import annotations

import enum
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

import msgspec

from reconciler.formal import tlc
from reconciler.formal.suite import Mutant, Suite

_KILLED: Final = (tlc.VIOLATED, tlc.DEADLOCK)


class Verdict(enum.StrEnum):
    """What became of a mutant."""

    FELL = "fell"  # as expected
    SURVIVED = "survived"  # as expected, for the reason that is given
    UNEXPLAINED = "survived, unexplained"
    ANOTHER = "another property fell"
    NOT_EQUIVALENT = "fell, though said to survive"
    OUT_OF_DATE = "text is not there once"
    BROKEN = "no verdict"


class Tried(msgspec.Struct, frozen=True):
    """A mutant and its verdict; `detail` says what is wrong, "" if nothing is."""

    mutant: Mutant
    verdict: Verdict
    fell: str
    distinct: int
    seconds: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict in (Verdict.FELL, Verdict.SURVIVED)


def occurrences(mutant: Mutant) -> int:
    """How often the mutant's text is in its file: it must be once."""
    return mutant.file.read_text(encoding="utf-8").count(mutant.find)


def try_one(suite: Suite, mutant: Mutant) -> Tried:
    """Check one mutant, in a copy of the specs."""
    count = occurrences(mutant)
    if count != 1:
        detail = f"{count} times in {mutant.file.name}: {mutant.find!r}"
        return Tried(mutant, Verdict.OUT_OF_DATE, "", 0, 0, detail)
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        folder = Path(scratch) / "specs"
        for path in (*suite.folder.rglob("*.tla"), *suite.folder.rglob("*.cfg")):
            copy = folder / path.relative_to(suite.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        file = folder / mutant.file.relative_to(suite.folder)
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutant.find, mutant.replace), encoding="utf-8")
        result = tlc.run(
            folder / mutant.run.module.relative_to(suite.folder),
            folder / mutant.run.config.relative_to(suite.folder),
            libraries=(folder, folder / "mc"),
            timeout=mutant.seconds,
            arguments=False,
        )
    return judge(mutant, result)


def judge(mutant: Mutant, result: tlc.TlcResult) -> Tried:
    """The verdict of a mutant's run."""
    verdict, detail = Verdict.BROKEN, f"{result.outcome}: {result.message}".rstrip(": ")
    if result.passed:
        verdict = Verdict.SURVIVED if mutant.survives else Verdict.UNEXPLAINED
        detail = "" if mutant.survives else f"{' or '.join(mutant.falls)} was to fall"
    elif result.outcome in _KILLED:
        if mutant.survives:
            verdict, detail = Verdict.NOT_EQUIVALENT, f"{result.fell} fell"
        elif result.fell in mutant.falls:
            verdict, detail = Verdict.FELL, ""
        else:
            verdict = Verdict.ANOTHER
            detail = f"{result.fell or 'a property'} fell, not {' or '.join(mutant.falls)}"
    return Tried(mutant, verdict, result.fell, result.distinct, result.seconds, detail)


def try_all(
    suite: Suite,
    mutants: Iterable[Mutant],
    *,
    jobs: int = 2,
    on_start: Callable[[Mutant], None] = lambda mutant: None,
) -> Iterator[Tried]:
    """Check mutants, `jobs` at a time; verdicts come as they are there."""

    def work(mutant: Mutant) -> Tried:
        on_start(mutant)
        return try_one(suite, mutant)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(work, mutant) for mutant in mutants]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
