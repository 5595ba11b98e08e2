"""Where the specs are: `--specs DIR`, inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

import reconciler


def folder(given: Path | None = None) -> Path:
    """The folder with specs.toml."""
    if given is not None:
        return given
    package = Path(str(reconciler.__file__)).parent
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"
