"""Says when the server's certificate files can't be used, and when they can again.

The files are read anew before each handshake anyway (`tls.KeyFiles`); this looks at them when no
node connects, so that a renewal that fails is known before the certificate in use has expired.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from reconciler.tls import KeyFiles

LOOK_SECONDS: Final = 5.0


async def watch_certificate(
    files: KeyFiles,
    alarm: Callable[[str, str, str], None],
    log: Any,
    stop: asyncio.Event,
    every: float = LOOK_SECONDS,
) -> None:
    """Until `stop`: an alarm for each problem that begins, a line in the log when it is over."""
    said, used = "", files.current()
    while not stop.is_set():
        problem = files.problem()
        if files.current() is not used:
            used = files.current()
            log.info("certificate renewed", path=files.path)
        if problem != said:
            if problem:
                alarm("certificate", files.path, problem)
            else:
                log.info("certificate good again", path=files.path)
        said = problem
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every)
