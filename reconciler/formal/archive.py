"""TLC's classes, read once for many runs: `python -m reconciler.formal.archive FILE`.

Java reads and checks the classes of the jar anew in each run, which small ones spend much of their
time on. A class data archive keeps them as they are in memory. With its path as
`TLA_SHARED_ARCHIVE`, `jvm.invoke` uses it; Java ignores one that isn't of this jar and this Java.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from reconciler.errors import ReconcilerError, UnavailableError
from reconciler.formal import jvm

SECONDS: Final = 120.0

_SPEC: Final = """\
---- MODULE Archive ----
EXTENDS Integers, Sequences, FiniteSets, TLC
VARIABLES x, q
Init == x = 0 /\\ q = <<>>
Next == x' = (x + 1) % 5 /\\ q' = IF Len(q) < 3 THEN Append(q, [at |-> x]) ELSE <<>>
Spec == Init /\\ [][Next]_<<x, q>> /\\ WF_<<x, q>>(Next)
Small == x \\in 0..4 /\\ Cardinality({q[i].at : i \\in DOMAIN q}) < 4
Comes == <>(x = 4)
====
"""
_CONFIG: Final = "SPECIFICATION Spec\nINVARIANT Small\nPROPERTY Comes\n"


def write(path: Path) -> None:
    """UnavailableError: no Java, no jar, or Java makes no archive (before 13)."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tla-") as name:
        folder = Path(name)
        (folder / "Archive.tla").write_text(_SPEC)
        (folder / "Archive.cfg").write_text(_CONFIG)
        made = folder / "archive"
        ran = jvm.invoke(
            "tlc2.TLC",
            ["-workers", "1", "-metadir", "{scratch}", "-config", "Archive.cfg", "Archive.tla"],
            folder=folder,
            timeout=SECONDS,
            options=[f"-XX:ArchiveClassesAtExit={made}"],
        )
        if ran.code != 0 or not made.is_file():
            raise UnavailableError(f"java makes no archive of TLC's classes:\n{ran.output}")
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_bytes(made.read_bytes())
        partial.replace(path)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("use: python -m reconciler.formal.archive FILE")
    try:
        write(Path(sys.argv[1]))
    except ReconcilerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
