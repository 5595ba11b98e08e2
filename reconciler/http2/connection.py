"""The server's side of one HTTP/2 connection that carries gRPC, without IO: bytes in, bytes out.

It does what a gRPC server needs (RFC 9113 and gRPC's mapping onto it) and no more: no push, no
priorities, no compression. It is made for one long stream a connection and ten thousand of them:
a connection and its stream are two small objects, a message that goes to many is framed once
(`Wires`), and most messages are sent and received without a copy.

What a peer can make it keep is bounded: headers, the messages that it has begun (`Limits.message`,
and `Budget` over all connections), frames that ask for an answer and bring nothing (`CREDIT`).
What is sent waits only for the windows that the peer gives; who owns the stream decides how much
that may be, and hears when nothing waits any more.

A broken frame ends the connection with GOAWAY and its reason; a broken message ends its stream with
a gRPC status.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from reconciler.http2 import frames as f
from reconciler.http2 import headers as h
from reconciler.http2.headers import HeaderError, HeaderReader
from reconciler.http2.incoming import TOO_LARGE, frames_of
from reconciler.http2.sending import CREDIT, EARNED, Sender
from reconciler.http2.stream import NOBODY, Budget, Handler, Limits, Stream, Wires

_STREAM_WINDOW: Final = 1 << 16
_CONNECTION_WINDOW: Final = 1 << 20
_OPEN_COSTS: Final = 8
"""Of credit: headers are read, and may be answered. All streams that a connection may have can be
opened before the first message of one gives it back."""
_RESET_COSTS: Final = 20  # of credit: a stream that comes to nothing is work; others cost nothing
_MAX_BLOCK: Final = 64 << 10  # bytes of a header block, as sent


@cache
def _hello(limits: Limits) -> bytes:
    """What we say first."""
    settings = f.settings(
        (f.MAX_CONCURRENT_STREAMS, limits.streams),
        (f.INITIAL_WINDOW_SIZE, _STREAM_WINDOW),
        (f.MAX_HEADER_LIST_SIZE, 16 << 10),
    )
    return settings + f.window_update(0, _CONNECTION_WINDOW - f.DEFAULT_WINDOW)


class _Broken(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Connection(Sender):
    """closed: nothing more will be read; the socket is to be closed once `out` is sent"""

    __slots__ = (
        "_block", "_block_ended", "_block_stream", "_budget", "_data", "_headers", "_held",
        "_last", "_leaving", "_limits", "_preface", "_received", "_start_window", "closed",
        "pinged", "reason",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        wires: Wires,
        budget: Budget,
        limits: Limits,
    ) -> None:
        super().__init__(handler, wires)
        self.out.append(_hello(limits))
        self._budget = budget
        self._held = 0  # bytes of messages that are not whole
        self._limits = limits
        self._headers = HeaderReader()
        self._data = b""  # a frame that is not whole
        self._preface = True
        self._last = 0  # highest stream that the peer has opened
        self._leaving = False
        self._received = 0
        self._start_window = f.DEFAULT_WINDOW
        self._block: bytearray | None = None  # a header block that goes on in CONTINUATION
        self._block_stream = 0
        self._block_ended = False
        self.pinged = False
        self.closed = False
        self.reason = ""

    # ------------------------------------------------------------------------------- what comes

    def receive(self, data: bytes) -> None:
        if self.closed:
            return
        self.pinged = False
        if self._data:
            data = self._data + data
        try:
            at = self._parse(data)
        except _Broken as error:
            self.fail(error.code, str(error))
            return
        self._data = data[at:] if at < len(data) else b""
        if self._widened:  # once for all windows that came together
            self._flush()

    def _parse(self, data: bytes) -> int:
        """Every whole frame; where the first is that is not."""
        at = 0
        if self._preface:
            if not f.PREFACE.startswith(data[: len(f.PREFACE)]):
                self.closed, self.reason = True, "not HTTP/2"
                self.out.clear()
                return len(data)
            if len(data) < len(f.PREFACE):
                return 0
            self._preface, at = False, len(f.PREFACE)
        frames, at = frames_of(data, at)
        for kind, flags, stream, body, message in frames:
            if self.closed:
                break
            if kind == f.DATA and self._block is None:
                self._on_data(stream, flags, body, message)
            else:
                self._on_frame(kind, flags, stream, body)
        return at

    def _on_frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == TOO_LARGE:
            raise _Broken(f.FRAME_SIZE_ERROR, f"a frame of {stream} bytes")
        if self._block is not None and (kind != f.CONTINUATION or stream != self._block_stream):
            raise _Broken(f.PROTOCOL_ERROR, "a frame inside a header block")
        if kind == f.WINDOW_UPDATE:
            self._on_window(stream, body)
        elif kind == f.HEADERS:
            self._on_headers(stream, flags, body)
        elif kind == f.PING:
            self._expect(len(body) == 8 and stream == 0, f.FRAME_SIZE_ERROR, "PING")
            if not flags & f.ACK:
                self._spend(1)
                self.out.append(f.ping(body, f.ACK))
        elif kind == f.SETTINGS:
            self._on_settings(stream, flags, body)
        elif kind == f.RST_STREAM:
            self._expect(len(body) == 4, f.FRAME_SIZE_ERROR, "RST_STREAM")
            self._expect(0 < stream <= self._last, f.PROTOCOL_ERROR, "RST_STREAM")
            found = self.streams.get(stream)
            if found is None:
                self._spend(1)  # we have ended it, most likely, and the peer did not know yet
            else:
                if not (found.used or found.answered):
                    self._spend(_RESET_COSTS)
                self._drop(found)
                self._handler.reset(found)
        elif kind == f.CONTINUATION:
            self._on_continuation(flags, body)
        elif kind == f.GOAWAY:
            self._expect(len(body) >= 8 and stream == 0, f.FRAME_SIZE_ERROR, "GOAWAY")
        elif kind == f.PUSH_PROMISE:
            raise _Broken(f.PROTOCOL_ERROR, "a client can't push")
        elif kind == f.PRIORITY:
            self._expect(len(body) == 5, f.FRAME_SIZE_ERROR, "PRIORITY")
            self._expect(stream != 0, f.PROTOCOL_ERROR, "PRIORITY")
            self._spend(1)
        else:
            self._spend(1)  # of a kind that nobody knows: to be ignored

    @staticmethod
    def _expect(holds: bool, code: int, what: str) -> None:
        if not holds:
            raise _Broken(code, f"a broken {what} frame")

    def _spend(self, cost: int) -> None:
        self._credit -= cost
        if self._credit < 0:
            raise _Broken(f.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _on_settings(self, stream: int, flags: int, body: bytes) -> None:
        self._expect(stream == 0, f.PROTOCOL_ERROR, "SETTINGS")
        if flags & f.ACK:
            self._expect(not body, f.FRAME_SIZE_ERROR, "SETTINGS")
            return
        self._expect(len(body) % 6 == 0, f.FRAME_SIZE_ERROR, "SETTINGS")
        self._spend(1 + len(body) // 6)
        for key, value in f.read_settings(body):
            if key == f.INITIAL_WINDOW_SIZE:
                self._expect(value <= f.MAX_WINDOW, f.FLOW_CONTROL_ERROR, "SETTINGS")
                change, self._start_window = value - self._start_window, value
                for each in self.streams.values():
                    each.window += change
                    self._expect(each.window <= f.MAX_WINDOW, f.FLOW_CONTROL_ERROR, "SETTINGS")
            elif key == f.MAX_FRAME_SIZE:
                self._expect(f.DEFAULT_FRAME <= value < 1 << 24, f.PROTOCOL_ERROR, "SETTINGS")
                # Not used: frames of the default size can be shared by all connections.
            elif key == f.HEADER_TABLE_SIZE:
                self._shrinks |= value < f.DEFAULT_TABLE
            elif key == f.ENABLE_PUSH:
                self._expect(value <= 1, f.PROTOCOL_ERROR, "SETTINGS")
        self.out.append(f.SETTINGS_ACK)
        self._widened = True

    def _on_window(self, stream: int, body: bytes) -> None:
        self._expect(len(body) == 4, f.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        by = f.read_long(body) & 0x7FFFFFFF
        if stream == 0:
            self._expect(by > 0, f.PROTOCOL_ERROR, "WINDOW_UPDATE")
            self.window += by
            self._expect(self.window <= f.MAX_WINDOW, f.FLOW_CONTROL_ERROR, "WINDOW_UPDATE")
            if self._blocked:
                self._widened = True
            else:
                self._spend(1)
            return
        self._expect(stream <= self._last, f.PROTOCOL_ERROR, "WINDOW_UPDATE")
        found = self.streams.get(stream)
        if found is None:
            self._spend(1)
            return
        if by == 0 or found.window + by > f.MAX_WINDOW:
            code = f.FLOW_CONTROL_ERROR if by else f.PROTOCOL_ERROR
            self.out.append(f.rst_stream(stream, code))
            self._drop(found)
            self._handler.reset(found)
            return
        found.window += by
        if found.queue:
            self._widened = True
        else:
            self._spend(1)

    # Headers

    def _on_headers(self, stream: int, flags: int, body: bytes) -> None:
        self._expect(stream % 2 == 1, f.PROTOCOL_ERROR, "HEADERS")
        block = f.content(f.HEADERS, flags, body)
        if block is None:
            raise _Broken(f.PROTOCOL_ERROR, "a broken HEADERS frame")
        if flags & f.END_HEADERS:
            self._on_block(stream, bool(flags & f.END_STREAM), block)
        else:
            self._block, self._block_stream = bytearray(block), stream
            self._block_ended = bool(flags & f.END_STREAM)

    def _on_continuation(self, flags: int, body: bytes) -> None:
        if self._block is None:
            raise _Broken(f.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._spend(10)
        self._block += body
        if len(self._block) > _MAX_BLOCK:
            raise _Broken(f.ENHANCE_YOUR_CALM, "too many header bytes")
        if flags & f.END_HEADERS:
            block, self._block = bytes(self._block), None
            self._on_block(self._block_stream, self._block_ended, block)

    def _on_block(self, number: int, ended: bool, block: bytes) -> None:
        try:
            headers = self._headers.read(block)
        except HeaderError as error:
            raise _Broken(error.code, str(error)) from None
        if number <= self._last:
            found = self.streams.get(number)
            if found is None:
                self._spend(_OPEN_COSTS)
            else:  # trailers of a client: they say that it has said its last
                self._expect(ended and not found.ended, f.PROTOCOL_ERROR, "HEADERS")
                self._end(found)
            return
        self._spend(_OPEN_COSTS)
        self._last = number
        if self._leaving or len(self.streams) >= self._limits.streams:
            self.out.append(f.rst_stream(number, f.REFUSED_STREAM))
            return
        stream = self.streams[number] = Stream(number, self._start_window)
        self._handler.request(stream, headers)
        if ended and number in self.streams:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        stream.ended = True
        if stream.buffer:
            self.finish(stream, h.INVALID_ARGUMENT, "the last message is cut off")
            self._handler.reset(stream)
        else:
            self._handler.ended(stream)

    # Messages

    def _on_data(self, number: int, flags: int, body: bytes, message: bytes | None) -> None:
        if not 0 < number <= self._last:
            raise _Broken(f.PROTOCOL_ERROR, "a broken DATA frame")
        size = len(body)
        self._received += size
        if self._received >= _CONNECTION_WINDOW // 2:
            self.out.append(f.window_update(0, self._received))
            self._received = 0
        stream = self.streams.get(number)
        content: bytes | None = body
        ended = False
        if flags or not body:
            ended = bool(flags & f.END_STREAM)
            content = f.content(f.DATA, flags, body)
            if content is None:
                raise _Broken(f.PROTOCOL_ERROR, "a broken DATA frame")
            if not content and not ended:
                self._spend(1)
        if stream is None:
            return  # it is over, and the peer did not know yet
        if stream.ended:
            raise _Broken(f.STREAM_CLOSED, "DATA after the end of its stream")
        stream.received += size
        if stream.received >= _STREAM_WINDOW // 2:
            if stream.received > _STREAM_WINDOW:
                raise _Broken(f.FLOW_CONTROL_ERROR, "more than the stream's window")
            if not (ended or stream.held):
                self.out.append(f.window_update(number, stream.received))
                stream.received = 0
        if message is not None and stream.buffer is None:  # as nearly always
            self._message(stream, message)
        elif content:
            self._messages(stream, content)
        if ended and number in self.streams:
            self._end(stream)

    def _messages(self, stream: Stream, body: bytes) -> None:
        """Hand every message over that is whole; keep the rest."""
        if stream.buffer is None:
            stream.buffer = bytearray()
        buffer = stream.buffer
        buffer += body
        self._keep(len(body))
        at = 0
        while len(buffer) - at >= f.PREFIX:
            compressed, size = f.read_prefix(buffer, at)
            if compressed or size > self._limits.message:
                self._let_go(stream)
                if compressed:
                    self._refuse(stream, h.UNIMPLEMENTED, "compressed messages are not taken")
                else:
                    most = self._limits.message
                    reason = f"a message of {size} bytes, and at most {most} are taken"
                    self._refuse(stream, h.RESOURCE_EXHAUSTED, reason)
                return
            end = at + f.PREFIX + size
            if end > len(buffer):
                break
            message = bytes(memoryview(buffer)[at + f.PREFIX : end])
            at = end
            self._message(stream, message)
            if self.streams.get(stream.id) is not stream:
                return  # it ended with this one
        if at:
            del buffer[:at]
            self._keep(-at)
        if not buffer:
            stream.buffer = None
        elif self._too_much():
            self._let_go(stream)
            self._refuse(stream, h.RESOURCE_EXHAUSTED, "too much is being received at once")

    def _keep(self, more: int) -> None:
        self._held += more
        self._budget.used += more

    def _too_much(self) -> bool:
        """A connection may hold the longest message there is, and a little besides."""
        held, budget = self._held, self._budget
        if held <= budget.small:
            return False
        return budget.used > budget.limit or held > self._limits.message + budget.small

    def _message(self, stream: Stream, message: bytes) -> None:
        credit = self._credit
        if credit < CREDIT:
            credit += EARNED
            self._credit = credit if credit < CREDIT else CREDIT
        stream.used = True
        self._handler.message(stream, message)

    def _refuse(self, stream: Stream, code: int, reason: str) -> None:
        self.finish(stream, code, reason)
        self._handler.reset(stream)

    # ----------------------------------------------------------------------- what its owner asks

    def hold(self, stream: Stream) -> None:
        """Take no more of it than its window lets through already, until `release`."""
        stream.held = True

    def release(self, stream: Stream) -> None:
        stream.held = False
        if stream.received and self.streams.get(stream.id) is stream and not stream.ended:
            self.out.append(f.window_update(stream.id, stream.received))
            stream.received = 0

    def leave(self) -> None:
        """Ask the peer to take its next streams elsewhere; those that are open go on."""
        if not self._leaving and not self.closed:
            self._leaving = True
            self.out.append(f.goaway(f.MAX_WINDOW, f.NO_ERROR))

    def probe(self) -> bool:
        """PING; False when the last one is not answered, nor was anything else heard since."""
        if self.pinged:
            return False
        self.pinged = True
        self._credit = min(self._credit + CREDIT // 10, CREDIT)
        self.out.append(f.ping(b"\x00" * 8))
        return True

    def fail(self, code: int, reason: str) -> None:
        """End the connection; the peer is told why."""
        if not self.closed:
            self.out.append(f.goaway(self._last, code, reason))
            self.reason = reason
            self.lost()

    def lost(self) -> None:
        """The connection is over; every stream of it is."""
        self.closed = True
        self._data = b""
        for stream in list(self.streams.values()):
            self._drop(stream)
            self._handler.reset(stream)
        self._handler = NOBODY

    def _let_go(self, stream: Stream) -> None:
        if stream.buffer is not None:
            self._keep(-len(stream.buffer))
            stream.buffer = None

    def _drop(self, stream: Stream) -> None:
        super()._drop(stream)
        self._let_go(stream)
