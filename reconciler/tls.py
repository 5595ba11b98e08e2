"""Who a TLS peer is, and the PEM files of one side.

A node's certificate has the subject that kubelets have: CN `system:node:<name>`, O `system:nodes`.
So a cluster's kubelet client certificates serve as they are, and where there are none
`reconciler certs` issues the same form. The name counts only in a certificate that the configured
CA signed, for client use; the server's own has another subject, so it can't pass for a node.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from reconciler.errors import ConfigError

NODE_PREFIX: Final = "system:node:"
NODE_ORGANIZATION: Final = "system:nodes"

# RFC 1123 subdomain: what a Node object's name may be.
_NODE_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"
)


class KeyPair(msgspec.Struct, frozen=True):
    """PEM bytes of one side: certificate chain, private key, and the CA that it trusts."""

    certificate: bytes
    key: bytes
    ca: bytes


def is_node_name(name: str) -> bool:
    return _NODE_NAME.fullmatch(name) is not None


def node_of(certificate: bytes) -> str:
    """The node that a PEM certificate is for; "" when it is for none (or can't be read)."""
    try:
        subject = x509.load_pem_x509_certificate(certificate).subject
    except ValueError:
        return ""
    names = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    organizations = [
        part.value for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    ]
    if len(names) != 1 or NODE_ORGANIZATION not in organizations:
        return ""
    prefix, name = names[0][: len(NODE_PREFIX)], names[0][len(NODE_PREFIX) :]
    return name if prefix == NODE_PREFIX and is_node_name(name) else ""


def load(certificate: str, key: str, ca: str) -> KeyPair:
    """Read the three files; ConfigError names the one that can't be read."""
    return KeyPair(*(_read(path) for path in (certificate, key, ca)))


def _read(path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if b"-----BEGIN " not in data:
        raise ConfigError(f"{path}: not a PEM file")
    return data
