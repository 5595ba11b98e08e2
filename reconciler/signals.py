"""How a process is told to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack


def stop_on_signals(stack: AsyncExitStack, stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`, as long as the stack is. Call on the event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
        stack.callback(loop.remove_signal_handler, number)
