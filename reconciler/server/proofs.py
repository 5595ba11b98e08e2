"""Who is at the other end of a stream: what a port demands, and what is made of it.

gRPC's Python API can demand a client certificate of everyone on a port or ask nobody for one
(asking without demanding is in its C core only), so a port takes one kind of proof; a server that
takes both has two ports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from reconciler.errors import ProtocolError
from reconciler.tls import KeyFiles, KeyPair, Proof, is_node_name, proof_of


class Tokens(Protocol):
    """Who verifies tokens."""

    async def prove(self, token: str) -> Proof:
        """ProtocolError: the stream is refused with its status and reason (UNAVAILABLE: can't say
        now), which go to a peer that nobody knows and so tell it nothing."""


async def prove(
    context: Any, cluster: str, tokens: Tokens | None, clock: Callable[[], float]
) -> Proof:
    """Which node the peer is; ProtocolError when it proves none.

    Only a port that demands certificates sees any, so a stream without one came in where tokens
    are the proof. cluster: whose nodes' SPIFFE IDs are believed.
    """
    certificates = context.auth_context().get("x509_pem_cert", ())
    if certificates:
        proof = proof_of(certificates[0], cluster) if len(certificates) == 1 else None
        if proof is None:
            raise ProtocolError("PERMISSION_DENIED", _NO_NODE.format(cluster=cluster))
    elif tokens is not None:
        proof = await tokens.prove(_bearer(context))
    else:
        raise ProtocolError("UNAUTHENTICATED", "a client certificate is needed")
    if proof.expires <= clock():  # of a connection that is older than this stream
        raise ProtocolError("UNAUTHENTICATED", f"the {proof.by} has expired")
    return proof


_NO_NODE: Final = (
    "the client's certificate is not a node's (CN system:node:<name>, O system:nodes; or URI "
    "spiffe://{cluster}/node/<name>)"
)


def credentials(tls: KeyPair | KeyFiles, *, tokens: bool) -> grpc.ServerCredentials:
    """For one port; rotated files are used from the next handshake on."""

    def configuration(keys: KeyPair) -> grpc.ServerCertificateConfiguration:
        pairs = [(keys.key, keys.certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, None if tokens else keys.ca)

    used = tls.current() if isinstance(tls, KeyFiles) else tls
    initial = configuration(used)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """On a thread of gRPC, before each handshake. None: as before."""
        nonlocal used
        keys = tls.current() if isinstance(tls, KeyFiles) else tls
        if keys is used:
            return None
        used = keys
        return configuration(keys)

    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetch,  # type: ignore[arg-type]  # the stubs don't know of None, the documentation does
        require_client_authentication=not tokens,
    )


def _bearer(context: Any) -> str:
    """The token of the call's metadata; ProtocolError when there is not exactly one."""
    values = [value for key, value in context.invocation_metadata() if key == "authorization"]
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise ProtocolError("UNAUTHENTICATED", "a bearer token in `authorization` is needed")
    return str(token.strip())


def claimed(frame: bytes) -> str:
    """The node that a first request claims to be of; ProtocolError when it names none."""
    try:
        name = str(discovery_pb2.DeltaDiscoveryRequest.FromString(frame).node.id)
    except DecodeError:
        name = ""
    if not is_node_name(name):
        raise ProtocolError("INVALID_ARGUMENT", "the first request names no node")
    return name
