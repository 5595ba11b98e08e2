"""Label churn against a running server: through its manifest directory, checked by what it says.

The moves are those of `churn`; only edits of objects are carried out (faults are not ours to make
in somebody's cluster), in namespaces and files of this run's own, which are removed at its end.
What is checked, all the time: no number has two label sets and no label set two numbers (R1), a
number and birth never mean another label set (R2), no node's cut goes back (R6). Where agents are
given, their datapaths are asked too: when everything has had time to settle every verdict is the
oracle's (R3), and a way that is open before and after an edit is open all the while (R4).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from itertools import permutations
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from reconciler.core.labels import LabelFilter
from reconciler.core.objects import KubeObject, Namespace, NetworkPolicy, Node, ObjectKey, Pod
from reconciler.core.policy.oracle import World as Objects
from reconciler.core.policy.oracle import oracle
from reconciler.errors import ConfigError
from reconciler.testing.rules import RuleBroken, holds
from reconciler.testing.scenario import KINDS, Broken, Line, spec_of
from reconciler.testing.world import World

SETTLE_SECONDS: Final = 30.0
"""Time in which an edit must have become every agent's verdicts."""

FIRST_HOST: Final = 200
"""Of the addresses that pods of a run get in their node's CIDR: beyond those of real pods."""

PREFIX: Final = "fuzz-"
POLL_SECONDS: Final = 0.05
PORT: Final = 80

Way = tuple[str, str]
"""Source and destination, namespace/name of pods."""


class Asks(Protocol):
    """A status API."""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes: ...


class Live:
    """One run on one server."""

    def __init__(
        self,
        server: Asks,
        agents: Sequence[Asks],
        directory: Path,
        nodes: Sequence[Node],
        *,
        name: str,
    ) -> None:
        """directory: the server's; nodes: its Node objects; name: of this run, for its files."""
        if not nodes:
            raise ConfigError(f"{directory}: has no Node, so that no pod could be placed")
        self._server, self._agents = server, agents
        self._directory, self._nodes, self._name = directory, nodes, name
        self._world = World()
        self._files: dict[ObjectKey, Path] = {}
        self._births: dict[tuple[int, int], str] = {}
        self._committed: dict[str, int] = {}
        self._ways: dict[Way, bool] = {}  # as the last settled state has them
        self.verdicts = 0

    async def play(self, lines: Sequence[Line]) -> Broken | None:
        """None: every rule held. The objects of the run are gone afterwards, however it ends."""
        try:
            for line in lines:
                try:
                    await self._take(line)
                except RuleBroken as broken:
                    return Broken(line, broken.rule, str(broken))
        finally:
            self.clean()
        return None

    def clean(self) -> None:
        for path in self._files.values():
            path.unlink(missing_ok=True)
        self._files.clear()

    # ------------------------------------------------------------------------------- edits

    async def _take(self, line: Line) -> None:
        match line.verb:
            case "sync" | "settle":
                await self._settled()
            case "wait":
                await asyncio.sleep(min(float(line.words[0]), 1.0))
                await self._watch()
            case "namespace" | "pod" | "labels" | "policy" | "delete":
                self._edit(line)
                await self._watch()
            case _:
                await self._watch()

    def _edit(self, line: Line) -> None:
        labels = dict(line.labels)
        match line.verb:
            case "namespace":
                self._world.namespace(self._own(line.words[0]), labels)
            case "pod":
                namespace, _, name = line.words[0].partition("/")
                node, addresses = self._placed(line)
                self._world.pod(self._own(namespace), name, node, labels, addresses)
                self._one_owner(ObjectKey("Pod", self._own(namespace), name))
            case "labels":
                namespace, _, name = line.words[0].partition("/")
                self._world.relabel_pod(self._own(namespace), name, labels)
            case "policy":
                namespace, _, name = line.words[0].partition("/")
                self._world.policy(spec_of(line, self._own(namespace), name))
            case "delete":
                namespace, _, name = line.words[1].rpartition("/")
                own = self._own(namespace) if namespace else ""
                self._world.delete(ObjectKey(KINDS[line.words[0]], own, name))
        self._write()

    def _own(self, namespace: str) -> str:
        return f"{PREFIX}{self._name}-{namespace}"

    def _placed(self, line: Line) -> tuple[str, list[str]]:
        """A real node for the line's, and the host number of its address in that node's CIDRs."""
        number = int(line.words[1].removeprefix("n")) - 1
        node = self._nodes[number % len(self._nodes)]
        host = FIRST_HOST + int(line.words[2].partition(",")[0].rpartition(".")[2])
        cidrs = node.spec.pod_cidrs or (node.spec.pod_cidr,)
        return node.metadata.name, [str(ip_network(cidr)[host]) for cidr in cidrs if cidr]

    def _one_owner(self, key: ObjectKey) -> None:
        """An address that is used again has left its last pod."""
        new = self._world.objects[key]
        assert isinstance(new, Pod)
        taken = {each.ip for each in new.status.pod_ips}
        for other, item in list(self._world.objects.items()):
            if other == key or not isinstance(item, Pod):
                continue
            if taken & {each.ip for each in item.status.pod_ips}:
                self._world.delete(other)

    def _write(self) -> None:
        """Objects to files, each whole or not at all; the server reads no other than these ends."""
        for key in self._files.keys() - self._world.objects.keys():
            self._files.pop(key).unlink(missing_ok=True)
        for key, item in self._world.objects.items():
            path = self._directory / f"{PREFIX}{self._name}-{_stem(key)}.json"
            text = _manifest(item)
            if key not in self._files or path.read_bytes() != text:
                fresh = path.with_suffix(".fresh")
                fresh.write_bytes(text)
                os.rename(fresh, path)
                self._files[key] = path

    # ------------------------------------------------------------------------------- rules

    async def _watch(self) -> None:
        """What must hold at any time."""
        rows = [row for row in await self._rows("identities") if row["number"]]
        numbers = [row["number"] for row in rows]
        holds(len(set(numbers)) == len(numbers), "R1", "a number has two label sets")
        label_sets = {row["label_set"] for row in rows}
        holds(len(label_sets) == len(rows), "R1", "a label set has two numbers")
        for row in rows:
            if row["birth"]:
                key = (row["number"], row["birth"])
                known = self._births.setdefault(key, row["label_set"])
                text = f"number {key[0]} of birth {key[1]} has meant {known}"
                holds(known == row["label_set"], "R2", text)
        for row in await self._rows("nodes"):
            before = self._committed.get(row["name"], 0)
            holds(row["committed"] >= before, "R6", f"{row['name']} went back")
            self._committed[row["name"]] = row["committed"]

    async def _settled(self) -> None:
        """Wait until the agents' verdicts are the oracle's; until then nothing that stays open may
        be shut."""
        expected = self._expected()
        stay = [way for way, open_ in self._ways.items() if open_ and expected.get(way)]
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            await self._watch()
            found = {way: await self._passes(way) for way in expected}
            for way in stay:
                holds(found[way] is not False, "R4", f"{way[0]} -> {way[1]} was shut meanwhile")
            wrong = [way for way in expected if found[way] not in (None, expected[way])]
            missing = [way for way in expected if self._agents and found[way] is None]
            if not wrong and not missing:
                self._ways = expected
                return
            if time.monotonic() > end:
                source, destination = (wrong or missing)[0]
                says = "allow" if expected[source, destination] else "deny"
                raise RuleBroken(
                    "R3",
                    f"{source} -> {destination} {PORT}/tcp: the oracle says {says}, the nodes "
                    f"{'otherwise' if wrong else 'nothing'} after {SETTLE_SECONDS:g} s",
                )
            await asyncio.sleep(POLL_SECONDS)

    def _expected(self) -> dict[Way, bool]:
        items = self._world.objects.values()
        pods = {
            f"{item.metadata.namespace}/{item.metadata.name}": item
            for item in items
            if isinstance(item, Pod)
        }
        objects = Objects(
            {item.metadata.name: item for item in items if isinstance(item, Namespace)},
            tuple(item for item in items if isinstance(item, NetworkPolicy)),
            lambda key: not LabelFilter.default().accepts("k8s", key),
        )
        return {
            (one, other): all(oracle(objects, pods[one], pods[other], "TCP", PORT))
            for one, other in permutations(pods, 2)
        }

    async def _passes(self, way: Way) -> bool | None:
        """None: no agent that was given has both ends, or one of them is not attached yet."""
        pods = []
        for name in way:
            namespace, _, short = name.partition("/")
            pod = self._world.objects.get(ObjectKey("Pod", namespace, short))
            if not isinstance(pod, Pod):
                return None
            pods.append(pod)
        query = {
            "from": pods[0].status.pod_ips[0].ip,
            "to": pods[1].status.pod_ips[0].ip,
            "protocol": "6",
            "port": str(PORT),
        }
        sides: dict[str, bool] = {}
        for agent in self._agents:
            answer = msgspec.json.decode(await agent.get("/v1/probe", query))
            for side in ("egress", "ingress"):
                if answer[side] is not None and answer[side]["reason"] not in NOT_YET:
                    sides[side] = answer[side]["passed"]
        self.verdicts += len(sides)
        return all(sides.values()) if len(sides) == 2 else None

    async def _rows(self, kind: str) -> Any:
        return msgspec.json.decode(await self._server.get(f"/v1/{kind}"))


NOT_YET: Final = ("closed", "no-endpoint")
"""Reasons of a pod whose first cut is not in force."""


def _stem(key: ObjectKey) -> str:
    return "-".join(part for part in (key.kind.lower(), key.namespace, key.name) if part)


_VERSIONS: Final = {"NetworkPolicy": "networking.k8s.io/v1"}


def _manifest(item: KubeObject) -> bytes:
    kind = item.kind
    plain = msgspec.to_builtins(item)
    return msgspec.json.encode({"apiVersion": _VERSIONS.get(kind, "v1"), "kind": kind, **plain})
