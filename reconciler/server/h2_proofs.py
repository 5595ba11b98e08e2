"""TLS of `h2.H2Server`, by the standard library, and what `proofs.prove` asks of a call."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

from reconciler.http2.headers import Header
from reconciler.tls import KeyFiles, KeyPair, Proof

if TYPE_CHECKING:
    from reconciler.server.h2_peer import Peer


class CallContext:
    """What `prove` asks of a call."""

    def __init__(self, peer: Peer, headers: tuple[Header, ...]) -> None:
        der = peer.certificate()
        self.certificates = [] if der is None else [ssl.DER_cert_to_PEM_cert(der).encode()]
        self._headers = headers

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": self.certificates} if self.certificates else {}

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(k.decode("latin-1"), v.decode("latin-1")) for k, v in self._headers]


def at_once(proving: Any) -> Proof:
    """What a coroutine gives that waits for nothing."""
    try:
        proving.send(None)
    except StopIteration as done:
        proof: Proof = done.value
        return proof
    proving.close()
    raise AssertionError("it waited")


def context_of(tls: KeyPair | KeyFiles, tokens: bool) -> ssl.SSLContext:
    """For one port; rotated files are used from the next handshake on."""
    used = tls.current() if isinstance(tls, KeyFiles) else tls
    first = _made(used, tokens)
    if not isinstance(tls, KeyFiles):
        return first
    newest = first

    def hello(connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """Before each handshake; the context brings certificate and trusted CA with it."""
        nonlocal used, newest
        keys = tls.current()
        if keys is not used:
            newest, used = _made(keys, tokens), keys
        if newest is not first:
            connection.context = newest

    first.sni_callback = hello
    return first


def _made(keys: KeyPair, tokens: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.num_tickets = 0  # no client of xDS resumes; making two is a third of a handshake
    # The module reads a chain from files only; this one is nowhere on a disk.
    file = os.memfd_create("keys", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as out:
            out.write(keys.key.rstrip() + b"\n" + keys.certificate)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    if not tokens:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=keys.ca.decode())
    return context
