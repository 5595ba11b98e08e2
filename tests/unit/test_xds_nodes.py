"""Which cuts any node may still enforce: the barrier before a number is used again."""

from __future__ import annotations

from reconciler.core.resources.build import NodeView, view_of
from reconciler.core.resources.encode import commit_version
from reconciler.core.resources.layer import Layer
from reconciler.core.resources.types import COMMIT, CUT_NAME, CUT_TYPES, PEER_SET, Resource
from reconciler.core.xds.codec import Encoder, Frame
from reconciler.core.xds.nodes import LAG_SECONDS, Nodes
from reconciler.core.xds.rollout import Rollout

GRACE = 100.0


class Fleet:
    """Nodes whose view is one resource of the revision's content."""

    def __init__(self) -> None:
        self.revision = 1
        self.layer = Layer({})
        self.encoder = Encoder()
        self.nodes = Nodes(self._rollout, GRACE, 0.0)
        self.change(0.0)

    def _rollout(self, name: str) -> Rollout:
        rollout = Rollout(self._view, self.encoder, 5.0)
        rollout.newest = self.revision
        return rollout

    def _view(self, refused: frozenset[str]) -> NodeView:
        return view_of(self.revision, self.layer)

    def change(self, now: float) -> int:
        self.revision += 1
        self.layer = self.layer.changed([Resource(PEER_SET, "x", str(self.revision), b"")])
        for node in self.nodes:
            node.rollout.view_changed(self.revision, now)
            if node.state != "gone":
                node.fire("view_changed", now)
            self.nodes.noted(node)
        return self.revision

    def connect(self, name: str, now: float, revision: int = 0) -> None:
        node = self.nodes.node(name, now)
        node.stream = 1
        node.fire("connect", now)
        for type_url in CUT_TYPES:
            version = commit_version(revision, bytes(32))
            initial = {CUT_NAME: version} if type_url == COMMIT and revision else {}
            node.rollout.subscribed(type_url, initial, now)
        node.heard = node.rollout.reported
        self.nodes.noted(node)

    def ack(self, name: str, now: float) -> None:
        """Answer everything, up to and with the commit."""
        node = self.nodes.node(name, now)
        while frames := node.rollout.take():
            for frame in frames:
                assert isinstance(frame, Frame)
                node.rollout.acked_response(frame.type_url, frame.nonce, now)
        self.nodes.noted(node)

    def disconnect(self, name: str, now: float) -> None:
        node = self.nodes.node(name, now)
        node.stream = None
        node.rollout.disconnected(now)
        node.fire("disconnect", now)
        self.nodes.noted(node)

    def state(self, name: str) -> str:
        node = self.nodes.get(name)
        return "" if node is None else node.state


def test_it_is_the_oldest_of_what_each_node_committed() -> None:
    fleet = Fleet()
    fleet.nodes.known(["a", "b"], 0.0)
    fleet.connect("a", 1.0)
    fleet.ack("a", 1.0)
    fleet.connect("b", 1.0)
    assert fleet.nodes.clear_before(GRACE) == 0, "b has committed nothing"
    fleet.ack("b", 1.0)
    assert fleet.nodes.clear_before(GRACE) == fleet.revision
    old, new = fleet.revision, fleet.change(2.0)
    fleet.ack("a", 2.0)
    assert fleet.nodes.clear_before(GRACE) == old, "what is sent is not what is enforced"
    fleet.ack("b", 2.0)
    assert fleet.nodes.clear_before(GRACE) == new


def test_a_node_without_an_object_may_still_enforce_what_the_server_before_served_it() -> None:
    fleet = Fleet()
    fleet.nodes.known(["a"], 0.0)
    fleet.connect("a", 1.0)
    fleet.ack("a", 1.0)
    assert fleet.nodes.clear_before(GRACE - 1) == 0, (
        "that all known nodes are heard says nothing of it"
    )
    assert fleet.nodes.clear_before(GRACE) == fleet.revision


def test_a_node_not_heard_of_since_the_start_may_use_anything() -> None:
    fleet = Fleet()
    fleet.nodes.known(["a", "b"], 0.0)
    fleet.connect("a", 1.0)
    fleet.ack("a", 1.0)
    assert fleet.nodes.clear_before(GRACE - 1) == 0
    fleet.nodes.tick(GRACE)
    assert fleet.state("b") == "gone"
    assert fleet.nodes.clear_before(GRACE) == fleet.revision


def test_without_any_node_strangers_are_waited_for() -> None:
    fleet = Fleet()
    assert fleet.nodes.clear_before(0.0) == 0
    assert fleet.nodes.clear_before(GRACE) is None


def test_absence_is_no_ack_until_its_grace_is_over() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        fleet.connect(name, 1.0)
        fleet.ack(name, 1.0)
    old = fleet.revision
    fleet.disconnect("b", 2.0)
    new = fleet.change(3.0)
    fleet.ack("a", 3.0)
    fleet.nodes.tick(2.0 + GRACE - 1)
    assert fleet.nodes.clear_before(2.0 + GRACE - 1) == old
    fleet.nodes.tick(2.0 + GRACE)
    assert fleet.nodes.clear_before(2.0 + GRACE) == new
    assert fleet.state("b") == "", "there is no object of it either"


def test_a_cut_whose_stream_broke_counts_by_the_older_end_until_the_node_reports() -> None:
    fleet = Fleet()
    fleet.connect("a", 1.0)
    fleet.ack("a", 1.0)
    old = fleet.revision
    new = fleet.change(GRACE)
    node = fleet.nodes.node("a", GRACE)
    (staged,) = node.rollout.take()
    assert isinstance(staged, Frame)
    node.rollout.acked_response(staged.type_url, staged.nonce, GRACE)
    fleet.disconnect("a", GRACE)  # with the commit under way
    assert fleet.nodes.clear_before(GRACE) == old
    fleet.connect("a", GRACE, revision=new)
    assert fleet.nodes.clear_before(GRACE) == new


def test_a_node_that_returns_after_it_was_given_up_counts_as_anything_again() -> None:
    fleet = Fleet()
    fleet.nodes.known(["a"], 0.0)
    fleet.connect("a", 1.0)
    fleet.ack("a", 1.0)
    fleet.disconnect("a", 2.0)
    fleet.nodes.tick(2.0 + GRACE)
    assert fleet.state("a") == "gone"
    assert fleet.nodes.clear_before(2.0 + GRACE) is None
    fleet.connect("a", 300.0, revision=1)
    assert fleet.nodes.clear_before(300.0) == 1
    fleet.ack("a", 300.0)
    assert fleet.nodes.clear_before(300.0) == fleet.revision


def test_a_deleted_node_object_does_not_end_what_its_agent_enforces() -> None:
    fleet = Fleet()
    fleet.nodes.known(["a"], 0.0)
    fleet.connect("a", 1.0)
    fleet.ack("a", 1.0)
    old = fleet.revision
    fleet.nodes.deleted("a")
    fleet.change(GRACE)
    fleet.nodes.tick(GRACE)
    assert fleet.nodes.clear_before(GRACE) == old


def test_a_node_that_does_not_keep_up_is_lagging_and_still_counts() -> None:
    fleet = Fleet()
    fleet.connect("a", 0.0)
    fleet.ack("a", 0.0)
    node = fleet.nodes.node("a", 0.0)
    node.fire("committed_newest", 0.0)
    old = fleet.revision
    fleet.change(10.0)
    fleet.change(30.0)
    assert fleet.nodes.next_deadline() == 10.0 + LAG_SECONDS, "counts from the first change"
    fleet.nodes.tick(10.0 + LAG_SECONDS)
    assert fleet.state("a") == "lagging"
    assert node.alarm
    assert fleet.nodes.clear_before(GRACE + 1) == old
    fleet.ack("a", 50.0)
    node.fire("committed_newest", 50.0)
    assert (fleet.state("a"), node.alarm) == ("in-sync", "")


def test_equal_content_counts_as_the_newest_revision() -> None:
    fleet = Fleet()
    fleet.connect("a", 0.0)
    fleet.ack("a", 0.0)
    fleet.revision += 1
    node = fleet.nodes.node("a", 0.0)
    node.rollout.view_changed(fleet.revision, 1.0)
    fleet.nodes.noted(node)
    assert node.rollout.take() == []
    assert fleet.nodes.clear_before(GRACE) == fleet.revision
