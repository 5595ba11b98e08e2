"""What `proofs.prove` asks of a call of `h2.H2Server`."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from reconciler.http2.headers import Header
from reconciler.tls import Proof

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
