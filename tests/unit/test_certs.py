"""The laboratory CA: who certificates are for, what they may do, and what is never overwritten."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from reconciler.errors import ConfigError
from reconciler.server import certs
from reconciler.tls import load, node_of

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    certs.init(tmp_path, cluster="test", now=NOW)
    return tmp_path


def test_a_node_certificate_names_its_node(authority: Path) -> None:
    issued = certs.issue_node(authority, "node-1.example", now=NOW)
    assert node_of(issued.certificate.read_bytes()) == "node-1.example"


def test_a_name_too_long_for_a_common_name_is_refused(authority: Path) -> None:
    certs.issue_node(authority, "a" * 52, now=NOW)
    with pytest.raises(ConfigError, match="at most 52"):
        certs.issue_node(authority, "a" * 53, now=NOW)


def test_a_spiffe_id_holds_long_names(authority: Path) -> None:
    for name in ("node-1", "a" * 53):
        pem = certs.issue_node(authority, name, now=NOW, cluster="blue").certificate.read_bytes()
        assert node_of(pem, "blue") == node_of(pem) == name
        assert node_of(pem, "red") == ""


def test_a_server_certificate_is_for_no_node(authority: Path) -> None:
    issued = certs.issue_server(authority, names=("xds.example", "192.0.2.1", "::1"), now=NOW)
    assert node_of(issued.certificate.read_bytes()) == ""
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["xds.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "::1"]


def test_each_certificate_is_for_one_purpose(authority: Path) -> None:
    node = certs.issue_node(authority, "n1", now=NOW)
    server = certs.issue_server(authority, names=("localhost",), now=NOW)
    for issued, purpose in (
        (node, ExtendedKeyUsageOID.CLIENT_AUTH),
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
    ):
        certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
        use = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(use) == [purpose]


def test_keys_are_for_their_owner(authority: Path) -> None:
    issued = certs.issue_node(authority, "n1", now=NOW)
    for key in (issued.key, authority / certs.CA_KEY):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_nothing_is_overwritten(authority: Path) -> None:
    certs.issue_node(authority, "n1", now=NOW)
    before = {path: path.read_bytes() for path in authority.iterdir()}
    with pytest.raises(ConfigError, match="not overwritten"):
        certs.init(authority, cluster="test", now=NOW)
    with pytest.raises(ConfigError, match="not overwritten"):
        certs.issue_node(authority, "n1", now=NOW)
    assert {path: path.read_bytes() for path in authority.iterdir()} == before


@pytest.mark.parametrize("name", ["", "Node", "a/b", "system:node:x", "-a", "a" * 254])
def test_no_certificate_for_what_is_no_node_name(authority: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a node name"):
        certs.issue_node(authority, name, now=NOW)


def test_without_a_ca_nothing_is_issued(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certs init"):
        certs.issue_node(tmp_path, "n1", now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_another_ca_is_refused(authority: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    certs.init(other, cluster="other", now=NOW)
    (authority / certs.CA_KEY).write_bytes((other / certs.CA_KEY).read_bytes())
    with pytest.raises(ConfigError, match="not the key"):
        certs.issue_node(authority, "n1", now=NOW)


def test_files_that_are_not_pem_are_named(authority: Path) -> None:
    (authority / "empty").write_text("nothing")
    with pytest.raises(ConfigError, match="empty: not a PEM file"):
        load(str(authority / "ca.crt"), str(authority / "empty"), str(authority / "ca.crt"))
