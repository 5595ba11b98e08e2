"""Builds the cffi extension reconciler.datapath._libbpf against the distribution's libbpf.

API mode: a C compiler checks what the declarations say. They are shim.h itself, without its
preprocessor lines, and one function that C calls (libbpf's log).

Usage: python kernel/ffi/build.py OUTPUT_FILE
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
MODULE = "reconciler.datapath._libbpf"


def declarations() -> str:
    """shim.h as cffi reads it."""
    text = (HERE / "shim.h").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join([*lines, 'extern "Python" void rk_log(int level, const char *text);'])


def build(output: Path) -> None:
    """Compile into `output` (whose suffix is the interpreter's); written in one rename."""
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        MODULE,
        '#include "shim.h"\n',
        sources=[str(HERE / "shim.c")],
        include_dirs=[str(HERE)],
        libraries=["bpf"],
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )
    with tempfile.TemporaryDirectory(dir=output.parent.parent) as scratch:
        built = Path(ffi.compile(tmpdir=scratch))
        staged = output.with_name(output.name + ".new")
        shutil.copy(built, staged)
        staged.replace(output)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
