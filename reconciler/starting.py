"""Imports of a process that is to run for long, without what libraries do then for nobody here.

A quarter of what such a process takes to start is for this: structlog imports rich, for tracebacks
that are drawn; aiohttp reads all CAs of the system, for requests that name no context of their own
(ours to API servers do); and the garbage collector goes through all that was imported so far, again
and again. `python -X importtime` shows each.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

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
