"""Whose a certificate or a token is, and files that change: every form that must not count."""

from __future__ import annotations

import base64
import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reconciler import tls
from reconciler.errors import ConfigError

BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LIFE = datetime.timedelta(days=10)
KEY = ec.generate_private_key(ec.SECP256R1())


def pem(
    cn: str | None = None,
    organization: str = "system:nodes",
    uris: Sequence[str] = (),
    key: ec.EllipticCurvePrivateKey = KEY,
    begin: datetime.datetime = BEGIN,
) -> bytes:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    if cn is not None:
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, cn))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(parts))
        .issuer_name(x509.Name(parts))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + LIFE)
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("cn", "uris"),
    [
        ("system:node:n1", ()),
        (None, ("spiffe://blue/node/n1",)),
        ("system:node:n1", ("spiffe://blue/node/n1",)),
        ("someone", ("spiffe://blue/node/n1", "https://example.com/n2")),
        ("system:node:n1", ("https://example.com/node/n2",)),
    ],
)
def test_what_names_a_node(cn: str | None, uris: Sequence[str]) -> None:
    assert tls.node_of(pem(cn, uris=uris), "blue") == "n1"
    proof = tls.proof_of(pem(cn, uris=uris), "blue")
    assert proof == tls.Proof("n1", "certificate", (BEGIN + LIFE).timestamp())


@pytest.mark.parametrize(
    ("cn", "organization", "uris"),
    [
        ("system:node:n1", "system:masters", ()),
        ("system:node:", "system:nodes", ()),
        ("system:node:N1", "system:nodes", ()),
        ("n1", "system:nodes", ()),
        (None, "system:nodes", ()),
        (None, "system:nodes", ("spiffe://red/node/n1",)),
        (None, "system:nodes", ("spiffe:///node/n1",)),
        (None, "system:nodes", ("spiffe://blue/n1",)),
        (None, "system:nodes", ("spiffe://blue/node/",)),
        (None, "system:nodes", ("spiffe://blue/node/n1/x",)),
        (None, "system:nodes", ("spiffe://blue/node/n1?x",)),
        (None, "system:nodes", ("SPIFFE://blue/node/n1",)),
        (None, "system:nodes", ("spiffe://blue/node/n1", "spiffe://blue/node/n2")),
        ("system:node:n1", "system:nodes", ("spiffe://blue/node/n2",)),
        ("system:node:n1", "system:nodes", ("spiffe://red/node/n1",)),
        ("system:node:n1", "system:nodes", ("spiffe://blue/workload/n1",)),
        ("system:node:N1", "system:nodes", ("spiffe://blue/node/n1",)),
    ],
)
def test_what_names_none(cn: str | None, organization: str, uris: Sequence[str]) -> None:
    certificate = pem(cn, organization, uris)
    assert tls.node_of(certificate, "blue") == ""
    assert tls.proof_of(certificate, "blue") is None


def token(claims: object) -> str:
    return token_of(json.dumps(claims).encode())


def token_of(payload: bytes) -> str:
    head, claims = (
        base64.urlsafe_b64encode(each).decode().rstrip("=") for each in (b'{"alg":"none"}', payload)
    )
    return f"{head}.{claims}.c2ln"


def test_the_node_of_ones_own_token() -> None:
    assert tls.token_node(token({"kubernetes.io": {"node": {"name": "n1", "uid": "u"}}})) == "n1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "a.b.c",
        "a.!!!!.c",
        token([]),
        token({}),
        token({"kubernetes.io": []}),
        token({"kubernetes.io": {"node": "n1"}}),
        token({"kubernetes.io": {"node": {"name": 7}}}),
        token({"kubernetes.io": {"node": {"name": "N 1"}}}),
        token_of(b'{"a":' + b"[" * 5_000),
        token_of(b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}"),
    ],
)
def test_tokens_without_a_node(text: str) -> None:
    assert tls.token_node(text) == ""


def test_what_is_nested_without_end_has_no_claims() -> None:
    text = token_of(b'{"exp":1,"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}")
    assert len(text) <= tls.MAX_TOKEN
    assert tls.token_claims(text) == {}


@pytest.mark.parametrize("data", [b"", b"\n", b"two words\x07", b"\xff\xfe", b"x" * 7001])
def test_files_that_hold_no_token(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "token").write_bytes(data)
    with pytest.raises(ConfigError, match="not a token"):
        tls.load_token(str(tmp_path / "token"))


# ------------------------------------------------------------------------------------------- files


WEAK = ec.generate_private_key(ec.SECP192R1())
"""96 bits of security, and OpenSSL wants 112 (its level 2, the default of Debian's)."""


class Mounted:
    """A mounted Secret: files are links into a folder that a link names, which is swapped."""

    def __init__(self, root: Path) -> None:
        self.root, self.generation = root, 0
        self.now = BEGIN + LIFE / 2
        self.put(pem("system:node:n1"), KEY)
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (root / name).symlink_to(f"..data/{name}")
        paths = [str(root / name) for name in ("tls.crt", "tls.key", "ca.crt")]
        self.files = tls.KeyFiles(paths[0], paths[1], paths[2], lambda: self.now.timestamp())

    def put(self, certificate: bytes, key: ec.EllipticCurvePrivateKey | None) -> None:
        self.generation += 1
        folder = self.root / f"..{self.generation}"
        folder.mkdir()
        (folder / "tls.crt").write_bytes(certificate)
        (folder / "ca.crt").write_bytes(pem("ca"))
        if key is not None:
            (folder / "tls.key").write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        (self.root / "..new").symlink_to(folder.name)
        os.replace(self.root / "..new", self.root / "..data")


def test_a_swapped_secret_is_read(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path)
    before = mounted.files.current()
    assert mounted.files.current() is before
    other = ec.generate_private_key(ec.SECP256R1())
    renewed = pem("system:node:n1", key=other, begin=BEGIN + LIFE / 4)
    mounted.put(renewed, other)
    assert mounted.files.current().certificate == renewed
    assert mounted.files.expires() == (BEGIN + LIFE * 1.25).timestamp()
    assert mounted.files.problem() == ""


@pytest.mark.parametrize(
    ("certificate", "key", "text"),
    [
        (pem("system:node:n1"), ec.generate_private_key(ec.SECP256R1()), "not the key of"),
        (pem("system:node:n1"), None, "No such file"),
        (b"-----BEGIN CERTIFICATE-----", KEY, "can't be read as certificates"),
        (b"", KEY, "not a PEM file"),
        (pem("system:node:n1", begin=BEGIN - LIFE), KEY, "expired at 2026-01-01 00:00:00 UTC"),
        (pem("system:node:n1", begin=BEGIN + LIFE), KEY, "not valid before 2026-01-11"),
        (pem("system:node:n1", key=WEAK), WEAK, "OpenSSL refuses it: EE_KEY_TOO_SMALL"),
    ],
)
def test_the_last_good_files_stay(
    tmp_path: Path, certificate: bytes, key: ec.EllipticCurvePrivateKey | None, text: str
) -> None:
    mounted = Mounted(tmp_path)
    good = mounted.files.current()
    mounted.put(certificate, key)
    assert mounted.files.current() is good
    assert text in mounted.files.problem()
    assert str(tmp_path) in mounted.files.problem()
    mounted.put(pem("system:node:n1"), KEY)
    assert mounted.files.problem() == ""


def test_a_file_that_comes_back_is_no_problem(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path)
    (tmp_path / "..data").rename(tmp_path / "away")
    assert "No such file" in mounted.files.problem()
    (tmp_path / "away").rename(tmp_path / "..data")
    assert mounted.files.problem() == ""


def test_a_renewal_that_is_late_is_a_problem_before_the_end(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path)
    mounted.now = BEGIN + LIFE * 0.89
    assert mounted.files.problem() == ""
    mounted.now = BEGIN + LIFE * 0.91
    late = (
        f"{tmp_path}/tls.crt: valid until 2026-01-11 00:00:00 UTC only, and no newer one is there"
    )
    assert mounted.files.problem() == late
    mounted.put(pem("system:node:n1", begin=mounted.now), KEY)
    assert mounted.files.problem() == ""
