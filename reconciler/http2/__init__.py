"""HTTP/2 for gRPC servers with very many long streams: `Connection` is the protocol, without IO."""

from reconciler.http2.connection import Connection
from reconciler.http2.stream import Budget, Handler, Limits, Stream, Wires

__all__ = ["Budget", "Connection", "Handler", "Limits", "Stream", "Wires"]
