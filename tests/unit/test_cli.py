"""The command line without any server: forms of output, exit codes, one-line errors."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SHOP = Path(__file__).parents[2] / "demo" / "shop"
POD = """
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: ns, labels: {{ app: {name} }} }}
spec: {{ containers: [{{ name: main }}] }}
"""
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: ns }
spec: { podSelector: {}, policyTypes: [Ingress] }
"""


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")}
    return subprocess.run(
        [sys.executable, "-m", "reconciler.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=environ,
    )


@pytest.fixture
def two_pods(tmp_path: Path) -> Path:
    text = "---".join(POD.format(name=name) for name in ("a", "b"))
    (tmp_path / "pods.yaml").write_text(text)
    return tmp_path


def test_a_wrong_option_is_usage() -> None:
    done = run("server", "--nope")
    assert done.returncode == 2
    assert "--nope" in done.stderr
    assert done.stdout == ""


def test_a_wrong_value_is_one_line() -> None:
    done = run("server", "--insecure", "--listen", "0.0.0.0:1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "reconciler: --insecure: 0.0.0.0:1: plaintext is for loopback addresses "
        "and Unix sockets only"
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("get", "nodes", "--server", "x"), "x"),
        (("monitor", "--agent", "x"), "--agent: x"),
        (("xds", "get", "--server", "x"), "--server: x"),
        (("xds", "clients", "--server", "x"), "--server: x"),
        (("xds", "conformance", "--target", "x"), "--target: x"),
    ],
)
def test_what_is_no_address_is_one_line(line: tuple[str, ...], said: str) -> None:
    done = run(*line)
    assert (done.returncode, done.stdout) == (2, "")
    reason = "expected host:port, [v6]:port or unix:PATH"
    assert done.stderr == f"reconciler: {said}: {reason}\n"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    done = run("get", "nodes", "--server", f"unix:{tmp_path}/none.sock")
    assert done.returncode == 3
    assert done.stderr == f"reconciler: unix:{tmp_path}/none.sock: No such file or directory\n"


def test_the_shop_is_valid() -> None:
    done = run("validate", str(SHOP))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors" in done.stdout


def test_errors_in_manifests_are_found(tmp_path: Path) -> None:
    bad = DENY.replace("podSelector: {}", "podSelector: { matchLabels: { 'not a key!': x } }")
    (tmp_path / "bad.yaml").write_text(bad)
    done = run("validate", str(tmp_path))
    assert done.returncode == 1
    assert "NetworkPolicy ns/deny" in done.stdout
    rows = json.loads(run("validate", str(tmp_path), "-o", "json").stdout)
    assert [row["severity"] for row in rows] == ["error"]


def test_verdicts_in_every_form(two_pods: Path) -> None:
    (two_pods / "deny.yaml").write_text(DENY)
    table = run("verdicts", str(two_pods))
    assert table.stdout.splitlines()[0].split() == [
        "FROM", "TO", "PROTOCOL", "PORT", "EGRESS", "INGRESS", "VERDICT"
    ]  # fmt: skip
    rows = json.loads(run("verdicts", str(two_pods), "-o", "json").stdout)
    assert [(row["from"], row["to"], row["verdict"]) for row in rows] == [
        ("ns/a", "ns/b", "deny"),
        ("ns/b", "ns/a", "deny"),
    ]
    assert yaml.safe_load(run("verdicts", str(two_pods), "-o", "yaml").stdout) == rows
    comma = list(csv.DictReader(io.StringIO(run("verdicts", str(two_pods), "-o", "csv").stdout)))
    assert [row["verdict"] for row in comma] == ["deny", "deny"]


def test_a_difference_of_verdicts_is_an_exit_code(two_pods: Path, tmp_path: Path) -> None:
    after = tmp_path / "after"
    after.mkdir()
    (after / "pods.yaml").write_text((two_pods / "pods.yaml").read_text())
    before = str(two_pods / "pods.yaml")
    assert run("verdicts", str(after), "--diff", before).returncode == 0
    (after / "deny.yaml").write_text(DENY)
    done = run("verdicts", str(after), "--diff", before, "-o", "json")
    assert done.returncode == 1
    assert {(row["before"], row["after"]) for row in json.loads(done.stdout)} == {("allow", "deny")}


def test_verdicts_read_standard_input() -> None:
    text = "---".join(POD.format(name=name) for name in ("a", "b"))
    done = run("verdicts", "-", "-o", "json", stdin=text)
    assert [row["verdict"] for row in json.loads(done.stdout)] == ["allow", "allow"]


def test_bad_ports_are_usage(two_pods: Path) -> None:
    done = run("verdicts", str(two_pods), "--ports", "http")
    assert done.returncode == 2
    assert done.stderr.startswith("reconciler: --ports: ")


def test_machines_can_be_seen() -> None:
    names = [row["name"] for row in json.loads(run("models", "list", "-o", "json").stdout)]
    assert "identity" in names
    assert "draining" in run("models", "show", "identity").stdout
    assert run("models", "diagram", "identity").stdout.splitlines()[1] == "stateDiagram-v2"
    assert run("models", "diagram", "identity", "--format", "dot").stdout.startswith("digraph")
    assert run("models", "show", "nothing").returncode == 2


def test_certificates_are_issued_and_never_overwritten(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "pki"))
    assert run("certs", "init", *where).returncode == 0
    done = run("certs", "issue", *where, "--node", "n1")
    assert done.stdout.splitlines() == [f"{tmp_path}/pki/node-n1.{end}" for end in ("crt", "key")]
    assert run("certs", "issue", *where, "--node", "n1").returncode == 2
    assert run("certs", "issue", *where, "--san", "127.0.0.1").returncode == 0
    assert run("certs", "issue", *where).returncode == 2


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        (
            "from reconciler.cli import build; build()",
            {"structlog", "grpc", "aiohttp", "envoy", "google", "yaml"},
        ),
        ("import reconciler.agent.cni", {"typer", "msgspec", "grpc", "aiohttp", "pyroaring"}),
    ],
    ids=["the command tree", "the CNI plugin"],
)
def test_nothing_heavy_is_imported(program: str, heavy: set[str]) -> None:
    """What commands run is imported when they do."""
    program += f"; import sys; sys.exit(str({heavy} & set(sys.modules) or '') or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_cni_plugin_is_a_command() -> None:
    environ = {**os.environ, "CNI_COMMAND": "VERSION"}
    done = subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "cni"],
        input='{"cniVersion": "1.0.0"}',
        capture_output=True,
        text=True,
        env=environ,
    )
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
