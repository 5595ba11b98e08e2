"""What goes on one connection: header blocks, messages as the windows let them go, last words.

What comes is `connection`'s, which is built on this: a message of one frame goes from here to `out`
without another call, so there is no second object.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from reconciler.http2 import frames as f
from reconciler.http2 import headers as h
from reconciler.http2.stream import Handler, Stream, Wires

CREDIT: Final = 10_000
"""Frames that bring nothing (PING, SETTINGS, empty DATA ...) a peer may send, and how much it can
save up. Each message of its gives some back (`EARNED`), each frame of a message that it is sent,
for which it may have two windows to widen, and each `probe` of ours."""
EARNED: Final = 20
_FRAME: Final = f.DEFAULT_FRAME


class Sender:
    """out: what is to be sent; the caller takes it all after each call.

    window: what the peer takes on all streams together
    writable: what the socket takes; while it is false messages wait in their streams
    """

    __slots__ = (
        "_blocked", "_credit", "_handler", "_shrinks", "_widened", "_wires", "out", "streams",
        "window", "writable",
    )  # fmt: skip

    def __init__(self, handler: Handler, wires: Wires) -> None:
        self._handler = handler
        self._wires = wires
        self._credit = CREDIT
        self._shrinks = False  # the peer's header table: our next block has to agree
        self._blocked: dict[int, Stream] = {}  # with a queue, in turn
        self._widened = False  # a window, since they were last looked at
        self.streams: dict[int, Stream] = {}
        self.window = f.DEFAULT_WINDOW
        self.writable = True
        self.out: list[bytes] = []

    def start(self, stream: Stream) -> None:
        """Send the response's headers; with the first message, if not before."""
        if not stream.answered and self.streams.get(stream.id) is stream:
            stream.answered = True
            self._say(stream, f.END_HEADERS, h.RESPONSE)

    def send(self, stream: Stream, message: bytes) -> bool:
        """False: it waits, or a part of it does, until `drained`."""
        if self.streams.get(stream.id) is not stream:
            return True
        if not stream.answered:
            self.start(stream)
        size = f.PREFIX + len(message)
        if self.writable and stream.queue is None and size <= stream.window and size <= self.window:
            self.out.append(self._wires.whole(stream.id, message))
            stream.window -= size
            self.window -= size
            credit = self._credit
            if credit < CREDIT:
                credit += EARNED + EARNED * (size // _FRAME)
                self._credit = credit if credit < CREDIT else CREDIT
            return True
        if stream.queue is None:
            stream.queue = deque()
            self._blocked[stream.id] = stream
        stream.queue.extend(self._wires.frames(stream.id, message))
        stream.queued += size
        self._flush()
        return stream.queue is None

    def finish(self, stream: Stream, code: int, message: str = "") -> None:
        """The stream's last word; what waits of messages is given up."""
        if self.streams.get(stream.id) is not stream:
            return
        block = h.trailers(code, message)
        if not stream.answered:
            block = h.RESPONSE + block
        self._say(stream, f.END_HEADERS | f.END_STREAM, block)
        if not stream.ended:
            self.out.append(f.rst_stream(stream.id, f.NO_ERROR))
        self._drop(stream)

    def unblock(self) -> None:
        """The socket takes more again."""
        self.writable = True
        self._flush()

    def _say(self, stream: Stream, flags: int, block: bytes) -> None:
        if self._shrinks:
            self._shrinks, block = False, h.NO_TABLE + block
        self.out.append(f.head(len(block), f.HEADERS, flags, stream.id) + block)

    def _flush(self) -> None:
        """What the windows let go, a frame of each stream in turn."""
        self._widened = False
        done: list[Stream] = []
        while self._blocked and self.window > 0 and self.writable:
            moved = False
            for stream in list(self._blocked.values()):
                queue = stream.queue
                while queue and stream.window > 0 and self.window > 0:
                    moved, waiting = True, len(queue)
                    frame = stream.let_frame(self.window)
                    self.out.append(frame)
                    self.window -= len(frame) - f.HEAD
                    if len(queue) < waiting:
                        self._credit = min(self._credit + EARNED, CREDIT)
                    if len(self._blocked) > 1:
                        break
                if queue is not None and not queue:
                    stream.queue = None
                    del self._blocked[stream.id]
                    done.append(stream)
            if not moved:
                break
        for stream in done:
            if stream.queue is None and self.streams.get(stream.id) is stream:
                self._handler.drained(stream)

    def _drop(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        stream.queue, stream.queued = None, 0
