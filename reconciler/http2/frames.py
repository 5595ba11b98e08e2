"""HTTP/2 frames as bytes (RFC 9113, section 6) and gRPC's message prefix (its HTTP/2 mapping)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
DEFAULT_TABLE: Final = 4_096
MAX_WINDOW: Final = (1 << 31) - 1

HEAD: Final = 9
"""Bytes of a frame's header: length 3, type 1, flags 1, stream 4."""

PREFIX: Final = 5
"""Bytes before a gRPC message: compressed 1, length 4."""

_HEAD: Final = struct.Struct(">HBBBL")
_PREFIX: Final = struct.Struct(">BL")
_LONG: Final = struct.Struct(">L")
_SETTING: Final = struct.Struct(">HL")


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def read_head(data: bytes | bytearray, at: int) -> tuple[int, int, int, int]:
    """Length, type, flags, stream."""
    high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
    return high << 8 | low, kind, flags, stream & 0x7FFFFFFF


def settings(*pairs: tuple[int, int]) -> bytes:
    body = b"".join(_SETTING.pack(key, value) for key, value in pairs)
    return head(len(body), SETTINGS, 0, 0) + body


def read_settings(body: bytes) -> list[tuple[int, int]]:
    return list(_SETTING.iter_unpack(body))


SETTINGS_ACK: Final = head(0, SETTINGS, ACK, 0)


def ping(body: bytes, flags: int = 0) -> bytes:
    return head(8, PING, flags, 0) + body


def window_update(stream: int, by: int) -> bytes:
    return head(4, WINDOW_UPDATE, 0, stream) + _LONG.pack(by)


def rst_stream(stream: int, code: int) -> bytes:
    return head(4, RST_STREAM, 0, stream) + _LONG.pack(code)


def goaway(last: int, code: int, text: str = "") -> bytes:
    body = _LONG.pack(last) + _LONG.pack(code) + text.encode()
    return head(len(body), GOAWAY, 0, 0) + body


def content(kind: int, flags: int, body: bytes) -> bytes | None:
    """Of DATA or HEADERS, without padding and priority; None: it has not room for them."""
    begin, end = 0, len(body)
    if flags & PADDED:
        if not body:
            return None
        begin, end = 1, end - body[0]
    if kind == HEADERS and flags & PRIORITIZED:
        begin += 5
    return body[begin:end] if begin <= end else None


def read_long(body: bytes, at: int = 0) -> int:
    value: int = _LONG.unpack_from(body, at)[0]
    return value


def prefix(size: int) -> bytes:
    """Of a gRPC message that is not compressed."""
    return _PREFIX.pack(0, size)


read_prefix: Final[Callable[..., tuple[int, int]]] = _PREFIX.unpack_from
"""Bytes, and where it begins in them → compressed, length."""
