"""`reconciler demo --kubernetes`: a large cluster at a real API server, and its leader killed.

Three parts, each with what it measured and what of it had to hold; the last table has all numbers.
Verdicts and flows are real packets between pods of three nodes (or probes of datapaths in memory).
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from reconciler.commands.demo_parts import Part, Prober, count_flows, spread, way_text
from reconciler.commands.demo_scale_cluster import (
    LEASE_SECONDS,
    PODS_SECONDS,
    REPLICAS,
    ScaleCluster,
)
from reconciler.commands.demo_scale_look import Look, usage, written
from reconciler.commands.demo_show import Screen, Table
from reconciler.core.policy.oracle import World, oracle
from reconciler.errors import ReconcilerError
from reconciler.testing.kubernetes.observed import Write, by_kind
from reconciler.testing.kubernetes.population import PORT, Size
from reconciler.testing.traffic import Traffic, Way

PORTS: Final = (("TCP", PORT), ("UDP", PORT), ("TCP", 9090), ("UDP", 53))
FLOW_PERIOD: Final = 0.02
"""Seconds between two messages of a flow; the senders share two cores with all that is measured."""

REPORTS: Final = ("leases", "policyrealizations", "events")
"""What the servers write as time goes by: who leads, what their nodes use, how far policies are."""

WARM_SECONDS: Final = 0.5
PASSED_FLOWS, DROPPED_FLOWS = 12, 6


def run(size: Size, reason: str, screen: Screen, keep: bool) -> list[Part]:
    """reason: why the datapath is in memory, "" for the kernel's."""
    with ExitStack() as stack:
        with screen.doing("starting etcd, an API server and KWOK"):
            cluster = stack.enter_context(ScaleCluster(size, memory=bool(reason)))
        demo = ScaleDemo(cluster, screen)
        demo.populate()
        demo.replicas()
        prober = stack.enter_context(demo.agents())
        demo.prober = prober
        results: list[Part] = []
        for what, part in (
            ("trying every way between the pods with devices", demo.verdicts),
            ("relabelling every namespace under traffic", demo.relabel),
            ("killing the leader in the middle of a relabel", demo.leader_killed),
        ):
            try:
                with screen.doing(what):
                    found = part()
            except ReconcilerError as error:
                found = Part(part.__name__, [], [], {})
                found.check("the part came to its end", False, str(error))
            results.append(found)
            screen.show(found)
        screen.show(demo.summary())
        if keep:
            demo.stay()
    return results


class ScaleDemo:
    prober: Prober

    def __init__(self, cluster: ScaleCluster, screen: Screen) -> None:
        self.cluster, self.screen = cluster, screen
        self.expected: dict[Way, bool] = {}
        self.look = Look(cluster)

    # --------------------------------------------------------------------------------- bringing up

    def populate(self) -> None:
        """All objects, and an address for every pod."""
        cluster, size = self.cluster, self.cluster.size
        begin = time.monotonic()
        population = cluster.population
        with self.screen.doing(f"creating {size}"):
            cluster.run(population.create(self._every(size.total, "pods created")))
            made = time.monotonic() - begin
        with self.screen.doing("KWOK gives every pod its address"):
            say = self._every(size.total, "pods are running")
            cluster.run(population.running(PODS_SECONDS, say))
            cluster.kwok.check()
        took = time.monotonic() - begin
        self.screen.say(
            f"{size}, {size.label_sets + size.namespaces} policies: created in {made:.1f} s, all "
            f"pods running after {took:.1f} s ({2 * size.total / took:.0f} writes a second)"
        )
        self.look.rows.append(("all objects made, every pod running", f"{took:.1f} s"))

    def _every(self, total: int, what: str) -> Any:
        """Says how far it is, ten times on the way."""
        step = max(1, total // 5)
        told = 0

        def say(done: int) -> None:
            nonlocal told
            if done // step > told // step and done < total:
                told = done
                self.screen.progress(f"{done:,} of {total:,} {what}")

        return say

    def replicas(self) -> None:
        """Two servers; the first one to come leads, and gives every label set its number."""
        cluster, size = self.cluster, self.cluster.size
        begin = time.monotonic()
        with self.screen.doing("starting two replicas of the server"):
            cluster.start_replica(REPLICAS[0])
            first = REPLICAS[0]
            cluster.wait(
                "the first replica serves",
                lambda: (
                    (status := cluster.ask(first, "/v1/status"))["revision"]
                    and status["pods"] == size.total
                ),
            )
            served = time.monotonic() - begin
            cluster.start_replica(REPLICAS[1])
            cluster.wait(
                "the second replica knows the same numbers",
                lambda: self.look.numbers(REPLICAS[1]) == self.look.numbers(first) != {},
            )
            cluster.wait(
                "every identity is an object", lambda: cluster.count_identities() == size.label_sets
            )
        writes = cluster.audit.writes()
        used = [f"{name}: {usage(cluster.running[name])}" for name in REPLICAS]
        self.screen.say(
            f"replica r1 serves {size.total:,} pods {served:.1f} s after its start and leads, r2 "
            f"follows ({'; '.join(used)})"
        )
        self.screen.say(f"written for it: {written(writes)}")
        self.look.rows.append(("a replica's cold start, until it serves", f"{served:.1f} s"))
        self.screen.say()
        self.screen.say("\n".join(self.look.kubectl()))

    def agents(self) -> Any:
        """Network and agents; gives the prober."""
        cluster = self.cluster
        begin = time.monotonic()
        with self.screen.doing("starting agents on three nodes"):
            cluster.choose()
            cluster.network()
            for at, node in enumerate(cluster.nodes):
                order = REPLICAS if at % 2 == 0 else REPLICAS[::-1]
                cluster.start_agent(node, order)
            cluster.wait("three agents in sync", lambda: self.look.in_sync({}))
            cluster.wait("their pods are enforced", cluster.real_are_enforced)
        where = "in memory" if cluster.memory else "eBPF on their devices"
        names = ", ".join(cluster.nodes)
        self.screen.say(
            f"agents of {names} in sync {time.monotonic() - begin:.1f} s after their start; "
            f"{len(cluster.real)} of their pods have a network namespace ({where})"
        )
        if cluster.topology is None:
            from reconciler.commands.demo_memory import MemoryProber

            return MemoryProber(cluster)
        return Traffic(cluster.topology, PORTS, period=FLOW_PERIOD)

    # ---------------------------------------------------------------------------------------- parts

    @contextmanager
    def part(self, title: str) -> Iterator[Part]:
        part = Part(title, [], [], {})
        begin = time.monotonic()
        yield part
        part.seconds = time.monotonic() - begin

    def verdicts(self) -> Part:
        with self.part("1. Verdicts of the three nodes equal the oracle's") as part:
            names = [pod.name for pod in self.cluster.spec.pods]
            ways = [
                Way(source, destination, protocol, port)
                for source, destination in itertools.permutations(names, 2)
                for protocol, port in PORTS
            ]
            self.expected = self._ask_oracle(ways)
            self._check_matrix(part)
            passed = sum(self.expected.values())
            part.check("some ways are open, most are not", 0 < passed < len(ways) / 2)
        return part

    def relabel(self) -> Part:
        cluster, size = self.cluster, self.cluster.size
        title = f"2. All {size.namespaces} namespaces are relabelled: {size} under traffic"
        with self.part(title) as part:
            known, before, api = self.look.pairs(), self.look.committed(), cluster.latencies()
            cluster.audit.writes()
            cpu = {name: process.cpu_seconds() for name, process in cluster.running.items()}
            sent = {name: row["sent_bytes"] for name, row in self.look.nodes().items()}
            self._start_flows()
            begin = time.monotonic()
            cluster.run(cluster.population.relabel(1))
            patched = time.monotonic() - begin
            cluster.wait(
                "every node enforces the relabel", lambda: self.look.enforced("r1", before)
            )
            rows = self.look.nodes()
            last = max(row["committed_at"] for row in rows.values()) - begin
            cluster.wait(
                "every identity is an object",
                lambda: cluster.count_identities() == len(known) + size.label_sets,
            )
            objects = time.monotonic() - begin
            after = cluster.latencies()
            self._finish_flows(part)
            writes, now = cluster.audit.writes(), self.look.pairs()
            used = {
                name: process.cpu_seconds() - cpu[name] for name, process in cluster.running.items()
            }
            self.look.show_cost(part, rows, sent, begin, used)
            self.look.show_writes(part, writes)
            self.look.show_latency(part, after, api)
            part.lines.append("\n".join(self.look.kubectl()))
            part.lines.append(
                f"the last agent acknowledged {last * 1000:.0f} ms after the relabel began (five "
                f"PATCHes took {patched * 1000:.0f} ms), the last CiliumIdentity was there after "
                f"{objects:.2f} s"
            )
            new = len(now) - len(known)
            counts = by_kind(writes)
            part.data |= {
                "last_ack_ms": round(last * 1000, 1),
                "objects_s": round(objects, 2),
                "new_identities": new,
            }
            self.look.rows += [
                ("relabel: until the last agent's ACK", f"{last * 1000:.0f} ms"),
                ("relabel: until the last CiliumIdentity", f"{objects:.2f} s"),
                *(
                    (f"relabel: {resource}, {verb}", f"{count:,} writes")
                    for (resource, verb), count in sorted(counts.items())
                ),
            ]
            part.check("every label set got a new number", new == size.label_sets, str(new))
            part.check("no number changed", all(now[key] == pair for key, pair in known.items()))
            creates = counts["ciliumidentities", "create"]
            part.check(
                "one CiliumIdentity was created for each new number",
                creates == size.label_sets, str(creates),
            )  # fmt: skip
            journal = counts["allocationjournals", "update"]
            part.check(
                "at most one journal write for each namespace",
                1 <= journal <= size.namespaces, str(journal),
            )  # fmt: skip
            kinds = {resource for resource, _ in counts}
            part.check(
                "nothing was written for a pod",
                kinds <= {"allocationjournals", "ciliumidentities", *REPORTS},
                written(writes),
            )
            self.look.check_numbers(part)
            self._check_matrix(part)
        return part

    def leader_killed(self) -> Part:
        cluster, size = self.cluster, self.cluster.size
        leader = cluster.leader()
        title = f"3. The leader ({leader}) is killed in the middle of a relabel"
        with self.part(title) as part:
            known, before = self.look.pairs(), self.look.committed()
            names = cluster.population.namespaces
            half = max(1, len(names) * 3 // 5)
            epoch, at = (cluster.journal()[key] for key in ("epoch", "revision"))
            cluster.audit.writes()
            self._start_flows()
            begin = time.monotonic()
            cluster.run(cluster.population.relabel(2, names[:half]))
            cluster.wait("the journal has new numbers", lambda: cluster.journal()["revision"] > at)
            created: list[Write] = []

            def some() -> bool:
                created.extend(cluster.audit.writes())
                return by_kind(created)["ciliumidentities", "create"] > 0

            cluster.wait("some of them are objects", some)
            cluster.kill(leader)
            killed = time.monotonic()
            orphaned = len(self.look.labelled("r2", cluster.identities()))
            cluster.run(cluster.population.relabel(2, names[half:]))
            (successor,) = cluster.replicas()
            cluster.wait("the successor leads", lambda: cluster.journal()["epoch"] > epoch)
            led = time.monotonic() - killed
            cluster.wait(
                "every node enforces the relabel", lambda: self.look.enforced("r2", before)
            )
            last = max(row["committed_at"] for row in self.look.nodes().values()) - begin
            cluster.wait(
                "every identity is an object",
                lambda: cluster.count_identities() == len(known) + size.label_sets,
            )
            objects = time.monotonic() - begin
            self._finish_flows(part)
            now = self.look.pairs()
            changed = [key for key, pair in known.items() if now.get(key) != pair]
            part.lines.append(
                f"{half} of {len(names)} namespaces were relabelled, and {leader} was killed with "
                f"the new numbers in the journal and {orphaned} of {half * size.deployments} of "
                f"them as objects; then the other {len(names) - half} were relabelled"
            )
            part.lines.append(
                f"{successor} led {led:.2f} s after the kill (the Lease lasts "
                f"{LEASE_SECONDS:g} s), the last agent acknowledged the whole relabel "
                f"{last:.2f} s after it began, the last object was there after {objects:.2f} s"
            )
            part.lines.append(f"written meanwhile: {written([*created, *cluster.audit.writes()])}")
            part.data |= {"led_s": round(led, 2), "last_ack_s": round(last, 2)}
            self.look.rows += [
                ("leader killed: until the successor leads", f"{led:.2f} s"),
                ("leader killed: until the last agent's ACK", f"{last:.2f} s"),
            ]
            new = len(now) - len(known)
            part.check("every label set got one new number", new == size.label_sets, str(new))
            part.check("no number changed", not changed, "; ".join(changed[:3]))
            part.check("the successor's epoch", cluster.journal()["epoch"] > epoch)
            self.look.check_numbers(part)
            self._check_matrix(part)
        return part

    def summary(self) -> Part:
        part = Part("What was measured", [], [], {})
        part.lines.append(
            Table(str(self.cluster.size), ("what", "measured"), tuple(self.look.rows))
        )
        return part

    def stay(self) -> None:
        cluster = self.cluster
        self.screen.say(f"Still up; Ctrl-C ends it. kubectl --kubeconfig {cluster.kubeconfig}")
        for name in cluster.running:
            flag = "--agent" if name in cluster.nodes else "--server"
            self.screen.say(f"  {name}: {flag} {cluster.status(name)}")
        try:
            signal.pause()
        except KeyboardInterrupt:
            self.screen.say("")

    # -------------------------------------------------------------------------------------- traffic

    def _ask_oracle(self, ways: Sequence[Way]) -> dict[Way, bool]:
        """From the objects as the API server has them now."""
        pods = {f"{p.metadata.namespace}/{p.metadata.name}": p for p in self.cluster.pods()}
        namespaces, policies = self.cluster.namespaces_and_policies()
        world = World({each.metadata.name: each for each in namespaces}, tuple(policies))
        return {
            way: all(oracle(world, pods[way.source], pods[way.destination], way.protocol, way.port))
            for way in ways
        }

    def _check_matrix(self, part: Part) -> None:
        ways = list(self.expected)
        expected = self._ask_oracle(ways)
        part.check("the oracle's verdicts are the same as before", expected == self.expected)
        begin = time.monotonic()
        found = self.prober.matrix(ways)
        wrong = [way for way in ways if found[way] != expected[way]]
        part.lines.append(
            f"{len(ways)} ways between {len(self.cluster.real)} pods tried in "
            f"{time.monotonic() - begin:.1f} s: {sum(found.values())} passed, {len(wrong)} not as "
            "the oracle says"
        )
        part.check("every way as the oracle says", not wrong, "; ".join(map(way_text, wrong[:5])))

    def _start_flows(self) -> None:
        """UDP, which nobody sends again: what is lost is seen."""
        for wanted, most in ((True, PASSED_FLOWS), (False, DROPPED_FLOWS)):
            ways = [
                way
                for way, passes in self.expected.items()
                if passes is wanted and (way.protocol, way.port) == ("UDP", PORT)
            ]
            for way in spread(ways, most):
                self.prober.flow(way)
        time.sleep(WARM_SECONDS)

    def _finish_flows(self, part: Part) -> None:
        time.sleep(WARM_SECONDS)
        flows = count_flows(self.prober.stop_flows(), self.expected)
        part.lines.append(
            f"{flows.allowed} allowed UDP flows sent {flows.sent} datagrams, {flows.lost} of them "
            f"without an answer; {flows.denied} denied flows sent {flows.denied_sent}, "
            f"{flows.leaked} came through"
        )
        part.data["flows"] = flows.data()
        self.look.rows.append((f"packets lost ({part.title[0]}.)", f"{flows.lost} of {flows.sent}"))
        part.check("there was traffic", bool(flows.sent) and bool(flows.denied))
        part.check(
            "no packet was lost that both policies allow",
            flows.lost == 0 and not flows.failures,
            "; ".join((str(flows.lost), *flows.failures)),
        )
        part.check("no denied packet came through", flows.leaked == 0, str(flows.leaked))
