"""The agent's side of the CNI plugin: attach a pod's device, closed, and say when it is done.

One line of JSON a request, one an answer, over a Unix socket that only its owner can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from reconciler.agent.driver import Driver
from reconciler.agent.links import Device, Links
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.objects import parse_address
from reconciler.local import unix_listener

ATTACH_SECONDS: Final = 8.0  # less than what the plugin waits for an answer
_UNATTACHED: Final = ("", "discovered", "gone", "detaching")


class _Request(msgspec.Struct, frozen=True):
    command: str
    container: str
    pod: str = ""
    interface: str = ""
    addresses: tuple[str, ...] = ()
    wait: float = 0.0


class CniService:
    """`pods`: what the CNI said about devices, by ifindex; it outlasts news about the device."""

    def __init__(self, driver: Driver, links: Links, log: Any) -> None:
        self._driver = driver
        self._links = links
        self._log = log
        self._named: dict[int, tuple[str, frozenset[bytes]]] = {}

    def link(self, device: Device) -> Link:
        """A device as the core takes it, with what the CNI knows of it."""
        pod, addresses = self._named.get(device.ifindex, ("", frozenset()))
        return Link(device.ifindex, device.name, device.addresses | addresses, pod)

    def forget(self, ifindex: int) -> None:
        self._named.pop(ifindex, None)

    @contextlib.asynccontextmanager
    async def serve(self, path: str) -> AsyncIterator[None]:
        """Answer while in the context; UnavailableError when the socket is in use."""
        server = await asyncio.start_unix_server(self._serve, sock=unix_listener(path))
        try:
            yield
        finally:
            server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            answer = await self._answer(line)
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except (ConnectionError, ValueError) as error:  # the plugin is gone, or sent no line
            self._log.warning("cni", reason=str(error))
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=_Request)
            addresses = frozenset(parse_address(text) for text in request.addresses)
        except (msgspec.DecodeError, ValueError) as error:
            return {"error": f"the request can't be read: {error}"}
        if request.command == "DEL":
            return {"ok": True}
        self._links.include(request.interface)
        device = self._links.named(request.interface)
        if device is None:
            return {"error": f"there is no device {request.interface} on this node"}
        if request.command == "ADD":
            self._named[device.ifindex] = (request.pod, addresses)
            self._driver.link_added(self.link(device))
        elif self._state(device.ifindex) in _UNATTACHED:
            return {"error": f"{request.interface} is not attached"}
        return await self._wait(request, device)

    async def _wait(self, request: _Request, device: Device) -> dict[str, Any]:
        index = device.ifindex
        attached = await self._driver.wait_until(
            lambda: self._state(index) not in _UNATTACHED, ATTACH_SECONDS
        )
        if not attached:
            return {"error": f"{request.interface} could not be attached in {ATTACH_SECONDS:g} s"}
        if request.wait and not await self._driver.wait_until(
            lambda: self._state(index) == "enforcing", request.wait
        ):
            what = request.pod or request.interface
            return {"error": f"{what} is not enforced after {request.wait:g} s; it stays closed"}
        return {"ok": True, "state": self._state(index)}

    def _state(self, ifindex: int) -> str:
        for row in self._driver.core.endpoint_rows():
            if row.ifindex == ifindex:
                return row.state
        return ""
