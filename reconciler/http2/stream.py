"""One call on a connection, who is told of it, and what all connections of a server share."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Final, Protocol

import msgspec

from reconciler.http2 import frames as f
from reconciler.http2.headers import Header


class Limits(msgspec.Struct, frozen=True):
    """message: bytes of one; streams: that one connection may have at a time"""

    message: int = 64 << 20
    streams: int = 1_000


class Budget:
    """Bytes of messages that have begun and are not whole, over all connections of a server."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = 512 << 20) -> None:
        self.limit, self.used = limit, 0


class Wires:
    """Frames of the messages that were sent last, for the other streams that get the same bytes.

    Where each connection has one stream, the stream's number is the same everywhere and so is the
    whole frame.
    """

    __slots__ = ("_kept",)

    _KEEP: Final = 16

    def __init__(self) -> None:
        # By identity; the message is kept beside, so that its id stays its own.
        self._kept: OrderedDict[tuple[int, int], tuple[bytes, tuple[bytes, ...]]] = OrderedDict()

    def frames(self, stream: int, message: bytes) -> tuple[bytes, ...]:
        """DATA frames of a message, of a size that every peer takes."""
        key, most = (id(message), stream), f.DEFAULT_FRAME
        found = self._kept.get(key)
        if found is not None:
            return found[1]
        size = f.PREFIX + len(message)
        first = message[: most - f.PREFIX]
        head = f.head(f.PREFIX + len(first), f.DATA, 0, stream)
        frames = [b"".join((head, f.prefix(len(message)), first))]
        for at in range(most, size, most):
            chunk = message[at - f.PREFIX : at - f.PREFIX + most]
            frames.append(f.head(len(chunk), f.DATA, 0, stream) + chunk)
        self._kept[key] = (message, tuple(frames))
        if len(self._kept) > self._KEEP:
            self._kept.popitem(last=False)
        return self._kept[key][1]


class Stream:
    """One call. owner: whatever the handler keeps with it."""

    __slots__ = (
        "answered",
        "buffer",
        "ended",
        "held",
        "id",
        "owner",
        "queue",
        "queued",
        "received",
        "window",
    )  # fmt: skip

    def __init__(self, id: int, window: int) -> None:
        self.id = id
        self.window = window  # that the peer gives
        self.received = 0  # bytes that our window was not opened for again
        self.buffer: bytearray | None = None  # a message that is not whole
        self.queue: deque[bytes] | None = None  # frames that wait for a window
        self.queued = 0
        self.answered = False  # the response's headers are sent
        self.ended = False  # the peer has said its last
        self.held = False  # our window stays shut
        self.owner: Any = None

    def let_frame(self, queue: deque[bytes], most: int) -> bytes:
        """The first frame that waits, or as much of it as the windows let go.

        most: bytes of content
        """
        frame = queue[0]
        whole = len(frame) - f.HEAD
        size = min(whole, self.window, most)
        self.window -= size
        self.queued -= size
        if size == whole:
            return queue.popleft()
        cut = f.HEAD + size
        queue[0] = f.head(whole - size, f.DATA, 0, self.id) + frame[cut:]
        return f.head(size, f.DATA, 0, self.id) + frame[f.HEAD : cut]


class Handler(Protocol):
    """Who is told. It may call `send` and `finish` of the connection from within."""

    def request(self, stream: Stream, headers: tuple[Header, ...]) -> None: ...

    def message(self, stream: Stream, message: bytes) -> None: ...

    def ended(self, stream: Stream) -> None:
        """The peer has said its last; the stream is open until `finish`."""

    def reset(self, stream: Stream) -> None:
        """The stream is over: the peer gave it up, or the connection is lost."""

    def drained(self, stream: Stream) -> None:
        """Nothing of what was sent waits any more."""


class _Nobody:
    def request(self, stream: Stream, headers: tuple[Header, ...]) -> None: ...

    def message(self, stream: Stream, message: bytes) -> None: ...

    def ended(self, stream: Stream) -> None: ...

    def reset(self, stream: Stream) -> None: ...

    def drained(self, stream: Stream) -> None: ...


NOBODY: Final[Handler] = _Nobody()
"""Of a connection that is over: a handler that has its connection, which has it, would be a circle
and wait for the garbage collector."""
