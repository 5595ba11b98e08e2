"""Files served on the agents' port: which of the two a stream is for.

Both may ask delta ADS; the type of a stream's first request decides. All other methods are of files
only.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from reconciler.config import ServerConfig, parse_address
from reconciler.core.resources.types import PREFIX
from reconciler.errors import Rejected
from reconciler.server.discovery.driver import Driver, Opened
from reconciler.server.discovery.parts import Parts
from reconciler.server.driver import Driver as AgentsDriver
from reconciler.server.streams import METHOD, Hub

_TYPE_FIELD: Final = 2
"""type_url in DeltaDiscoveryRequest (envoy/service/discovery/v3/discovery.proto)."""


class BesideAgents:
    """The parts that serve files, and the hub of both."""

    def __init__(self, parts: Parts, hub: Beside) -> None:
        self.parts, self.hub = parts, hub

    @classmethod
    async def start(
        cls,
        config: ServerConfig,
        agents: AgentsDriver,
        stack: AsyncExitStack,
        stop: asyncio.Event,
        log: Any,
    ) -> BesideAgents:
        """ConfigError with what is wrong with the files; a problem later is an alarm."""
        parts = await Parts.start(
            config.discovery_resources,
            stop,
            stack,
            log,
            open=config.insecure,
            cluster=config.cluster_name,
            beside=(agents,),
        )

        def alarm(problem: Rejected) -> None:
            agents.alarm("xds-resources", problem.source, str(problem))

        parts.on_problem = alarm
        await parts.more.serving(True)
        if config.discovery_admin:
            await parts.more.admin(parse_address(config.discovery_admin), stack)
        return cls(parts, Beside(agents, parts.driver))

    def served(self) -> dict[str, Any]:
        """Arguments of the service beside its hub. Agents have names; others need none."""
        return {
            "methods": self.hub.methods(),
            "named": (METHOD,),
            "drained": self.hub.drained,
            "add": self.parts.register,
        }


class _Told(Protocol):
    """What both take of a stream that is open."""

    def received(self, stream: int, frame: bytes) -> None: ...

    def stream_closed(self, stream: int) -> None: ...


class Beside:
    """`grpc.Hub` for the methods in `methods`."""

    def __init__(self, agents: Hub, files: Driver) -> None:
        self._agents, self._files = agents, files
        self._told: dict[int, _Told] = {}
        self._waiting: dict[int, str] = {}  # stream of delta ADS → node
        self._delta_ads = files.methods()[METHOD]

    def methods(self) -> dict[str, Opened]:
        found = {path: self._opener(opened) for path, opened in self._files.methods().items()}
        return found | {METHOD: self.stream_opened}

    def stream_opened(self, stream: int, node: str) -> None:
        """Of delta ADS."""
        self._waiting[stream] = node

    def received(self, stream: int, frame: bytes) -> None:
        node = self._waiting.pop(stream, None)
        if node is not None:
            if type_of(frame).startswith(PREFIX):
                self._told[stream] = self._agents
                self._agents.stream_opened(stream, node)
            else:
                self._told[stream] = self._files
                self._delta_ads(stream, node)
        self._told[stream].received(stream, frame)

    def drained(self, stream: int) -> None:
        if self._told.get(stream) is self._files:
            self._files.drained(stream)

    def stream_closed(self, stream: int) -> None:
        self._waiting.pop(stream, None)
        told = self._told.pop(stream, None)
        if told is not None:
            told.stream_closed(stream)

    def _opener(self, opened: Opened) -> Opened:
        def run(stream: int, node: str) -> None:
            self._told[stream] = self._files
            opened(stream, node)

        return run


def type_of(frame: bytes) -> str:
    """The type_url of a DeltaDiscoveryRequest, without reading the rest; "" for none.

    An agent's first request lists all versions that it holds, and is read soon enough.
    """
    try:
        at = 0
        found = b""
        while at < len(frame):
            tag, at = _varint(frame, at)
            if tag & 7 != 2:  # a request has only fields with a length
                return ""
            size, at = _varint(frame, at)
            if tag >> 3 == _TYPE_FIELD:
                found = frame[at : at + size]
            at += size
        return found.decode()
    except (DecodeError, UnicodeDecodeError):
        return ""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise DecodeError("no number")
