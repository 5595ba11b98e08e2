"""Servers of xDS as processes, what they serve, and the client that loads them.

All servers are given the same resources over the same HTTP interface (ours: `--push`), as the bytes
of one message. It is the load client (bench/xds/load) that gives them, and it has the only clock.
What a resource is and how old it is stands in its payload; the rest of that is noise.

Every stream subscribes to everything of two types. Identities are secrets and policies are
extension configs: both carry bytes as they are, so that nobody's time goes into fields.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2  # noqa: F401  # a type to be found
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format, wrappers_pb2  # noqa: F401  # likewise

from bench import machine
from bench.fleet import free_port
from reconciler.server import certs
from reconciler.testing.process import Process, bound

Ours = Literal["http2", "grpc"]
"""Ours, by what carries its streams."""

Kind = Ours | Literal["linear", "snapshot", "bare"]
"""bare: see bench/bare.py"""

OURS: Final[tuple[Ours, ...]] = get_args(Ours)
THEIRS: Final[tuple[Kind, ...]] = ("linear", "snapshot")
BARE: Final[Kind] = "bare"
_REPOSITORY: Final = Path(__file__).parent.parent  # a process of ours runs elsewhere

_PREFIX: Final = "type.googleapis.com/"
SECRET: Final = f"{_PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION: Final = f"{_PREFIX}envoy.config.core.v3.TypedExtensionConfig"
_BYTES: Final = f"{_PREFIX}google.protobuf.BytesValue"
_MARKER: Final = b"XDSLOAD1"  # as in bench/xds/load/wire.go
_START_SECONDS: Final = 60.0
_SPARE: Final = 200  # descriptors of a process beside its streams
PENDING: Final = 1_000
"""Streams that are opened and not in sync yet, at most."""

IDENTITIES: Final = 250
POLICIES: Final = 5
_IDENTITY_BYTES: Final = 400
_POLICY_BYTES: Final = 600
_ONE_BYTES: Final = 1024
_ONE: Final = IDENTITIES + POLICIES  # index of the resource that is broadcast alone


class Layout(msgspec.Struct, frozen=True):
    """How streams come in. connections: that all of them share; 0: each has its own."""

    title: str
    connections: int
    tls: bool


class Report(msgspec.Struct, frozen=True):
    """One step, as bench/xds/load/steps.go says it; times in ms, `server_rss` in bytes."""

    streams: int
    in_sync: int
    failed: int
    missing: int
    errors: dict[str, int]
    first_ms: float
    p50_ms: float
    p99_ms: float
    last_ms: float
    from_first_ms: float
    change_ms: float
    messages: int
    messages_per_stream: float
    resources: int
    repeated: int
    bytes: int
    server_cpu_s: float
    server_rss: int
    client_cpu_s: float


class Lag(msgspec.Struct, frozen=True):
    """How far streams are behind, likewise (`lag`)."""

    published: int
    streams: int
    behind: int
    behind_any: int
    behind_two: int
    longest_ms: float
    cpu_s: float
    rss: int


Resources = list[dict[str, Any]]


def identities(generation: int) -> Resources:
    """250 of 400 bytes."""
    return [_identity(index, generation) for index in range(IDENTITIES)]


def policies(generation: int) -> Resources:
    """5 of 600 bytes."""
    return [
        _policy(f"policy-{index}", IDENTITIES + index, generation, _POLICY_BYTES)
        for index in range(POLICIES)
    ]


def one(generation: int) -> Resources:
    """A single one of 1 KB."""
    return [_policy("one", _ONE, generation, _ONE_BYTES)]


def _identity(index: int, generation: int) -> dict[str, Any]:
    data = _payload(index, generation, _IDENTITY_BYTES)
    generic = {"secret": {"inline_bytes": data}}
    return {"@type": SECRET, "name": f"identity-{index}", "generic_secret": generic}


def _policy(name: str, index: int, generation: int, size: int) -> dict[str, Any]:
    value = {"@type": _BYTES, "value": _payload(index, generation, size)}
    return {"@type": EXTENSION, "name": name, "typed_config": value}


def _payload(index: int, generation: int, size: int) -> str:
    head = _MARKER + struct.pack("<II", index, generation)
    noise = random.Random(index << 32 | generation).randbytes(size - len(head))
    return base64.b64encode(head + noise).decode()


class Keys(msgspec.Struct, frozen=True):
    """PEM files: the server's, and the authority's, which signs those of nodes."""

    certificate: Path
    key: Path
    ca: Path
    ca_key: Path


def make_keys(directory: Path) -> Keys:
    now = datetime.datetime.now(datetime.UTC)
    authority = certs.init(directory, cluster="bench", now=now)
    server = certs.issue_server(directory, names=("127.0.0.1",), now=now)
    return Keys(server.certificate, server.key, authority.certificate, authority.key)


class Server:
    """One server process with 250 identities in it. Use as a context manager.

    directory: of its own, made here; programs: folder of the Go programs
    """

    def __init__(self, kind: Kind, directory: Path, programs: Path, keys: Keys | None) -> None:
        machine.raise_descriptor_limit()  # its children have the same
        self.kind = kind
        self._next = directory / "next"
        self._made = 0
        self.address = f"127.0.0.1:{free_port()}"
        self._next.mkdir(parents=True)
        adapter = f"127.0.0.1:{free_port()}"
        self._adapter = f"http://{adapter}/resources"
        if kind in OURS:
            command = _serve(kind, adapter, self.address, directory / "status", keys)
        elif kind == BARE:
            command = [sys.executable, "-m", "bench.bare", "--listen", self.address]
            command += ["--adapter", adapter]
            if keys is not None:
                command += ["--cert", str(keys.certificate)]
                command += ["--key", str(keys.key), "--ca", str(keys.ca)]
        else:
            command = [str(programs / "server"), "-cache", kind, "-listen", self.address]
            command += ["-adapter", adapter]
            if keys is not None:
                command += ["-cert", str(keys.certificate), "-key", str(keys.key)]
                command += ["-ca", str(keys.ca)]
        environment = {"PYTHONPATH": str(_REPOSITORY)} if kind == BARE else None
        self.process = Process(command, directory / "server.log", environment=environment)
        try:
            self._wait(adapter)
            self._put(identities(1))
            self._wait(self.address)  # ours listens once it has something
        except BaseException:
            self.process.end()
            raise

    def _wait(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        end = time.monotonic() + _START_SECONDS
        while True:
            self.process.check()
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{self.kind}: nobody listens on {address}")
            time.sleep(0.05)

    def change(self, resources: Resources) -> dict[str, str]:
        """An action of the load client."""
        self._made += 1
        path = self._next / f"{self._made}.pb"
        path.write_bytes(body(resources))
        return {"method": "PATCH", "url": self._adapter, "body": str(path)}

    def _put(self, resources: Resources) -> None:
        headers = {"Content-Type": "application/x-protobuf"}
        request = urllib.request.Request(self._adapter, body(resources), headers, method="PUT")
        with urllib.request.urlopen(request, timeout=_START_SECONDS):
            pass

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.end()


def body(resources: Resources) -> bytes:
    """A DiscoveryResponse."""
    response = discovery_pb2.DiscoveryResponse()
    json_format.ParseDict({"resources": resources}, response)
    return bytes(response.SerializeToString(deterministic=True))


def _serve(kind: Kind, push: str, address: str, status: Path, keys: Keys | None) -> list[str]:
    command = [
        sys.executable, "-m", "reconciler.cli", "xds", "serve", "--transport", kind,
        "--push", push, "--listen", address, "--status", f"unix:{status}",
        "--drain", "0",
    ]  # fmt: skip
    if keys is None:
        return [*command, "--insecure"]
    command += ["--tls-cert", str(keys.certificate), "--tls-key", str(keys.key)]
    return [*command, "--tls-ca", str(keys.ca)]


class Load:
    """The load client, at one server. Use as a context manager.

    log: what it says beside its answers; seconds: that a step may take, streams that are not in
    sync then are lost; types: type URLs that each stream subscribes to
    """

    def __init__(
        self,
        server: Server,
        programs: Path,
        layout: Layout,
        keys: Keys | None,
        log: Path,
        *,
        seconds: float = 60.0,
        types: str = f"{SECRET},{EXTENSION}",
    ) -> None:
        command = [
            str(programs / "load"), "-target", server.address, "-types", types,
            "-connections", str(layout.connections), "-pid", str(server.process.pid),
            "-pending", str(PENDING), "-timeout", f"{seconds}s",
        ]  # fmt: skip
        if keys is not None:
            command += ["-ca", str(keys.ca), "-ca-key", str(keys.ca_key)]
        with open(log, "ab") as said:
            self._popen = subprocess.Popen(
                bound(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        self._server, self._log = server, log

    def open(self, streams: int) -> Report:
        """Until each of them has the identities."""
        return self._report("open", streams=streams, want={"resources": IDENTITIES})

    def change(
        self, actions: Sequence[Mapping[str, str]], generation: int, resources: int
    ) -> Report:
        """Until each stream has so many resources of this generation."""
        want = {"generation": generation, "resources": resources}
        return self._report("change", actions=actions, want=want)

    def reconnect(self) -> Report:
        """Until each stream has an answer to what it holds, of both types."""
        return self._report("reconnect", want={"removed": 2})

    def publish(self, actions: Sequence[Mapping[str, str]], generation: int) -> None:
        self._ask("publish", actions=actions, want={"generation": generation})

    def lag(self) -> Lag:
        return msgspec.convert(self._ask("lag"), Lag)

    def close(self) -> None:
        self._ask("close")

    def _report(self, do: str, **what: Any) -> Report:
        return msgspec.convert(self._ask(do, **what), Report)

    def _ask(self, do: str, **what: Any) -> dict[str, Any]:
        """RuntimeError when it can't be done; UnavailableError when it is the server that ended."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            self._popen.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"the load client ended: {self._last()}") from None
        line = self._popen.stdout.readline()
        if not line:
            raise RuntimeError(f"the load client ended: {self._last()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._server.process.check()
            raise RuntimeError(f"{self._server.kind}: {do}: {answer['error']}")
        return answer

    def _last(self) -> str:
        return self._log.read_text(errors="replace")[-1000:]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGKILL)  # it has nothing to tidy up
        self._popen.wait()
        self._popen.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()


def patience(streams: int) -> float:
    """Seconds that a step may take: a minute, and twice what the slowest one takes per stream."""
    return 60 + 0.012 * streams


def refused(streams: int) -> str:
    """Why there can't be so many streams here; "" when there can."""
    limit = machine.raise_descriptor_limit()
    if streams + _SPARE <= limit:
        return ""
    return f"a process may have {limit:,} open files; raise the limit (ulimit -n)"
