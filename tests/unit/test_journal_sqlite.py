"""The SQLite journal: what it holds, whom it refuses, and what a failed write leaves behind."""

from __future__ import annotations

import os
import pathlib
import socket
import sqlite3
import subprocess
import sys

import pytest

from reconciler.core.identity import Entry, JournalState
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.errors import JournalConflict, JournalCorrupt, JournalError, JournalLocked
from reconciler.server.journal import SqliteJournal, holder, read
from tests.journal_contract import WEB, JournalContract, batch


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "journal.db"


class Journals:
    """One file; whoever takes over has got the lock of who had it, by whatever mistake."""

    wall = DAY_ONE

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def handle(self) -> SqliteJournal:
        return _Usurper(self.path, wall=lambda: self.wall)

    def read(self) -> JournalState:
        return read(self.path)

    def copy(self) -> object:
        return self.path.read_bytes()

    def restore(self, copy: object) -> None:
        assert isinstance(copy, bytes)
        self.path.write_bytes(copy)

    def lose(self) -> None:
        self.path.unlink()


class _Usurper(SqliteJournal):
    def open(self) -> JournalState:
        if self._connection is None:
            self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)
        return super().open()


@pytest.fixture
def journals(path: pathlib.Path) -> Journals:
    return Journals(path)


class TestSqliteJournal(JournalContract):
    pass


def on_day_one(path: pathlib.Path) -> SqliteJournal:
    return SqliteJournal(path, wall=lambda: DAY_ONE)


def test_second_server_is_refused_and_told_who_holds_it(path: pathlib.Path) -> None:
    first = on_day_one(path)
    first.open()
    by = holder(path)
    assert by is not None
    assert (by.pid, by.host) == (os.getpid(), socket.gethostname())
    second = on_day_one(path)
    with pytest.raises(JournalLocked) as refused:
        second.open()
    assert str(refused.value) == (
        f"journal {path}: held by process {by.pid} on {by.host} since {by.since}; "
        "stop that server or give this one another journal"
    )
    assert read(path).epoch == 1, "who is refused takes no epoch"
    first.close()
    assert holder(path) is None
    assert second.open().epoch == 2
    second.close()


def test_lock_dies_with_its_process(path: pathlib.Path) -> None:
    script = (
        "import sys\n"
        "from reconciler.server.journal import SqliteJournal\n"
        f"SqliteJournal({str(path)!r}, wall=lambda: {DAY_ONE}).open()\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(JournalLocked, match=f"held by process {process.pid} on "):
            on_day_one(path).open()
        process.kill()
        process.wait()
    journal = on_day_one(path)
    assert journal.open().epoch == 2
    journal.close()


def test_server_whose_lock_file_was_removed_writes_nothing_any_more(path: pathlib.Path) -> None:
    old, new = on_day_one(path), on_day_one(path)
    old.open()
    path.with_name("journal.db.lock").unlink()
    assert new.open().epoch == 2
    with pytest.raises(JournalConflict, match="another server has taken over"):
        old.append(batch(0, (256, WEB)))
    assert read(path).entries == ()
    old.close()
    new.close()


def damage_middle(content: bytes) -> bytes:
    return content[:4096] + b"\xff" * 4096 + content[8192:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda _: b"", "it is not an allocation journal"),
        (lambda _: b"not a database, and long enough to be read as one" * 100, "not a database"),
        (damage_middle, "Page 2: btreeInitPage"),
    ],
    ids=["emptied", "other file", "damaged"],
)
def test_unreadable_journal_is_left_as_it_is(
    path: pathlib.Path, content: object, reason: str
) -> None:
    journal = on_day_one(path)
    journal.open()
    journal.append(batch(0, *((number, f"k8s:app=n{number};") for number in range(256, 900))))
    journal.close()
    assert callable(content)
    damaged = content(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(JournalCorrupt, match=rf"can't be read: .*({reason})") as refused:
        journal.open()
    assert "It was left as it is: restore it from a backup." in str(refused.value)
    assert path.read_bytes() == damaged
    with pytest.raises(JournalCorrupt):
        read(path)
    with pytest.raises(JournalError, match="is not open"):
        journal.append(batch(0))


def alter(path: pathlib.Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "kind", "reason"),
    [
        ("PRAGMA user_version = 9", JournalError, "has schema 9, this program reads schema 1"),
        ("PRAGMA application_id = 1", JournalCorrupt, "it is not an allocation journal"),
        ("DELETE FROM head", JournalCorrupt, "it has 0 heads"),
        ("UPDATE entries SET birth = 7", JournalCorrupt, "was born at 7, after revision 1"),
        ("DROP TABLE entries", JournalError, "no such table: entries"),
    ],
)
def test_unsound_journal_is_refused(
    path: pathlib.Path, statement: str, kind: type[JournalError], reason: str
) -> None:
    journal = on_day_one(path)
    journal.open()
    journal.append(batch(0, (256, WEB)))
    journal.close()
    alter(path, statement)
    altered = path.read_bytes()
    with pytest.raises(kind, match=reason):
        journal.open()
    assert path.read_bytes() == altered


def test_full_disk_leaves_the_last_state_and_the_next_write_works(path: pathlib.Path) -> None:
    journal = on_day_one(path)
    journal.open()
    journal.append(batch(0, (256, WEB)))
    before = read(path)
    assert journal._connection is not None
    # SQLite answers a page limit exactly as it answers ENOSPC: SQLITE_FULL at the growing write.
    journal._connection.execute("PRAGMA max_page_count = 1")
    large = batch(1, *((number, f"k8s:app=n{number};") for number in range(300, 3000)))
    with pytest.raises(JournalError, match=r"the disk is full; nothing was written$"):
        journal.append(large)
    assert read(path) == before
    journal._connection.execute("PRAGMA max_page_count = 100000")
    assert journal.append(large) == 2
    assert len(read(path).entries) == 2701
    journal.close()


def test_crash_inside_a_write_leaves_the_last_state(path: pathlib.Path) -> None:
    """A process killed within the transaction, its pages spilled to the file already."""
    journal = on_day_one(path)
    journal.open()
    journal.append(batch(0, (256, WEB)))
    journal.close()
    script = (
        "import os, sqlite3\n"
        f"c = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = TRUNCATE')\n"
        "c.execute('PRAGMA cache_size = 2')\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE head SET revision = 99, cursor = 9')\n"
        "c.executemany(\"INSERT INTO entries VALUES (?, 99, ?, 'active')\","
        " [(n, f'k8s:app=n{n};') for n in range(300, 5000)])\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert path.with_name("journal.db-journal").stat().st_size > 0
    assert journal.open() == JournalState(2, 1, 300, (Entry(256, 1, WEB, "active"),))
    journal.close()


def test_path_that_can_not_be(tmp_path: pathlib.Path) -> None:
    nowhere = tmp_path / "no" / "journal.db"
    with pytest.raises(JournalError, match=r"can't open .*: No such file or directory$"):
        SqliteJournal(nowhere).open()
    with pytest.raises(JournalError, match="there is no such file"):
        read(nowhere)
    assert holder(nowhere) is None
