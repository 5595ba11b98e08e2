"""Steps that tests of the joined cluster choose from; `testing.rules` has what must hold."""

from __future__ import annotations

from hypothesis import strategies as st

from reconciler.core.dataplane.effects import SaveCache
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
from reconciler.testing.joined import Joined
from reconciler.testing.rules import Rules as Rules
from reconciler.testing.scenario import settle as settle
from reconciler.testing.scenario import sync as sync

NODES = ("n1", "n2")
NAMESPACES = ("a", "b")

Step = tuple[str, int, int]


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
        case "record-lost":
            lose_record(joined, rules, node)
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


def lose_record(joined: Joined, rules: Rules, node: str) -> None:
    """Go on until a cut is to be saved, which the disk refuses; what follows is on its way."""
    agent = joined.agents[node]
    for _ in range(200):
        if agent.work and isinstance(agent.work[0], SaveCache):
            agent.fail()
            while joined.deliver_up(node) or joined.deliver_down(node):
                pass
            return
        if joined.work(node):
            rules.node(node)
        elif not (joined.deliver_down(node) or joined.deliver_up(node)):
            return


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
    st.tuples(st.sampled_from((*ACTIONS, "record-lost")), st.integers(0, 11), st.integers(0, 11)),
    min_size=8,
    max_size=50,
)
