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
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reconciler.errors import ConfigError
from reconciler.tls import NODE_ORGANIZATION, NODE_PREFIX, is_node_name, node_uri

CA_CERTIFICATE: Final = "ca.crt"
CA_KEY: Final = "ca.key"
SERVER_NAME: Final = "reconciler-server"
CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
MAX_NODE_NAME: Final = 64 - len(NODE_PREFIX)  # ub-common-name of RFC 5280 is 64
_SKEW: Final = datetime.timedelta(minutes=5)  # clocks of nodes may be behind


class Issued(msgspec.Struct, frozen=True):
    """Paths of what was written."""

    certificate: Path
    key: Path


def init(directory: Path, *, cluster: str, now: datetime.datetime, days: int = CA_DAYS) -> Issued:
    """Make the CA: `ca.crt` and `ca.key`. ConfigError when either is there already."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"reconciler CA {cluster}")])
    certificate = (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
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
    general = x509.SubjectAlternativeName([_general_name(name) for name in names])
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
    uri = x509.UniformResourceIdentifier(node_uri(cluster, node))
    names = x509.SubjectAlternativeName([uri]) if cluster else None
    eku = ExtendedKeyUsageOID.CLIENT_AUTH
    return _issue(directory, stem or f"node-{node}", subject, eku, names, now, days)


def _issue(
    directory: Path,
    stem: str,
    subject: x509.Name,
    purpose: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
    now: datetime.datetime,
    days: int,
) -> Issued:
    ca, ca_key = _authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(subject, ca.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
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


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


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
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        certificate_path.parent.mkdir(parents=True, exist_ok=True)
        _create(key_path, pem, 0o600)
        _create(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return Issued(certificate_path, key_path)


def _create(path: Path, data: bytes, mode: int) -> None:
    """Exclusive: a file that appeared in between is not overwritten either."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
