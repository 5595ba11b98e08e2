"""The disk cache: what a crash, a full disk and damage leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.agent.cache import MAGIC, CacheFile
from reconciler.core.dataplane.records import FORMAT, Record, encode_record, replay
from reconciler.core.resources.types import PEER_SET, Resource
from reconciler.errors import CacheError


def resource(name: str, version: str = "v1") -> Resource:
    return Resource(PEER_SET, name, version, b"body of " + name.encode())


def record(
    revision: int, *names: str, whole: bool = False, gone: tuple[str, ...] = (), node: str = "n1"
) -> Record:
    return Record(
        FORMAT,
        node,
        whole,
        revision,
        bytes([revision]) * 32,
        revision + 10,
        False,
        tuple(resource(name) for name in names),
        tuple((PEER_SET, name) for name in gone),
    )


RECORDS = (
    record(1, "a", "b", whole=True),
    record(2, "c", gone=("a",)),
    record(3, gone=("c",)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = CacheFile(tmp_path / "var" / "cut.cache")
    assert file.load("n1", None) is None
    for each in RECORDS:
        file.append(encode_record(each))
    return file.path


@pytest.mark.parametrize(
    ("root", "revision", "names"),
    [
        (bytes([1]) * 32, 1, {"a", "b"}),
        (bytes([2]) * 32, 2, {"b", "c"}),
        (bytes([3]) * 32, 3, {"b"}),
        (None, 3, {"b"}),
    ],
)
def test_each_record_is_a_generation(
    path: Path, root: bytes | None, revision: int, names: set[str]
) -> None:
    found = CacheFile(path).load("n1", root)
    assert found is not None
    assert found.revision == revision
    assert {each.name for each in found.resources} == names
    assert found.next_id == 13  # of the newest record, whichever cut is in force


def test_a_cut_or_a_node_that_is_not_there_is_not_found(path: Path) -> None:
    assert CacheFile(path).load("n1", bytes(32)) is None
    assert CacheFile(path).load("n2", None) is None


def test_a_difference_without_a_whole_before_it_is_nothing() -> None:
    assert replay([RECORDS[1]], "n1", None) is None


@pytest.mark.parametrize("cut_off", [1, 5, 19, 30])
def test_a_frame_cut_off_by_a_crash_is_left_out_and_cut_off(path: Path, cut_off: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-cut_off])
    file = CacheFile(path)
    found = file.load("n1", None)
    assert found is not None
    assert found.revision == 2
    file.append(encode_record(record(4, "d")))
    again = CacheFile(path).load("n1", None)
    assert again is not None
    assert (again.revision, {each.name for each in again.resources}) == (4, {"b", "c", "d"})


def test_a_last_frame_whose_data_did_not_reach_the_disk_is_left_out(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-4] + bytes(4))
    found = CacheFile(path).load("n1", None)
    assert found is not None
    assert found.revision == 2


@pytest.mark.parametrize("at", [0, len(MAGIC) + 6, len(MAGIC) + 40])
def test_damage_is_refused_and_moved_aside(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    file = CacheFile(path)
    with pytest.raises(CacheError, match="corrupt"):
        file.load("n1", None)
    assert not path.exists()
    assert path.with_name("cut.cache.corrupt").read_bytes() == data
    assert file.load("n1", None) is None
    file.append(encode_record(RECORDS[0]))
    assert CacheFile(path).load("n1", None) is not None


def test_another_format_is_refused(tmp_path: Path) -> None:
    file = CacheFile(tmp_path / "cache")
    file.append(b"\x93\x01\x02\x03")
    with pytest.raises(CacheError, match="another format"):
        CacheFile(tmp_path / "cache").read()


def test_replacing_leaves_one_record_and_no_other_file(path: Path) -> None:
    file = CacheFile(path)
    file.load("n1", None)
    file.replace(encode_record(record(3, "b", whole=True)))
    file.append(encode_record(record(4, "e")))
    assert [each.revision for each in CacheFile(path).read()] == [3, 4]
    assert [each.name for each in path.parent.iterdir()] == ["cut.cache"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="file"):
        CacheFile(tmp_path / "file" / "cache").append(b"x")


def test_what_is_added_after_a_replacement_that_may_not_last_can_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is there, but nobody knows whether it is after a crash."""
    file = CacheFile(path)
    file.load("n1", None)

    def refuse(directory: Path) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("reconciler.agent.cache._sync_directory", refuse)
        with pytest.raises(CacheError):
            file.replace(encode_record(record(3, "b", whole=True)))
    file.append(encode_record(record(4, "e", whole=True)))
    assert CacheFile(path).read()[-1].revision == 4
