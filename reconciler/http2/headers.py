"""Header blocks (HPACK, RFC 7541): requests are read by the library, responses are plain literals.

What a block means depends on the blocks before it, and on nothing else. Clients of one program say
the same on each connection, so what a block means is kept by it and by what came before (`_known`),
and a connection gets a decoder of its own only when it says something that none has said before.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, unquote

import msgspec
from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from reconciler.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM

Header = tuple[bytes, bytes]

MAX_LIST: Final = 32 << 10
"""Bytes of all headers of a request, as RFC 9113 counts them (names, values, 32 each)."""

_KEPT: Final = 4096
_KEPT_BYTES: Final = 1 << 10  # longer blocks hold something of their own, such as a token
_MOST: Final = 64
"""Blocks of a connection that are kept, to be told to a decoder if it needs one."""


class HeaderError(Exception):
    """code: of HTTP/2, for GOAWAY."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Known(msgspec.Struct, frozen=True):
    """block: the same for all connections; then: a number for all that was said up to it"""

    block: bytes
    headers: tuple[Header, ...]
    then: int


_known: OrderedDict[tuple[int, bytes], _Known] = OrderedDict()
_numbers = itertools.count(1)


class HeaderReader:
    """The header blocks of one connection, in order."""

    __slots__ = ("_blocks", "_decoder", "_said")

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._blocks: list[bytes] = []  # all, as long as there is no decoder
        self._said: int | None = 0  # what came so far; None when it is not kept

    def read(self, block: bytes) -> tuple[Header, ...]:
        """HeaderError: the connection is lost, since the two sides no longer agree."""
        said = self._said
        known = None if said is None else _known.get((said, block))
        if known is not None and self._decoder is None and len(self._blocks) < _MOST:
            self._blocks.append(known.block)
            self._said = known.then
            return known.headers
        if self._decoder is None:
            self._decoder = Decoder(max_header_list_size=MAX_LIST)
            blocks, self._blocks = self._blocks, []
            for before in blocks:
                self._decode(before)
        headers = self._decode(block)
        if said is None or len(block) > _KEPT_BYTES:
            self._said = None
        elif known is not None:
            self._said = known.then
        else:
            self._said = next(_numbers)
            _known[said, block] = _Known(block, headers, self._said)
            if len(_known) > _KEPT:
                _known.popitem(last=False)
        return headers

    def _decode(self, block: bytes) -> tuple[Header, ...]:
        assert self._decoder is not None
        try:
            return tuple((bytes(k), bytes(v)) for k, v in self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise HeaderError(ENHANCE_YOUR_CALM, "too many header bytes") from None
        except HPACKError as error:
            raise HeaderError(COMPRESSION_ERROR, f"headers: {error}") from None


def literal(headers: Iterable[Header]) -> bytes:
    """A block that touches nobody's table: literals without indexing, no Huffman code."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def _string(data: bytes) -> bytes:
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    size -= 127
    out = bytearray((127,))
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + data


# b"\x88" is the static table's `:status: 200`.
RESPONSE: Final = b"\x88" + literal(((b"content-type", b"application/grpc"),))

NO_TABLE: Final = b"\x20"
"""Before a block: our table has room for nothing from here on (RFC 7541, 6.3). It holds nothing
anyway, but a peer that wants it smaller than it is at first must be told (4.2)."""


INVALID_ARGUMENT: Final = 3
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
"""gRPC's statuses that a connection gives by itself."""


_MOST_TEXT: Final = 1 << 10
"""Bytes of what is said at an end, encoded: a peer's own words may be in it, and many requests with
long ones are short (HPACK)."""

_PLAIN: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def trailers(code: int, message: str, more: Sequence[Header] = ()) -> bytes:
    """gRPC's last headers; the message is percent-encoded, as its HTTP/2 mapping wants it, and a
    long one is cut."""
    found = [(b"grpc-status", str(code).encode())]
    if message:
        found.append((b"grpc-message", _text(message).encode()))
    return literal((*found, *more))


def _text(message: str) -> str:
    text = quote(message[:_MOST_TEXT], safe=_PLAIN, errors="replace")
    if len(text) <= _MOST_TEXT:
        return text
    text = text[:_MOST_TEXT]
    if "%" in text[-2:]:
        text = text[: text.rindex("%")]
    return quote(unquote(text, errors="ignore"), safe=_PLAIN)  # without half a character
