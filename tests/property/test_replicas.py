"""Replicas at equal positions serve equal views, and who leads changes nothing but who writes.

Checked at every step: each publication of each replica is what a replica that starts from its
position would publish; the cuts of a node never go back, on whichever replica; a number comes back
only when no node that counts enforces a cut that may have it.
"""

from __future__ import annotations

import itertools

from hypothesis import currently_in_test_context, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.core.objects import ObjectKey
from reconciler.core.resources.position import Position
from reconciler.core.trace import Trace
from reconciler.testing.world import World
from tests.property.replicas import ABSENT_GRACE, KINDS, POOL, Node, Replica, Store, used_in

NODES = ("n1", "n2")
NAMESPACES = ("a", "b")
LABELS = st.sampled_from(({"app": "x"}, {"app": "y"}, {"app": "z"}))

Cut = tuple[bytes, frozenset[tuple[int, int]]]
"""Root, and the (number, birth) pairs that are in it."""


class Replicas(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.store = Store()
        self.world = World()
        self.streams = itertools.count(1)
        self.names = itertools.count(1)
        self.roots: dict[tuple[str, str], bytes] = {}
        self.alone: dict[str, dict[str, Cut]] = {}  # position → views of a fresh replica
        self.replicas: list[Replica] = []
        self.reported: dict[str, tuple[int, float]] = {}  # replica → mark, time of its end
        self.nodes = {name: Node(name) for name in NODES}
        self.been: dict[str, Position] = {}  # replica that runs → where it was

    @initialize(held_back=st.sampled_from((0, 0, 3, 4)))
    def begin(self, held_back: int = 0) -> None:
        self.store.held_back = frozenset(POOL[:held_back])
        for index, name in enumerate(NODES, 1):
            self.store.wrote(self.world.node(name, index))
        for name in NAMESPACES:
            self.store.wrote(self.world.namespace(name, {"team": "one"}))
        self.replicas = [self._replica(), self._replica()]
        self.replicas[0].lead(self.now)

    def _replica(self, name: str = "") -> Replica:
        """One that has listed everything; name: of the process before it, if there was one."""
        number = next(self.names)
        name, life = name or f"r{number}", f"r{number}"
        replica = Replica(name, self.store, self.now, self._published, self.life(life))
        replica.deliver_journal(self.now)
        replica.listed(self.now)
        before = self.reported.get(name)
        replica.says.begin(None if before is None else before[0])
        replica.says.served(self.now)
        return replica

    def life(self, name: str) -> Trace | None:
        """What records the life of a replica."""
        return None

    def _published(self, replica: Replica) -> None:
        position = replica.plane.position
        assert position is not None
        for name in NODES:
            root = replica.plane.builder.view(name, position.revision).root
            assert self.roots.setdefault((str(position), name), root) == root, str(position)
        intake = replica.plane.intake
        used, capacity = intake.allocator.usage()
        without = [name for name in intake.cluster.groups if intake.binding(name) is None]
        assert used >= capacity or not without, f"published without a number: {without}"

    def _alone(self, position: Position) -> dict[str, Cut]:
        key = str(position)
        if key not in self.alone:
            plane = self.store.at(position)
            views = {name: plane.builder.view(name, 1) for name in NODES}
            self.alone[key] = {name: (view.root, used_in(view)) for name, view in views.items()}
        return self.alone[key]

    # --------------------------------------------------------------------------- the cluster

    @rule(namespace=st.sampled_from(NAMESPACES), team=st.sampled_from(("one", "two")))
    def relabel(self, namespace: str, team: str) -> None:
        self.store.wrote(self.world.namespace(namespace, {"team": team}))

    @rule(
        namespace=st.sampled_from(NAMESPACES), pod=st.sampled_from(("p", "q")),
        node=st.sampled_from(NODES), labels=LABELS,
    )  # fmt: skip
    def pod(self, namespace: str, pod: str, node: str, labels: dict[str, str]) -> None:
        address = (
            f"10.{NODES.index(node) + 1}.0.{1 + NAMESPACES.index(namespace) * 2 + (pod == 'q')}"
        )
        self.store.wrote(self.world.pod(namespace, pod, node, labels, [address]))

    @rule(namespace=st.sampled_from(NAMESPACES), pod=st.sampled_from(("p", "q")))
    def pod_gone(self, namespace: str, pod: str) -> None:
        self.store.wrote(self.world.delete(ObjectKey("Pod", namespace, pod)))

    # -------------------------------------------------------------------------- the replicas

    @rule(at=st.integers(0, 9), kind=st.sampled_from(KINDS), count=st.integers(1, 4))
    def deliver(self, at: int, kind: str, count: int) -> None:
        self.replicas[at % len(self.replicas)].deliver(kind, count, self.now)

    @rule(at=st.integers(0, 9), journal=st.booleans())
    def catch_up(self, at: int, journal: bool) -> None:
        """Everything has arrived there, but perhaps the journal."""
        replica = self.replicas[at % len(self.replicas)]
        for kind in KINDS:
            replica.deliver(kind, 99, self.now)
        if journal:
            replica.deliver_journal(self.now)

    @rule(many=st.booleans())
    def write(self, many: bool) -> None:
        """Of whoever has a write to make, also one that leads no more."""
        for _ in range(4 if many else 1):
            for replica in self.replicas:
                self._write(replica)

    def _write(self, replica: Replica) -> None:
        for entry in replica.write(self.now):
            if currently_in_test_context():
                event("a number came back")
            for node in self.nodes.values():
                counts = node.replica is not None or self.now < node.lost_at + ABSENT_GRACE
                if counts and node.position is not None:
                    used = self._alone(node.position)[node.name][1]
                    assert (entry.number, entry.birth) not in used, f"{node.name} uses {entry}"

    @rule(at=st.integers(0, 9))
    def elect(self, at: int) -> None:
        """Nobody tells the last leader: it finds out by a write, or by the journal."""
        if currently_in_test_context():
            event("another leader")
        self.replicas[at % len(self.replicas)].lead(self.now)

    @rule(at=st.integers(0, 9))
    def stand_down(self, at: int) -> None:
        replica = self.replicas[at % len(self.replicas)]
        if replica.plane.leading:
            replica.stand_down(self.now)

    @rule()
    def reports(self) -> None:
        """What each replica's nodes have committed, as all get to read it."""
        for replica in self.replicas:
            self._report(replica)
        for replica in self.replicas:
            marks = {
                name: mark
                for name, (mark, until) in self.reported.items()
                if name != replica.name and self.now < until
            }
            replica.plane.elsewhere(marks, self.now)
            replica.carry_out()

    def _report(self, replica: Replica) -> None:
        self.reported[replica.name] = (replica.says.at(self.now), float("inf"))

    @rule(at=st.integers(0, 9), again=st.booleans())
    def crash(self, at: int, again: bool) -> None:
        """again: the next one has its name, as a container has that is started again."""
        if currently_in_test_context():
            event("a replica crashed")
        gone = self.replicas.pop(at % len(self.replicas))
        self.been.pop(gone.name, None)
        mark, _ = self.reported.get(gone.name, (0, 0.0))
        self.reported[gone.name] = (mark, self.now + ABSENT_GRACE)
        for node in self.nodes.values():
            if node.replica is gone:
                self._lost(node)
        self.replicas.append(self._replica(gone.name if again else ""))
        # Each replica's report is there before it serves anybody.
        self._report(self.replicas[-1])

    @rule(seconds=st.sampled_from((1.0, 20.0, 60.0)))
    def time(self, seconds: float) -> None:
        self.now += seconds
        for replica in self.replicas:
            replica.plane.tick(self.now)
            replica.carry_out()

    # ----------------------------------------------------------------------------- the nodes

    @rule(name=st.sampled_from(NODES), at=st.integers(0, 9), answers=st.sampled_from((0, 3, 99)))
    def connect(self, name: str, at: int, answers: int) -> None:
        node = self.nodes[name]
        if node.replica is not None:
            self.disconnect(name)
        node.replica = self.replicas[at % len(self.replicas)]
        node.stream = next(self.streams)
        node.replica.plane.stream_opened(node.stream, name, self.now)
        for request in node.requests(self.now):
            node.replica.plane.received(node.stream, request, self.now)
        node.replica.carry_out()
        self.answer(name, answers)

    @rule(name=st.sampled_from(NODES))
    def disconnect(self, name: str) -> None:
        node = self.nodes[name]
        if node.replica is not None:
            node.replica.plane.stream_closed(node.stream, self.now)
            node.replica.carry_out()
            self._lost(node)

    def _lost(self, node: Node) -> None:
        node.replica, node.lost_at = None, self.now

    @rule(name=st.sampled_from(NODES), count=st.sampled_from((1, 4, 99)))
    def answer(self, name: str, count: int) -> None:
        node = self.nodes[name]
        for _ in range(count):
            if node.replica is None or not node.replica.frames.get(node.stream):
                return
            answer = node.receive(node.replica.frames[node.stream].popleft(), refuse=False)
            node.replica.plane.received(node.stream, answer, self.now)
            node.replica.carry_out()
            if node.stream in node.replica.closed:
                self._lost(node)

    # ------------------------------------------------------------------------------- the laws

    @invariant()
    def what_is_published_follows_from_the_position_alone(self) -> None:
        for replica in self.replicas:
            position = replica.plane.position
            if position is None:
                continue
            alone = self._alone(position)
            for name in NODES:
                assert replica.plane.builder.view(name, 1).root == alone[name][0], str(position)

    @invariant()
    def no_replica_goes_back(self) -> None:
        for replica in self.replicas:
            position = replica.plane.position
            before = self.been.get(replica.name)
            if before is not None:
                assert position is not None, replica.name
                assert position.covers(before), f"{replica.name}: {before} to {position}"
            if position is not None:
                self.been[replica.name] = position

    @invariant()
    def a_node_enforces_a_published_cut(self) -> None:
        for node in self.nodes.values():
            if node.position is not None:
                assert node.root == self._alone(node.position)[node.name][0]

    @rule(stuck=st.sampled_from((*NODES, "")), away=st.booleans())
    def quiet(self, stuck: str, away: bool) -> None:
        """All but one node (or none) commit what there is, and time goes by: numbers come back,
        unless that one may still use them."""
        leader = self.replicas[0]
        if not leader.plane.leading or leader.plane.epoch < self.store.journal.state.epoch:
            leader.lead(self.now)
        node = self.nodes.get(stuck)
        if node is not None and away:
            self.disconnect(stuck)
        self._arrive(leader)
        for _ in range(3):
            for at, name in enumerate(NODES):
                if name != stuck:
                    if self.nodes[name].replica is None:
                        self.connect(name, at, 0)
                    self.answer(name, 99)
            self.reports()
            self.time(20.0)
            self._arrive(leader)

    def _arrive(self, leader: Replica) -> None:
        for replica in self.replicas:
            for kind in KINDS:
                replica.deliver(kind, 99, self.now)
        for _ in range(12):  # a publication waits for a write, and the next for that
            self._write(leader)
        for replica in self.replicas:
            replica.deliver_journal(self.now)
            assert replica.plane.position == self.store.position, f"{replica.name} is behind"

    @precondition(lambda self: self.replicas)
    @rule()
    def settle(self) -> None:
        """Everything arrives everywhere: each node has the newest cut."""
        leader = self.replicas[0]
        leader.lead(self.now)
        self._arrive(leader)
        for at, name in enumerate(NODES):
            if self.nodes[name].replica is None:
                self.connect(name, at, 0)
        for _ in range(6):
            for name in NODES:
                self.answer(name, 99)
        for node in self.nodes.values():
            assert node.replica is not None
            assert node.position is not None, f"{node.name} has no cut"
            newest = node.replica.plane.builder.view(node.name, 1).root
            assert node.root == newest, f"{node.name} is at {node.position}"


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(stateful_step_count=25, deadline=None)


def begun() -> Replicas:
    """Two replicas, the first leads; a pod on n1, and each node with the newest cut."""
    world = Replicas()
    world.begin()
    world.pod("a", "p", "n1", {"app": "x"})
    world.quiet("", False)
    assert [node.replica.name for node in world.nodes.values() if node.replica] == ["r1", "r2"]
    return world


def test_a_number_waits_for_the_nodes_of_other_replicas() -> None:
    world = begun()
    world.pod_gone("a", "p")
    world.quiet("n2", False)  # it is connected to the replica that doesn't lead, and does nothing
    leader = world.replicas[0].plane
    assert [entry.state for entry in leader.intake.allocator.entries()] == ["retiring"]
    world.quiet("", False)
    assert list(leader.intake.allocator.entries()) == []


def test_a_number_waits_for_the_nodes_that_a_restarted_replica_has_not_heard_of() -> None:
    world = begun()
    world.pod_gone("a", "p")
    world.quiet("n2", False)
    world.reports()
    world.crash(1, again=True)  # n2 enforces what it did, and has nobody to say it to
    leader = world.replicas[0]
    node = leader.plane.nodes.get("n2")
    assert node is None or node.state == "gone"
    for _ in range(2):
        world.reports()
        world.time(20.0)
        world._arrive(leader)
        assert [e.state for e in leader.plane.intake.allocator.entries()] == ["retiring"]
    world.time(20.0)
    world.reports()
    world._arrive(leader)
    assert list(leader.plane.intake.allocator.entries()) == []


def test_a_number_waits_for_a_node_that_is_connected_and_has_not_said_what_it_enforces() -> None:
    world = begun()
    world.disconnect("n2")
    world.pod_gone("a", "p")
    world.crash(1, again=True)
    node, replica = world.nodes["n2"], world.replicas[1]
    node.replica, node.stream = replica, 99
    replica.plane.stream_opened(99, "n2", world.now)
    for _ in range(6):
        world.quiet("n2", False)
    leader = world.replicas[0].plane
    assert [entry.state for entry in leader.intake.allocator.entries()] == ["retiring"]
    for request in node.requests(world.now):
        replica.plane.received(99, request, world.now)
    replica.carry_out()
    for _ in range(2):
        world.quiet("", False)
    assert list(leader.intake.allocator.entries()) == []


def test_a_node_waits_for_a_replica_that_has_not_read_what_it_enforces() -> None:
    world = begun()
    first, second = world.replicas
    world.pod_gone("a", "p")
    first.deliver("pods", 9, world.now)
    world.answer("n1", 99)
    for team in ("two", "one", "two"):
        world.relabel("b", team)  # nobody lives there
    second.deliver("namespaces", 9, world.now)
    assert second.plane.revision > first.plane.revision
    before = world.nodes["n1"].position
    world.connect("n1", 1, 99)
    assert world.nodes["n1"].position == before
    assert second.plane.nodes.node("n1", world.now).rollout.state == "ahead"
    second.deliver("pods", 9, world.now)
    world.answer("n1", 99)
    after = world.nodes["n1"].position
    assert after is not None
    assert after != before


def test_a_node_is_judged_by_what_a_replica_has_read_not_by_what_it_published() -> None:
    world = begun()
    first, second = world.replicas
    world.connect("n1", 1, 99)  # so that both know it
    world.pod_gone("a", "p")
    world.relabel("b", "two")  # nobody lives there
    first.deliver("namespaces", 9, world.now)
    world.connect("n1", 0, 99)  # its cut has that, and not that the pod is gone
    second.deliver("pods", 9, world.now)
    second.deliver("namespaces", 9, world.now)
    world.connect("n1", 1, 99)
    node = world.nodes["n1"]
    assert node.root == second.plane.builder.view("n1", 1).root
    assert node.position == second.plane.position


def test_a_leader_that_stands_down_does_not_go_back_to_what_it_had_read() -> None:
    world = begun()
    leader = world.replicas[0]
    world.pod_gone("a", "p")
    leader.deliver("pods", 9, world.now)
    world.write(True)
    before = leader.plane.position
    assert before is not None
    assert before.journal > world.store.states[leader.state].revision, "it has not read its write"
    leader.stand_down(world.now)
    assert leader.plane.position is not None
    assert leader.plane.position.covers(before)
