"""TLC with its classes from an archive: used, and answers the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import UnavailableError
from reconciler.formal import archive, jvm


def loaded(folder: Path) -> str:
    """Where Java says that it has a class of TLC from."""
    ran = jvm.invoke(
        "tlc2.TLC", ["-h"], folder=folder, timeout=60, options=[*jvm._shared(), "-Xlog:class+load"]
    )
    (line,) = (line for line in ran.output.splitlines() if " tlc2.TLC source: " in line)
    return line.partition("source: ")[2]


def test_classes_come_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made" / "tlc.jsa"
    archive.write(made)
    monkeypatch.setenv("TLA_SHARED_ARCHIVE", str(made))
    assert "shared objects file" in loaded(tmp_path)
    monkeypatch.setenv("TLA_SHARED_ARCHIVE", str(tmp_path / "absent"))
    assert "shared objects file" not in loaded(tmp_path)


def test_without_a_jar_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLA2TOOLS_JAR", str(tmp_path / "no.jar"))
    with pytest.raises(UnavailableError, match="TLA2TOOLS_JAR"):
        archive.write(tmp_path / "tlc.jsa")
    assert list(tmp_path.iterdir()) == []
