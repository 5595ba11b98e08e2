"""The kernel half's build: generated header, reproducible object, extension, nothing done twice."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from reconciler.core.dataplane import layout

ROOT = Path(__file__).resolve().parents[2]
OBJECT = "../reconciler/datapath/datapath.bpf.o"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_layout", ROOT / "kernel/layout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the object is built from."""
    return copy_sources(tmp_path / "checkout")


def copy_sources(to: Path) -> Path:
    shutil.copytree(
        ROOT / "kernel", to / "kernel", ignore=shutil.ignore_patterns("layout.h", "__pycache__")
    )
    (to / "reconciler/core/dataplane").mkdir(parents=True)
    (to / "reconciler/datapath").mkdir()
    shutil.copy2(ROOT / "reconciler/core/dataplane/layout.py", to / "reconciler/core/dataplane")
    return to


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(checkout / "kernel"), f"PYTHON={sys.executable}", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MAKEFLAGS": ""},
    )


def test_the_header_in_use_is_fresh(generator: ModuleType) -> None:
    assert (ROOT / "kernel/bpf/layout.h").read_text() == generator.header()


def test_the_header_says_what_the_layout_says(generator: ModuleType) -> None:
    text = generator.header()
    for reason in layout.Reason:
        assert f"#define REASON_{reason.name} {int(reason)}\n" in text
    for group in layout.GroupIndex:
        assert f"#define GROUP_{group.name} {int(group)}\n" in text
    sizes = {
        "cut_value": layout.CUT_VALUE,
        "address_key": layout.ADDRESS_KEY,
        "endpoint_value": layout.ENDPOINT_VALUE,
        "conntrack_key": layout.CONNTRACK_KEY,
        "event": layout.EVENT,
    }
    for name, format in sizes.items():
        assert f"LAYOUT_SIZE({name}, {format.size});" in text


@pytest.mark.parametrize(
    ("format", "head", "half"),
    [
        ("<II", "a", ""),  # a field without a name
        ("<I", "a b", ""),  # a name without a field
        ("<I IQ II", "a", "b c"),  # halves that differ
    ],
)
def test_names_that_do_not_fit_are_refused(
    generator: ModuleType, format: str, head: str, half: str
) -> None:
    with pytest.raises((ValueError, IndexError)):
        generator._struct("x", struct.Struct(format), head.split(), half.split())


def test_the_object_is_reproducible(checkout: Path, tmp_path: Path) -> None:
    """The same bytes wherever it is built, and the same as the one in use."""
    other = copy_sources(tmp_path / "a-longer-name-for-another-checkout")
    built = []
    for one in (checkout, other):
        done = make(one, OBJECT)
        assert done.returncode == 0, done.stderr
        built.append((one / "kernel" / OBJECT).read_bytes())
    assert built[0] == built[1]
    assert built[0] == (ROOT / "kernel" / OBJECT).read_bytes()


def test_nothing_is_built_twice(checkout: Path) -> None:
    assert make(checkout, "-q", OBJECT).returncode == 1
    assert make(checkout, OBJECT).returncode == 0
    assert make(checkout, "-q", OBJECT).returncode == 0
    for source in ("kernel/bpf/path.h", "reconciler/core/dataplane/layout.py", "kernel/layout.py"):
        later = (checkout / "kernel" / OBJECT).stat().st_mtime_ns + 10**9
        os.utime(checkout / source, ns=(later, later))
        assert make(checkout, "-q", OBJECT).returncode == 1, source
        os.utime(checkout / source, ns=(0, 0))


def test_a_layout_that_c_would_pad_does_not_compile(checkout: Path) -> None:
    assert make(checkout, OBJECT).returncode == 0
    header = checkout / "kernel/bpf/layout.h"
    header.write_text(header.read_text().replace("__u8 pad0[3];", "__u8 pad0[2];", 1))
    done = make(checkout, OBJECT)
    assert done.returncode != 0
    assert "address_key" in done.stderr


def test_the_extension_and_the_object_fit_each_other() -> None:
    from reconciler.datapath.objects import OBJECT as path
    from reconciler.datapath.objects import ffi, lib, path_bytes

    opened = lib.rk_open(path_bytes(path))
    assert opened != ffi.NULL
    try:
        for name in (b"from_pod", b"to_pod", b"probe_from_pod", b"probe_to_pod"):
            assert lib.rk_skip_program(opened, name) == 0, name
        assert lib.rk_skip_program(opened, b"no_such") < 0
    finally:
        lib.rk_close_object(opened)
