"""Imports of a long-running process, each in a Python of its own: what is imported stays."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest

from reconciler import starting

_BEGIN = """
import gc, os, sys
from reconciler import starting
before = dict(os.environ)
"""


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", _BEGIN + code], check=True, timeout=60)


@pytest.mark.parametrize("app", ["server", "server.discovery", "agent"])
def test_a_process_is_imported_without_what_nobody_uses(app: str) -> None:
    _run(f"""
with starting.imports():
    import reconciler.{app}.app
    assert not gc.isenabled()
assert gc.isenabled()
assert dict(os.environ) == before
assert not [name for name in sys.modules if name.split(".")[0] in ("rich", "pygments")]
from aiohttp import connector
assert connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509_ca"] == 0
import rich  # is there again
""")


def test_what_was_imported_before_stays() -> None:
    _run("""
import rich
os.environ["SSL_CERT_FILE"] = "/some/where"
gc.disable()
try:
    with starting.imports():
        assert sys.modules["rich"] is rich
        raise OSError
except OSError:
    pass
assert sys.modules["rich"] is rich
assert os.environ["SSL_CERT_FILE"] == "/some/where"
assert not gc.isenabled()
""")


def test_a_context_for_an_api_server_made_later_trusts_the_systems_cas() -> None:
    """What `kubernetes.credentials` makes where no CA is named."""
    _run("""
import ssl
with starting.imports():
    import reconciler.server.app
with_them = ssl.create_default_context().cert_store_stats()
import subprocess
code = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"
there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
assert with_them["x509_ca"] == int(there)
""")


async def test_what_is_kept_is_left_alone_as_long_as_the_process_serves() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    async with AsyncExitStack() as stack:
        with starting.kept(stack):
            assert not gc.isenabled()
            made = [[each] for each in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > before[1] + len(made)
        assert gc.get_threshold() > before[0]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before[0], 0)


async def test_what_fails_to_start_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    async with AsyncExitStack() as stack:
        with pytest.raises(OSError, match="no"), starting.kept(stack):
            raise OSError("no")
        assert gc.isenabled()
        assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
