"""Header blocks (HPACK, RFC 7541): requests are read by the library, responses are plain literals.

The first block of a connection is nearly always the same bytes as that of the connection before
(one client program, one method), so what it says is kept by its bytes, and the decoder of a
connection is made when a second block comes: most connections have one stream and never need it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from reconciler.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM

Header = tuple[bytes, bytes]

MAX_LIST: Final = 32 << 10
"""Bytes of all headers of a request, as RFC 9113 counts them (names, values, 32 each)."""

_KEPT: Final = 256
_KEPT_BYTES: Final = 1 << 10  # longer blocks hold something of their own, such as a token


class HeaderError(Exception):
    """code: of HTTP/2, for GOAWAY."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


_first: OrderedDict[bytes, tuple[Header, ...]] = OrderedDict()


class HeaderReader:
    """The header blocks of one connection, in order."""

    __slots__ = ("_block", "_decoder")

    def __init__(self) -> None:
        self._block: bytes | None = None  # the first one, while only its meaning is known
        self._decoder: Decoder | None = None

    def read(self, block: bytes) -> tuple[Header, ...]:
        """HeaderError: the connection is lost, since the two sides no longer agree."""
        if self._decoder is None and self._block is None:
            found = _first.get(block)
            if found is not None:
                self._block = block
                return found
            decoded = self._decode(block)
            if len(block) <= _KEPT_BYTES:
                _first[block] = decoded
                if len(_first) > _KEPT:
                    _first.popitem(last=False)
            return decoded
        if self._block is not None:
            before, self._block = self._block, None
            self._decode(before)
        return self._decode(block)

    def _decode(self, block: bytes) -> tuple[Header, ...]:
        if self._decoder is None:
            self._decoder = Decoder(max_header_list_size=MAX_LIST)
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


def trailers(code: int, message: str, more: Sequence[Header] = ()) -> bytes:
    """gRPC's last headers; the message is percent-encoded, as its HTTP/2 mapping wants it."""
    found = [(b"grpc-status", str(code).encode())]
    if message:
        safe = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
        found.append((b"grpc-message", quote(message, safe=safe).encode()))
    return literal((*found, *more))
