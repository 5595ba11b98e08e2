"""Fixtures of the tests that drive a kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from reconciler.datapath.kernel import KernelDatapath

ROOT = Path("/sys/fs/bpf/reconciler-test")


@pytest.fixture
def kernel() -> None:
    """Skips without root: nothing can be said about the kernel then. With root it must work."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    from reconciler.datapath import features

    for name in ("bpffs", "ringbuf", "membarrier"):
        if reason := features.missing(name):
            pytest.skip(reason)


@pytest.fixture
def pin_dir(kernel: None) -> Iterator[Path]:
    """A pin directory of this test process alone; those of processes that are gone are removed."""
    from reconciler.datapath import pins

    pins.ensure_bpffs(ROOT)
    for stale in ROOT.iterdir():
        if stale.name.isdigit() and not Path("/proc", stale.name).exists():
            shutil.rmtree(stale, ignore_errors=True)
    path = ROOT / str(os.getpid())
    yield path
    if path.exists():
        pins.unpin_all(path)


@pytest.fixture
def opened(pin_dir: Path) -> Iterator[Callable[..., KernelDatapath]]:
    """Opens datapaths on this test's pin directory with small maps; closes all at the end."""
    from reconciler.datapath.kernel import KernelDatapath
    from tests.integration.kernel_world import small_specs

    with contextlib.ExitStack() as stack:

        def open_one(**options: Any) -> KernelDatapath:
            options.setdefault("specs", small_specs())
            return stack.enter_context(KernelDatapath(pin_dir, **options))

        yield open_one
