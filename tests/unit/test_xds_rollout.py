"""One node brought from cut to cut: what is sent when, and what is believed after each answer."""

from __future__ import annotations

from collections import deque

from pyroaring import BitMap

from reconciler.core.policy.ir import Direction, IdentityPolicy, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import root
from reconciler.core.resources.build import (
    CLOSED,
    Changed,
    LocalEndpoint,
    NodeView,
    State,
    ViewBuilder,
)
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    COMMIT,
    CUT_TYPES,
    ENDPOINT,
    PEER_SET,
    POLICY,
    RULE_SET,
)
from reconciler.core.xds import codec
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Encoder, Frame, Response, decode_response
from reconciler.core.xds.rollout import RETRY_SECONDS, Restart, Rollout
from reconciler.core.xds.stream import Acked, DeltaStream, Nacked, Subscribed
from reconciler.errors import Refusal
from reconciler.wire import resources_pb2 as pb

GRACE = 5.0
SELECTORS = ("a" * 32, "b" * 32)


def rule_set(direction: Direction, port: int) -> RuleSet:
    selector = SELECTORS[port % 2]
    return RuleSet(
        direction, True, (Rule(Verdict.ALLOW, peer_sets=(selector,), origins=(f"{port}",)),)
    )


class World:
    """Two pods on one node, each with its identity and policy; edits publish a revision."""

    def __init__(self) -> None:
        self.rule_sets: dict[str, RuleSet] = {}
        self.policies: dict[int, IdentityPolicy] = {}
        self.peer_sets = {each: BitMap([300, 301]) for each in SELECTORS}
        self.addresses = {0: b"\x0a\0\0\0", 1: b"\x0a\0\0\1"}
        self.groups = [f"shop/{number:032x}" for number in range(2)]
        self.builder = ViewBuilder(
            State(
                bindings=lambda _: {each: (300 + at, 7) for at, each in enumerate(self.groups)},
                addresses=lambda group: [self.addresses[self.groups.index(group)]],
                endpoint=self._endpoint,
                node_addresses=lambda _: (),
                unknown=lambda: (),
                peer_sets=self.peer_sets,
                rule_sets=self.rule_sets,
                policies=self.policies,
            )
        )
        self.revision = 1
        for pod in range(2):
            self.policy(pod, 80 + pod)
        self.builder.update(
            Changed(
                namespaces=frozenset({"shop"}),
                groups=frozenset(self.groups),
                endpoints=frozenset({"shop/p0", "shop/p1"}),
                peer_sets=frozenset((each, 0) for each in SELECTORS),
                policies=frozenset({300, 301}),
            )
        )

    def _endpoint(self, name: str) -> LocalEndpoint:
        pod = int(name[-1])
        address = self.addresses[pod]
        return LocalEndpoint("shop", f"p{pod}", "n1", "u", address, b"", self.groups[pod])

    def policy(self, pod: int, port: int) -> str:
        """Give a pod other ingress rules; their name."""
        names = []
        for direction in Direction:
            made = rule_set(direction, port if direction is Direction.INGRESS else 1)
            self.rule_sets[rule_set_hash(made)] = made
            names.append(rule_set_hash(made))
        self.policies[300 + pod] = IdentityPolicy(300 + pod, 7, *names)
        self.builder.update(Changed(policies=frozenset({300 + pod})))
        return names[0]

    def move(self, pod: int, address: bytes) -> None:
        self.addresses[pod] = address
        self.builder.update(
            Changed(groups=frozenset({self.groups[pod]}), endpoints=frozenset({f"shop/p{pod}"}))
        )

    def view(self, refused: frozenset[str]) -> NodeView:
        return self.builder.view("n1", self.revision, refused)


class Agent:
    """Holds versions; refuses the names in `poison`, flips on a commit whose root is right."""

    def __init__(self) -> None:
        self.enforced: dict[tuple[str, str], str] = {}
        self.staged: dict[tuple[str, str], str] = {}
        self.revision, self.root = 0, b""
        self.poison: set[str] = set()
        self.got: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []

    def hello(self) -> list[bytes]:
        self.staged = dict(self.enforced)
        versions: dict[str, dict[str, str]] = {}
        for (type_url, name), version in self.enforced.items():
            versions.setdefault(type_url, {})[name] = version
        client = Client("n1", 0.0)
        client.tick(0.0)
        return client.opened(Report(self.revision, self.root, versions), 0.0)

    def answer(self, frame: bytes) -> bytes:
        response = decode_response(frame)
        names = tuple(each.name for each in response.resources)
        self.got.append((response.type_url, names, response.removed))
        if response.type_url == COMMIT:
            return self._commit(response)
        for name in names:
            if name in self.poison:
                self.staged = dict(self.enforced)
                refusal = Refusal(response.type_url, name, "no room", 9, 5)
                return Client.nack(response.type_url, response.nonce, "no room", refusal)
        for each in response.resources:
            self.staged[response.type_url, each.name] = each.version
        for name in response.removed:
            del self.staged[response.type_url, name]
        return Client.ack(response.type_url, response.nonce)

    def _commit(self, response: Response) -> bytes:
        cut = pb.Commit.FromString(response.resources[0].body)
        if root.to_bytes(root.total((*k, v) for k, v in self.staged.items())) != cut.root:
            self.staged = dict(self.enforced)
            return Client.nack(COMMIT, response.nonce, "the root differs")
        assert cut.revision >= self.revision
        self.enforced = dict(self.staged)
        self.revision, self.root = cut.revision, cut.root
        return Client.ack(COMMIT, response.nonce)


class Line:
    """A rollout, its stream and the agent at the other end, with what is on the way."""

    def __init__(self) -> None:
        self.world = World()
        self.agent = Agent()
        self.rollout = Rollout(self.world.view, Encoder(), GRACE)
        self.now = 0.0
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()
        self.open = False
        self.restarts = 0
        self.publish()

    def publish(self) -> None:
        self.world.revision += 1
        self.rollout.view_changed(self.world.revision, self.now)
        self._flush()

    def connect(self, types: tuple[str, ...] = CUT_TYPES) -> None:
        self.stream = DeltaStream(CUT_TYPES)
        self.open = True
        self.up.extend(self.agent.hello()[: len(types)])
        self.serve()

    def disconnect(self) -> None:
        self.open = False
        self.down.clear()
        self.up.clear()
        self.rollout.disconnected(self.now)
        self.rollout.take()

    def serve(self) -> None:
        """The server reads what has arrived."""
        while self.up and self.open:
            for event in self.stream.receive(self.up.popleft()):
                if isinstance(event, Subscribed):
                    self.rollout.subscribed(event.type_url, event.initial, self.now)
                elif isinstance(event, Acked):
                    self.rollout.acked_response(event.type_url, event.nonce, self.now)
                elif isinstance(event, Nacked):
                    self.rollout.nacked_response(
                        event.type_url, event.nonce, event.reason, event.refusal, self.now
                    )
            self._flush()

    def read(self, count: int = 1) -> None:
        """The agent answers what has arrived."""
        for _ in range(count):
            self.up.append(self.agent.answer(self.down.popleft()))

    def settle(self) -> None:
        while self.down or self.up:
            self.read(len(self.down))
            self.serve()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.rollout.tick(self.now)
        self._flush()

    def _flush(self) -> None:
        for out in self.rollout.take():
            if isinstance(out, Restart):
                self.restarts += 1
                self.disconnect()
                return
            assert isinstance(out, Frame)
            assert self.open
            self.stream.sent(out)
            self.down.append(out.data)

    def types(self) -> list[str]:
        """Types of what is on its way to the agent."""
        return [decode_response(each).type_url for each in self.down]

    def enforces(self, refused: frozenset[str] = frozenset()) -> bool:
        wanted = {
            (each.type_url, each.name): each.version
            for each in self.world.view(refused).resources()
        }
        return self.agent.enforced == wanted


def synced() -> Line:
    line = Line()
    line.connect()
    line.settle()
    assert line.rollout.in_sync
    assert line.enforces()
    line.agent.got.clear()
    return line


def test_nothing_is_sent_before_the_first_request_of_every_type() -> None:
    line = Line()
    line.connect(CUT_TYPES[:-1])
    assert not line.down
    assert line.rollout.state == "absent"
    line.up.append(line.agent.hello()[-1])
    line.serve()
    assert line.down


def test_types_are_sent_in_order_pipelined_and_the_commit_waits_for_all() -> None:
    line = Line()
    line.connect()
    assert line.types() == [PEER_SET, RULE_SET, POLICY, BINDINGS, ADDRESS_GROUP, ENDPOINT]
    line.read(5)
    line.serve()
    assert line.rollout.state == "staging"
    assert line.types() == [ENDPOINT]
    line.read()
    line.serve()
    assert line.types() == [COMMIT]
    assert line.rollout.committed == 0
    line.settle()
    assert line.rollout.committed == line.world.revision
    assert line.enforces()


def test_a_change_sends_what_differs_and_nothing_else() -> None:
    line = synced()
    name = line.world.policy(0, 90)
    line.publish()
    line.settle()
    assert [each[0] for each in line.agent.got] == [RULE_SET, POLICY, COMMIT]
    assert line.agent.got[0][1] == (name,)
    assert len(line.agent.got[0][2]) == 1, "the rule set that nobody has any more goes"
    assert line.enforces()


def test_changes_during_a_cut_coalesce_into_one() -> None:
    line = synced()
    line.world.policy(0, 90)
    line.publish()
    for port in range(91, 99):
        line.world.policy(0, port)
        line.publish()
    assert len(line.down) == 2, "the cut that is begun is finished unchanged"
    line.settle()
    assert [each[0] for each in line.agent.got].count(COMMIT) == 2
    assert line.enforces()


def test_equal_content_sends_nothing_and_counts_as_newest() -> None:
    line = synced()
    line.publish()
    assert not line.down
    assert line.rollout.floor == line.world.revision
    assert line.rollout.in_sync


def test_a_node_that_comes_back_with_the_newest_cut_is_sent_nothing() -> None:
    line = synced()
    line.disconnect()
    line.publish()
    line.connect()
    assert not line.down
    assert line.rollout.in_sync


def test_a_node_that_comes_back_is_sent_what_it_missed_with_removals() -> None:
    line = synced()
    line.disconnect()
    line.world.policy(0, 90)
    line.publish()
    line.connect()
    line.settle()
    assert [each[0] for each in line.agent.got] == [RULE_SET, POLICY, COMMIT]
    assert line.agent.got[0][2]
    assert line.enforces()


def test_a_new_server_takes_a_node_over_by_its_report() -> None:
    line = synced()
    line.disconnect()
    line.rollout = Rollout(line.world.view, Encoder(), GRACE)
    line.rollout.view_changed(line.world.revision, line.now)
    assert line.rollout.floor == 0, "a node not heard of may use anything"
    line.connect()
    assert not line.down
    assert line.rollout.in_sync


def test_what_was_staged_when_the_stream_broke_is_sent_again() -> None:
    line = synced()
    line.world.policy(0, 90)
    line.publish()
    line.read(2)
    line.serve()
    assert line.types() == [COMMIT]
    line.disconnect()  # the commit is lost
    assert line.rollout.floor < line.world.revision
    line.connect()
    assert line.types() == [RULE_SET, POLICY]
    line.settle()
    assert line.enforces()


def test_a_commit_whose_ack_was_lost_is_found_in_the_report() -> None:
    line = synced()
    before = line.rollout.floor
    line.world.policy(0, 90)
    line.publish()
    line.read(2)
    line.serve()
    line.read()  # flips; the ACK goes with the stream
    assert line.enforces()
    line.disconnect()
    assert line.rollout.floor == before
    line.connect()
    assert not line.down
    assert line.rollout.floor == line.world.revision


def test_a_refused_cut_is_held_not_sent_again_and_raises_an_alarm() -> None:
    line = synced()
    before = dict(line.agent.enforced)
    line.agent.poison.add(line.world.policy(0, 90))
    line.publish()
    line.settle()
    assert line.rollout.state == "held"
    assert "no room" in line.rollout.alarm
    assert line.agent.enforced == before
    line.wait(GRACE / 2)
    line.world.move(1, b"\x0a\0\0\x09")
    line.publish()  # it would be refused again
    assert not line.down
    assert line.rollout.state == "held"


def test_after_the_grace_the_rule_set_is_closed_and_the_rest_goes_on() -> None:
    line = synced()
    bad = line.world.policy(0, 90)
    line.agent.poison.add(bad)
    line.publish()
    line.settle()
    line.wait(GRACE)
    line.settle()
    assert line.rollout.state == "closed-fallback"
    assert line.enforces(frozenset({bad}))
    assert (RULE_SET, CLOSED[Direction.INGRESS]) in line.agent.enforced
    assert line.rollout.alarm
    line.world.move(1, b"\x0a\0\0\x09")
    line.publish()
    line.settle()
    assert line.enforces(frozenset({bad}))
    assert line.rollout.floor == line.world.revision


def test_it_opens_again_when_the_content_changes() -> None:
    line = synced()
    line.agent.poison.add(line.world.policy(0, 90))
    line.publish()
    line.settle()
    line.wait(GRACE)
    line.settle()
    line.world.policy(0, 92)
    line.publish()
    line.settle()
    assert line.rollout.state == "current"
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_closed_view_is_tried_open_from_time_to_time() -> None:
    line = synced()
    bad = line.world.policy(0, 90)
    line.agent.poison.add(bad)
    line.publish()
    line.settle()
    line.wait(GRACE)
    line.settle()
    line.wait(RETRY_SECONDS)
    line.settle()
    assert line.rollout.state == "held"
    line.wait(GRACE)
    line.settle()
    assert line.enforces(frozenset({bad}))
    line.agent.poison.clear()  # room was made
    line.wait(RETRY_SECONDS)
    line.settle()
    assert line.rollout.state == "current"
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_closed_view_outlasts_a_reconnect_but_not_for_ever() -> None:
    line = synced()
    bad = line.world.policy(0, 90)
    line.agent.poison.add(bad)
    line.publish()
    line.settle()
    line.wait(GRACE)
    line.settle()
    line.disconnect()
    line.connect()
    line.settle()
    assert line.enforces(frozenset({bad})), "not refused again at every reconnect"
    assert line.rollout.state == "closed-fallback"
    line.agent.poison.clear()
    line.wait(RETRY_SECONDS)
    line.settle()
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_closed_view_opens_with_changed_content_after_a_reconnect() -> None:
    line = synced()
    line.agent.poison.add(line.world.policy(0, 90))
    line.publish()
    line.settle()
    line.wait(GRACE)
    line.settle()
    line.disconnect()
    line.world.policy(0, 92)
    line.publish()
    line.connect()
    line.settle()
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_refused_policy_or_peer_set_closes_the_rule_sets_it_leads_to() -> None:
    for poison, expected in (("300", {80, 1}), (f"{SELECTORS[1]}/0", {81, 1})):
        line = Line()
        line.agent.poison.add(poison)
        line.connect()
        line.settle()
        assert line.rollout.state == "held"
        line.wait(GRACE)
        assert line.rollout.refused == {
            rule_set_hash(rule_set(Direction.EGRESS if port == 1 else Direction.INGRESS, port))
            for port in expected
        }


def test_each_refusal_closes_more_so_it_ends() -> None:
    line = synced()
    bad = {line.world.policy(0, 90), line.world.policy(1, 91)}
    line.agent.poison |= bad
    line.publish()
    for _ in range(2):
        line.settle()
        assert line.rollout.state == "held"
        line.wait(GRACE)
    line.settle()
    assert line.rollout.state == "closed-fallback"
    assert line.enforces(frozenset(bad))


def test_a_refusal_with_nothing_to_close_starts_the_stream_anew() -> None:
    line = synced()
    line.world.move(0, b"\x0a\0\0\x09")
    line.agent.poison.add(f"{line.world.groups[0]}/0")
    line.publish()
    line.settle()
    assert line.rollout.state == "held"
    line.wait(GRACE)
    assert line.restarts == 1
    assert line.rollout.state == "absent"
    line.agent.poison.clear()
    line.connect()
    line.settle()
    assert line.enforces()


def test_a_differing_root_is_refused_and_ends_in_a_resync() -> None:
    line = synced()
    line.world.policy(0, 90)
    line.publish()
    line.agent.staged[PEER_SET, "ghost"] = "1"  # what an abandoned cut left behind
    line.settle()
    assert line.rollout.state == "held"
    assert "root" in line.rollout.alarm
    for _ in range(3):
        line.wait(GRACE)
        if not line.open:
            line.connect()
        line.settle()
    assert line.enforces()
    assert line.rollout.in_sync
    assert not line.rollout.alarm


def test_answers_to_a_cut_that_was_given_up_say_nothing() -> None:
    line = synced()
    line.agent.poison.add(line.world.policy(0, 90))
    line.publish()
    assert line.types() == [RULE_SET, POLICY]
    line.read(2)  # NACK, then an ACK of what was pipelined behind it
    line.serve()
    assert line.rollout.state == "held"
    assert line.rollout.committed < line.world.revision


def test_a_node_ahead_of_the_server_is_sent_nothing_until_it_has_caught_up() -> None:
    line = synced()
    line.disconnect()
    line.agent.revision += 5
    line.world.policy(0, 90)
    line.publish()
    line.connect()
    assert line.rollout.state == "ahead"
    assert not line.down
    assert "newer" in line.rollout.alarm
    for _ in range(6):
        line.publish()
    line.settle()
    assert line.rollout.in_sync
    assert line.enforces()
    assert not line.rollout.alarm


def test_the_ack_of_a_cut_given_up_is_not_taken_for_that_of_the_next() -> None:
    """Equal content has equal nonces; answers come in order, so the first one is of the first."""
    line = synced()
    first = line.world.policy(0, 90)
    line.agent.poison.add(first)
    line.world.move(1, b"\x0a\0\0\x09")
    line.publish()
    line.read(1)  # the rule set is refused; addresses are still on their way
    line.serve()
    line.world.policy(0, 92)
    line.publish()
    line.settle()
    for _ in range(3):
        line.wait(GRACE)
        if not line.open:
            line.connect()
        line.settle()
    assert line.enforces()


def test_frames_of_equal_content_are_shared() -> None:
    line = synced()
    encoder = Encoder()
    view = line.world.view(frozenset())
    found = [each for each in view.resources() if each.type_url == RULE_SET]
    first = encoder.frames(RULE_SET, found)
    assert encoder.frames(RULE_SET, list(found))[0] is first[0]
    assert codec.ack(RULE_SET, first[0].nonce) is codec.ack(RULE_SET, first[0].nonce)
