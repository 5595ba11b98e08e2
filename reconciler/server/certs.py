"""A small certificate authority for laboratories and single clusters.

`init` makes a CA in a directory, `issue_server` and `issue_node` sign with it. ECDSA P-256, a fixed
and short set of extensions, keys readable by their owner only. It refuses to overwrite any file, so
a second `init` can't cut off the nodes that the first one's certificates serve. No revocation: for
that, use the certificates that the cluster's own CA gives to kubelets (same subjects).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reconciler import signing
from reconciler.errors import ConfigError
from reconciler.tls import NODE_ORGANIZATION, NODE_PREFIX, is_node_name, node_uri

CA_CERTIFICATE: Final = "ca.crt"
CA_KEY: Final = "ca.key"
SERVER_NAME: Final = "reconciler-server"
CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
MAX_NODE_NAME: Final = 64 - len(NODE_PREFIX)  # ub-common-name of RFC 5280 is 64


class Issued(msgspec.Struct, frozen=True):
    """Paths of what was written."""

    certificate: Path
    key: Path


def init(directory: Path, *, cluster: str, now: datetime.datetime, days: int = CA_DAYS) -> Issued:
    """Make the CA: `ca.crt` and `ca.key`. ConfigError when either is there already."""
    key = signing.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"reconciler CA {cluster}")])
    certificate = signing.root(name, key, now=now, lasts=datetime.timedelta(days=days))
    return _write(directory / CA_CERTIFICATE, directory / CA_KEY, certificate, key)


def issue_server(
    directory: Path,
    *,
    names: tuple[str, ...],
    now: datetime.datetime,
    days: int = LEAF_DAYS,
    stem: str = "server",
) -> Issued:
    """A server certificate for these DNS names and IP addresses (subject alternative names)."""
    if not names:
        raise ConfigError("--san: a server certificate needs at least one name or address")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    general = [_general_name(name) for name in names]
    return _issue(directory, stem, subject, ExtendedKeyUsageOID.SERVER_AUTH, general, now, days)


def issue_node(
    directory: Path,
    node: str,
    *,
    now: datetime.datetime,
    days: int = LEAF_DAYS,
    stem: str = "",
    cluster: str = "",
) -> Issued:
    """A node's client certificate, CN `system:node:<node>`, O `system:nodes`.

    cluster: add the SPIFFE ID of the node in it, which alone holds a name too long for a CN.
    """
    if not is_node_name(node):
        raise ConfigError(f"{node!r}: not a node name (lowercase letters, digits, '-' and '.')")
    fits = len(node) <= MAX_NODE_NAME
    if not fits and not cluster:
        raise ConfigError(
            f"{node!r}: a common name has room for at most {MAX_NODE_NAME} characters; "
            "a URI of the node (--cluster-name) has more"
        )
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, NODE_ORGANIZATION)]
    if fits:
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, NODE_PREFIX + node))
    subject = x509.Name(parts)
    names = [x509.UniformResourceIdentifier(node_uri(cluster, node))] if cluster else []
    eku = ExtendedKeyUsageOID.CLIENT_AUTH
    return _issue(directory, stem or f"node-{node}", subject, eku, names, now, days)


def _issue(
    directory: Path,
    stem: str,
    subject: x509.Name,
    purpose: x509.ObjectIdentifier,
    names: Sequence[x509.GeneralName],
    now: datetime.datetime,
    days: int,
) -> Issued:
    ca, ca_key = _authority(directory)
    key = signing.new_key()
    certificate = signing.leaf(
        subject,
        key,
        purpose,
        issuer=ca.subject,
        issuer_key=ca_key,
        now=now,
        lasts=datetime.timedelta(days=days),
        names=names,
    )
    return _write(directory / f"{stem}.crt", directory / f"{stem}.key", certificate, key)


def _authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = x509.load_pem_x509_certificate((directory / CA_CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((directory / CA_KEY).read_bytes(), None)
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename}: no CA here; make one with `certs init`") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{directory}: the CA can't be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise ConfigError(f"{directory}: {CA_KEY} is not the key of {CA_CERTIFICATE}")
    return ca, key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not is_node_name(name.lower().removeprefix("*.")):
            raise ConfigError(f"{name!r}: neither a DNS name nor an address") from None
        return x509.DNSName(name)


def _write(
    certificate_path: Path,
    key_path: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> Issued:
    for path in (certificate_path, key_path):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path}: exists and is not overwritten")
    try:
        certificate_path.parent.mkdir(parents=True, exist_ok=True)
        _create(key_path, signing.key_pem(key), 0o600)
        _create(certificate_path, signing.certificate_pem(certificate), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return Issued(certificate_path, key_path)


def _create(path: Path, data: bytes, mode: int) -> None:
    """Exclusive: a file that appeared in between is not overwritten either."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
