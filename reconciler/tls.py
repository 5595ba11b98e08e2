"""Who a TLS peer is, and the PEM files of one side.

A node's certificate names its node in one of two forms, and in both consistently when it has both:

* the subject that kubelets have: CN `system:node:<name>`, O `system:nodes`. So a cluster's kubelet
  client certificates serve as they are, and where there are none `reconciler certs` issues it;
* a SPIFFE ID as URI subject alternative name: `spiffe://<cluster>/node/<name>`, the cluster being
  the server's `--cluster-name`. It holds names that a common name is too short for, and one CA can
  sign for several clusters. A certificate with a SPIFFE ID of any other form is no node's.

The name counts only in a certificate that the configured CA signed, for client use; the server's
own has another subject, so it can't pass for a node.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from reconciler.errors import ConfigError

NODE_PREFIX: Final = "system:node:"
NODE_ORGANIZATION: Final = "system:nodes"
SPIFFE: Final = "spiffe://"
MAX_TOKEN: Final = 7000  # gRPC refuses more than 8 KiB of metadata; projected tokens have 1 to 2
LATE: Final = 0.1  # of a certificate's life: who renews in time has done so before
TOKEN_NODE: Final = ("kubernetes.io", "node", "name")  # where the payload has the node

# RFC 1123 subdomain: what a Node object's name may be.
_NODE_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"
)


class KeyPair(msgspec.Struct, frozen=True):
    """PEM bytes of one side: certificate chain, private key, and the CA that it trusts.

    An agent that has a token has neither certificate nor key, a server that takes only tokens has
    no CA: b"".
    """

    certificate: bytes
    key: bytes
    ca: bytes


_KEPT_PROOFS: Final = 1 << 14
"""Certificates of which it is known what they prove: when all reconnect, none is read again."""


class Proof(msgspec.Struct, frozen=True):
    """Which node the peer is, by what, and until when (Unix time) that holds."""

    node: str
    by: str  # "certificate" or "token"
    expires: float


def is_node_name(name: str) -> bool:
    return _NODE_NAME.fullmatch(name) is not None


def node_uri(cluster: str, node: str) -> str:
    """The SPIFFE ID of a node."""
    return f"{SPIFFE}{cluster}/node/{node}"


def node_of(certificate: bytes, cluster: str | None = None) -> str:
    """The node that a PEM certificate is for; "" when it is for none (or can't be read).

    cluster: that a SPIFFE ID must be of. None: of any, for one who asks about its own certificate.
    """
    try:
        return _node_of(x509.load_pem_x509_certificate(certificate), cluster)
    except (ValueError, UnsupportedAlgorithm):
        return ""


@lru_cache(_KEPT_PROOFS)
def proof_of(certificate: bytes, cluster: str) -> Proof | None:
    """What a PEM certificate proves that the TLS handshake has verified; None: it is no node's."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        node = _node_of(found, cluster)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return Proof(node, "certificate", found.not_valid_after_utc.timestamp()) if node else None


def _node_of(certificate: x509.Certificate, cluster: str | None) -> str:
    names = {_by_subject(certificate), _by_uri(certificate, cluster)} - {None}
    return names.pop() or "" if len(names) == 1 else ""


def _by_subject(certificate: x509.Certificate) -> str | None:
    """The node of the subject; None: the subject is not a node's, "" if the name is none."""
    subject = certificate.subject
    names = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    organizations = [
        part.value for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    ]
    if len(names) != 1 or NODE_ORGANIZATION not in organizations:
        return None
    prefix, name = names[0][: len(NODE_PREFIX)], names[0][len(NODE_PREFIX) :]
    if prefix != NODE_PREFIX:
        return None
    return name if is_node_name(name) else ""


def _by_uri(certificate: x509.Certificate, cluster: str | None) -> str | None:
    """The node of the SPIFFE ID; None: there is no SPIFFE ID, "" if it is not a node's here."""
    if SPIFFE.encode() not in certificate.tbs_certificate_bytes.lower():
        return None  # DER has a URI in one piece, and extensions are dear to parse
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    ids = [uri for uri in uris if uri.lower().startswith(SPIFFE)]
    if not ids:
        return None
    domain, _, path = ids[0].removeprefix(SPIFFE).partition("/")
    name = path.removeprefix("node/")
    fits = (
        len(ids) == 1
        and ids[0].startswith(SPIFFE)
        and path.startswith("node/")
        and is_node_name(name)
        and (domain == cluster or (cluster is None and bool(domain)))
    )
    return name if fits else ""


def expiry(certificate: bytes) -> float:
    """Unix time at which the first certificate of a PEM chain ends; ConfigError: none is there."""
    try:
        return _life(certificate)[1]
    except ValueError:
        raise ConfigError("the certificate can't be read") from None


def _life(certificate: bytes) -> tuple[float, float]:
    """Unix times between which the first certificate of a PEM chain is valid."""
    found = x509.load_pem_x509_certificate(certificate)
    return found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()


# ------------------------------------------------------------------------------------------ tokens


def token_claims(token: str) -> dict[str, object]:
    """The payload of a JWT, **not verified**; {} for what is none.

    Good for one's own token, and to learn how long a token can be good that an authority has
    verified; never for who sent it.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        payload = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), b"-_", validate=True)
        return msgspec.json.decode(payload, type=dict[str, object])
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        return {}


def token_node(token: str) -> str:
    """The node that a token of one's own is for; "" when it names none."""
    found: object = token_claims(token)
    for key in TOKEN_NODE:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) and is_node_name(found) else ""


def load_token(path: str) -> str:
    """A bearer token from a file; ConfigError when there is none that can be sent."""
    token = _bytes(path).decode(errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or len(token) > MAX_TOKEN:
        raise ConfigError(f"{path}: not a token")
    return token


# ------------------------------------------------------------------------------------------- files


def load(certificate: str, key: str, ca: str) -> KeyPair:
    """Read the files ("": none); ConfigError names the one that can't be read."""
    return KeyPair(*(load_pem(path) if path else b"" for path in (certificate, key, ca)))


def load_pem(path: str) -> bytes:
    """One file; ConfigError when it can't be read or is none."""
    data = _bytes(path)
    if b"-----BEGIN " not in data:
        raise ConfigError(f"{path}: not a PEM file")
    return data


def check(keys: KeyPair, paths: Sequence[str], now: float) -> None:
    """ConfigError when these can't serve at that Unix time: the file, and what is wrong with it."""
    certificate_path, key_path, ca_path = paths
    try:
        if keys.ca:
            trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), keys)
    except (ValueError, ssl.SSLError):
        raise ConfigError(f"{ca_path}: can't be read as certificates") from None
    if not keys.certificate:
        return
    try:
        chain = x509.load_pem_x509_certificates(keys.certificate)
    except ValueError:
        raise ConfigError(f"{certificate_path}: can't be read as certificates") from None
    try:
        key = serialization.load_pem_private_key(keys.key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{key_path}: can't be read as a private key") from None
    if _public(key.public_key()) != _public(chain[0].public_key()):
        raise ConfigError(f"{key_path}: not the key of {certificate_path}")
    begin, end = _life(keys.certificate)
    if now >= end:
        raise ConfigError(f"{certificate_path}: expired at {_time(end)}")
    if now < begin:
        raise ConfigError(f"{certificate_path}: not valid before {_time(begin)}")
    try:
        take(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), keys)
    except ssl.SSLError as error:  # too weak for how OpenSSL is set up here, say
        raise ConfigError(f"{certificate_path}: OpenSSL refuses it: {error.reason}") from None


def take(context: ssl.SSLContext, keys: KeyPair) -> None:
    """Let a context have a certificate and its key. ssl.SSLError: it refuses them."""
    # It reads a chain from files only; this one is nowhere on a disk.
    file = os.memfd_create("keys", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as out:
            out.write(keys.key.rstrip() + b"\n" + keys.certificate)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def trust(context: ssl.SSLContext, keys: KeyPair) -> None:
    """Let a context know the CA. ValueError, ssl.SSLError: it can't be read."""
    # Without the text that may be beside the certificates: of a string it takes ASCII alone.
    found = x509.load_pem_x509_certificates(keys.ca)
    der = [each.public_bytes(serialization.Encoding.DER) for each in found]
    context.load_verify_locations(cadata=b"".join(der))


class KeyFiles:
    """The files of one side, read again when they change; the last good ones stay.

    Files that rotate are rarely replaced in one step: a key that is not its certificate's, half a
    file or an expired certificate is a `problem` and changes nothing, and what is on disk is looked
    at again with the next call. May be called on any thread.
    """

    def __init__(
        self, certificate: str, key: str, ca: str, clock: Callable[[], float] = time.time
    ) -> None:
        """ConfigError: what is there at the start can't be read or used."""
        self._paths = (certificate, key, ca)
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._keys = load(*self._paths)
        check(self._keys, self._paths, clock())
        self._life = _life(self._keys.certificate)
        self._problem = ""

    @property
    def path(self) -> str:
        """Of the certificate: what alarms are about."""
        return self._paths[0]

    def current(self) -> KeyPair:
        """What is to be used now: equal files give the same object."""
        with self._lock:
            signature = self._signature()
            if signature != self._seen or self._problem:
                self._reload(signature)
            return self._keys

    def problem(self) -> str:
        """What is wrong with the files or the certificate in use, "" when nothing is."""
        self.current()
        begin, end = self._life
        if self._problem or self._clock() < end - (end - begin) * LATE:
            return self._problem
        return f"{self.path}: valid until {_time(end)} only, and no newer one is there"

    def expires(self) -> float:
        """Unix time until which the certificate in use is valid."""
        return self._life[1]

    def _reload(self, signature: object) -> None:
        try:
            keys = load(*self._paths)
            if keys != self._keys:
                check(keys, self._paths, self._clock())
        except ConfigError as error:
            self._problem = str(error)
        else:
            self._problem = ""
            self._seen = signature
            if keys != self._keys:
                self._keys = keys
                self._life = _life(keys.certificate)

    def _signature(self) -> object:
        """Changes with the files' content; links are followed, as Secrets are mounted by links."""
        found = []
        for path in filter(None, self._paths):
            try:
                stat = os.stat(path)
                found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except OSError:
                found.append((0, 0, 0, 0))
        return found


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _time(when: float) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
