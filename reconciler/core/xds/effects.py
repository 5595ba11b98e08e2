"""What a core that serves streams asks its shell to do with them."""

from __future__ import annotations

import msgspec


class Send(msgspec.Struct, frozen=True):
    """Write a frame to a stream. Several streams may share one object of bytes."""

    stream: int
    frame: bytes


class Close(msgspec.Struct, frozen=True):
    """End a stream with a gRPC status name and a text. The core has forgotten it already."""

    stream: int
    status: str
    reason: str
