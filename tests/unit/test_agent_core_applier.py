"""The applier: one thread, in order, one outcome each."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.agent.applier import (
    Applied,
    Applier,
    ApplyFailed,
    Attached,
    Audited,
    CacheFailed,
    Crashed,
    Outcome,
)
from reconciler.agent.cache import CacheFile
from reconciler.core.dataplane.effects import Apply, Attach, Detach, SaveCache
from reconciler.core.dataplane.layout import GROUP_VALUE, MapId, map_specs
from reconciler.core.dataplane.ops import Flip, Op, Put
from reconciler.datapath.twin import TwinDatapath
from reconciler.errors import DatapathError, MapFull

FLIP = Flip(1, 5, b"r" * 32)


class Twin(TwinDatapath):
    """Fails after the flip, if told to: as a kernel whose answer is lost."""

    fails: DatapathError | None = None
    bug = False

    def apply(self, ops: object) -> None:
        if self.bug:
            raise RuntimeError("a bug")
        super().apply(ops)  # type: ignore[arg-type]
        if self.fails is not None:
            raise self.fails


class Bench:
    def __init__(self, cache: CacheFile | None) -> None:
        self.twin = Twin(map_specs(groups=32), lambda: 0)
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.applier = Applier(self.twin, self.outcomes.put, cache)
        self.applier.start()

    def next(self) -> Outcome:
        return self.outcomes.get(timeout=10)


@pytest.fixture
def cache(tmp_path: Path) -> CacheFile:
    return CacheFile(tmp_path / "cache")


@pytest.fixture
def bench(cache: CacheFile) -> Iterator[Bench]:
    made = Bench(cache)
    yield made
    made.applier.close()


def put(index: int) -> Op:
    return Put(MapId.GROUPS, ((index.to_bytes(4, "little"), GROUP_VALUE.pack(1, 2, 3, 4, 5, 6)),))


def test_outcomes_come_in_order(bench: Bench) -> None:
    bench.applier.submit([Apply(1, (put(1),)), Apply(2, (put(40), FLIP)), Attach(7), Apply(3, ())])
    assert bench.next() == Applied(1)
    failed = bench.next()
    assert isinstance(failed, ApplyFailed)
    assert failed.token == 2
    assert isinstance(failed.error, MapFull)
    assert bench.next() == Attached(7)
    assert bench.next() == Applied(3)
    assert bench.twin.cut().active == 0
    assert bench.twin.attached() == {7}
    bench.applier.submit([Detach(7)])
    bench.applier.audit()
    audited = bench.next()
    assert isinstance(audited, Audited)
    assert audited.kernel.attached == frozenset()
    assert list(audited.kernel.maps[MapId.GROUPS]) == [(1).to_bytes(4, "little")]


def test_a_flip_whose_answer_was_lost_is_known_from_the_cut_word(bench: Bench) -> None:
    bench.twin.fails = DatapathError("flip", "cut", 5, "lost")
    bench.applier.submit([Apply(1, (FLIP,)), Apply(2, (put(1),))])
    assert bench.next() == Applied(1)
    assert isinstance(bench.next(), ApplyFailed)


def test_a_record_is_on_disk_before_the_next_write(bench: Bench, cache: CacheFile) -> None:
    bench.applier.submit([SaveCache(b"one", 1, True), Apply(1, (FLIP,))])
    assert bench.next() == Applied(1)
    assert b"one" in cache.path.read_bytes()
    bench.applier.submit([SaveCache(b"two", 1, False), Apply(2, ())])
    assert bench.next() == Applied(2)
    assert b"one" not in cache.path.read_bytes()


def test_a_cache_that_fails_does_not_stop_the_flip(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench = Bench(CacheFile(tmp_path / "file" / "cache"))
    bench.applier.submit([SaveCache(b"one", 1, True), Apply(1, (FLIP,))])
    assert isinstance(bench.next(), CacheFailed)
    assert bench.next() == Applied(1)
    bench.applier.close()


def test_a_bug_is_reported_and_ends_the_thread(bench: Bench) -> None:
    bench.twin.bug = True
    bench.applier.submit([Apply(1, (FLIP,))])
    crashed = bench.next()
    assert isinstance(crashed, Crashed)
    assert isinstance(crashed.error, RuntimeError)
