"""Recorded traces on disk: what `--record-trace` writes, and `reconciler check trace` reads.

JSON lines. A line `{"process": "server", "name": "server"}` begins the life of a process; each line
after it is one event, `{"spec": ..., "action": ..., "args": {...}}`. A process that starts again
appends to the file, so one file may hold several lives.

A recorder costs its process a line in memory an event, written out every second and at the end. It
never stops the process: when the file can't be written the recording ends, and says so (`tell`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from reconciler.core.trace import Event
from reconciler.errors import ConfigError

FLUSH_SECONDS: Final = 1.0
FLUSH_BYTES: Final = 1 << 20
"""Written at once when so much waits."""

Process = Literal["server", "agent"]


class Head(msgspec.Struct, frozen=True):
    """The first line of a life. name: of the node, or "server"."""

    process: Process
    name: str


class Life(msgspec.Struct, frozen=True):
    """What one process recorded from its start. line: the one in the file that its first event is.

    torn: its last line is half a line, as a process leaves it that is killed while it writes
    """

    process: Process
    name: str
    line: int
    events: tuple[Event, ...]
    torn: bool = False


class Recorder:
    """Appends events to a file; call it for each. Needs a running event loop."""

    def __init__(self, path: Path, head: Head) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._waiting = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._file: BinaryIO | None = None
        self._on_lost: Callable[[str], None] | None = None
        self.lost = ""  # why the recording ended before the process
        try:
            self._file = path.open("ab+", buffering=0)
            if self._file.tell() and _last_byte(self._file) != b"\n":
                self._waiting += b"\n"
        except OSError as error:
            self._lose(error)
        self._add(self._encoder.encode(head))
        self.flush()  # that a process lived shows however early it is killed

    def __call__(self, event: Event) -> None:
        self._add(self._encoder.encode(event))

    def tell(self, on_lost: Callable[[str], None]) -> None:
        """Give the reason once when the recording ends early, or now if it has."""
        self._on_lost = on_lost
        if self.lost:
            on_lost(self.lost)

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def flush(self) -> None:
        """Write what waits; the operating system has it then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = memoryview(bytes(self._waiting)), bytearray()
        try:
            while self._file is not None and waiting:
                waiting = waiting[self._file.write(waiting) :]
        except OSError as error:
            self._lose(error)

    def _add(self, line: bytes) -> None:
        if self._file is None:
            return
        self._waiting += line
        self._waiting += b"\n"
        if len(self._waiting) >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def _lose(self, error: OSError) -> None:
        self.lost = f"{self._path}: {error.strerror}: the trace ends here"
        if self._file is not None:
            self._file.close()
            self._file = None
        self._waiting.clear()
        if self._on_lost is not None:
            self._on_lost(self.lost)


def recorder(path: str, head: Head, stack: AsyncExitStack) -> Recorder | None:
    """For a process: closed at its end. None without a path."""
    if not path:
        return None
    made = Recorder(Path(path), head)
    stack.callback(made.close)
    return made


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def read(path: Path) -> tuple[Life, ...]:
    """The lives in a file, in its order. ConfigError names the line that is not understood.

    Half a line at the end of a life is left out: a process that is killed may leave one.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    lives: list[Life] = []
    head: Head | None = None
    start, events, torn = 0, list[Event](), 0

    def end() -> None:
        if head is not None:
            lives.append(Life(head.process, head.name, start, tuple(events), bool(torn)))

    for number, line in enumerate(lines, 1):
        if not line:
            continue
        read = _parse(line)
        if isinstance(read, Head):
            end()
            head, start, events, torn = read, number + 1, [], 0
            continue
        if torn or head is None:
            raise ConfigError(f"{path}:{torn or number}: {_wanted(head is None)}")
        if read is None:
            torn = number
        else:
            events.append(read)
    end()
    if not lives:
        raise ConfigError(f"{path}:1: {_wanted(True)}")
    return tuple(lives)


def _wanted(first: bool) -> str:
    return "expected the start of a process" if first else "expected an event as JSON"


def _parse(line: bytes) -> Head | Event | None:
    try:
        if line.startswith(b'{"process":'):
            return msgspec.json.decode(line, type=Head)
        return msgspec.json.decode(line, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def encode(life: Life) -> bytes:
    """The lines of a life."""
    head = msgspec.json.encode(Head(life.process, life.name))
    return b"\n".join([head, *map(msgspec.json.encode, life.events), b""])
