"""Server and agent of different versions: what docs/deploy.md says of each difference.

The other version is this one with a change that a later one may make: a copy of the package, with
wire format and code edited, run as a process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from reconciler.commands.ask import query
from tests.integration.test_processes import SHOP, Processes

REPOSITORY = Path(__file__).parents[2]
PROTO = "proto/reconciler/v1/resources.proto"
TYPES = "reconciler/core/resources/types.py"
UNKNOWN_FIELD = "fields that this agent does not know"

# A field of rule sets. It is set for a policy that uses what is new, and absent for all others.
FIELD = {
    PROTO: ("  repeated Rule rules = 3;\n", "  repeated Rule rules = 3;\n  uint32 rate = 4;\n"),
    "reconciler/core/resources/encode.py": (
        "    return seal(RULE_SET, name, message)\n",
        "    if any('shop/next' in each for rule in rules.rules for each in rule.origins):\n"
        "        message.rate = 7\n"
        "    return seal(RULE_SET, name, message)\n",
    ),
}
# What requests say of the client beside its name.
CLIENT = {
    "reconciler/core/xds/codec.py": (
        "        message.node.id = request.node\n",
        "        message.node.id = request.node\n"
        "        message.node.user_agent_name = 'next'\n"
        "        message.node.metadata.update({'version': '0.2.0'})\n",
    ),
    PROTO: ("  uint64 limit = 5;\n", "  uint64 limit = 5;\n  string hint = 6;\n"),
}
# One more type of a cut.
TYPE = {
    TYPES: (
        "STAGED: Final = (PEER_SET, ",
        "STAGED: Final = (PREFIX + 'Next', PEER_SET, ",
    )
}
NEXT_POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "next", "namespace": "shop"},
    "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 4242}]}]},
}


class Skewed(Processes):
    """`newer`: commands that the other version runs."""

    def __init__(self, directory: Path) -> None:
        manifests = directory / "manifests"
        shutil.copytree(SHOP, manifests)
        super().__init__(directory, manifests)
        self.newer: set[str] = set()

    def change(self, *edits: dict[str, tuple[str, str]]) -> None:
        """Make the other version."""
        tree = self.directory / "next"
        for name in ("reconciler", "models", "proto"):  # and what is compiled of them
            shutil.copytree(REPOSITORY / name, tree / name)
        for edit in edits:
            for name, (old, new) in edit.items():
                text = (tree / name).read_text()
                assert text.count(old) == 1, f"{name} has changed: {old!r}"
                (tree / name).write_text(text.replace(old, new))
        protoc = "-m grpc_tools.protoc -Ireconciler/wire=proto/reconciler/v1 --python_out=."
        command = [sys.executable, *protoc.split(), "reconciler/wire/resources.proto"]
        subprocess.run(command, cwd=tree, check=True)

    def _start(self, command: str, *options: str) -> None:
        tree = self.directory / "next" if command in self.newer else REPOSITORY
        with open(self.directory / f"{command}.log", "ab") as log:
            self.running[command] = subprocess.Popen(
                [sys.executable, "-m", "reconciler.cli", command, "--insecure", *options],
                stdout=log, stderr=log, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
            )  # fmt: skip

    def said(self, command: str) -> str:
        return (self.directory / f"{command}.log").read_text()

    def lets_in(self, port: int) -> bool:
        """What the rules of a pod of the shop say, which NEXT_POLICY selects, of whom it allows."""
        rows = query(self.agent_status, "/v1/endpoints")
        pods = [row["ipv4"] for row in rows if row["namespace"] == "shop" and row["ipv4"]]
        path = f"/v1/probe?from={pods[0]}&to={pods[1]}&protocol=6&port={port}"
        return bool(query(self.agent_status, path)["ingress"]["passed"])

    def committed(self) -> int:
        return int(query(self.agent_status, "/v1/status")["committed"])

    def newest(self) -> int:
        return int(query(self.server_status, "/v1/status")["revision"])


@pytest.fixture
def skewed(tmp_path: Path) -> Iterator[Skewed]:
    found = Skewed(tmp_path)
    yield found
    for name in list(found.running):
        found.stop(name, 9)


def test_a_newer_server_serves_an_older_agent_what_it_knows(skewed: Skewed) -> None:
    """And closes what it does not know: the policy's pods, and nothing else. With a field left out
    a rule might allow more. Once the agent is upgraded too, it has the policy at once."""
    skewed.change(FIELD)
    skewed.newer = {"server"}
    skewed.server("--closed-grace", "0.2")
    skewed.agent()
    skewed.wait(skewed.in_sync)
    assert UNKNOWN_FIELD not in skewed.said("server")

    (skewed.manifests / "next.yaml").write_text(yaml.safe_dump(NEXT_POLICY))
    before = skewed.committed()
    skewed.wait(lambda: UNKNOWN_FIELD in skewed.said("server"))
    skewed.wait(lambda: skewed.committed() > before)
    row = skewed.nodes()["node-1"]
    assert any(UNKNOWN_FIELD in alarm for alarm in row["alarms"])
    assert row["rollout"] == "closed-fallback"
    assert not skewed.lets_in(4242)
    # What comes after is served all the same.
    before = skewed.committed()
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}}
    policy = {**NEXT_POLICY, "metadata": {"name": "known", "namespace": "data"}}
    (skewed.manifests / "later.yaml").write_text(yaml.safe_dump_all([namespace, policy]))
    skewed.wait(lambda: before < skewed.committed() == skewed.newest())
    assert skewed.nodes()["node-1"]["alarms"]

    # Sooner than what was refused is tried again, whoever refused it.
    skewed.stop("agent")
    skewed.newer = {"server", "agent"}
    skewed.agent()
    skewed.wait(lambda: skewed.nodes()["node-1"]["alarms"] == [])
    skewed.wait(skewed.in_sync)
    assert skewed.lets_in(4242)


def test_an_older_server_serves_a_newer_agent(skewed: Skewed) -> None:
    """It does not look at what a request says beside; a field of resources is absent."""
    skewed.change(CLIENT, FIELD)
    skewed.newer = {"agent"}
    skewed.server()
    skewed.agent()
    skewed.wait(skewed.in_sync)
    assert skewed.committed() == skewed.newest()


def test_one_more_type_of_a_cut_changes_nothing_that_is_enforced(skewed: Skewed) -> None:
    """It is not served, by either: an agent knows all of a cut, or enforces its last one."""
    skewed.server()
    skewed.agent()
    skewed.wait(skewed.in_sync)
    committed = skewed.committed()

    def enforced() -> bool:
        rows = query(skewed.agent_status, "/v1/endpoints")
        return skewed.committed() == committed and {r["state"] for r in rows} == {"enforcing"}

    skewed.change(TYPE)
    skewed.stop("agent")
    skewed.newer = {"agent"}
    skewed.agent()
    skewed.wait(lambda: "reconciler.v1.Next' is not served here" in skewed.said("agent"))
    assert enforced()

    skewed.stop("agent")
    skewed.stop("server")
    skewed.newer = {"server"}
    skewed.server()
    skewed.agent()
    skewed.wait(lambda: skewed.nodes()["node-1"]["state"] == "syncing")
    assert enforced()
