"""Manifests: what a directory says, and that nothing unreadable ever takes an object away."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.core.objects import Delete, NetworkPolicy, ObjectKey, Upsert, key_of
from reconciler.errors import ConfigError
from reconciler.server.manifests import Batch, Directory, load, watch

SECONDS = 20.0
"""Bound of a wait for something that takes milliseconds."""


def pod(name: str, app: str = "web") -> str:
    return f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n"


def policy(name: str, app: str = "web") -> str:
    return (
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec: {{podSelector: {{matchLabels: {{app: {app}}}}}}}\n"
    )


BROKEN = "---\na: b: c\n"


def shown(batch: Batch | None) -> list[str]:
    """ "+Pod default/a" and "-Pod default/a"; of nothing changed []."""
    return [
        f"-{change.key}" if isinstance(change, Delete) else f"+{change.key}"
        for change in (batch.changes if batch else ())
    ]


def said(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [str(problem) for problem in batch.problems]


def write(path: Path, text: str) -> None:
    """Replaces the file at once, as editors and configuration tools do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


# ----------------------------------------------------------------------------- a directory


def test_files_of_all_suffixes_below_the_directory_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod("a"))
    write(tmp_path / "sub" / "deep" / "b.YML", pod("b"))
    write(tmp_path / "c.json", '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "c"}}')
    write(tmp_path / "d.txt", pod("d"))
    write(tmp_path / ".hidden.yaml", pod("e"))
    write(tmp_path / ".hidden" / "f.yaml", pod("f"))
    batch = Directory(tmp_path).scan()
    assert shown(batch) == ["+Node c", "+Pod default/a", "+Pod default/b"]
    assert batch is not None
    sources = [change.source for change in batch.changes if isinstance(change, Upsert)]
    assert sources == ["c.json#1", "a.yaml#1", "sub/deep/b.YML#1"]


def test_the_first_scan_gives_a_batch_even_of_nothing_and_a_later_one_none(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    assert files.scan() == Batch()
    assert files.scan() is None


def test_only_what_changed_is_said(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "a.yaml", pod("a") + pod("b"))
    files.scan()
    write(tmp_path / "a.yaml", "# a comment\n" + pod("b") + pod("a"))
    assert files.scan() is None
    write(tmp_path / "a.yaml", pod("a") + pod("b", "db") + pod("c"))
    assert shown(files.scan()) == ["+Pod default/b", "+Pod default/c"]
    write(tmp_path / "a.yaml", pod("b", "db"))
    assert shown(files.scan()) == ["-Pod default/a", "-Pod default/c"]


def test_a_removed_file_removes_its_objects_and_a_moved_one_does_not(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "a.yaml", pod("a"))
    write(tmp_path / "b.yaml", pod("b"))
    files.scan()
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.yaml").rename(tmp_path / "c.yaml")
    assert shown(files.scan()) == ["-Pod default/a"]


def test_a_file_that_does_not_parse_changes_nothing(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "a.yaml", policy("p") + pod("a"))
    files.scan()
    write(tmp_path / "a.yaml", policy("p", "db") + BROKEN)
    batch = files.scan()
    assert shown(batch) == []
    (problem,) = said(batch)
    assert problem.startswith("a.yaml: can't be read: line 7, column 5")
    assert files.scan() is None
    write(tmp_path / "b.yaml", pod("b"))
    assert said(files.scan()) == [problem]  # it stands until it is mended
    write(tmp_path / "a.yaml", policy("p", "db"))
    batch = files.scan()
    assert shown(batch) == ["+NetworkPolicy default/p", "-Pod default/a"]
    assert said(batch) == []


def test_of_a_bad_object_the_last_good_version_stays_and_the_rest_changes(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "a.yaml", policy("p") + pod("a") + pod("b"))
    files.scan()
    write(tmp_path / "a.yaml", policy("p", "'not valid'") + pod("a", "db"))
    batch = files.scan()
    assert shown(batch) == ["+Pod default/a", "-Pod default/b"]
    assert [problem.split(": ")[1] for problem in said(batch)] == ["NetworkPolicy default/p"]
    write(tmp_path / "a.yaml", pod("a", "db"))
    assert shown(files.scan()) == ["-NetworkPolicy default/p"]


def test_a_bad_object_that_cannot_be_told_keeps_all_that_may_be_it(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "a.yaml", policy("p") + pod("a"))
    files.scan()
    write(tmp_path / "a.yaml", "---\nkind: NetworkPolicy\nmetadata: {name: p}\n" + pod("c"))
    batch = files.scan()
    assert shown(batch) == ["+Pod default/c"]
    assert said(batch) == ["a.yaml#1: apiVersion: missing"]


def test_a_bad_object_that_was_never_good_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod("b", "'not valid'") + pod("a"))
    assert shown(Directory(tmp_path).scan()) == ["+Pod default/a"]


def test_an_object_in_two_files_is_taken_from_the_first_by_path(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "b.yaml", pod("a", "second"))
    assert shown(files.scan()) == ["+Pod default/a"]
    write(tmp_path / "a.yaml", pod("a", "first"))
    batch = files.scan()
    assert batch is not None
    (change,) = batch.changes
    assert isinstance(change, Upsert)
    assert change.object.metadata.labels == {"app": "first"}
    duplicate = "b.yaml#1: Pod default/a: is in a.yaml#1 already, which is taken"
    assert said(batch) == [duplicate]
    write(tmp_path / "b.yaml", pod("a", "third"))
    assert files.scan() is None  # it doesn't count
    (tmp_path / "a.yaml").unlink()
    batch = files.scan()
    assert batch is not None
    (change,) = batch.changes
    assert isinstance(change, Upsert)
    assert (change.object.metadata.labels, change.source) == ({"app": "third"}, "b.yaml#1")
    assert said(batch) == []


def test_an_object_twice_in_one_file_is_taken_where_it_is_first(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod("a", "one") + pod("a", "two"))
    batch = Directory(tmp_path).scan()
    assert batch is not None
    (change,) = batch.changes
    assert isinstance(change, Upsert)
    assert change.object.metadata.labels == {"app": "one"}
    assert said(batch) == ["a.yaml#2: Pod default/a: is in a.yaml#1 already, which is taken"]


def test_a_directory_that_is_gone_removes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "manifests"
    files = Directory(root)
    write(root / "a.yaml", policy("p"))
    files.scan()
    root.rename(tmp_path / "away")
    batch = files.scan()
    assert shown(batch) == []
    assert said(batch) == [f"{root}: can't be listed: No such file or directory"]
    (tmp_path / "away").rename(root)
    batch = files.scan()
    assert shown(batch) == []
    assert said(batch) == []


def test_what_cannot_be_listed_or_read_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "sub" / "a.yaml", policy("p"))
    write(tmp_path / "b.yaml", policy("q"))
    files.scan()
    scandir, read = os.scandir, Path.read_bytes

    def refuse_listing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    def refuse_reading(path: Path) -> bytes:
        if path.name == "b.yaml":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    write(tmp_path / "b.yaml", policy("q", "db"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse_listing)
        patch.setattr(Path, "read_bytes", refuse_reading)
        batch = files.scan()
    assert shown(batch) == []
    assert said(batch) == [
        "sub: can't be listed: Permission denied",
        "b.yaml: can't be read: Permission denied",
    ]
    batch = files.scan()
    assert shown(batch) == ["+NetworkPolicy default/q"]
    assert said(batch) == []


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert said(Directory(tmp_path).scan()) == ["a.yaml: can't be read: not a regular file"]


def test_two_changes_within_one_tick_of_the_clock_are_both_seen(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    target = tmp_path / "a.yaml"
    for name in ("a", "b"):
        target.write_text(pod(name))  # in place, of the same size
        os.utime(target, ns=(2**62, 2**62))  # as young as can be, and at the same time
        assert f"+Pod default/{name}" in shown(files.scan())
    assert files.scan() is None


def test_a_file_that_is_old_and_unchanged_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Directory(tmp_path)
    write(tmp_path / "a.yaml", pod("a"))
    os.utime(tmp_path / "a.yaml", ns=(10**18, 10**18))
    files.scan()

    def never(_: Path) -> bytes:
        raise AssertionError("read")

    monkeypatch.setattr(Path, "read_bytes", never)
    assert files.scan() is None


def test_a_config_map_mount_is_read_once_and_replaced_at_once(tmp_path: Path) -> None:
    def publish(version: str, text: str) -> None:
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "a.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(f"..{version}")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("1", pod("a") + pod("b"))
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    files = Directory(tmp_path)
    batch = files.scan()
    assert shown(batch) == ["+Pod default/a", "+Pod default/b"]
    assert said(batch) == []
    publish("2", pod("a"))
    assert shown(files.scan()) == ["-Pod default/b"]


def test_linked_directories_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.yaml", pod("a"))
    root = tmp_path / "manifests"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "up").symlink_to(root)
    (root / "nowhere.yaml").symlink_to("missing")
    batch = Directory(root).scan()
    assert shown(batch) == ["+Pod default/a"]
    assert said(batch) == []


def test_ignored_kinds_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n")
    batch = Directory(tmp_path).scan()
    assert batch is not None
    assert batch.ignored == ("v1 Service",)


# ------------------------------------------------------------------------------ read once


def test_load_takes_files_directories_and_standard_input(tmp_path: Path) -> None:
    write(tmp_path / "dir" / "a.yaml", pod("a", "dir"))
    write(tmp_path / "one.txt", pod("b"))
    deployment = (
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"
        "spec: {template: {metadata: {labels: {app: web}}}}\n"
    )
    stdin = io.BytesIO((pod("a", "stdin") + deployment).encode())
    loaded = load([tmp_path / "one.txt", tmp_path / "dir", "-"], stdin)
    names = [(source, str(key_of(item))) for source, item in loaded.objects]
    assert names == [
        (f"{tmp_path}/one.txt#1", "Pod default/b"),
        (f"{tmp_path}/dir/a.yaml#1", "Pod default/a"),
    ]
    assert [(source, item.kind) for source, item in loaded.workloads] == [("-#2", "Deployment")]
    (problem,) = loaded.problems
    assert str(problem).startswith(f"-#1: Pod default/a: is in {tmp_path}/dir/a.yaml#1 already")


def test_load_reads_a_file_given_twice_once(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod("a"))
    loaded = load([tmp_path / "a.yaml", tmp_path])
    assert len(loaded.objects) == 1
    assert loaded.problems == ()


def test_load_says_what_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", BROKEN)
    loaded = load([tmp_path / "missing.yaml", tmp_path / "b.yaml"])
    first, second = map(str, loaded.problems)
    assert first == f"{tmp_path}/missing.yaml: can't be read: No such file or directory"
    assert second.startswith(f"{tmp_path}/b.yaml: can't be read: line 2")


# ------------------------------------------------------------------------------- watching


async def _next(batches: AsyncIterator[Batch]) -> Batch:
    return await asyncio.wait_for(anext(batches), SECONDS)


@pytest.mark.parametrize("polling", [False, True])
async def test_watch_gives_everything_then_what_changes_until_it_is_stopped(
    tmp_path: Path, polling: bool
) -> None:
    # With inotify the looks are too far apart to be what finds the changes.
    stop = asyncio.Event()
    write(tmp_path / "a.yaml", pod("a"))
    batches = watch(tmp_path, stop, force_polling=polling, rescan_seconds=0.01 if polling else 3600)
    async with contextlib.aclosing(batches):
        assert shown(await _next(batches)) == ["+Pod default/a"]
        if not polling:
            await _until_watched(tmp_path, batches)
        write(tmp_path / "sub" / "b.yaml", pod("b"))
        assert shown(await _next(batches)) == ["+Pod default/b"]
        (tmp_path / "a.yaml").unlink()
        batch = await _next(batches)
        assert batch.changes == (Delete(ObjectKey("Pod", "default", "a")),)
        stop.set()
        with pytest.raises(StopAsyncIteration):
            await _next(batches)


async def _until_watched(directory: Path, batches: AsyncIterator[Batch]) -> None:
    """Writes until the watcher says so: it begins to listen some time after the first look."""
    waiting = asyncio.ensure_future(anext(batches))
    for i in range(int(SECONDS * 5)):
        write(directory / "probe.yaml", pod(f"probe-{i}"))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        if done:
            break
    first = waiting.result()
    assert any("probe" in text for text in shown(first))
    while f"+Pod default/probe-{i}" not in shown(first):
        first = await _next(batches)


async def test_watch_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a directory"):
        await anext(watch(tmp_path / "missing", asyncio.Event()))


async def test_watch_goes_on_by_looking_where_inotify_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> AsyncIterator[object]:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr("reconciler.server.watching.awatch", refuse)
    stop = asyncio.Event()
    batches = watch(tmp_path, stop, rescan_seconds=0.01)
    async with contextlib.aclosing(batches):
        assert await _next(batches) == Batch()
        write(tmp_path / "a.yaml", policy("p"))
        (change,) = (await _next(batches)).changes
        assert isinstance(change, Upsert)
        assert isinstance(change.object, NetworkPolicy)
