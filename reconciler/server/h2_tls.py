"""TLS contexts of `h2.H2Server`'s ports, from files that rotate."""

from __future__ import annotations

import ssl

from reconciler.tls import KeyFiles, KeyPair, take, trust


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
    # With TLS 1.3 nobody resumes: who comes back proves anew who it is. Tickets would be work, too,
    # and clients in Go and gRPC's own use none. With TLS 1.2 one may, as long as the files are the
    # same and the certificate is good (`proofs.prove`): it can't be switched off from here, and
    # without tickets (OP_NO_TICKET) OpenSSL would keep up to 20,480 sessions for it.
    context.num_tickets = 0
    take(context, keys)
    if not tokens:
        context.verify_mode = ssl.CERT_REQUIRED
        trust(context, keys)
    return context
