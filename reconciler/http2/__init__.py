"""HTTP/2 for gRPC servers with very many long streams: `Connection` is the protocol, without IO."""

from reconciler.http2.connection import Connection, Handler, Limits

__all__ = ["Connection", "Handler", "Limits"]
