"""A server that is none: `python -m bench.bare` says to every connection what it has ready.

It has the bytes of a response made once and gives them to all, takes what a client sends for an
answer without looking at it, and keeps nothing of a client but its windows. It runs on the event
loop and the TLS library that ours on http2 runs on. So what it takes is what a server in Python
can't do without here, and what is above it is ours to save. Only the load client (bench/xds/load)
understands it: a connection has one stream, and asks for everything, or for what it held before.
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
_STREAM: Final = 1
_BEGIN: Final = f.head(len(h.RESPONSE), f.HEADERS, f.END_HEADERS, _STREAM) + h.RESPONSE


class Ready:
    """What everybody is told, as frames."""

    def __init__(self) -> None:
        self._resources: dict[tuple[str, str], Found] = {}
        self.connections: set[Connection] = set()
        self.everything: list[bytes] = []
        self.removals: list[bytes] = []

    def set(self, found: tuple[Found, ...]) -> None:
        self._resources.update({(each.type_url, each.name): each for each in found})
        self.everything = _responses(tuple(self._resources.values()))
        self.removals = _removals({SECRET, EXTENSION})

    def change(self, found: tuple[Found, ...]) -> None:
        self.set(found)
        told = _responses(found)
        for connection in self.connections:
            connection.say(told)


def _removals(types: Collection[str]) -> list[bytes]:
    out: list[bytes] = []
    for type_url in sorted(types):
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="1")
        response.removed_resources.append(_GONE.decode())
        out += Wires().frames(_STREAM, response.SerializeToString())
    return out


def _responses(found: tuple[Found, ...]) -> list[bytes]:
    out: list[bytes] = []
    for type_url in sorted({each.type_url for each in found}):
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="1")
        for each in found:
            if each.type_url == type_url:
                one = response.resources.add(name=each.name, version=each.version)
                one.resource.type_url, one.resource.value = type_url, each.body
        out += Wires().frames(_STREAM, response.SerializeToString())
    return out


class Connection(asyncio.Protocol):
    def __init__(self, ready: Ready, contexts: Contexts, buffers: Buffers) -> None:
        self._ready = ready
        self._secured = Session(contexts.current(), buffers)
        self._transport: asyncio.Transport
        self._opened = False
        self._windows = [f.DEFAULT_WINDOW, f.DEFAULT_WINDOW]  # of the connection, of its stream
        self._waiting: list[bytes] = []
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._ready.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        secured, began = self._secured, self._secured.established
        plain = secured.receive(data)
        if answers := secured.answers():
            self._transport.write(answers)
        if not began:
            if not secured.established:
                return
            self._transport.write(secured.encrypt(_HELLO))
        self._read(plain.removeprefix(f.PREFACE))

    def _read(self, data: bytes) -> None:
        data, at, out = self._rest + data, 0, b""
        while len(data) - at >= f.HEAD:
            length, kind, flags, stream = f.read_head(data, at)
            end = at + f.HEAD + length
            if end > len(data):
                break
            if kind == f.PING and not flags:
                out += f.ping(data[at + f.HEAD : end], f.ACK)
            elif kind == f.SETTINGS and not flags:
                out += f.SETTINGS_ACK
            elif kind == f.WINDOW_UPDATE:
                self._windows[stream] += f.read_long(data, at + f.HEAD)
            elif kind == f.DATA and not self._opened:
                self._open(_GONE in data[at:end])
            at = end
        self._rest = data[at:]
        if out:
            self._transport.write(self._secured.encrypt(out))
        if self._waiting:
            self.say([])

    def _open(self, again: bool) -> None:
        self._opened = True
        self._ready.connections.add(self)
        self._transport.write(self._secured.encrypt(_BEGIN))
        self.say(self._ready.removals if again else self._ready.everything)

    def say(self, told: list[bytes]) -> None:
        """As far as the window goes."""
        told, said, left = self._waiting + told, 0, min(self._windows)
        while said < len(told) and (size := len(told[said]) - f.HEAD) <= left:
            left -= size
            self._windows = [each - size for each in self._windows]
            said += 1
        self._waiting = told[said:]
        if said:
            self._transport.write(self._secured.encrypt(b"".join(told[:said])))


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


async def _serve(listen: str, adapter: str, keys: tls.KeyPair) -> None:
    ready, contexts, buffers = Ready(), Contexts(keys, tokens=False), Buffers()
    loop = asyncio.get_running_loop()
    host, _, port = listen.rpartition(":")
    await loop.create_server(
        lambda: Connection(ready, contexts, buffers), host, int(port), backlog=4096
    )
    runner = web.AppRunner(_adapter(ready))
    await runner.setup()
    host, _, port = adapter.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bare", description=__doc__)
    for name in ("listen", "adapter", "cert", "key", "ca"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    machine.raise_descriptor_limit()
    paths = (options.cert, options.key, options.ca)
    uvloop.run(_serve(options.listen, options.adapter, tls.load(*paths)))


if __name__ == "__main__":
    main()
