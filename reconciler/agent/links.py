"""The host sides of pods' veth pairs: which there are, and which addresses are routed to them.

Level-triggered: netlink notifications only say *that* something changed; then all links and host
routes are listed again and compared with what is known. So an overrun of the notification socket
loses nothing, and nothing depends on the order of messages. A listing of 250 links and 500 routes
takes a few milliseconds, and a burst of changes costs one listing. One thing no listing can tell: a
device that went and left its index to another. So which devices went is read from the notifications
too; the kernel gives an index out again only when told to, or with a device of another namespace.

The name decides once: a device that counts does so until it goes, whatever it is called then.
Programs on it would be taken off a living pod's device otherwise.

A pod's address is a host route (/32, /128) to its device: what every routed CNI leaves on the node.
Formats: linux/netlink.h, linux/rtnetlink.h (all integers in host order, attributes padded to 4).
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Final

import msgspec

from reconciler.errors import UnavailableError

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, dst bits, src bits, tos, table, protocol...

_DONE, _ERROR, _NEW_LINK, _DEL_LINK, _GET_LINK, _NEW_ROUTE, _GET_ROUTE = 3, 2, 16, 17, 18, 24, 26
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR: the listing changed while it was read
_NAME, _DESTINATION, _DEVICE = 3, 1, 4  # IFLA_IFNAME, RTA_DST, RTA_OIF
_TABLE_MAIN, _UNICAST = 254, 1
_GROUPS: Final = 0x1 | 0x40 | 0x400  # RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
_LINK_LOCAL: Final = (b"\xa9\xfe", b"\xfe\x80")  # 169.254.0.0/16; fe80::/16 of fe80::/10
_SETTLE_SECONDS: Final = 0.005  # a new veth comes as a burst: link, up, addresses, routes
_ATTEMPTS: Final = 8


class Device(msgspec.Struct, frozen=True):
    """One network device and the addresses (4 or 16 bytes) that are routed to it alone."""

    ifindex: int
    name: str
    addresses: frozenset[bytes] = frozenset()


def devices() -> dict[int, Device]:
    """Those of this thread's network namespace, by index.

    UnavailableError when the kernel keeps changing them under the listing.
    """
    for _ in range(_ATTEMPTS):
        links, ok = _dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0))
        routes: list[tuple[int, bytes]] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            found, complete = _dump(_GET_ROUTE, _ROUTE.pack(family, *[0] * 8))
            routes += found
            ok = ok and complete
        if ok:
            return _join(links, routes)
    raise UnavailableError("network devices change faster than they can be listed")


def _join(links: list[tuple[int, bytes]], routes: list[tuple[int, bytes]]) -> dict[int, Device]:
    addresses: dict[int, set[bytes]] = {}
    for kind, body in routes:
        if kind == _NEW_ROUTE and (route := _host_route(body)) is not None:
            addresses.setdefault(route[0], set()).add(route[1])
    found = {}
    for kind, body in links:
        if kind != _NEW_LINK:
            continue
        _, _, index, _, _ = _LINK.unpack_from(body)
        name = dict(_attributes(body, _LINK.size)).get(_NAME, b"").rstrip(b"\0").decode()
        found[index] = Device(index, name, frozenset(addresses.get(index, ())))
    return found


def _host_route(body: bytes) -> tuple[int, bytes] | None:
    family, bits, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    whole = {socket.AF_INET: 32, socket.AF_INET6: 128}.get(family)
    if bits != whole or kind != _UNICAST or table != _TABLE_MAIN:
        return None
    attributes = dict(_attributes(body, _ROUTE.size))
    if _DEVICE not in attributes or _DESTINATION not in attributes:
        return None
    if attributes[_DESTINATION][:2] in _LINK_LOCAL:  # the gateway's own, not a pod's
        return None
    return int.from_bytes(attributes[_DEVICE], "little"), attributes[_DESTINATION]


def _attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _dump(request: int, body: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """(type, body) of each message, and whether the listing is of one moment."""
    found: list[tuple[int, bytes]] = []
    complete = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        length = _HEADER.size + len(body)
        netlink.send(_HEADER.pack(length, request, _REQUEST_DUMP, 1, 0) + body)
        while True:
            for kind, flags, message in _messages(netlink.recv(1 << 16)):
                complete = complete and not flags & _INTERRUPTED
                if kind == _DONE:
                    return found, complete
                if kind == _ERROR:
                    return found, False
                found.append((kind, message))


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _departures(data: bytes) -> set[int]:
    """Indices of devices that went. A bridge that loses a port says so with a family."""
    links = [_LINK.unpack_from(body) for kind, _, body in _messages(data) if kind == _DEL_LINK]
    return {index for family, _, index, _, _ in links if family == socket.AF_UNSPEC}


class Links:
    """Tells about devices that match, come, change or go; the existing ones first."""

    def __init__(
        self,
        pattern: str,
        appeared: Callable[[Device], None],
        gone: Callable[[int], None],
        adopted: Collection[int] = (),
    ) -> None:
        """appeared: also when a device's addresses or name change; gone: by index.

        adopted: devices that a former process attached to; they count whatever their names
        """
        self._pattern = pattern
        self._appeared = appeared
        self._gone = gone
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._adopted = frozenset(adopted)  # until they are listed
        self._departed: set[int] = set()  # since the last listing
        self.known: dict[int, Device] = {}

    def start(self) -> None:
        """Subscribes before the first listing, so that nothing is missed in between."""
        netlink = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        netlink.bind((0, _GROUPS))
        self._socket = netlink
        asyncio.get_running_loop().add_reader(netlink.fileno(), self._notified)
        self.refresh()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def refresh(self, name: str = "") -> None:
        """List again and tell what differs. name: of a device that counts from now on."""
        self._drain()
        there = devices()
        stayed, self._departed = there.keys() - self._departed, set()
        for index in self.known.keys() - stayed:
            del self.known[index]
            self._gone(index)
        ours = self.known.keys() | self._adopted & stayed
        self._adopted = frozenset()
        for index, device in there.items():
            counts = index in ours or device.name == name or self._matches(device)
            if counts and self.known.get(index) != device:
                self.known[index] = device
                self._appeared(device)

    def include(self, name: str) -> None:
        """Count this device too, until it goes; looks at once."""
        self.refresh(name)

    def _matches(self, device: Device) -> bool:
        return fnmatch.fnmatchcase(device.name, self._pattern)

    def named(self, name: str) -> Device | None:
        return next((device for device in self.known.values() if device.name == name), None)

    def _drain(self) -> None:
        """Before a listing, so that no device that it shows is taken for one that went before."""
        while self._socket is not None:
            try:
                self._departed |= _departures(self._socket.recv(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # else some were lost; go on with the others
                    return

    def _notified(self) -> None:
        self._drain()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SETTLE_SECONDS, self._refresh_due)

    def _refresh_due(self) -> None:
        self._timer = None
        try:
            self.refresh()
        except UnavailableError:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SETTLE_SECONDS, self._refresh_due)
