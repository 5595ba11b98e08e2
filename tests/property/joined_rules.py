"""What must hold in a joined cluster after every step, and the steps that tests choose from."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import strategies as st

from reconciler.core.dataplane.layout import Reason
from reconciler.core.objects import (
    Delete,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
    ObjectKey,
    ObjectMeta,
    Pod,
)
from reconciler.core.policy.ir import Direction
from reconciler.core.policy.oracle import External, Host, Party, Unknown, World, oracle
from reconciler.testing.joined import Joined, Meaning

NODES = ("n1", "n2")
NAMESPACES = ("a", "b")
EXTERNALS = ("203.0.113.7", "203.0.113.200")
NOBODY = "10.1.200.1"
PROBES = (("TCP", 6, 80), ("UDP", 17, 53))
NOT_OPEN_YET = (Reason.CLOSED, Reason.NO_ENDPOINT)

Verdicts = dict[tuple[Direction, bytes, int, int], bool]
Step = tuple[str, int, int]


class Rules:
    """Checks one cluster. Verdicts of a cut are worked out once."""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        self._expected: dict[tuple[str, bytes, str], Verdicts] = {}
        self._newest: dict[str, int] = {}
        self._freed = 0
        self.verdicts = 0

    def check(self, *, open_all: bool = False) -> None:
        self._numbers()
        for name in self.joined.agents:
            self.node(name, open_all=open_all)

    def node(self, name: str, *, open_all: bool = False) -> None:
        """R3: every verdict is the oracle's for the cut in force. R6: belief, and never back."""
        agent = self.joined.agents[name]
        word = agent.twin.cut()
        revision, root = word.revisions[word.active], word.roots[word.active]
        assert revision >= self._newest.get(name, 0), f"{name} went back to {revision}"
        self._newest[name] = revision
        self._belief(name, revision, root)
        meaning = self.joined.meanings.get((name, root))
        assert meaning is not None or not any(root), f"{name} enforces what nobody served"
        for link in agent.links.values():
            expected = self._verdicts(name, root, meaning, link.pod)
            for (direction, peer, protocol, port), allowed in expected.items():
                self.verdicts += 1
                reason = agent.twin.classify(link.ifindex, direction, peer, protocol, port)
                if allowed and not open_all and reason in NOT_OPEN_YET:
                    continue
                assert reason.passed == allowed, (
                    f"{name} {link.pod} {direction.name} {ip_address(peer)} {protocol}/{port}: "
                    f"{reason.name}, the oracle says {'allow' if allowed else 'deny'} "
                    f"at revision {revision & 0xFFFFFFFF}"
                )

    def _belief(self, name: str, revision: int, root: bytes) -> None:
        if self.joined.plane is None:
            return
        node = self.joined.plane.nodes.get(name)
        if node is not None and node.rollout.acked is not None and node.stream is not None:
            acked = node.rollout.acked
            assert acked.revision <= revision or acked.root == root, f"{name}: believed ahead"

    def _numbers(self) -> None:
        """R1 and R2 as far as they show in the journal."""
        numbers = [entry.number for entry in self.joined.journal.state.entries]
        label_sets = [entry.label_set for entry in self.joined.journal.state.entries]
        assert len(set(numbers)) == len(numbers), "a number has two label sets"
        assert len(set(label_sets)) == len(label_sets), "a label set has two numbers"
        for used, freed in self.joined.freed[self._freed :]:
            assert not used & freed, f"{used & freed} are still in use"
        self._freed = len(self.joined.freed)
        assert not self.joined.too_early, self.joined.too_early

    def _verdicts(self, node: str, root: bytes, meaning: Meaning | None, pod: str) -> Verdicts:
        key = (node, root, pod)
        if key not in self._expected:
            self._expected[key] = {} if meaning is None else _verdicts(node, meaning, pod)
        return self._expected[key]


def _verdicts(node: str, meaning: Meaning, name: str) -> Verdicts:
    snapshot = meaning.snapshot
    world = World(snapshot.namespaces, snapshot.policies)
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


# ---------------------------------------------------------------------------------------- steps


def policy(namespace: str, name: str, kind: int, choice: int) -> NetworkPolicy:
    """A few policies that tell most things apart; kind and choice pick one."""
    app = LabelSelector(match_labels={"app": f"x{choice % 3}"})
    tier = LabelSelector(match_labels={"tier": f"t{choice % 3}"})
    web = (NetworkPolicyPort(protocol="TCP", port=80),)
    block = IPBlock(cidr="203.0.113.0/24", excepts=("203.0.113.128/25",))
    ingress: tuple[NetworkPolicyIngressRule, ...] = ()
    egress: tuple[NetworkPolicyEgressRule, ...] = ()
    types: tuple[str, ...] = ("Ingress",)
    match kind % 6:
        case 1:
            peer = NetworkPolicyPeer(namespace_selector=tier)
            ingress = (NetworkPolicyIngressRule(peers=(peer,)),)
        case 2:
            peer = NetworkPolicyPeer(namespace_selector=tier, pod_selector=app)
            ingress = (NetworkPolicyIngressRule(peers=(peer,), ports=web),)
        case 3:
            egress = (NetworkPolicyEgressRule(peers=(NetworkPolicyPeer(ip_block=block),)),)
            types = ("Egress",)
        case 4:
            peer = NetworkPolicyPeer(pod_selector=app)
            egress = (NetworkPolicyEgressRule(peers=(peer,), ports=web),)
            types = ("Ingress", "Egress")
            ingress = (NetworkPolicyIngressRule(peers=(NetworkPolicyPeer(ip_block=block),)),)
        case 5:
            ingress = (NetworkPolicyIngressRule(ports=web),)
    subject = LabelSelector(match_labels={} if choice % 2 else {"app": f"x{kind % 3}"})
    return NetworkPolicy(
        metadata=ObjectMeta(name=name, namespace=namespace),
        spec=NetworkPolicySpec(
            pod_selector=subject, policy_types=types, ingress=ingress, egress=egress
        ),
    )


def take(joined: Joined, rules: Rules, step: Step) -> None:
    """One step, checked; whole exchanges are checked write by write."""
    what, a, b = step
    node, namespace = NODES[a % 2], NAMESPACES[b % 2]
    match what:
        case "sync":
            sync(joined, rules, node)
        case "connect":
            joined.connect(node)
        case "up":
            joined.deliver_up(node)
        case "down":
            joined.deliver_down(node)
        case "work":
            for _ in range(1 + b):
                joined.work(node)
                rules.node(node)
        case "work-fails":
            joined.agents[node].fail()
        case "break":
            joined.break_stream(node)
        case "journal":
            joined.answer_journal()
        case "journal-refused":
            joined.answer_journal(refuse=True)
        case "journal-lost":
            joined.lose_answer()
        case "wait":
            joined.wait(float(1 << (a % 8)))
        case "crash-agent":
            joined.crash_agent(node)
        case "start-agent":
            joined.start_agent(node)
        case "restart-server":
            joined.start_server()
        case "crash-server":
            joined.crash_server()
        case _:
            edit(joined, what, a, b, namespace, node)
    rules.check()


def edit(joined: Joined, what: str, a: int, b: int, namespace: str, node: str) -> None:
    world = joined.world
    match what:
        case "pod":
            name = f"p{(a // 2) % 3}"
            drop_link(joined, namespace, name)
            host = 1 + b % 4
            addresses = [f"10.{1 + a % 2}.0.{host}", f"fd00:{1 + a % 2}::{host}"]
            joined.edit(world.pod(namespace, name, node, {"app": f"x{b % 3}"}, addresses))
            joined.link(node, f"{namespace}/{name}")
        case "relabel-pod":
            name = f"p{(a // 2) % 3}"
            joined.edit(world.relabel_pod(namespace, name, {"app": f"x{(a + b) % 4}"}))
        case "delete-pod":
            name = f"p{(a // 2) % 3}"
            drop_link(joined, namespace, name)
            joined.edit(world.delete(ObjectKey("Pod", namespace, name)))
        case "relabel":
            joined.edit(world.namespace(namespace, {"tier": f"t{a % 3}"}))
        case "policy":
            joined.edit(world.policy(policy(namespace, f"np{a % 2}", a, b)))
        case "delete-policy":
            key = ObjectKey("NetworkPolicy", namespace, f"np{a % 2}")
            change = world.delete(key)
            assert change is None or isinstance(change, Delete)
            joined.edit(change)


def drop_link(joined: Joined, namespace: str, name: str) -> None:
    pod = joined.world.objects.get(ObjectKey("Pod", namespace, name))
    if isinstance(pod, Pod):
        joined.unlink(pod.spec.node_name, f"{namespace}/{name}")


def sync(joined: Joined, rules: Rules, name: str) -> None:
    joined.wait(1.0)
    for _ in range(3000):
        moved = [joined.connect(name), joined.deliver_up(name), joined.deliver_down(name)]
        moved.append(joined.answer_journal())
        worked = joined.work(name)
        if worked:
            rules.node(name)
        if not any(moved) and not worked:
            return
    raise AssertionError(f"{name}: something goes round in circles")


def settle(joined: Joined, rules: Rules) -> None:
    """R7: with a fair network and no more faults every node reaches the newest cut, and numbers
    that nobody has come back."""
    if joined.plane is None:
        joined.start_server()
    for name in NODES:
        joined.start_agent(name)
    for _ in range(60):
        for name in NODES:
            sync(joined, rules, name)
        rules.check()
        plane = joined.plane
        assert plane is not None
        newest = all(
            joined.agents[name].twin.cut().roots[joined.agents[name].twin.cut().active]
            == plane.builder.view(name, plane.revision).root
            for name in NODES
        )
        used, capacity = plane.intake.allocator.usage()
        wanted = len(plane.intake.cluster.label_sets)
        if newest and used == min(wanted, capacity) and not joined.writes:
            rules.check(open_all=True)
            return
        joined.wait(15.0)
    raise AssertionError("the cluster does not settle")


def refused_then_reverted(joined: Joined, rules: Rules) -> None:
    """A cut is refused while more of it is on its way; then what it changed changes back."""
    for step in (("pod", 0, 0), ("pod", 1, 0), ("policy", 1, 1), ("sync", 0, 0), ("sync", 1, 0)):
        take(joined, rules, step)
    agent = joined.agents["n1"]
    for a, b in ((1, 0), (2, 0)):
        take(joined, rules, ("relabel", a, b))
        take(joined, rules, ("journal", 0, 0))
        while joined.deliver_down("n1"):
            pass
        agent.fail()
        for _ in range(2000):
            if not joined.work("n1"):
                break
            rules.node("n1")
        while joined.deliver_up("n1"):
            pass
        take(joined, rules, ("relabel", 0, b))
        for _ in range(4):
            take(joined, rules, ("sync", 0, 0))
    settle(joined, rules)


SCENARIOS = (refused_then_reverted,)

ACTIONS = (
    *("sync",) * 6,
    *("work", "work", "up", "up", "down", "down", "connect", "journal", "wait"),
    *("pod", "pod", "pod", "relabel", "relabel", "relabel-pod", "policy", "policy", "policy"),
    *("delete-pod", "delete-policy", "break", "journal-refused", "journal-lost", "work-fails"),
    *("crash-agent", "start-agent", "start-agent", "restart-server", "crash-server"),
)

STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11), st.integers(0, 11)),
    min_size=8,
    max_size=50,
)
