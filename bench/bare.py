"""A server that is none: `python -m bench.bare` says to every stream what it has ready.

It has the bytes of a response made once and gives them to all. Of what a client says it reads what
nobody can leave unread: which method is called, what is asked for, and whether a response was
accepted, by HPACK's and protobuf's own libraries, and equal bytes once; of a stream's first request
only whether it held something before, by its bytes. It keeps a stream's window and what it accepted
last, and nothing else. It runs on the event loop and the TLS library that ours
on http2 runs on, and imports no more than it needs. So what it takes is what a server in Python
can't do without here, and what is above it is ours to save. Only the load client (bench/xds/load)
understands it: a stream asks for everything, or for what it held before.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, cast

import uvloop
from envoy.service.discovery.v3 import discovery_pb2

from reconciler.http2 import Wires
from reconciler.http2 import frames as f
from reconciler.http2 import headers as h
from reconciler.http2.incoming import frames_of
from reconciler.server.h2_session import Buffers, Session

_PATH: Final = b"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_GONE: Final = "bench-gone"  # as in bench/xds/load/wire.go: named by who reconnects
_WIDE: Final = 1 << 30
_HELLO: Final = f.settings((f.INITIAL_WINDOW_SIZE, _WIDE)) + f.window_update(0, _WIDE)
_CONNECTION: Final = 0  # the stream that a frame of the connection's own names


class Told:
    """Messages, framed once for each number of a stream: connections have the same ones.

    size: bytes that they take of a window"""

    def __init__(self, messages: list[bytes] | None = None) -> None:
        self._messages = messages or []
        self._frames: dict[int, list[bytes]] = {}
        self._whole: dict[int, bytes] = {}
        self.size = sum(f.PREFIX + len(each) for each in self._messages)

    def frames(self, stream: int) -> list[bytes]:
        found = self._frames.get(stream)
        if found is None:
            wires = Wires()
            found = [frame for each in self._messages for frame in wires.frames(stream, each)]
            self._frames[stream] = found
        return found

    def whole(self, stream: int) -> bytes:
        """The frames, one behind the other."""
        found = self._whole.get(stream)
        if found is None:
            found = self._whole[stream] = b"".join(self.frames(stream))
        return found


_NOTHING: Final = Told()


class Ready:
    """What everybody is told."""

    def __init__(self) -> None:
        self._resources: dict[tuple[str, str], Any] = {}
        self.connections: set[Connection] = set()
        self.everything = self.removals = _NOTHING

    def change(self, message: bytes) -> None:
        """message: a DiscoveryResponse"""
        given = discovery_pb2.DiscoveryResponse.FromString(message).resources
        first = not self._resources
        self._resources.update({(each.type_url, _name(each.value)): each for each in given})
        self.everything = _responses(self._resources)
        self.removals = _removals({type_url for type_url, _ in self._resources})
        if not first:
            told = _responses({(each.type_url, _name(each.value)): each for each in given})
            for connection in self.connections:
                connection.say(told)


def _name(body: bytes) -> str:
    """The first field of both types, and short."""
    return body[2 : 2 + body[1]].decode()


def _removals(types: Collection[str]) -> Told:
    out: list[bytes] = []
    for type_url in sorted(types):
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="1")
        response.removed_resources.append(_GONE)
        out.append(response.SerializeToString())
    return Told(out)


def _responses(found: dict[tuple[str, str], Any]) -> Told:
    responses: dict[str, Any] = {}
    for (type_url, name), each in sorted(found.items(), key=lambda item: item[0]):
        if type_url not in responses:
            new = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="1")
            responses[type_url] = new
        version = f"{hash(each.value):x}"
        responses[type_url].resources.add(name=name, version=version, resource=each)
    return Told([each.SerializeToString() for each in responses.values()])


@lru_cache(maxsize=1024)
def _answered(data: bytes) -> tuple[str, str]:
    """Type and nonce of a request; ValueError: it refuses a response."""
    request = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
    if request.HasField("error_detail"):
        raise ValueError(request.error_detail.message)
    return request.type_url, request.response_nonce


class Stream:
    """One call. waiting: frames that it has yet to be sent; acked: the nonce that was acknowledged
    last, by type; begun: of a message that is not whole; said: whether it was told anything"""

    __slots__ = ("acked", "begun", "said", "waiting", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.waiting: list[bytes] = []
        self.acked: dict[str, str] = {}
        self.begun = b""
        self.said = False


class Connection(asyncio.Protocol):
    """session: None: without TLS"""

    def __init__(self, ready: Ready, session: Session | None) -> None:
        self._ready = ready
        self._secured = session
        self._transport: asyncio.Transport
        self._headers = h.HeaderReader()
        self._window = self._first_window = f.DEFAULT_WINDOW
        self._streams: dict[int, Stream] = {}
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ready.connections.add(self)
        if self._secured is None:
            self._write([_HELLO])

    def connection_lost(self, _: Exception | None) -> None:
        self._ready.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        secured = self._secured
        if secured is not None:
            began = secured.established
            data = secured.receive(data)
            if answers := secured.answers():
                self._transport.write(answers)
            if not began:
                if not secured.established:
                    return
                self._write([_HELLO])
        self._read(data.removeprefix(f.PREFACE))

    def _read(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        frames, at = frames_of(data, 0)
        out: list[bytes] = []
        for kind, flags, stream, body, message in frames:
            if kind == f.PING and not flags:
                out.append(f.ping(body, f.ACK))
            elif kind == f.SETTINGS and not flags:
                self._agree(f.read_settings(body))
                out.append(f.SETTINGS_ACK)
            elif kind == f.HEADERS:
                if (b":path", _PATH) not in self._headers.read(body):
                    raise ValueError("not delta ADS")
                self._streams[stream] = Stream(self._first_window)
                out.append(f.head(len(h.RESPONSE), f.HEADERS, f.END_HEADERS, stream) + h.RESPONSE)
            elif kind == f.WINDOW_UPDATE:
                self._widen(stream, f.read_long(body))
            elif kind == f.DATA:
                if message is not None and not self._streams[stream].begun:
                    self._request(stream, self._streams[stream], message, out)
                else:
                    self._take(stream, self._streams[stream], body, out)
        self._rest = data[at:] if at < len(data) else b""
        self._flush(out)

    def _take(self, number: int, stream: Stream, body: bytes, out: list[bytes]) -> None:
        """Requests: answers to responses, and what is asked for."""
        body = stream.begun + body if stream.begun else body
        while len(body) >= f.PREFIX:
            end = f.PREFIX + f.read_prefix(body)[1]
            if len(body) < end:
                break
            self._request(number, stream, body[f.PREFIX : end], out)
            body = body[end:]
        stream.begun = body

    def _request(self, number: int, stream: Stream, data: bytes, out: list[bytes]) -> None:
        if not stream.said:
            stream.said = True
            gone = _GONE.encode() in data
            told = self._ready.removals if gone else self._ready.everything
            self._tell(number, stream, told, out)
            return
        type_url, nonce = _answered(data)
        if nonce:
            stream.acked[type_url] = nonce

    def _agree(self, settings: list[tuple[int, int]]) -> None:
        for key, value in settings:
            if key == f.INITIAL_WINDOW_SIZE:
                change, self._first_window = value - self._first_window, value
                for stream in self._streams.values():
                    stream.window += change

    def _widen(self, stream: int, by: int) -> None:
        if stream == _CONNECTION:
            self._window += by
        elif stream in self._streams:
            self._streams[stream].window += by

    def say(self, told: Told) -> None:
        out: list[bytes] = []
        for number, stream in self._streams.items():
            self._tell(number, stream, told, out)
        self._flush(out)

    def _tell(self, number: int, stream: Stream, told: Told, out: list[bytes]) -> None:
        size = told.size
        if stream.waiting or size > stream.window or size > self._window:
            stream.waiting += told.frames(number)
        else:
            stream.window -= size
            self._window -= size
            out.append(told.whole(number))

    def _flush(self, out: list[bytes]) -> None:
        """As far as the windows go."""
        for stream in self._streams.values():
            waiting, said, own = stream.waiting, 0, stream.window
            for frame in waiting:
                size = len(frame) - f.HEAD
                if size > min(own, self._window):
                    break
                own, self._window, said = own - size, self._window - size, said + 1
            if said:
                stream.window = own
                out += waiting[:said]
                del waiting[:said]
        if out:
            self._write(out)

    def _write(self, out: list[bytes]) -> None:
        if self._secured is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._transport.write(self._secured.encrypt(data))
        else:
            self._transport.writelines(out)


async def _adapter(
    ready: Ready, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """HTTP/1.1, as the load client and urllib speak it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = head.partition(b"content-length:")[2].partition(b"\r")[0]
            ready.change(await reader.readexactly(int(size)))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()


async def _serve(listen: str, adapter: str, context: ssl.SSLContext | None) -> None:
    ready, buffers = Ready(), Buffers()

    def connection() -> Connection:
        return Connection(ready, None if context is None else Session(context, buffers))

    host, _, port = listen.rpartition(":")
    await asyncio.get_running_loop().create_server(connection, host, int(port), backlog=4096)
    host, _, port = adapter.rpartition(":")
    await asyncio.start_server(
        lambda reader, writer: _adapter(ready, reader, writer), host, int(port), limit=1 << 20
    )
    await asyncio.Event().wait()


def _context(certificate: str, key: str, ca: str) -> ssl.SSLContext:
    """As `server.h2_tls` makes them, without the checks of keys and all that these import."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.set_alpn_protocols(["h2"])
    found.num_tickets = 0
    found.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    found.load_cert_chain(certificate, key)
    found.load_verify_locations(ca)
    found.verify_mode = ssl.CERT_REQUIRED
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bare", description=__doc__)
    for name in ("listen", "adapter"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("cert", "key", "ca"):
        parser.add_argument(f"--{name}", help="all three or none: without TLS")
    options = parser.parse_args()
    paths = (options.cert, options.key, options.ca)
    uvloop.run(_serve(options.listen, options.adapter, _context(*paths) if any(paths) else None))


if __name__ == "__main__":
    main()
