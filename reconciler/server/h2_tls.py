"""TLS contexts of `h2.H2Server`'s ports, from files that rotate."""

from __future__ import annotations

import ssl

from reconciler.tls import KeyFiles, KeyPair, take


class Contexts:
    """For one port; rotated files are used from the next connection on."""

    def __init__(self, tls: KeyPair | KeyFiles, tokens: bool) -> None:
        """tls: as `tls.check` lets them pass; tokens: who connects has no certificate."""
        self._files = tls if isinstance(tls, KeyFiles) else None
        self._keys = tls.current() if isinstance(tls, KeyFiles) else tls
        self._tokens = tokens
        self._context = _made(self._keys, tokens)

    def current(self) -> ssl.SSLContext:
        """Certificate and trusted CA come with it."""
        if self._files is not None:
            keys = self._files.current()
            if keys is not self._keys:
                self._context, self._keys = _made(keys, self._tokens), keys
        return self._context


def _made(keys: KeyPair, tokens: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    # All suites are strong, and the client knows which one its processor is fast at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # Nobody resumes: who comes back proves anew who it is, by what is trusted then. Making tickets
    # would be work besides, and clients in Go and gRPC's own use none.
    context.num_tickets = 0
    take(context, keys)
    if not tokens:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=keys.ca.decode())
    return context
