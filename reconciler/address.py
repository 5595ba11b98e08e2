"""Addresses as options write them."""

from __future__ import annotations

import ipaddress

import msgspec

from reconciler.errors import ConfigError


class Address(msgspec.Struct, frozen=True):
    """`unix:PATH` or a host with a port. local: no other machine can reach it."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def local(self) -> bool:
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def target(self) -> str:
        """The form that gRPC takes."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`unix:PATH`, `host:port` or `[v6]:port`; ValueError says what is wrong."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text}: the socket's path must be absolute")
        if len(path.encode()) > 107:
            raise ValueError(f"{text}: a socket's path has at most 107 bytes")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{text}: expected host:port, [v6]:port or unix:PATH")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text}: {port!r} is not a port")
    return Address(host=host.strip("[]"), port=int(port))


def address_of(text: str, option: str = "") -> Address:
    """`parse_address` of what a user wrote; ConfigError names the option, if there is one."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}" if option else str(error)) from None


def parse_addresses(text: str) -> tuple[Address, ...]:
    """One address, or several with commas between; ValueError says what is wrong."""
    return tuple(parse_address(part.strip()) for part in text.split(","))
