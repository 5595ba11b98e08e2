"""Files under a directory: links are followed, and a way that leads into itself ends."""

from __future__ import annotations

from pathlib import Path

from reconciler.server.watching import list_files


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def listed(root: Path) -> list[str]:
    found = list_files(root)
    assert found.unreadable == {}
    return list(found.files)


def test_every_way_to_a_directory_counts(tmp_path: Path) -> None:
    put(tmp_path / "nodes/a/own.yaml")
    (tmp_path / "nodes/b").symlink_to("a")
    (tmp_path / "nodes/c").symlink_to(tmp_path / "nodes/b")
    assert listed(tmp_path) == [f"nodes/{name}/own.yaml" for name in "abc"]


def test_a_link_up_ends(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root / "nodes/a/own.yaml")
    (root / "nodes/a/up").symlink_to("..")
    (root / "all").symlink_to(".")
    (root / "above").symlink_to("..")
    assert listed(root) == ["nodes/a/own.yaml"]


def test_directories_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        put(tmp_path / name / "own.yaml")
        (tmp_path / name / "other").symlink_to(f"../{other}")
    assert listed(tmp_path) == [
        "a/other/own.yaml", "a/own.yaml", "b/other/own.yaml", "b/own.yaml",
    ]  # fmt: skip


def test_what_begins_with_a_dot_is_not_looked_into(tmp_path: Path) -> None:
    """As a ConfigMap is mounted: what it holds is behind a link that is hidden."""
    put(tmp_path / "..2026/a.yaml")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert listed(tmp_path) == ["a.yaml"]
