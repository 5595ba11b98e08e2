"""Frames as they come. What clients say of what they were all sent is equal bytes on many
connections, and is cut into frames once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from reconciler.http2 import frames as f

Frame = tuple[int, int, int, bytes, bytes | None]
"""Type, flags, stream, content; of DATA without flags that is one whole message, the message."""

TOO_LARGE: Final = -1
"""In place of a type: a frame that is larger than we let them be. Its stream is its length."""

_KEPT: Final = 64
_KEPT_BYTES: Final = 1 << 10  # longer pieces hold something of their own
_SAID_BY_MANY: Final = frozenset({f.DATA, f.PING, f.WINDOW_UPDATE})

_known: OrderedDict[bytes, tuple[Frame, ...]] = OrderedDict()


def frames_of(data: bytes, at: int) -> tuple[tuple[Frame, ...], int]:
    """Every whole frame from `at` on, and where the first is that is not whole."""
    size = len(data)
    shared = at == 0 and size <= _KEPT_BYTES
    if shared:
        known = _known.get(data)
        if known is not None:
            return known, size
    found: list[Frame] = []
    while size - at >= f.HEAD:
        length, kind, flags, stream = f.read_head(data, at)
        if length > f.DEFAULT_FRAME:
            found.append((TOO_LARGE, 0, length, b"", None))
            at = size
            break
        end = at + f.HEAD + length
        if end > size:
            break
        body = data[at + f.HEAD : end]
        message = None
        if kind not in _SAID_BY_MANY:
            shared = False
        elif kind == f.DATA and not flags and length >= f.PREFIX:
            compressed, inside = f.read_prefix(body)
            if inside == length - f.PREFIX and not compressed:
                message = body[f.PREFIX :]
        found.append((kind, flags, stream, body, message))
        at = end
    frames = tuple(found)
    if shared and at == size:
        _known[data] = frames
        if len(_known) > _KEPT:
            _known.popitem(last=False)
    return frames, at
