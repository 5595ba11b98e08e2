"""Allocators, their journal and lagging nodes under any schedule of crashes and take-overs.

The machine below plays everything around the allocator: the cluster that binds and releases label
sets, the journal (a dict, or SQLite), leaders that crash between a write and its answer, leaders
that were deposed and wake up late, and nodes that enforce old cuts, go away and return. It keeps
its own record of the journal (`truth`) and of every published cut, and holds the allocator to:

R1  no two live label sets share a number, one label set never has two numbers
R2  a number is freed only when no node that counts enforces, or may yet enforce, a cut with it
R5  a deposed leader's write never takes effect
    a pair (number, birth) never means two label sets; nothing that is journaled is lost; in the
    end each label set that is wanted has a number if there are enough, and all others came back
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reconciler.core.identity import (
    Allocator,
    Changes,
    Entry,
    Journal,
    JournalBatch,
    JournalState,
    apply_batch,
)
from reconciler.core.identity.allocator import ENTRY_BYTES
from reconciler.core.identity.journal import Phase
from reconciler.errors import JournalConflict
from reconciler.server.journal import SqliteJournal, read

LABEL_SETS = tuple(f"k8s:app={letter};" for letter in "abcd")
NODES = ("n1", "n2")
DRAIN = 10.0
NARROW, ROOM = 80, 1_000_000
"""Bytes: for one label set, and for more than there ever are."""

label_sets = st.sampled_from(LABEL_SETS)
nodes = st.sampled_from(NODES)


class Held(NamedTuple):
    birth: int
    label_set: str
    phase: Phase


def size_of(batch: JournalBatch) -> int:
    """Of what it gives numbers, as the journal counts it."""
    return sum(len(label_set) + ENTRY_BYTES for _, label_set in batch.allocate)


class MemoryJournal:
    """What all handles of one journal in memory share is `store`."""

    def __init__(self, store: dict[str, JournalState]) -> None:
        self.store = store

    def open(self) -> JournalState:
        state = self.store.get("journal", JournalState(0, 0, 256))
        state = JournalState(state.epoch + 1, state.revision, state.cursor, state.entries)
        self.store["journal"] = state
        return state

    def append(self, batch: JournalBatch) -> int:
        self.store["journal"] = apply_batch(self.store["journal"], batch)
        return self.store["journal"].revision

    def close(self) -> None:
        pass


class Leader:
    """One server: its allocator, its view of the cluster, and the write that it has under way."""

    def __init__(self, journal: Journal, pool: range, max_batch: int, now: float) -> None:
        self.journal = journal
        self.state = journal.open()
        self.allocator = Allocator(
            self.state, pool=pool, drain_seconds=DRAIN, max_batch=max_batch, now=now
        )
        self.bound: set[str] = set()
        self.batch: JournalBatch | None = None
        self.revision: int | None = None  # the answer to `batch`, not delivered yet
        self.room: int | None = None  # what the journal has room for, by what it told
        self.misled = False  # it was told that a write failed which did not
        self.cuts = 0
        self.released: dict[str, float] = {
            entry.label_set: now for entry in self.state.entries
        }  # when it last stopped to be bound
        self.known: dict[str, int] = dict.fromkeys(NODES, 0)  # the cut that each node reported


class AllocatorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[int, Held] = {}
        self.meanings: dict[tuple[int, int], str] = {}
        self.cuts: dict[int, dict[int, str]] = {0: {}}
        self.enforced: dict[str, int] = dict.fromkeys(NODES, 0)
        self.gone: set[str] = set()
        self.wanted: set[str] = set()
        self.deposed: list[Leader] = []
        self.now = 0.0
        self.unsettled = 0  # steps since everything was brought to rest

    # The journal, replaced for SQLite

    store: dict[str, JournalState]

    def open_store(self) -> None:
        self.store = {}

    def handle(self) -> Journal:
        return MemoryJournal(self.store)

    def content(self) -> JournalState:
        return self.store["journal"]

    @initialize(size=st.integers(1, 5), max_batch=st.integers(1, 4), narrow=st.booleans())
    def begin(self, size: int, max_batch: int, narrow: bool) -> None:
        self.pool, self.max_batch = range(256, 256 + size), max_batch
        self.narrow = narrow
        self.open_store()
        self.lead(sync=True)

    def lead(self, sync: bool) -> None:
        self.leader = Leader(self.handle(), self.pool, self.max_batch, self.now)
        assert {
            entry.number: Held(entry.birth, entry.label_set, entry.phase)
            for entry in self.leader.state.entries
        } == self.truth
        if self.narrow:
            self.journal_tells_its_room(NARROW)
        if sync:
            self.sync()

    # The cluster

    def sync(self) -> None:
        """The leader learns of the cluster as it is."""
        leader = self.leader
        leader.allocator.release(sorted(leader.bound - self.wanted), self.now)
        leader.released.update(dict.fromkeys(leader.bound - self.wanted, self.now))
        leader.allocator.bind(sorted(self.wanted - leader.bound), self.now)
        leader.bound = set(self.wanted)

    @rule(label_set=label_sets, sync=st.sampled_from([True, True, False]))
    def change(self, label_set: str, sync: bool) -> None:
        self.wanted ^= {label_set}
        if sync:
            self.sync()

    @rule(share=st.sampled_from([0.4, 1.0]))
    def time_passes(self, share: float) -> None:
        self.now += share * DRAIN

    # The journal

    @rule(
        publish=st.sampled_from([True, True, False]),
        fate=st.sampled_from(["answered", "answered", "answered", "failed", "lost"]),
    )
    def serve(self, publish: bool, fate: str) -> None:
        """What a leader does again and again: the write that is due, its answer, and a cut."""
        leader = self.leader
        if leader.batch is None:
            self.take_batch(leader)
        if leader.batch is not None and leader.revision is None and fate == "failed":
            self.write_fails()
        elif leader.batch is not None and leader.revision is None and fate == "lost":
            if self.append(leader):
                self.answer_is_lost()
        else:
            self.write(leader)
        if publish:
            self.publish(leader)

    def write(self, leader: Leader) -> None:
        if leader.batch is None:
            self.take_batch(leader)
        if leader.batch is not None and leader.revision is None:
            self.append(leader)
        if leader.revision is not None:
            self.answer(leader)

    @rule(label_set=label_sets, publish=st.booleans(), back=st.booleans())
    def leave(self, label_set: str, publish: bool, back: bool) -> None:
        """One label set goes the whole way out of the peer sets, and perhaps wants back in."""
        self.wanted.discard(label_set)
        self.sync()
        self.now += DRAIN
        self.serve(publish, "answered")
        if back:
            self.wanted.add(label_set)
            self.sync()
            self.serve(publish, "answered")

    @precondition(lambda self: self.leader.batch is None)
    @rule()
    def begin_write(self) -> None:
        self.take_batch(self.leader)

    @rule(size=st.sampled_from([0, NARROW, 2 * NARROW, ROOM]))
    def journal_tells_its_room(self, size: int) -> None:
        """As it is now, with what has reached it."""
        self.leader.allocator.room(self.content().revision, size)
        self.leader.room = size

    def take_batch(self, leader: Leader) -> None:
        """A write concerns what is or isn't bound now; at most one is under way."""
        batch = leader.batch = leader.allocator.next_batch(self.now)
        if batch is None:
            return
        assert leader.allocator.next_batch(self.now) is None
        assert leader.bound.issuperset(label_set for _, label_set in batch.allocate)
        assert leader.misled or leader.room is None or size_of(batch) <= max(leader.room, 0)
        if leader is self.leader and not leader.misled:
            assert leader.bound.issuperset(self.truth[number].label_set for number in batch.revive)
            for number in batch.retire + batch.free:
                assert self.truth[number].label_set not in leader.bound
            for number in batch.free:
                self.check_clear(number)
            for number in batch.retire:
                assert self.now >= leader.released[self.truth[number].label_set] + DRAIN

    def append(self, leader: Leader) -> bool:
        """The write reaches the journal, which decides whether it takes effect."""
        assert leader.batch is not None
        before = self.content()
        try:
            leader.revision = leader.journal.append(leader.batch)
        except JournalConflict as conflict:
            assert leader is not self.leader or leader.misled, "the newest leader is never deposed"
            assert self.content() == before
            leader.allocator.refused(str(conflict), deposed=True)
            leader.batch = None
            return False
        assert leader is self.leader, "R5: a deposed leader's write took effect"
        assert not leader.misled
        if leader.room is not None:
            leader.room -= size_of(leader.batch)
        self.record(leader.batch, leader.revision, before.cursor)
        return True

    def record(self, batch: JournalBatch, revision: int, cursor: int) -> None:
        around = (*range(cursor, self.pool.stop), *range(self.pool.start, cursor))
        in_order = [number for number in around if number not in self.truth]
        given = [number for number, _ in batch.allocate]
        assert given == in_order[: len(given)], "numbers are given in turn, so none comes back soon"
        for number in batch.free:
            held = self.truth.pop(number)
            assert held.phase == "retiring"
        for number in batch.retire:
            assert self.truth[number].phase == "active"
            self.truth[number] = self.truth[number]._replace(phase="retiring")
        for number in batch.revive:
            assert self.truth[number].phase == "retiring"
            self.truth[number] = self.truth[number]._replace(phase="active")
        for number, label_set in batch.allocate:
            assert number in self.pool
            assert number not in self.truth, "R1: a number in use is given"
            assert label_set not in {held.label_set for held in self.truth.values()}, "R1"
            assert (number, revision) not in self.meanings, "a birth comes back"
            self.meanings[number, revision] = label_set
            self.truth[number] = Held(revision, label_set, "active")
        content = self.content()
        assert content.revision == revision
        assert content.cursor == batch.cursor
        assert set(content.entries) == {
            Entry(number, held.birth, held.label_set, held.phase)
            for number, held in self.truth.items()
        }

    def check_clear(self, number: int) -> None:
        """R2, at the moment in which it is decided that the number may go back to the pool.

        A node past its grace that returns while the write is under way has only births to keep it
        right; all others can't go back behind what they enforce now.
        """
        for node in NODES:
            if node not in self.gone:
                for revision, cut in self.cuts.items():
                    assert revision < self.enforced[node] or number not in cut, (
                        f"R2: {number} is freed, {node} may enforce cut {revision:#x} with it"
                    )

    @precondition(lambda self: self.leader.batch and self.leader.revision is None)
    @rule()
    def write_takes_effect(self) -> None:
        self.append(self.leader)

    @precondition(lambda self: self.leader.batch and self.leader.revision is None)
    @rule()
    def write_fails(self) -> None:
        self.leader.allocator.refused("disk full")
        self.leader.batch = None

    @precondition(lambda self: self.leader.revision is not None)
    @rule()
    def answer_arrives(self) -> None:
        self.answer(self.leader)

    @precondition(lambda self: self.leader.revision is not None)
    @rule()
    def answer_is_lost(self) -> None:
        self.leader.allocator.refused("I/O error")
        self.leader.misled = True
        self.leader.batch = self.leader.revision = None

    def answer(self, leader: Leader) -> None:
        batch, revision = leader.batch, leader.revision
        assert batch is not None
        assert revision is not None
        changes = leader.allocator.written(revision, self.now)
        leader.batch = leader.revision = None
        self.check_changes(batch, revision, changes)

    def check_changes(self, batch: JournalBatch, revision: int, changes: Changes) -> None:
        assert [(identity.number, label_set) for label_set, identity in changes.activated] == list(
            batch.allocate
        )
        assert {identity.birth for _, identity in changes.activated} <= {revision}
        assert tuple(identity.number for identity in changes.retired) == batch.retire
        assert tuple(identity.number for _, identity in changes.revived) == batch.revive
        assert tuple(identity.number for identity in changes.freed) == batch.free
        for label_set, identity in changes.activated + changes.revived:
            assert self.meanings[identity.number, identity.birth] == label_set

    # Leaders

    @rule(sync=st.booleans(), paused=st.booleans())
    def change_leader(self, sync: bool, paused: bool) -> None:
        """The old one crashed; or it is only paused, and will go on where it was."""
        if paused:
            self.deposed.append(self.leader)
        else:
            self.leader.journal.close()
        self.lead(sync)

    @precondition(lambda self: self.deposed)
    @rule(data=st.data())
    def deposed_leader_wakes_up(self, data: st.DataObject) -> None:
        leader = data.draw(st.sampled_from(self.deposed))
        if leader.revision is not None:
            self.answer(leader)
        if leader.batch is None:
            self.take_batch(leader)
        if leader.batch is not None:
            self.append(leader)  # asserts that it takes no effect
            assert leader.allocator.deposed
            assert leader.allocator.next_batch(self.now) is None
        self.publish(leader)

    # Cuts and nodes

    def publish(self, leader: Leader) -> None:
        leader.cuts += 1
        revision = leader.state.epoch << 32 | leader.cuts
        self.cuts[revision] = {
            identity.number: label_set for label_set, identity in leader.allocator.live().items()
        }
        leader.allocator.published(revision)

    @rule()
    def nodes_follow(self) -> None:
        for node in NODES:
            if node not in self.gone:
                self.enforced[node] = max(self.cuts)
                self.node_acknowledges(node)

    @rule(node=nodes, data=st.data())
    def node_commits(self, node: str, data: st.DataObject) -> None:
        newer = [revision for revision in self.cuts if revision > self.enforced[node]]
        if newer:
            self.enforced[node] = data.draw(st.sampled_from(newer))

    @rule(node=nodes)
    def node_acknowledges(self, node: str) -> None:
        self.gone.discard(node)
        self.leader.known[node] = self.enforced[node]
        self.tell_clear()

    @rule(node=nodes)
    def node_is_away_past_its_grace(self, node: str) -> None:
        self.gone.add(node)
        self.tell_clear()

    def tell_clear(self) -> None:
        leader = self.leader
        counted = [leader.known[node] for node in NODES if node not in self.gone]
        leader.allocator.advance(self.now, min(counted, default=max(self.cuts)))

    # What always holds

    @invariant()
    def a_step_was_made(self) -> None:
        self.unsettled += 1

    @invariant()
    def live_is_journaled_and_unambiguous(self) -> None:
        if not hasattr(self, "leader"):
            return
        live = self.leader.allocator.live()
        numbers = [identity.number for identity in live.values()]
        assert len(set(numbers)) == len(numbers), "R1: two live label sets share a number"
        for label_set, identity in live.items():
            held = self.truth[identity.number]
            assert (held.label_set, held.birth) == (label_set, identity.birth)
            assert self.leader.allocator.identity(label_set) == identity
        if self.leader.revision is None and not self.leader.misled:
            active = {n: h.label_set for n, h in self.truth.items() if h.phase == "active"}
            assert dict(zip(numbers, live, strict=True)) == active, "journaled, but not live"
            assert self.leader.allocator.usage() == (len(self.truth), len(self.pool))

    @precondition(lambda self: self.unsettled > 15)
    @rule()
    def settle(self) -> None:
        """With a quiet cluster, a working journal and nodes that follow, everything comes right."""
        self.unsettled = 0
        if self.leader.misled:
            self.change_leader(sync=True, paused=False)
        self.journal_tells_its_room(ROOM)
        self.sync()
        for node in NODES:
            self.node_acknowledges(node)
        for _ in range(60):
            leader = self.leader
            self.write(leader)
            self.publish(leader)
            self.now += DRAIN / 4
            for node in NODES:
                self.enforced[node] = leader.known[node] = max(self.cuts)
            self.tell_clear()
            if leader.allocator.next_deadline(self.now) is None:
                break
        live = self.leader.allocator.live()
        assert set(live) <= self.wanted
        assert len(live) == min(len(self.wanted), len(self.pool))
        assert len(self.truth) == len(live), "a number that nobody wants did not come back"
        waiting = {f"label set {label_set}" for label_set in self.wanted - set(live)}
        assert {error.object for error in self.leader.allocator.exhausted()} == waiting


class SqliteAllocatorMachine(AllocatorMachine):
    """The same with the journal that a server has on its disk."""

    def open_store(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.directory.name) / "journal.db"
        self.handles: list[SqliteJournal] = []

    def handle(self) -> Journal:
        # Whoever takes over from a paused server has got its lock, by whatever mistake.
        self.path.with_name("journal.db.lock").unlink(missing_ok=True)
        self.handles.append(SqliteJournal(self.path))
        return self.handles[-1]

    def content(self) -> JournalState:
        return read(self.path)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            for handle in self.handles:
                handle.close()
            self.directory.cleanup()


def test_allocator_with_a_journal_in_memory() -> None:
    run_state_machine_as_test(AllocatorMachine, settings=settings(stateful_step_count=100))


@pytest.mark.timeout(600)
def test_allocator_with_a_journal_in_sqlite() -> None:
    examples = max(10, settings().max_examples // 5)
    run_state_machine_as_test(
        SqliteAllocatorMachine, settings=settings(max_examples=examples, stateful_step_count=60)
    )
