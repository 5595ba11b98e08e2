"""Processes of a benchmark: commands down a pipe, answers up it, and none left behind.

A child ends when its pipe closes (also if the parent was killed), or is ended by its own id after a
while. Times in answers are `time.monotonic()`, the same clock for all processes.
"""

from __future__ import annotations

import asyncio
import cProfile
import multiprocessing
import signal
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import msgspec
import uvloop

from bench import machine
from bench.rows import summary
from reconciler.tls import KeyPair

ANSWER_SECONDS: Final = 1200.0
_END_SECONDS: Final = 20.0

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Carries out one command; `do` is its name."""


class Setup(msgspec.Struct, frozen=True):
    """What a child is started with."""

    address: str
    keys: dict[str, KeyPair]
    kind: str = ""
    directory: str = ""
    transport: str = "grpc"


class Quiet:
    """A log that keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def info(self, event: str, **_: object) -> None:
        pass

    def warning(self, event: str, **told: object) -> None:
        self.warnings.append(f"{event}: {told}")

    error = warning


class Child:
    """One process. Use as a context manager."""

    def __init__(self, target: Callable[[Connection, Setup], None], setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, setup), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, do: str, **what: Any) -> None:
        self._pipe.send({"do": do, **what})

    def answer(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """RuntimeError when the child failed, ended, or says nothing for so long."""
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"process {self._process.pid} gave no answer in {seconds:g} s")
        try:
            found: dict[str, Any] = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"process {self._process.pid} ended") from None
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        self.tell(do, **what)
        return self.answer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def serve(
    pipe: Connection, start: Callable[[], Awaitable[tuple[Handler, Awaitable[None]]]]
) -> None:
    """In the child: answer commands until the pipe closes. `start` runs on the event loop and gives
    the handler and what stops it all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when
    machine.raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, start))


async def _serve(
    pipe: Connection, start: Callable[[], Awaitable[tuple[Handler, Awaitable[None]]]]
) -> None:
    loop = asyncio.get_running_loop()
    handler, stopping = await start()
    profiler: cProfile.Profile | None = None
    while True:
        try:
            command = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            break
        try:
            match command["do"]:
                case "profile":
                    profiler = cProfile.Profile()
                    profiler.enable()
                    answer: dict[str, Any] = {}
                case "profiled":
                    assert profiler is not None
                    profiler.disable()
                    answer = {"text": summary(profiler)}
                case "used":
                    answer = {"cpu": machine.cpu_seconds(), "resident": machine.resident()}
                case _:
                    answer = await handler(command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        pipe.send(answer)
    await stopping
