"""One server-side rollout and one agent that holds resources, on a line that a test moves."""

from __future__ import annotations

from collections import deque

from pyroaring import BitMap

from reconciler.core.policy.ir import Direction, IdentityPolicy, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import root
from reconciler.core.resources.build import (
    Changed,
    LocalEndpoint,
    NodeView,
    State,
    ViewBuilder,
)
from reconciler.core.resources.types import (
    COMMIT,
    CUT_TYPES,
)
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Encoder, Frame, Response, decode_response
from reconciler.core.xds.rollout import Restart, Rollout
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
                api_server=lambda: (),
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
        self.instance = "one"
        self.got: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []

    def hello(self) -> list[bytes]:
        self.staged = dict(self.enforced)
        versions: dict[str, dict[str, str]] = {}
        for (type_url, name), version in self.enforced.items():
            versions.setdefault(type_url, {})[name] = version
        client = Client("n1", 0.0, instance=self.instance)
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
            self.staged.pop((response.type_url, name), None)  # unknown ones are fine
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
                    self.rollout.subscribed(
                        event.type_url, event.initial, self.now, instance=event.instance
                    )
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


def closed() -> tuple[Line, str]:
    """After a rule set was refused and its grace is over; the rule set's name."""
    line = synced()
    bad = line.world.policy(0, 90)
    line.agent.poison.add(bad)
    line.publish()
    line.settle()
    line.wait(GRACE)
    line.settle()
    return line, bad
