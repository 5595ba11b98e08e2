"""Fixtures of the tests that drive a kernel, or speak TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from tests.root import need_feature, need_root

if TYPE_CHECKING:
    from reconciler.datapath.base import Datapath
    from reconciler.datapath.kernel import KernelDatapath
    from tests.integration.datapath_pod import PodA
    from tests.integration.kernel_endpoint import Endpoint
    from tests.integration.kernel_world import Entry

ROOT = Path("/sys/fs/bpf/reconciler-test")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Coroutines here have a server in this process, so they run on the loop that `reconciler
    server` and `xds serve` run it on (commands/run.py)."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def kernel() -> None:
    """Skips without root: nothing can be said about the kernel then. With root it must work."""
    need_root()
    for name in ("bpffs", "ringbuf", "membarrier"):
        need_feature(name)


@contextlib.contextmanager
def own_pins(name: str) -> Iterator[Path]:
    """A pin directory of this test process alone; those of processes that are gone are removed."""
    from reconciler.datapath import pins

    pins.ensure_bpffs(ROOT)
    for stale in ROOT.iterdir():
        if not Path("/proc", stale.name.partition("-")[0]).exists():
            shutil.rmtree(stale, ignore_errors=True)
    path = ROOT / f"{os.getpid()}-{name}"
    try:
        yield path
    finally:
        pins.unpin_all(path)


@pytest.fixture
def pin_dir(kernel: None) -> Iterator[Path]:
    with own_pins("test") as path:
        yield path


@pytest.fixture(scope="module")
def shared(kernel: None) -> Iterator[KernelDatapath]:
    """One datapath for the tests of a module, which take it through `emptied`."""
    from reconciler.datapath.kernel import KernelDatapath
    from tests.integration.kernel_world import small_specs

    with own_pins("shared") as path, KernelDatapath(path, small_specs()) as datapath:
        yield datapath


@pytest.fixture
def emptied(shared: KernelDatapath) -> KernelDatapath:
    """The module's datapath as if new (but for the cut's roots): loading takes a while."""
    from tests.integration.kernel_world import empty

    empty(shared)
    return shared


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


@pytest.fixture(params=["twin", pytest.param("kernel", marks=pytest.mark.kernel)])
def datapath(request: pytest.FixtureRequest) -> Datapath:
    """An empty one of each kind: a test that takes it is a law of both."""
    from tests.integration.datapath_pod import twin

    made: Datapath = twin() if request.param == "twin" else request.getfixturevalue("emptied")
    return made


@pytest.fixture
def make(datapath: Datapath) -> Callable[..., PodA]:
    """Makes pod A on that datapath, with the policy entries that are given."""
    from tests.integration.datapath_pod import PodA

    return functools.partial(PodA, datapath)


@pytest.fixture
def kernel_pod(emptied: KernelDatapath) -> Callable[..., Endpoint]:
    from tests.integration.kernel_endpoint import Endpoint
    from tests.integration.kernel_world import POD_A, POD_B, empty, world

    def made(*policies: Entry) -> Endpoint:
        datapath = emptied
        empty(datapath)
        datapath.apply(world((POD_A, POD_B), policies))
        return Endpoint(datapath)

    return made


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Directory of a new CA."""
    from reconciler.server import certs

    now = datetime.datetime.now(datetime.UTC)
    certs.init(tmp_path / "pki", cluster="test", now=now)
    return tmp_path / "pki"
