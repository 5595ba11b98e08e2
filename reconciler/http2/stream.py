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
        self._kept: OrderedDict[tuple[int, int, int], tuple[bytes, bytes]] = OrderedDict()

    def wire(self, stream: int, message: bytes, most: int) -> bytes:
        """DATA frames of a message. most: bytes in a frame."""
        key = (id(message), stream, most)
        found = self._kept.get(key)
        if found is not None:
            return found[1]
        size = f.PREFIX + len(message)
        if size <= most:
            wire = b"".join((f.head(size, f.DATA, 0, stream), f.prefix(len(message)), message))
        else:
            body = f.prefix(len(message)) + message
            parts: list[bytes] = []
            for at in range(0, size, most):
                chunk = body[at : at + most]
                parts += (f.head(len(chunk), f.DATA, 0, stream), chunk)
            wire = b"".join(parts)
        self._kept[key] = (message, wire)
        if len(self._kept) > self._KEEP:
            self._kept.popitem(last=False)
        return wire


class Stream:
    """One call. owner: whatever the handler keeps with it."""

    __slots__ = (
        "answered",
        "buffer",
        "ended",
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
        self.queue: deque[memoryview] | None = None  # what waits for a window
        self.queued = 0
        self.answered = False  # the response's headers are sent
        self.ended = False  # the peer has said its last
        self.owner: Any = None


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
