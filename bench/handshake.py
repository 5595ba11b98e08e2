"""What one connection with mutual TLS costs a server: `python -m bench.handshake`.

A client connects, proves who it is, reads what the server says first (its SETTINGS) and leaves; no
stream is opened. CPU time of the server's process (user and system) a connection, for ours on
either transport and for go-control-plane's server; and of that what Python's `ssl` takes for the
handshake alone, on buffers in memory, without a socket or an event loop.

All in turn in each round; medians of the rounds. It says what is left for a server to do well when
each stream has a connection of its own, as `bench.xds` measures it.
"""

from __future__ import annotations

import argparse
import datetime
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import machine, xds_build, xds_rig
from bench.xds_rig import Keys, Kind, Server
from reconciler.errors import ReconcilerError
from reconciler.server import certs

_NAMES: Final[dict[Kind, str]] = {
    "http2": "ours on http2",
    "grpc": "ours on grpc",
    "linear": "go-control-plane",
}
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SECONDS: Final = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.handshake", description=__doc__)
    parser.add_argument("--connections", type=int, default=500, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with machine.scratch() as directory:
        try:
            _run(directory, options.connections, options.rounds)
        except (ReconcilerError, RuntimeError, OSError) as error:
            print(f"bench.handshake: {error}", file=sys.stderr)
            return 1
    return 0


def _run(directory: Path, connections: int, rounds: int) -> None:
    programs = xds_build.programs()
    keys = xds_rig.make_keys(directory)
    client = _client(directory, keys)
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        found.setdefault(f"{ssl.OPENSSL_VERSION}, handshake alone", []).append(
            _alone(keys, client, connections)
        )
        for kind, name in _NAMES.items():
            place = directory / f"{kind}-{turn}"
            with Server(kind, place, programs, keys) as server:
                found.setdefault(name, []).append(_served(server, client, connections))
    for what, value in machine.describe().items():
        print(f"{what}: {value}")
    print(f"{connections} connections a round, {rounds} rounds\n")
    print(f"{'':<42} {'ms of CPU a connection':>24}")
    for name, times in found.items():
        low, high = min(times) * 1e3, max(times) * 1e3
        print(f"{name:<42} {statistics.median(times) * 1e3:>8.2f}  ({low:.2f} - {high:.2f})")


def _client(directory: Path, keys: Keys) -> ssl.SSLContext:
    node = certs.issue_node(directory, "node-1", now=datetime.datetime.now(datetime.UTC))
    context = ssl.create_default_context(cafile=str(keys.ca))
    context.load_cert_chain(node.certificate, node.key)
    context.set_alpn_protocols(["h2"])
    return context


def _served(server: Server, client: ssl.SSLContext, connections: int) -> float:
    host, _, port = server.address.rpartition(":")

    def connect() -> None:
        with (
            socket.create_connection((host, int(port)), _SECONDS) as plain,
            client.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.sendall(_PREFACE)
            if not secured.recv(1):
                raise ReconcilerError(f"{server.kind}: no answer")

    return _cost(connect, connections, server.process.cpu_seconds)


def _alone(keys: Keys, client: ssl.SSLContext, connections: int) -> float:
    """The server's half only; the other one is made outside of its time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.certificate, keys.key)
    context.load_verify_locations(keys.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    context.num_tickets = 0  # as ours
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    used = 0.0

    def connect() -> None:
        nonlocal used
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
        begin = time.process_time()
        half = context.wrap_bio(to_server, to_client, server_side=True)
        used += time.process_time() - begin
        done = False
        while not done:
            _step(peer)
            begin = time.process_time()
            done = _step(half)
            used += time.process_time() - begin

    return _cost(connect, connections, lambda: used)


def _step(half: ssl.SSLObject) -> bool:
    try:
        half.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _cost(connect: Callable[[], None], connections: int, used: Callable[[], float]) -> float:
    """CPU seconds of one, after a few that are not counted."""
    for _ in range(connections // 10 + 1):
        connect()
    before = used()
    for _ in range(connections):
        connect()
    return (used() - before) / connections


if __name__ == "__main__":
    sys.exit(main())
