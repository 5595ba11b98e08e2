"""The server's core against agents that only hold resources: no cut is ever a mix.

The agents here know nothing of policy: they stage, compare roots, flip, refuse and crash. What they
enforce must at every step be a view that the server published, and in the end the newest one.
"""

from __future__ import annotations

from collections import deque

from hypothesis import event, given
from hypothesis import strategies as st

from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import Change, ObjectKey
from reconciler.core.plane import ControlPlane, PlaneConfig, WriteJournal
from reconciler.core.resources import root
from reconciler.core.resources.types import COMMIT, CUT_TYPES, RULE_SET
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import decode_response
from reconciler.core.xds.effects import Close, Send
from reconciler.core.xds.nodes import Nodes
from reconciler.errors import Refusal
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.world import World
from reconciler.wire import resources_pb2 as pb

NODES = ("n1", "n2")
NAMESPACES = ("a", "b")
ABSENT_GRACE = 50.0

Held = dict[tuple[str, str], str]


class HoldingAgent:
    """Enforced survives a crash; what is staged does not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enforced: Held = {}
        self.staged: Held = {}
        self.revision = 0
        self.root = b""
        self.revisions: list[int] = []

    def requests(self, now: float) -> list[bytes]:
        self.staged = dict(self.enforced)
        versions: dict[str, dict[str, str]] = {}
        for (type_url, name), version in self.enforced.items():
            versions.setdefault(type_url, {})[name] = version
        client = Client(self.name, now)
        client.tick(now)
        return client.opened(Report(self.revision, self.root, versions), now)

    def receive(self, frame: bytes, refuse: bool) -> bytes:
        response = decode_response(frame)
        if response.type_url == COMMIT:
            cut = pb.Commit.FromString(response.resources[0].body)
            held = root.to_bytes(
                root.total((*key, version) for key, version in self.staged.items())
            )
            if held != cut.root:
                self.staged = dict(self.enforced)
                return Client.nack(COMMIT, response.nonce, "the root differs")
            self.enforced = dict(self.staged)
            self.revision, self.root = cut.revision, cut.root
            self.revisions.append(cut.revision)
            return Client.ack(COMMIT, response.nonce)
        if refuse:
            self.staged = dict(self.enforced)
            named = response.resources[0].name if response.resources else ""
            refusal = Refusal(response.type_url, named, "map is full", 9, 5)
            return Client.nack(response.type_url, response.nonce, "map is full", refusal)
        for each in response.resources:
            self.staged[response.type_url, each.name] = each.version
        for name in response.removed:
            self.staged.pop((response.type_url, name), None)
        return Client.ack(response.type_url, response.nonce)


def check_indices(nodes: Nodes, now: float) -> None:
    """What is read at once equals what a walk over all nodes finds, whenever that is asked."""
    times = [node.deadline for node in nodes if node.deadline is not None]
    assert nodes.next_deadline() == min(times, default=None)
    oldest = min((node.floor for node in nodes if node.counts), default=None)
    late = now + 2 * ABSENT_GRACE  # nobody that was never heard of is waited for then
    assert nodes.clear_before(late) == oldest
    assert nodes.clear_before(-1.0) == 0, "whoever the server before has served may be away"


class Cluster:
    """One server, agents that hold, pipes in order; every step small."""

    def __init__(self, scope: str) -> None:
        self.now = 0.0
        self.scope = scope
        self.world = World()
        self.journal = MemoryJournal()
        self.agents = {name: HoldingAgent(name) for name in NODES}
        self.pipes: dict[int, tuple[str, deque[bytes], deque[bytes]]] = {}
        self.streams = 0
        self.published: dict[bytes, int] = {b"": 0}
        for index, name in enumerate(NODES, 1):
            self.world.node(name, index)
        for name in NAMESPACES:
            self.world.namespace(name, {"tier": name})
        self.start()

    def start(self) -> None:
        self.pipes.clear()
        config = PlaneConfig(
            intake=IntakeConfig(filter=LabelFilter.default(), drain_seconds=5.0),
            scope="all" if self.scope == "all" else "selected",
            absent_grace=ABSENT_GRACE,
            closed_grace=2.0,
        )
        self.plane = ControlPlane(config, self.journal.open(), self.now)
        self.writes: deque[WriteJournal] = deque()
        self.plane.objects_changed(self.world.everything(), self.now)
        self.collect()

    def collect(self) -> None:
        for effect in self.plane.effects():
            if isinstance(effect, Send):
                self.pipes[effect.stream][1].append(effect.frame)
            elif isinstance(effect, Close):
                self.pipes.pop(effect.stream, None)
            elif isinstance(effect, WriteJournal):
                self.writes.append(effect)
        check_indices(self.plane.nodes, self.now)
        if self.plane.revision:
            for name in NODES:
                view = self.plane.builder.view(name, self.plane.revision)
                node = self.plane.nodes.get(name)
                refused = node.rollout.refused if node is not None else frozenset()
                closed = self.plane.builder.view(name, self.plane.revision, refused)
                self.published[view.root] = self.published[closed.root] = self.plane.revision

    def stream_of(self, name: str) -> int | None:
        return next((key for key, pipe in self.pipes.items() if pipe[0] == name), None)

    def connect(self, name: str) -> None:
        if self.stream_of(name) is None:
            self.streams += 1
            requests = self.agents[name].requests(self.now)
            self.pipes[self.streams] = (name, deque(), deque(requests))
            self.plane.stream_opened(self.streams, name, self.now)
            self.collect()

    def break_stream(self, name: str) -> None:
        stream = self.stream_of(name)
        if stream is not None:
            del self.pipes[stream]
            self.plane.stream_closed(stream, self.now)
            self.collect()

    def up(self, name: str) -> None:
        stream = self.stream_of(name)
        if stream is not None and self.pipes[stream][2]:
            self.plane.received(stream, self.pipes[stream][2].popleft(), self.now)
            self.collect()

    def down(self, name: str, refuse: bool = False) -> None:
        stream = self.stream_of(name)
        if stream is not None and self.pipes[stream][1]:
            _, down, up = self.pipes[stream]
            frame = down.popleft()
            refuse = refuse and decode_response(frame).type_url != COMMIT
            up.append(self.agents[name].receive(frame, refuse))

    def answer_journal(self) -> None:
        if self.writes:
            revision = self.journal.append(self.writes.popleft().batch)
            self.plane.journal_written(revision, self.now)
            self.collect()

    def refuse_journal(self) -> None:
        if self.writes:
            self.writes.popleft()
            self.plane.journal_refused("disk is full", self.now)
            self.collect()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.plane.tick(self.now)
        self.collect()

    def edit(self, change: Change | None) -> None:
        if change is not None:
            self.plane.objects_changed([change], self.now)
            self.collect()

    def check(self) -> None:
        for name, agent in self.agents.items():
            assert agent.root in self.published, f"{name} enforces what was never published"
            held = root.to_bytes(root.total((*key, value) for key, value in agent.enforced.items()))
            assert not agent.root or held == agent.root
            assert agent.revisions == sorted(agent.revisions), f"{name} went back"
            node = self.plane.nodes.get(name)
            if node is not None and node.rollout.acked is not None and agent.root:
                acked = node.rollout.acked
                assert acked.revision <= agent.revision or acked.root == agent.root
                assert node.floor <= max(agent.revision, self.published[agent.root])

    def settle(self) -> None:
        """A fair network and no more faults: everything arrives, timers run."""
        for _ in range(400):
            for name in NODES:
                self.connect(name)
                self.pump(name)
            while self.writes:
                self.answer_journal()
            if all(self.newest(name) for name in NODES) and not self.writes:
                return
            self.wait(10.0)
        raise AssertionError("a node never reached the newest cut")

    def pump(self, name: str) -> None:
        """Everything under way on one node's stream arrives."""
        for _ in range(200):
            stream = self.stream_of(name)
            if stream is None or not (self.pipes[stream][1] or self.pipes[stream][2]):
                return
            self.up(name)
            self.down(name)
            self.check()

    def newest(self, name: str) -> bool:
        return self.agents[name].root == self.plane.builder.view(name, self.plane.revision).root


def apply(cluster: Cluster, step: tuple[str, int, int]) -> None:
    what, a, b = step
    node = NODES[a % 2]
    namespace = NAMESPACES[b % 2]
    match what:
        case "connect":
            cluster.connect(node)
        case "sync":
            cluster.answer_journal()
            cluster.connect(node)
            cluster.pump(node)
        case "break":
            cluster.break_stream(node)
        case "up":
            cluster.up(node)
        case "down":
            cluster.down(node)
        case "refuse":
            cluster.down(node, refuse=True)
        case "journal":
            cluster.answer_journal()
        case "journal-refused":
            cluster.refuse_journal()
        case "wait":
            cluster.wait(float(a % 8))
        case "away":
            cluster.break_stream(node)
            cluster.wait(ABSENT_GRACE)
        case "node-deleted":
            cluster.edit(cluster.world.delete(ObjectKey("Node", "", node)))
        case "node":
            cluster.edit(cluster.world.node(node, 1 + a % 2))
        case "restart":
            cluster.start()
        case "pod":
            name, labels = f"p{a % 4}", {"app": f"x{b % 3}"}
            address = f"10.{1 + a % 2}.0.{1 + a % 4}"
            cluster.edit(cluster.world.pod(namespace, name, node, labels, [address]))
        case "delete":
            cluster.edit(cluster.world.delete(ObjectKey("Pod", namespace, f"p{a % 4}")))
        case "relabel":
            cluster.edit(cluster.world.namespace(namespace, {"tier": f"t{a % 3}"}))


ACTIONS = (
    *("sync", "sync", "sync", "up", "up", "down", "down", "connect", "journal", "journal"),
    *("pod", "pod", "relabel", "break"),
    *("refuse", "journal-refused", "wait", "delete", "restart"),
    *("away", "node-deleted", "node"),
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    min_size=10,
    max_size=60,
)


@given(STEPS, st.sampled_from(["all", "selected"]))
def test_nodes_enforce_published_cuts_only_and_reach_the_newest(
    steps: list[tuple[str, int, int]], scope: str
) -> None:
    cluster = Cluster(scope)
    for step in steps:
        apply(cluster, step)
        cluster.check()
    cluster.settle()
    event(f"cuts of n1: {min(len(cluster.agents['n1'].revisions), 4)}")
    live = cluster.plane.intake.allocator.live()
    numbers = [identity.number for identity in live.values()]
    assert len(set(numbers)) == len(numbers)


def test_what_is_served_does_not_depend_on_how_it_came_about() -> None:
    grown = Cluster("all")
    for index in range(12):
        apply(grown, ("pod", index, index // 2))
        grown.answer_journal()
    apply(grown, ("relabel", 1, 0))
    apply(grown, ("delete", 2, 1))
    grown.settle()
    fresh = Cluster("all")
    fresh.journal = grown.journal
    fresh.world = grown.world
    fresh.start()
    fresh.settle()
    for name in NODES:
        old = grown.plane.builder.view(name, 1)
        new = fresh.plane.builder.view(name, 1)
        assert old.root == new.root
        assert {(r.type_url, r.name, r.version) for r in old.resources()} == {
            (r.type_url, r.name, r.version) for r in new.resources()
        }


def test_a_refused_rule_set_is_closed_and_everything_else_goes_on() -> None:
    cluster = Cluster("all")
    apply(cluster, ("pod", 0, 0))
    cluster.settle()
    refused = ""
    cluster.edit(cluster.world.pod("a", "p5", "n1", {"app": "new"}, ["10.1.0.9"]))
    cluster.answer_journal()
    node = cluster.plane.nodes.get("n1")
    assert node is not None
    stream = cluster.stream_of("n1")
    assert stream is not None
    _, down, up = cluster.pipes[stream]
    while down:
        response = decode_response(down.popleft())
        policy = next((r for r in response.resources if response.type_url.endswith("Policy")), None)
        if policy is not None and not refused:
            refused = pb.Policy.FromString(policy.body).ingress
            refusal = Refusal(RULE_SET, refused, "map is full", 9, 5)
            up.append(Client.nack(response.type_url, response.nonce, "map is full", refusal))
        else:
            up.append(Client.ack(response.type_url, response.nonce))
    while up:
        cluster.up("n1")
    assert node.rollout.state == "held"
    assert "map is full" in cluster.plane.alarms["rollout", "n1"]
    cluster.agents["n1"].staged = dict(cluster.agents["n1"].enforced)
    cluster.wait(3.0)
    assert node.rollout.state == "closed-staging"
    while down or up:
        cluster.down("n1")
        cluster.up("n1")
    assert node.rollout.state == "closed-fallback"
    assert (RULE_SET, refused) not in cluster.agents["n1"].enforced
    assert all(type_url in CUT_TYPES for type_url, _ in cluster.agents["n1"].enforced)
