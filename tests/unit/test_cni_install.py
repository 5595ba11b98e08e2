"""The CNI plugin's place on a node: in the chain that the runtime reads, once, and out again."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reconciler.agent.cni_install import NAME, install, program, remove
from reconciler.errors import ConfigError

PTP: dict[str, Any] = {"type": "ptp", "ipam": {"type": "host-local"}, "mtu": 1500}
PORTMAP: dict[str, Any] = {"type": "portmap", "capabilities": {"portMappings": True}}
OURS: dict[str, Any] = {"type": NAME, "socket": "/run/r/cni.sock", "waitSeconds": 0.0}


class Node:
    def __init__(self, directory: Path) -> None:
        self.bin, self.conf = directory / "bin", directory / "conf"
        self.bin.mkdir()
        self.conf.mkdir()

    def has(self, name: str, *plugins: dict[str, Any], **more: Any) -> None:
        chain = {"cniVersion": "1.0.0", "name": "k8s", "plugins": plugins, **more}
        (self.conf / name).write_text(json.dumps(chain))

    def chain(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.conf / name).read_text())
        return found

    def install(self, wait_seconds: float = 0.0) -> Path:
        return install(self.bin, self.conf, socket="/run/r/cni.sock", wait_seconds=wait_seconds)

    def run(self, command: str, given: str = "{}", **environ: str) -> tuple[int, Any]:
        done = subprocess.run(
            [self.bin / NAME],
            input=given, capture_output=True, text=True, timeout=30,
            env={**os.environ, "CNI_COMMAND": command, "CNI_CONTAINERID": "c", **environ},
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_it_comes_last_in_the_chain_that_the_runtime_reads(node: Node) -> None:
    node.has("10-first.conflist", PTP, PORTMAP, disableCheck=True)
    node.has("20-second.conflist", PTP)
    (node.conf / "05-note.txt").write_text("no configuration")
    assert node.install().name == "10-first.conflist"
    found = node.chain("10-first.conflist")
    assert found["plugins"] == [PTP, PORTMAP, OURS]
    assert found["disableCheck"] is True
    assert node.chain("20-second.conflist")["plugins"] == [PTP]
    assert (node.bin / NAME).stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in node.conf.iterdir()) == [
        "05-note.txt", "10-first.conflist", "20-second.conflist",
    ]  # fmt: skip


def test_a_second_time_it_changes_what_is_new_and_nothing_else(node: Node) -> None:
    node.has("10-first.conflist", PTP, PORTMAP)
    path = node.install()
    before = path.stat()
    node.install()
    assert path.stat().st_ino == before.st_ino, "not even written"
    node.has("10-first.conflist", PTP, OURS, PORTMAP)  # another one came behind
    node.install(wait_seconds=2.5)
    assert node.chain(path.name)["plugins"] == [PTP, PORTMAP, {**OURS, "waitSeconds": 2.5}]


def test_it_goes_out_of_every_chain(node: Node) -> None:
    node.has("10-first.conflist", PTP, OURS)
    node.has("20-second.conflist", PTP, OURS, PORTMAP)
    (node.conf / "30-single.conf").write_text(json.dumps({"name": "x", **PTP}))
    node.install()
    remove(node.bin, node.conf)
    assert node.chain("10-first.conflist")["plugins"] == [PTP]
    assert node.chain("20-second.conflist")["plugins"] == [PTP, PORTMAP]
    assert not (node.bin / NAME).exists()
    remove(node.bin, node.conf)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no network configuration yet"),
        ("{", "is not JSON"),
        (json.dumps({"name": "x", "type": "ptp"}), "is no list of plugins"),
        (json.dumps({"plugins": ["ptp"]}), "is no list of plugins"),
        ("[]", "is no list of plugins"),
    ],
)
def test_what_can_not_be_extended_is_left_alone(node: Node, text: str | None, said: str) -> None:
    path = node.conf / "10-first.conf"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        node.install()
    assert text is None or path.read_text() == text
    assert not list(node.bin.iterdir()), "a plugin that is in no chain"


def test_the_program_runs_by_itself(node: Node, tmp_path: Path) -> None:
    node.has("10-first.conflist", PTP)
    node.install()
    code, answer = node.run("VERSION")
    assert (code, answer["cniVersion"]) == (0, "1.1.0")
    code, answer = node.run("ADD", json.dumps({"socket": f"{tmp_path}/none", "prevResult": {
        "interfaces": [{"name": "veth1"}]}}))  # fmt: skip
    assert (code, answer["msg"]) == (1, "the agent can't be reached")
    assert node.run("DEL") == (0, None)
    ast.parse(program(), feature_version=(3, 8))


def test_without_a_python_the_program_says_so(node: Node) -> None:
    node.has("10-first.conflist", PTP)
    node.install()
    code, answer = node.run("ADD", PATH=str(node.bin))
    assert code == 1
    assert "needs a Python" in answer["msg"]
    assert node.run("DEL", PATH=str(node.bin)) == (0, None)
