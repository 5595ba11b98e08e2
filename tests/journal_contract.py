"""What every allocation journal must do, whatever it is written to: the port's promises by example.

A test module gives a fixture `journals` (`Journals`) and has `class TestX(JournalContract)`.
"""

from __future__ import annotations

from typing import Protocol

import pytest

from reconciler.core.identity import Entry, Journal, JournalBatch, JournalState
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.errors import JournalConflict, JournalError

WEB, DB, DNS = "k8s:app=web;", "k8s:app=db;", "k8s:app=dns;"


class Journals(Protocol):
    """One journal, for as many servers as want it.

    wall: what their clocks say. At `DAY_ONE` a new journal is at epoch 1, revision 0.
    """

    wall: float

    def handle(self) -> Journal:
        """Another server's, not open yet. Whoever has it open is deposed when this one opens."""

    def read(self) -> JournalState:
        """What is written, whoever has it open."""

    def copy(self) -> object:
        """A backup."""

    def restore(self, copy: object) -> None: ...

    def lose(self) -> None:
        """The journal is gone, and nothing is left of what it said."""


def batch(
    expected: int,
    *allocate: tuple[int, str],
    epoch: int = 1,
    retire: tuple[int, ...] = (),
    revive: tuple[int, ...] = (),
    free: tuple[int, ...] = (),
) -> JournalBatch:
    return JournalBatch(epoch, expected, allocate, retire, revive, free, 300 + expected)


class JournalContract:
    def test_new_journal_then_writes_then_all_of_it_again(self, journals: Journals) -> None:
        journal = journals.handle()
        assert journal.open() == JournalState(epoch=1, revision=0, cursor=256)
        assert journal.append(batch(0, (256, WEB), (257, DB))) == 1
        assert journal.append(batch(1, (258, DNS), retire=(256, 257))) == 2
        assert journal.append(batch(2, revive=(256,), free=(257,))) == 3
        entries = (Entry(256, 1, WEB, "active"), Entry(258, 2, DNS, "active"))
        assert journals.read() == JournalState(1, 3, 302, entries)
        journal.close()
        journal.close()
        again = journals.handle()
        assert again.open() == JournalState(2, 3, 302, entries)
        assert again.append(batch(3, (257, DB), epoch=2)) == 4
        again.close()
        assert journals.read().entries[-1] == Entry(257, 4, DB, "active")

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            (batch(2, (257, DB)), "is at epoch 1, revision 1; the write was made for epoch 1, rev"),
            (batch(1, (257, DB), epoch=0), "the write was made for epoch 0, revision 1"),
        ],
    )
    def test_compare_and_swap(self, journals: Journals, wrong: JournalBatch, reason: str) -> None:
        journal = journals.handle()
        journal.open()
        journal.append(batch(0, (256, WEB)))
        before = journals.read()
        with pytest.raises(JournalConflict, match=reason):
            journal.append(wrong)
        assert journals.read() == before
        journal.close()

    @pytest.mark.parametrize(
        "wrong",
        [
            batch(1, (256, DB)),
            batch(1, (257, DB), (258, WEB)),
            batch(1, (257, DB), (258, DB)),
            batch(1, (257, DB), (257, DNS)),
            batch(1, (257, DB), retire=(999,)),
            batch(1, revive=(256,)),
            batch(1, free=(256,)),
            batch(1, retire=(256, 256)),
        ],
        ids=str,
    )
    def test_contradiction_leaves_nothing_behind(
        self, journals: Journals, wrong: JournalBatch
    ) -> None:
        journal = journals.handle()
        journal.open()
        journal.append(batch(0, (256, WEB)))
        before = journals.read()
        with pytest.raises(JournalError, match=r"nothing was written: .*number") as refused:
            journal.append(wrong)
        assert not isinstance(refused.value, JournalConflict)
        assert journals.read() == before
        assert journal.append(batch(1, (257, DB))) == 2
        journal.close()

    def test_number_may_be_freed_and_given_in_one_write(self, journals: Journals) -> None:
        journal = journals.handle()
        journal.open()
        journal.append(batch(0, (256, WEB)))
        journal.append(batch(1, retire=(256,)))
        assert journal.append(batch(2, (256, WEB), free=(256,))) == 3
        assert journals.read().entries == (Entry(256, 3, WEB, "active"),)
        journal.close()

    def test_deposed_server_writes_nothing_any_more(self, journals: Journals) -> None:
        old, new = journals.handle(), journals.handle()
        old.open()
        assert new.open().epoch == 2
        with pytest.raises(JournalConflict, match="another server has taken over"):
            old.append(batch(0, (256, WEB)))
        assert journals.read().entries == ()
        assert new.append(batch(0, (256, DB), epoch=2)) == 1
        with pytest.raises(JournalConflict, match="another server has taken over"):
            old.append(batch(0, (256, WEB)))
        assert journals.read().entries == (Entry(256, 1, DB, "active"),)
        old.close()
        new.close()

    def test_opening_twice_and_writing_unopened_are_refused(self, journals: Journals) -> None:
        journal = journals.handle()
        with pytest.raises(JournalError, match="is not open"):
            journal.append(batch(0))
        journal.open()
        with pytest.raises(JournalError, match="is open already"):
            journal.open()
        assert journal.append(batch(0, (256, WEB))) == 1
        journal.close()

    def test_new_journal_begins_above_a_lost_one(self, journals: Journals) -> None:
        lost = journals.handle()
        assert lost.open() == JournalState(1, 0, 256)
        assert lost.append(batch(0, (256, WEB))) == 1
        lost.close()
        journals.lose()
        journals.wall = DAY_ONE + 2.0
        new = journals.handle()
        state = new.open()
        assert state == JournalState(2, 2_000_000, 256)
        assert new.append(batch(state.revision, (256, DB), epoch=2)) == 2_000_001
        assert journals.read().entries == (Entry(256, 2_000_001, DB, "active"),)
        new.close()

    def test_restored_journal_goes_on_above_what_it_had_written_since(
        self, journals: Journals
    ) -> None:
        first = journals.handle()
        first.open()
        first.append(batch(0, (256, WEB)))
        copy = journals.copy()
        first.append(batch(1, (257, DB)))
        first.close()
        journals.restore(copy)
        journals.wall = DAY_ONE + 60.0
        again = journals.handle()
        state = again.open()
        assert (state.epoch, state.revision) == (60, 60_000_000)
        assert state.entries == (Entry(256, 1, WEB, "active"),), "nothing is renumbered"
        assert again.append(batch(60_000_000, (257, DNS), epoch=60)) == 60_000_001
        again.close()

    @pytest.mark.parametrize("wall", [0.0, DAY_ONE + 5.0], ids=["never set", "set back"])
    def test_clock_that_went_back_takes_nothing_back(self, journals: Journals, wall: float) -> None:
        journals.wall = DAY_ONE + 10.0
        first = journals.handle()
        assert first.open() == JournalState(10, 10_000_000, 256)
        assert first.append(batch(10_000_000, (256, WEB), epoch=10)) == 10_000_001
        first.close()
        journals.wall = wall
        again = journals.handle()
        entries = (Entry(256, 10_000_001, WEB, "active"),)
        assert again.open() == JournalState(11, 10_000_001, 10_000_300, entries)
        again.close()
