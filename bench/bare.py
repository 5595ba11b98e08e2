"""A server that is none: `python -m bench.bare` says to every stream what it has ready.

It has the bytes of a response made once and gives them to all, takes what a client sends for an
answer without looking at it, and keeps nothing of a client but its windows. It runs on the event
loop and the TLS library that ours on http2 runs on. So what it takes is what a server in Python
can't do without here, and what is above it is ours to save. Only the load client (bench/xds/load)
understands it: a stream asks for everything, or for what it held before.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Collection
from typing import Final, cast

import uvloop
from aiohttp import web
from envoy.service.discovery.v3 import discovery_pb2

from bench import machine
from bench.xds_rig import EXTENSION, SECRET
from reconciler import tls
from reconciler.http2 import Wires
from reconciler.http2 import frames as f
from reconciler.http2 import headers as h
from reconciler.server.discovery.documents import Found, parse
from reconciler.server.h2_tls import Buffers, Contexts, Session

_GONE: Final = b"bench-gone"  # as in bench/xds/load/wire.go: named by who reconnects
_WIDE: Final = 1 << 30
_HELLO: Final = f.settings((f.INITIAL_WINDOW_SIZE, _WIDE)) + f.window_update(0, _WIDE)
_CONNECTION: Final = 0  # the stream that a frame of the connection's own names


class Told:
    """Messages, framed once for each number of a stream: connections have the same ones."""

    def __init__(self, messages: list[bytes] | None = None) -> None:
        self._messages = messages or []
        self._frames: dict[int, list[bytes]] = {}

    def frames(self, stream: int) -> list[bytes]:
        found = self._frames.get(stream)
        if found is None:
            wires = Wires()
            found = [frame for each in self._messages for frame in wires.frames(stream, each)]
            self._frames[stream] = found
        return found


_NOTHING: Final = Told()


class Ready:
    """What everybody is told."""

    def __init__(self) -> None:
        self._resources: dict[tuple[str, str], Found] = {}
        self.connections: set[Connection] = set()
        self.everything = self.removals = _NOTHING

    def set(self, found: tuple[Found, ...]) -> None:
        self._resources.update({(each.type_url, each.name): each for each in found})
        self.everything = _responses(tuple(self._resources.values()))
        self.removals = _removals({SECRET, EXTENSION})

    def change(self, found: tuple[Found, ...]) -> None:
        self.set(found)
        told = _responses(found)
        for connection in self.connections:
            connection.say(told)


def _removals(types: Collection[str]) -> Told:
    out: list[bytes] = []
    for type_url in sorted(types):
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="1")
        response.removed_resources.append(_GONE.decode())
        out.append(response.SerializeToString())
    return Told(out)


def _responses(found: tuple[Found, ...]) -> Told:
    out: list[bytes] = []
    for type_url in sorted({each.type_url for each in found}):
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="1")
        for each in found:
            if each.type_url == type_url:
                one = response.resources.add(name=each.name, version=each.version)
                one.resource.type_url, one.resource.value = type_url, each.body
        out.append(response.SerializeToString())
    return Told(out)


class Connection(asyncio.Protocol):
    """session: None: without TLS"""

    def __init__(self, ready: Ready, session: Session | None) -> None:
        self._ready = ready
        self._secured = session
        self._transport: asyncio.Transport
        self._window = self._first_window = f.DEFAULT_WINDOW
        self._windows: dict[int, int] = {}  # of streams
        self._waiting: dict[int, list[bytes]] = {}  # likewise, of those that said something
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
        data, at = self._rest + data, 0
        out: list[bytes] = []
        while len(data) - at >= f.HEAD:
            length, kind, flags, stream = f.read_head(data, at)
            end = at + f.HEAD + length
            if end > len(data):
                break
            if kind == f.PING and not flags:
                out.append(f.ping(data[at + f.HEAD : end], f.ACK))
            elif kind == f.SETTINGS and not flags:
                self._agree(f.read_settings(data[at + f.HEAD : end]))
                out.append(f.SETTINGS_ACK)
            elif kind == f.HEADERS:
                self._windows.setdefault(stream, self._first_window)
            elif kind == f.WINDOW_UPDATE:
                self._widen(stream, f.read_long(data, at + f.HEAD))
            elif kind == f.DATA and stream not in self._waiting:
                out.append(f.head(len(h.RESPONSE), f.HEADERS, f.END_HEADERS, stream) + h.RESPONSE)
                told = self._ready.removals if _GONE in data[at:end] else self._ready.everything
                self._waiting[stream] = list(told.frames(stream))
            at = end
        self._rest = data[at:]
        self._flush(out)

    def _agree(self, settings: list[tuple[int, int]]) -> None:
        for key, value in settings:
            if key == f.INITIAL_WINDOW_SIZE:
                change, self._first_window = value - self._first_window, value
                for stream in self._windows:
                    self._windows[stream] += change

    def _widen(self, stream: int, by: int) -> None:
        if stream == _CONNECTION:
            self._window += by
        elif stream in self._windows:
            self._windows[stream] += by

    def say(self, told: Told) -> None:
        for stream, waiting in self._waiting.items():
            waiting += told.frames(stream)
        self._flush([])

    def _flush(self, out: list[bytes]) -> None:
        """As far as the windows go."""
        for stream, waiting in self._waiting.items():
            said, own = 0, self._windows[stream]
            for frame in waiting:
                size = len(frame) - f.HEAD
                if size > min(own, self._window):
                    break
                own, self._window, said = own - size, self._window - size, said + 1
            if said:
                self._windows[stream] = own
                out += waiting[:said]
                del waiting[:said]
        if out:
            self._write(out)

    def _write(self, out: list[bytes]) -> None:
        if self._secured is not None:
            self._transport.write(self._secured.encrypt(b"".join(out)))
        else:
            self._transport.writelines(out)


def _adapter(ready: Ready) -> web.Application:
    async def put(request: web.Request) -> web.Response:
        ready.set(parse(await request.read(), "put.json").found)
        return web.Response(status=204)

    async def patch(request: web.Request) -> web.Response:
        ready.change(parse(await request.read(), "patch.json").found)
        return web.Response(status=204)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_put("/resources", put)
    app.router.add_patch("/resources", patch)
    return app


async def _serve(listen: str, adapter: str, keys: tls.KeyPair | None) -> None:
    ready, buffers = Ready(), Buffers()
    contexts = Contexts(keys, tokens=False) if keys is not None else None

    def connection() -> Connection:
        return Connection(ready, None if contexts is None else Session(contexts.current(), buffers))

    host, _, port = listen.rpartition(":")
    await asyncio.get_running_loop().create_server(connection, host, int(port), backlog=4096)
    runner = web.AppRunner(_adapter(ready))
    await runner.setup()
    host, _, port = adapter.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bare", description=__doc__)
    for name in ("listen", "adapter"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("cert", "key", "ca"):
        parser.add_argument(f"--{name}", help="all three or none: without TLS")
    options = parser.parse_args()
    machine.raise_descriptor_limit()
    paths = (options.cert, options.key, options.ca)
    keys = tls.load(*paths) if any(paths) else None
    uvloop.run(_serve(options.listen, options.adapter, keys))


if __name__ == "__main__":
    main()
