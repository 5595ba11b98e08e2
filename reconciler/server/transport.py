"""The two ways to carry the xDS service; each passes the same tests."""

from __future__ import annotations

from typing import Final

from reconciler.server.grpc import XdsServer
from reconciler.server.h2 import H2Server

Transport = XdsServer | H2Server

TRANSPORTS: Final[dict[str, type[XdsServer] | type[H2Server]]] = {
    "grpc": XdsServer,
    "http2": H2Server,
}
"""By the values of the option `--transport`."""
