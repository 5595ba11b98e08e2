"""Recorded processes against all specs, and traces of specs against the code, by the manifest.

specs.toml says which adapter and which reading of recorded events belong to each spec.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from reconciler.core.trace import Event
from reconciler.errors import ConfigError
from reconciler.formal.replay import Mismatch, replay_trace
from reconciler.formal.suite import Spec, Suite
from reconciler.formal.trace import Trace
from reconciler.formal.tracecheck import SHOWN, TraceSpec, Verdict, check_traces
from reconciler.testing.replay import Recorded, adapter, recorded
from reconciler.tracefile import Life

BATCH_EVENTS: Final = 20_000
"""Events in one run of TLC, which keeps them all in memory as one constant."""


class Judged(msgspec.Struct, frozen=True):
    """One trace of one spec. at: index in its process's life of each of its events."""

    spec: str
    life: str
    part: str
    at: tuple[int, ...]
    verdict: Verdict

    @property
    def refused_at(self) -> int | None:
        """Index in the life of the first event that the spec can't explain."""
        return None if self.verdict.passed else self.at[self.verdict.explained]


class _Part(msgspec.Struct, frozen=True):
    life: str
    part: str
    at: tuple[int, ...]
    events: tuple[Event, ...]

    @property
    def name(self) -> str:
        return f"{self.life} {self.part}".strip()


def judge(
    suite: Suite,
    lives: Mapping[str, Life],
    *,
    specs: Collection[str] = (),
    timeout: float = 120,
    show: int = SHOWN,
) -> list[Judged]:
    """Every trace of every spec (or of these) in these lives.

    timeout: seconds a run of TLC; show: refused traces of a batch whose states are looked up

    A life without events of a spec is no trace of it. Raises ConfigError, ReconcilerError.
    """
    return [
        judged
        for spec in suite.specs
        if spec.trace and (not specs or spec.name in specs)
        for reading in recorded(spec.trace)
        for judged in _judge(suite, spec, reading, lives, timeout, show)
    ]


def _judge(
    suite: Suite,
    spec: Spec,
    reading: Recorded,
    lives: Mapping[str, Life],
    timeout: float,
    show: int,
) -> Iterator[Judged]:
    module = suite.folder / "trace" / f"{reading.module}.tla"
    if not module.is_file():
        raise ConfigError(f"{spec.name}: trace: {module} is not a file")
    parts = [
        part
        for name, life in lives.items()
        if life.process == reading.process
        for part in _parts(name, life.events, reading, spec.name)
    ]
    for batch in _batches(parts, reading):
        constants = reading.constants([event for part in batch for event in part.events])
        verdicts = check_traces(
            TraceSpec(module, constants, suite.libraries),
            {part.name: part.events for part in batch},
            timeout=timeout,
            show=show,
        )
        for part, verdict in zip(batch, verdicts, strict=True):
            yield Judged(spec.name, part.life, part.part, part.at, verdict)


def _parts(life: str, events: Sequence[Event], reading: Recorded, spec: str) -> Iterator[_Part]:
    wanted = reading.spec or spec
    own = {id(event): at for at, event in enumerate(events) if event.spec == wanted}
    for part, chosen in reading.split([each for each in events if each.spec == wanted]).items():
        if chosen:
            at = tuple(own[id(event)] for event in chosen)
            yield _Part(life, part, at, tuple(reading.short(chosen)))


def _batches(parts: Sequence[_Part], reading: Recorded) -> Iterator[list[_Part]]:
    groups: dict[Hashable, list[_Part]] = {}
    for part in parts:
        groups.setdefault(reading.group(part.events), []).append(part)
    for group in groups.values():
        batch: list[_Part] = []
        size = 0
        for part in group:
            if batch and size + len(part.events) > BATCH_EVENTS:
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += len(part.events)
        yield batch


def play(suite: Suite, trace: Trace, where: str) -> Mismatch | None:
    """A trace of a spec on the code; None if the code does the same. Raises ConfigError.

    where: the trace's file, for messages
    """
    spec = _spec_of(suite, trace, where)
    if not spec.adapter:
        raise ConfigError(f"{where}: {spec.name} has no adapter to play it with")
    return replay_trace(adapter(spec.adapter), trace)


def _spec_of(suite: Suite, trace: Trace, where: str) -> Spec:
    for spec in suite.specs:
        if trace.spec in (spec.name, *(run.module.stem for run in spec.runs)):
            return spec
    names = ", ".join(spec.name for spec in suite.specs)
    raise ConfigError(f"{where}: is of {trace.spec or 'no spec'}; there are {names}")
