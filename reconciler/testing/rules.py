"""R1 to R4 and R6, checked on a joined cluster after every step, be it one write to one map.

`RuleBroken` names the rule. The expected verdicts come from the oracle, which reads the Kubernetes
objects of the publication that the node's kernel says it enforces, and shares no code with the
compiler, the encoding or the datapath.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from reconciler.core.dataplane.layout import Reason
from reconciler.core.dataplane.records import decode_record, replay
from reconciler.core.policy.ir import Direction
from reconciler.core.policy.oracle import External, Host, Party, Unknown, World, oracle
from reconciler.core.resources import root as roots
from reconciler.testing.joined import Joined, Meaning

EXTERNALS = ("203.0.113.7", "203.0.113.200")
NOBODY = "10.1.200.1"
PROBES = (("TCP", 6, 80), ("UDP", 17, 53))
NOT_OPEN_YET = (Reason.CLOSED, Reason.NO_ENDPOINT)

Verdicts = dict[tuple[Direction, bytes, int, int], bool]


class RuleBroken(AssertionError):
    """What must never be, was. rule: "R1" to "R7"."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def holds(condition: bool, rule: str, text: str) -> None:
    if not condition:
        raise RuleBroken(rule, text)


class Rules:
    """Checks one cluster. Verdicts of a cut are worked out once."""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        self._expected: dict[tuple[str, bytes, str], Verdicts] = {}
        self._newest: dict[str, int] = {}
        self._freed = 0
        self._disks: dict[str, list[bytes]] = {}  # as last looked at
        self._open: set[tuple[str, int]] = set()  # (node, ifindex) of pods that have had traffic
        self._births: dict[tuple[int, int], str] = {}  # (number, birth) → its label set, for ever
        self.verdicts = 0

    def check(self, *, open_all: bool = False) -> None:
        self._numbers()
        for name in self.joined.agents:
            self.node(name, open_all=open_all)

    def forget(self, name: str) -> None:
        """The node has rebooted: its maps are empty, and its pods' interfaces closed."""
        self._newest.pop(name, None)
        self._open = {each for each in self._open if each[0] != name}

    def node(self, name: str, *, open_all: bool = False) -> None:
        """R3: every verdict is the oracle's for the cut in force. R4: a pod that was open stays so
        while it is in the cuts. R6: belief, and never back; what is on disk."""
        agent = self.joined.agents[name]
        word = agent.twin.cut()
        revision, root = word.revisions[word.active], word.roots[word.active]
        holds(revision >= self._newest.get(name, 0), "R6", f"{name} went back to {revision}")
        self._newest[name] = revision
        self._belief(name, revision, root)
        self._disk(name)
        meaning = self.joined.meanings.get((name, root))
        served = meaning is not None or not any(root)
        holds(served, "R3", f"{name} enforces what nobody served")
        for link in agent.links.values():
            expected = self._verdicts(name, root, meaning, link.pod)
            if not any(expected.values()):
                self._open.discard((name, link.ifindex))
            for (direction, peer, protocol, port), allowed in expected.items():
                self.verdicts += 1
                reason = agent.twin.classify(link.ifindex, direction, peer, protocol, port)
                closed = reason in NOT_OPEN_YET
                if allowed and closed and not open_all:
                    was_open = (name, link.ifindex) in self._open
                    holds(not was_open, "R4", f"{name} {link.pod}: {reason.name}, and was open")
                    continue
                if not closed:
                    self._open.add((name, link.ifindex))
                holds(
                    reason.passed == allowed,
                    "R3",
                    f"{name} {link.pod} {direction.name} {ip_address(peer)} {protocol}/{port}: "
                    f"{reason.name}, the oracle says {'allow' if allowed else 'deny'} "
                    f"at revision {revision & 0xFFFFFFFF}",
                )

    def _belief(self, name: str, revision: int, root: bytes) -> None:
        if self.joined.plane is None:
            return
        node = self.joined.plane.nodes.get(name)
        if node is not None and node.rollout.acked is not None and node.stream is not None:
            acked = node.rollout.acked
            behind = acked.revision <= revision or acked.root == root
            holds(behind, "R6", f"{name} is believed to enforce what it does not yet")

    def _disk(self, name: str) -> None:
        """R6: the newest cut of a disk cache has the root that it says."""
        disk = self.joined.agents[name].disk
        if disk is self._disks.get(name):
            return
        self._disks[name] = disk
        records = [record for data in disk if (record := decode_record(data)) is not None]
        cut = replay(records, name, None)
        holds(not disk or cut is not None, "R6", f"the cache of {name} can't be read")
        if cut is not None and any(cut.root):
            items = [(each.type_url, each.name, each.version) for each in cut.resources]
            same = roots.to_bytes(roots.total(items)) == cut.root
            holds(same, "R6", f"the cache of {name} has another cut than it says")

    def _numbers(self) -> None:
        """R1 and R2 as far as they show in the journal."""
        entries = self.joined.journal.state.entries
        numbers, label_sets = {e.number for e in entries}, {e.label_set for e in entries}
        holds(len(numbers) == len(entries), "R1", "a number has two label sets")
        holds(len(label_sets) == len(entries), "R1", "a label set has two numbers")
        for entry in entries:
            known = self._births.setdefault((entry.number, entry.birth), entry.label_set)
            text = f"number {entry.number} of birth {entry.birth} has meant {known}"
            holds(known == entry.label_set, "R2", text)
        for used, freed in self.joined.freed[self._freed :]:
            holds(not used & freed, "R2", f"{sorted(used & freed)} are freed and still in use")
        self._freed = len(self.joined.freed)
        early = self.joined.too_early
        holds(not early, "R4", f"published before its number: {', '.join(early[:1])}")

    def _hidden(self, key: str) -> bool:
        return not self.joined.config.intake.filter.accepts("k8s", key)

    def _verdicts(self, node: str, root: bytes, meaning: Meaning | None, pod: str) -> Verdicts:
        key = (node, root, pod)
        if key not in self._expected:
            self._expected[key] = (
                {} if meaning is None else _verdicts(node, meaning, pod, self._hidden)
            )
        return self._expected[key]


def _verdicts(node: str, meaning: Meaning, name: str, hidden: Callable[[str], bool]) -> Verdicts:
    snapshot = meaning.snapshot
    world = World(snapshot.namespaces, snapshot.policies, hidden)
    endpoint = snapshot.endpoints.get(name)
    number = snapshot.numbers.get(name)
    here = endpoint is not None and endpoint.node == node and number is not None
    found: Verdicts = {}
    for party, address in _parties(meaning, name):
        for text, protocol, port in PROBES:
            for direction in Direction:
                allowed = False
                if here and number is not None and (number, int(direction)) not in meaning.closed:
                    pod = snapshot.pods[name]
                    if direction is Direction.EGRESS:
                        allowed = oracle(world, pod, party, text, port)[0]
                    else:
                        allowed = oracle(world, party, pod, text, port)[1]
                found[direction, address, protocol, port] = allowed
    return found


def _parties(meaning: Meaning, name: str) -> list[tuple[Party, bytes]]:
    snapshot = meaning.snapshot
    found: list[tuple[Party, bytes]] = []
    for other, endpoint in snapshot.endpoints.items():
        if other != name:
            party: Party = snapshot.pods[other] if other in snapshot.numbers else Unknown()
            found += [(party, each) for each in (endpoint.ipv4, endpoint.ipv6) if each]
    for node, addresses in snapshot.nodes.items():
        found += [(Host(node), address) for address in addresses]
    found += [(External(text), ip_address(text).packed) for text in EXTERNALS]
    owned = {each for endpoint in snapshot.endpoints.values() for each in (endpoint.ipv4,)}
    if ip_address(NOBODY).packed not in owned:
        found.append((Unknown(), ip_address(NOBODY).packed))
    return found
