"""Server and agent as processes over TLS, with certificates that rotate, go bad or are too old."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.commands.ask import query
from reconciler.server import certs
from tests.integration.test_processes import Processes, cli_http

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Secured(Processes):
    """`pki` is a link to the folder of the files in use, as a mounted Secret has it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.pki = directory / "pki"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def issue(self, name: str, begin: datetime.datetime = NOW) -> Path:
        """Another authority, with certificates of a day."""
        folder = self.directory / name
        certs.init(folder, cluster="test", now=begin)
        certs.issue_server(folder, names=("127.0.0.1",), now=begin, days=1)
        certs.issue_node(folder, "node-1", now=begin, days=1, stem="node")
        return folder

    def mount(self, folder: Path) -> None:
        (self.directory / "link").symlink_to(folder)
        os.replace(self.directory / "link", self.pki)

    def tls(self, stem: str) -> tuple[str, ...]:
        return ("--no-insecure", "--log-json", "--tls-ca", f"{self.pki}/ca.crt", "--tls-cert",
                f"{self.pki}/{stem}.crt", "--tls-key", f"{self.pki}/{stem}.key")  # fmt: skip

    def start(self) -> None:
        self.server("--listen", self.address, "--max-stream-age", "2", *self.tls("server"))
        self.start_agent()

    def start_agent(self) -> None:
        self.agent("", "--server", self.address, *self.tls("node"))

    def said(self, process: str, event: str) -> list[dict[str, str]]:
        lines = (self.directory / f"{process}.log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    found = Secured(tmp_path)
    yield found
    for name in list(found.running):
        found.stop(name, signal.SIGKILL)


def test_everything_rotates_under_running_processes(secured: Secured) -> None:
    """CA, server's and node's certificates: neither process starts anew, and the node is served
    with the new ones once its stream has ended of age."""
    secured.mount(secured.issue("first"))
    secured.start()
    secured.wait(secured.in_sync)
    secured.mount(secured.issue("second"))
    secured.wait(lambda: bool(secured.said("server", "certificate renewed")))
    opened = secured.nodes()["node-1"]["opened"]
    secured.wait(lambda: secured.nodes()["node-1"]["opened"] > opened and secured.in_sync())

    half = secured.directory / "half"
    shutil.copytree(secured.directory / "second", half)
    shutil.copyfile(secured.directory / "first" / "server.key", half / "server.key")
    secured.mount(half)
    secured.wait(lambda: bool(secured.said("server", "alarm")))
    (alarm,) = secured.said("server", "alarm")
    assert (alarm["kind"], alarm["object"]) == ("certificate", f"{secured.pki}/server.crt")
    assert alarm["text"] == f"{secured.pki}/server.key: not the key of {secured.pki}/server.crt"
    opened = secured.nodes()["node-1"]["opened"]
    secured.wait(lambda: secured.nodes()["node-1"]["opened"] > opened and secured.in_sync())
    secured.mount(secured.directory / "second")
    secured.wait(lambda: bool(secured.said("server", "certificate good again")))
    assert "reconciler_certificate_expiry_seconds 0.0" not in cli_http(
        secured.agent_status, "/metrics"
    )


def test_an_agent_with_an_expired_certificate_says_so_and_goes_on(secured: Secured) -> None:
    secured.mount(secured.issue("old", NOW - 2 * DAY))
    secured.start_agent()
    secured.wait(lambda: bool(secured.said("agent", "disconnected")))
    reason = secured.said("agent", "disconnected")[0]["reason"]
    assert reason.startswith(f"{secured.pki}/node.crt: expired at ")
    assert query(secured.agent_status, "/healthz") == {"status": "ok"}
    secured.mount(secured.issue("new"))  # renewed late: no restart is needed
    secured.server("--listen", secured.address, *secured.tls("server"))
    secured.wait(secured.in_sync)
