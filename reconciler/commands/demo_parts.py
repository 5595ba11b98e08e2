"""The five parts of the demo. Each measures, says what it found, and what of it had to hold.

Traffic is real: connections and datagrams between the pods' network namespaces, through the eBPF
programs of three nodes. What should pass is asked of the oracle, which reads the Kubernetes objects
and shares no code with the compiler.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec

from reconciler.commands.ask import query
from reconciler.commands.demo_cluster import SMALL_NODE, SMALL_POLICIES, DemoCluster
from reconciler.commands.demo_show import Table, matrix, open_ways, reaches
from reconciler.core.objects import Namespace, NetworkPolicy, Pod
from reconciler.core.policy.oracle import External, Party, World, oracle
from reconciler.server.journal import read as read_journal
from reconciler.server.manifests import load
from reconciler.testing.traffic import FlowReport, Way

PORTS: Final = (
    ("TCP", 53),
    ("UDP", 53),
    ("TCP", 5432),
    ("TCP", 6379),
    ("TCP", 8080),
    ("TCP", 8443),
    ("TCP", 9090),
    ("TCP", 9091),
    ("TCP", 9101),
    ("TCP", 9102),
)
FLOW_PORTS: Final = (("TCP", 9090), ("TCP", 8443), ("TCP", 6379), ("TCP", 8080), ("UDP", 53))
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
WARM_SECONDS: Final = 0.4  # flows before and after each event, so that there is something to lose
PASSED_FLOWS, DROPPED_FLOWS = 12, 8


class Prober(Protocol):
    """What tries ways and keeps flows going: `testing.traffic.Traffic`, or probes in memory."""

    def matrix(self, ways: Sequence[Way]) -> dict[Way, bool]: ...

    def flow(self, way: Way) -> int: ...

    def stop_flows(self) -> list[FlowReport]: ...


class Flows(msgspec.Struct, frozen=True):
    """allowed, denied: flows; sent, lost: messages of allowed ones, and those without an answer;
    leaked: arrivals of denied ones; longest: pause of an allowed one, seconds"""

    allowed: int
    denied: int
    sent: int
    lost: int
    denied_sent: int
    leaked: int
    longest: float
    failures: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        return {
            "allowed": self.allowed,
            "denied": self.denied,
            "sent": self.sent,
            "lost": self.lost,
            "leaked": self.leaked,
            "longest_gap_ms": round(self.longest * 1000, 1),
        }


def count_flows(reports: Sequence[FlowReport], expected: Mapping[Way, bool]) -> Flows:
    allowed = [report for report in reports if expected[report.way]]
    denied = [report for report in reports if not expected[report.way]]
    return Flows(
        allowed=len(allowed),
        denied=len(denied),
        sent=sum(report.sent for report in allowed),
        lost=sum(report.lost for report in allowed),
        denied_sent=sum(report.sent for report in denied),
        leaked=sum(report.arrived for report in denied),
        longest=max((report.longest for report in allowed), default=0.0),
        failures=tuple(
            f"{report.way.source} -> {report.way.destination}: {report.failure}"
            for report in reports
            if report.failure
        ),
    )


def spread(ways: Sequence[Way], most: int) -> list[Way]:
    """Some of them, evenly from the first to the last."""
    return list(ways[:: max(1, len(ways) // most)][:most])


class Check(msgspec.Struct, frozen=True):
    what: str
    ok: bool
    detail: str = ""


class Part(msgspec.Struct):
    """lines: for people; data: for machines; the part holds if all checks do."""

    title: str
    lines: list[str | Table] = []
    checks: list[Check] = []
    data: dict[str, Any] = {}
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def check(self, what: str, ok: bool, detail: str = "") -> None:
        self.checks.append(Check(what, ok, detail))


class Demo:
    def __init__(self, cluster: DemoCluster, prober: Prober) -> None:
        self.cluster = cluster
        self.prober = prober
        self.families = FAMILIES[:1] if cluster.memory else FAMILIES
        self.expected: dict[Way, bool] = {}

    @contextmanager
    def part(self, title: str) -> Iterator[Part]:
        part = Part(title, [], [], {})
        begin = time.monotonic()
        yield part
        part.seconds = time.monotonic() - begin

    # ------------------------------------------------------------------- what should happen

    def ways(self) -> list[Way]:
        """Every pod to every other, and to and from the world, on every port and family."""
        pods = [pod.name for pod in self.cluster.spec.pods]
        found = []
        for family in self.families:
            outside = [a for a in self.cluster.spec.world if (":" in a) == (family != FAMILIES[0])]
            pairs = [(a, b) for a in pods for b in pods if a != b]
            pairs += [pair for a in pods for b in outside for pair in ((a, b), (b, a))]
            found += [
                Way(a, b, protocol, port, family) for a, b in pairs for protocol, port in PORTS
            ]
        return found

    def ask_oracle(self, ways: Sequence[Way]) -> dict[Way, bool]:
        """From the manifests as they are now."""
        objects = [item for _, item in load([self.cluster.manifests]).objects]
        pods = {
            f"{item.metadata.namespace}/{item.metadata.name}": item
            for item in objects
            if isinstance(item, Pod)
        }
        world = World(
            {item.metadata.name: item for item in objects if isinstance(item, Namespace)},
            tuple(item for item in objects if isinstance(item, NetworkPolicy)),
        )

        def party(name: str) -> Party:
            return pods.get(name) or External(name)

        return {
            way: all(
                oracle(world, party(way.source), party(way.destination), way.protocol, way.port)
            )
            for way in ways
        }

    def chosen(self, passed: bool, most: int) -> list[Way]:
        """Flows to keep going: some of those that pass (or don't), spread over sources."""
        ways = [
            way
            for way, verdict in self.expected.items()
            if verdict is passed
            and (way.protocol, way.port) in FLOW_PORTS
            and (passed or way.protocol == "UDP")  # a datagram shows on arrival; a SYN does not
        ]
        return spread(ways, most)

    def start_flows(self) -> None:
        for way in (*self.chosen(True, PASSED_FLOWS), *self.chosen(False, DROPPED_FLOWS)):
            self.prober.flow(way)
        time.sleep(WARM_SECONDS)

    def finish_flows(self, part: Part) -> None:
        """lost: messages of allowed flows without an answer; leaked: arrivals of denied ones."""
        time.sleep(WARM_SECONDS)
        flows = count_flows(self.prober.stop_flows(), self.expected)
        part.data["flows"] = flows.data()
        part.lines.append(
            f"{flows.allowed} allowed flows sent {flows.sent} messages, lost {flows.lost} "
            f"(longest pause {flows.longest * 1000:.0f} ms); {flows.denied} denied flows sent "
            f"{flows.denied_sent}, leaked {flows.leaked}"
        )
        part.check(
            "no allowed packet was lost",
            flows.lost == 0 and not flows.failures,
            "; ".join(flows.failures),
        )
        part.check("no denied packet came through", flows.leaked == 0)

    # ------------------------------------------------------------------------------- parts

    def verdicts(self) -> Part:
        with self.part("1. Every verdict on real packets equals the oracle's") as part:
            ways = self.ways()
            self.expected = self.ask_oracle(ways)
            begin = time.monotonic()
            found = self.prober.matrix(ways)
            took = time.monotonic() - begin
            wrong = [way for way in ways if found[way] != self.expected[way]]
            passed = sum(found.values())
            names = [*(pod.name for pod in self.cluster.spec.pods)]
            names += [address for address in self.cluster.spec.world if ":" not in address]
            part.lines.append(matrix(names, len(PORTS), found, self.expected))
            part.lines.append(reaches(names, len(PORTS), found))
            versions = "IPv4 and IPv6" if len(self.families) > 1 else "IPv4"
            part.lines.append(
                f"{len(ways)} ways tried over {versions} in {took:.1f} s: {passed} passed, "
                f"{len(ways) - passed} dropped, {len(wrong)} not as the oracle says"
            )
            part.data = {"ways": len(ways), "passed": passed, "wrong": len(wrong)}
            part.data["open"] = open_ways(found)
            part.check(
                "every way as the oracle says", not wrong, "; ".join(map(way_text, wrong[:5]))
            )
        return part

    def relabel(self) -> Part:
        with self.part("2. A namespace is relabelled while traffic runs") as part:
            self.start_flows()
            before, identities = self.cluster.nodes_by_name(), self._numbers()
            begin = self.cluster.label_namespace("shop", "release", "2026-11")
            self.cluster.wait_in_sync(max(row["committed"] for row in before.values()))
            after, now = self.cluster.nodes_by_name(), self._numbers()
            self.finish_flows(part)
            new = {label_set for label_set in now if label_set not in identities}
            last = max(row["committed_at"] for row in after.values()) - begin
            part.lines.append(
                f"shop got the label release=2026-11: {len(new)} identities allocated, all nodes "
                f"enforce it {last * 1000:.0f} ms after the file was written"
            )
            part.lines.append(allocated(self.cluster.rows("identities"), new))
            part.lines.append(cost(before, after, begin))
            part.data |= {"allocated": len(new), "last_ack_ms": round(last * 1000, 1)}
            part.data["nodes"] = differences(before, after)
            kept = all(now[key] == number for key, number in identities.items() if key in now)
            part.check("identities were allocated", bool(new))
            part.check("no number changed", kept)
            self._check_matrix(part)
        return part

    def agent_killed(self) -> Part:
        node = self.cluster.nodes[1]
        with self.part(f"3. The agent of {node} is killed under traffic, and comes back") as part:
            self.start_flows()
            before = self.cluster.nodes_by_name()
            self.cluster.kill(node)
            self.cluster.wait(
                f"the server notices that {node} is gone",
                lambda: self.cluster.nodes_by_name()[node]["streams"] == 0,
            )
            time.sleep(WARM_SECONDS)
            begin = time.monotonic()
            self.cluster.start_agent(node)
            self.cluster.wait_in_sync()
            took = time.monotonic() - begin
            after = self.cluster.nodes_by_name()
            self.finish_flows(part)
            sent = after[node]["sent_bytes"] - before[node]["sent_bytes"]
            resources = after[node]["resources"] - before[node]["resources"]
            part.lines.append(
                f"in sync again {took:.2f} s after its start; the server sent it {sent} bytes, "
                f"{resources} resources"
            )
            part.data |= {"back_s": round(took, 2), "bytes": sent, "resources": resources}
            self._check_matrix(part, node)
        return part

    def server_killed(self) -> Part:
        with self.part("4. The server is killed in the middle of a relabel") as part:
            self.start_flows()
            committed, size = self._committed(), self.whole_views
            known = {entry.label_set for entry in read_journal(self.cluster.journal).entries}
            self.cluster.label_namespace("shop", "release", "2026-12")
            self.cluster.wait(
                "the journal has the new numbers",
                lambda: any(
                    entry.label_set not in known
                    for entry in read_journal(self.cluster.journal).entries
                ),
            )
            self.cluster.kill("server")
            behind = [name for name, was in committed.items() if self._committed()[name] == was]
            given = {
                entry.label_set: (entry.number, entry.birth)
                for entry in read_journal(self.cluster.journal).entries
            }
            time.sleep(WARM_SECONDS)
            begin = time.monotonic()
            self.cluster.start_server()
            self.cluster.wait_in_sync()
            took = time.monotonic() - begin
            after, rows = self._numbers(), self.cluster.nodes_by_name()
            self.finish_flows(part)
            changed = [key for key, value in given.items() if after.get(key, value) != value]
            sent = {name: row["sent_bytes"] for name, row in rows.items()}
            part.lines.append(
                f"killed with {len(given.keys() - known)} new numbers in the journal, not yet "
                f"enforced by {len(behind)} of {len(committed)} nodes; all in sync {took:.2f} s "
                f"after the restart; {len(given) - len(changed)} of {len(given)} numbers as before"
            )
            part.lines.append(
                Table(
                    "What each node was sent after the restart",
                    ("node", ">told its versions", ">was sent", ">a whole view is"),
                    tuple(
                        (
                            name,
                            f"{row['received_bytes']} B",
                            f"{row['sent_bytes']} B",
                            f"{size[name]} B",
                        )
                        for name, row in sorted(rows.items())
                    ),
                )
            )
            part.data |= {"back_s": round(took, 2), "renumbered": len(changed), "bytes": sent}
            part.data["whole_view_bytes"] = size
            part.check("no number changed", not changed, "; ".join(changed[:3]))
            part.check(
                "nodes resumed with versions, not with whole views",
                all(sent[name] < size[name] for name in sent),
            )
            self._check_matrix(part)
        return part

    def too_much(self) -> Part:
        title = f"5. A policy that {SMALL_NODE} has no room for ({SMALL_POLICIES} policy entries)"
        with self.part(title) as part:
            before = self.cluster.nodes_by_name()
            self.cluster.put("huge.yaml", huge_policy())
            self.cluster.wait(
                f"{SMALL_NODE} refuses",
                lambda: bool(self.cluster.nodes_by_name()[SMALL_NODE]["nack"]),
            )
            others = tuple(node for node in self.cluster.nodes if node != SMALL_NODE)
            self.cluster.wait_in_sync(nodes=others)
            after = self.cluster.nodes_by_name()
            part.lines.append(self.cluster_table())
            held = after[SMALL_NODE]
            part.data = {"nack": held["nack"], "rollout": held["rollout"]}
            part.lines.append(f"{SMALL_NODE}: {held['nack']}")
            part.check("the refusal has its reason", "policies" in held["nack"], held["nack"])
            part.check(
                "the node stays at its last cut",
                held["committed"] == before[SMALL_NODE]["committed"],
            )
            self._check_matrix(part, SMALL_NODE)
            self.cluster.remove("huge.yaml")
            self.cluster.wait_in_sync()
            part.lines.append("the policy is removed: every node is in sync again")
            part.check("the alarm is over", not self.cluster.nodes_by_name()[SMALL_NODE]["alarms"])
        return part

    def cluster_table(self) -> Table:
        """As `reconciler get nodes` prints it."""
        from reconciler.commands.ask import COLUMNS, Kind

        columns = COLUMNS[Kind.NODES]
        rows = tuple(
            tuple(str(f(row) or "") for _, f in columns) for row in self.cluster.rows("nodes")
        )
        return Table("$ reconciler get nodes", tuple(name for name, _ in columns), rows)

    def _numbers(self) -> dict[str, tuple[int, int]]:
        return {
            row["label_set"]: (row["number"], row["birth"])
            for row in self.cluster.rows("identities")
            if row["number"]
        }

    def _committed(self) -> dict[str, int]:
        """What each node's own agent says that its datapath enforces."""
        return {
            node: query(self.cluster.agent_status(node), "/v1/status")["committed"]
            for node in self.cluster.nodes
        }

    whole_views: dict[str, int]

    def remember_views(self) -> None:
        """Call once, when the nodes have just been brought in sync for the first time."""
        self.whole_views = {
            name: row["sent_bytes"] for name, row in self.cluster.nodes_by_name().items()
        }

    def _check_matrix(self, part: Part, node: str = "") -> None:
        """Verdicts after the event, over IPv4: all of them, or those with a pod of a node."""
        pods = {pod.name for pod in self.cluster.spec.pods if not node or pod.node == node}
        ways = [
            way
            for way in self.expected
            if way.family == socket.AF_INET and (way.source in pods or way.destination in pods)
        ]
        found = self.prober.matrix(ways)
        wrong = [way for way in ways if found[way] != self.expected[way]]
        where = f" of {node}" if node else ""
        part.lines.append(
            f"{len(ways)} ways{where} tried again: {len(wrong)} not as the oracle says"
        )
        part.check("verdicts afterwards as the oracle says", not wrong,
                   "; ".join(map(way_text, wrong[:5])))  # fmt: skip


def way_text(way: Way) -> str:
    family = "IPv6" if way.family == socket.AF_INET6 else "IPv4"
    return f"{way.source} -> {way.destination} {way.port}/{way.protocol.lower()} {family}"


def differences(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]
) -> dict[str, dict[str, int]]:
    return {
        name: {
            "resources": row["resources"] - before[name]["resources"],
            "bytes": row["sent_bytes"] - before[name]["sent_bytes"],
        }
        for name, row in sorted(after.items())
    }


def cost(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], begin: float
) -> Table:
    """begin: when it began, on the clock of `committed_at`."""
    return Table(
        "What each node was sent, and when its kernel enforced it",
        ("node", ">resources", ">bytes", ">enforced after"),
        tuple(
            (
                name,
                str(row["resources"]),
                str(row["bytes"]),
                f"{(after[name]['committed_at'] - begin) * 1000:.0f} ms",
            )
            for name, row in differences(before, after).items()
        ),
    )


def allocated(identities: list[dict[str, Any]], new: set[str]) -> Table:
    """The identities of these label sets; labels without what every pod has."""
    rows = []
    for row in identities:
        if row["label_set"] in new:
            labels = [
                label.removeprefix("k8s:").replace("io.cilium.k8s.namespace.labels.", "namespace ")
                for label in row["label_set"].rstrip(";").split(";")
                if not label.startswith(("k8s:io.cilium.k8s.policy", "k8s:io.kubernetes", "gen:"))
                and "kubernetes.io/metadata.name" not in label
            ]
            rows.append((str(row["number"]), str(row["pods"]), ", ".join(labels)))
    return Table("Identities allocated", (">number", ">pods", "labels"), tuple(rows))


def huge_policy() -> str:
    """An egress policy of more kernel entries than the small node holds, on one of its pods."""
    blocks = "".join(f"        - ipBlock: {{ cidr: 192.0.2.{n}/32 }}\n" for n in range(200))
    ports = "".join(
        f"        - {{ protocol: TCP, port: {port} }}\n" for port in range(7001, 7081, 2)
    )
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: { name: huge, namespace: shop }\n"
        "spec:\n  podSelector: { matchLabels: { app: checkout } }\n"
        f"  policyTypes: [Egress]\n  egress:\n    - to:\n{blocks}      ports:\n{ports}"
    )
