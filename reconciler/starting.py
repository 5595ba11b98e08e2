"""How a process that is to run for long begins: its imports, and what it keeps.

structlog imports rich, for tracebacks that are drawn; aiohttp reads all CAs of the system, for
requests that name no context of their own (ours to API servers do); and the garbage collector goes
through all that was imported so far, again and again. `python -X importtime` shows each.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

_THRESHOLDS: Final = (10_000, 10, 10)
"""A stream is dozens of objects that stay: with Python's own thresholds the collector looks at the
young ones every few streams that come, and finds nothing."""

_CAS: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # OpenSSL's


@contextmanager
def imports() -> Iterator[None]:
    """Import in here. What was imported before stays as it is."""
    hidden = "rich" not in sys.modules
    environ = {name: os.environ.get(name) for name in _CAS}
    collected = gc.isenabled()
    gc.disable()
    os.environ.update(dict.fromkeys(_CAS, os.devnull))
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]  # documented: it is not found
    try:
        yield
    finally:
        if hidden:
            del sys.modules["rich"]
        for name, value in environ.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if collected:
            gc.enable()


@contextmanager
def kept(stack: AsyncExitStack) -> Iterator[None]:
    """What is made in here stays: the collector does not look for garbage meanwhile, then `settle`.

    Of a large cluster's objects each look costs, and finds nothing (bench, `kubernetes`).
    """
    gc.disable()
    try:
        yield
        settle(stack)
    finally:
        gc.enable()


def settle(stack: AsyncExitStack) -> None:
    """What there is now is never looked through for garbage as long as the stack is, and what comes
    from now on not as often as is Python's way."""
    stack.callback(gc.set_threshold, *gc.get_threshold())
    gc.set_threshold(*_THRESHOLDS)
    stack.callback(gc.unfreeze)
    gc.freeze()
