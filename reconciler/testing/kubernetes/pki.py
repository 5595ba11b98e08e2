"""A cluster's keys: one CA, the API server's certificate, clients' certificates, token keys.

Everything is PEM in one folder. The same CA signs servers and clients, as a cluster
of one machine has it; it lives as long as the folder.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reconciler import signing

_DAY: Final = datetime.timedelta(days=1)


class Authority:
    """The CA of one cluster; writes ca.crt, and apiserver and tokens with their keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = signing.new_key()
        self._name = _subject("test-cluster-ca", ())
        self.certificate = signing.root(self._name, self._key, now=_now(), lasts=_DAY)
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(signing.certificate_pem(self.certificate))
        names: list[x509.GeneralName] = [
            x509.DNSName(name)
            for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        ]
        names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "10.96.0.1")]
        certificate, key = self.issue(
            _subject("kube-apiserver", ()), ExtendedKeyUsageOID.SERVER_AUTH, names=names
        )
        _write(folder / "apiserver.crt", certificate)
        _write(folder / "apiserver.key", key)
        tokens = signing.new_key()
        _write(folder / "tokens.key", signing.key_pem(tokens))
        public = tokens.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(folder / "tokens.pub", public)

    def client(
        self, user: str, groups: Sequence[str], lasts: datetime.timedelta = _DAY
    ) -> tuple[bytes, bytes]:
        """Certificate and key that the API server takes for this user in these groups."""
        return self.issue(_subject(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, lasts=lasts)

    def issue(
        self,
        subject: x509.Name,
        purpose: x509.ObjectIdentifier,
        *,
        names: Sequence[x509.GeneralName] = (),
        lasts: datetime.timedelta = _DAY,
    ) -> tuple[bytes, bytes]:
        key = signing.new_key()
        certificate = signing.leaf(
            subject,
            key,
            purpose,
            issuer=self._name,
            issuer_key=self._key,
            now=_now(),
            lasts=lasts,
            names=names,
        )
        return signing.certificate_pem(certificate), signing.key_pem(key)


def kubeconfig(server: str, ca: bytes, certificate: bytes, key: bytes) -> str:
    """A kubeconfig (JSON is YAML) with everything inline."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    user = {"client-certificate-data": text(certificate), "client-key-data": text(key)}
    cluster = {"server": server, "certificate-authority-data": text(ca)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        },
        indent=1,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _subject(user: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _write(path: Path, data: bytes) -> None:
    path.touch(0o600, exist_ok=False)
    path.write_bytes(data)
