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
    """Bytes of messages that have begun and are not whole, over all connections of a server.

    Above `limit` those connections may not hold more that hold more than `small` already: a few
    that hold much are no reason to refuse everybody else.
    """

    __slots__ = ("limit", "small", "used")

    def __init__(self, limit: int = 512 << 20, small: int = 128 << 10) -> None:
        self.limit, self.small, self.used = limit, small, 0


_ENTRY: Final = 128
"""Bytes that keeping the frames of one stream takes beside those of the message."""


class _Sent:
    """A message as it was sent, by stream: frame by frame, or all of them in one piece; size: bytes
    of both. The message is kept beside, so that its id stays its own."""

    __slots__ = ("frames", "message", "size", "wholes")

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.frames: dict[int, tuple[bytes, ...]] = {}
        self.wholes: dict[int, bytes] = {}
        self.size = 0


class Wires:
    """Frames of the messages that were sent last, for the other streams that get the same bytes.

    A stream's number is in its frames. Where each connection has one stream it is the same
    everywhere; where connections have many, each has those of the others.
    """

    __slots__ = ("_bytes", "_kept", "_messages", "_size")

    def __init__(self, messages: int = 16, size: int = 16 << 20) -> None:
        """How many are kept at most, and bytes of them in all."""
        self._messages, self._size = messages, size
        self._kept: OrderedDict[int, _Sent] = OrderedDict()  # by identity
        self._bytes = 0

    def frames(self, stream: int, message: bytes) -> tuple[bytes, ...]:
        """DATA frames of a message, of a size that every peer takes."""
        sent = self._kept.get(id(message)) or self._keep(message)
        found = sent.frames.get(stream)
        if found is None:
            found = sent.frames[stream] = _frames(stream, message)
            self._count(sent)
        return found

    def whole(self, stream: int, message: bytes) -> bytes:
        """The same frames, one behind the other."""
        sent = self._kept.get(id(message)) or self._keep(message)
        found = sent.wholes.get(stream)
        if found is None:
            frames = _frames(stream, message)
            found = sent.wholes[stream] = frames[0] if len(frames) == 1 else b"".join(frames)
            self._count(sent)
        return found

    def _keep(self, message: bytes) -> _Sent:
        sent = self._kept[id(message)] = _Sent(message)
        return sent

    def _count(self, sent: _Sent) -> None:
        """It has one more."""
        size = len(sent.message) + _ENTRY
        sent.size += size
        self._bytes += size
        while len(self._kept) > self._messages or self._bytes > self._size:
            self._bytes -= self._kept.popitem(last=False)[1].size


def _frames(stream: int, message: bytes) -> tuple[bytes, ...]:
    """A window as wide as they are at first ends with a frame, so none is cut there for a stream of
    its own."""
    size = f.PREFIX + len(message)
    first = message[: f.DEFAULT_FRAME - f.PREFIX]
    head = f.head(f.PREFIX + len(first), f.DATA, 0, stream)
    frames = [b"".join((head, f.prefix(len(message)), first))]
    at = f.DEFAULT_FRAME
    while at < size:
        most = min(f.DEFAULT_FRAME, f.DEFAULT_WINDOW - at % f.DEFAULT_WINDOW)
        chunk = message[at - f.PREFIX : at - f.PREFIX + most]
        frames.append(f.head(len(chunk), f.DATA, 0, stream) + chunk)
        at += most
    return tuple(frames)


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
        "used",
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
        self.used = False  # a message of it has come
        self.held = False  # our window stays shut
        self.owner: Any = None

    def let_frame(self, most: int) -> bytes:
        """The first frame that waits, or as much of it as the windows let go.

        most: bytes of content
        """
        queue = self.queue
        assert queue
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
