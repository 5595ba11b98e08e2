"""The CNI plugin against the text of the specification, with an agent that is a thread here."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.agent import cni

PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "veth12", "mac": "ee:ee:ee:ee:ee:ee"},
        {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/var/run/netns/x"},
    ],
    "ips": [{"address": "10.1.0.7/24", "interface": 1}, {"address": "fd00::7/64", "interface": 1}],
}
ENVIRON = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/var/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0",
}


class Agent:
    """Answers every request with the same line, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: bytes = b'{"ok": true}\n'
        self.requests: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client, client.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    return
                self.requests.append(json.loads(line))
                client.sendall(self.answer)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.connect(str(self.path))
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    found = Agent(tmp_path / "cni.sock")
    yield found
    found.close()


def run(
    command: str, path: Path, environ: dict[str, str] | None = None, **config: Any
) -> tuple[int, dict[str, Any] | None]:
    stdin: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "n",
        "type": "reconciler-cni",
        "socket": str(path),
    }
    stdin |= {"prevResult": PREVIOUS} if command in ("ADD", "CHECK") else {}
    out = io.StringIO()
    full = {"CNI_COMMAND": command, **(ENVIRON if environ is None else environ)}
    data = json.dumps({k: v for k, v in (stdin | config).items() if v is not None}).encode()
    code = cni.main(full, io.BytesIO(data), out)
    return code, json.loads(out.getvalue()) if out.getvalue() else None


def test_add_asks_for_the_host_device_and_passes_the_result_on(agent: Agent) -> None:
    assert run("ADD", agent.path, waitSeconds=2) == (0, PREVIOUS)
    assert agent.requests == [
        {
            "command": "ADD",
            "container": "c1",
            "pod": "shop/cart-0",
            "interface": "veth12",
            "addresses": ["10.1.0.7", "fd00::7"],
            "wait": 2,
        }
    ]


def test_add_fails_when_the_agent_refuses(agent: Agent) -> None:
    agent.answer = b'{"error": "veth12 could not be attached"}\n'
    code, answer = run("ADD", agent.path)
    assert code == 1
    assert answer is not None
    assert (answer["code"], answer["msg"]) == (cni.TRY_AGAIN, "veth12 could not be attached")
    assert answer["cniVersion"] == "1.0.0"


def test_add_fails_without_an_agent(tmp_path: Path) -> None:
    code, answer = run("ADD", tmp_path / "none.sock")
    assert code == 1
    assert answer is not None
    assert answer["code"] == cni.TRY_AGAIN
    assert "none.sock" in answer["details"]


def test_delete_succeeds_even_without_an_agent(tmp_path: Path) -> None:
    assert run("DEL", tmp_path / "none.sock") == (0, None)


def test_delete_tells_the_agent(agent: Agent) -> None:
    assert run("DEL", agent.path) == (0, None)
    assert [request["command"] for request in agent.requests] == ["DEL"]


def test_check_says_nothing_when_all_is_well(agent: Agent) -> None:
    assert run("CHECK", agent.path) == (0, None)
    agent.answer = b'{"error": "veth12 is not attached"}\n'
    code, answer = run("CHECK", agent.path)
    assert code == 1
    assert answer is not None
    assert answer["code"] == cni.NOT_ATTACHED


def test_version_needs_no_agent() -> None:
    code, answer = run("VERSION", Path("/nonexistent"))
    assert code == 0
    assert answer is not None
    assert {"1.0.0", "1.1.0"} <= set(answer["supportedVersions"])


@pytest.mark.parametrize("command", ["STATUS", "GC"])
def test_a_node_is_ready_while_no_agent_answers(command: str) -> None:
    """Both have no container."""
    assert run(command, Path("/nonexistent"), {}, cniVersion="1.1.0") == (0, None)


@pytest.mark.parametrize(
    ("config", "environ", "code", "text"),
    [
        ({"cniVersion": "2.0.0"}, None, cni.INCOMPATIBLE_VERSION, "2.0.0"),
        ({"prevResult": None}, None, cni.BAD_CONFIG, "chained"),
        ({"prevResult": {"interfaces": []}}, None, cni.BAD_CONFIG, "one host device"),
        (
            {"prevResult": {"interfaces": [{"name": "a"}, {"name": "b"}]}},
            None,
            cni.BAD_CONFIG,
            "one host device",
        ),
        ({"socket": "cni.sock"}, None, cni.BAD_CONFIG, "absolute"),
        ({"waitSeconds": "soon"}, None, cni.BAD_CONFIG, "waitSeconds"),
        ({}, {}, cni.INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
    ],
)
def test_what_is_wrong_is_said(
    config: dict[str, Any], environ: dict[str, str] | None, code: int, text: str
) -> None:
    status, answer = run("ADD", Path("/nonexistent"), environ, **config)
    assert status == 1
    assert answer is not None
    assert answer["code"] == code
    assert text in answer["msg"]


def test_a_configuration_that_is_not_json() -> None:
    out = io.StringIO()
    assert cni.main({"CNI_COMMAND": "ADD"}, io.BytesIO(b"{"), out) == 1
    assert json.loads(out.getvalue())["code"] == cni.BAD_JSON


def test_an_unknown_command() -> None:
    code, answer = run("EXPLODE", Path("/nonexistent"))
    assert code == 1
    assert answer is not None
    assert answer["code"] == cni.INVALID_ENVIRONMENT
