"""What CSDS is told of an agent's stream: staged, committed, refused, closed, and by name."""

from __future__ import annotations

from reconciler.core import seen
from reconciler.core.discovery.types import ResourceState
from reconciler.core.objects import (
    LabelSelector,
    NetworkPolicy,
    NetworkPolicyIngressRule,
    NetworkPolicyPort,
    NetworkPolicySpec,
    ObjectMeta,
)
from reconciler.core.resources.types import (
    COMMIT,
    CUT_NAME,
    CUT_TYPES,
    IDENTITY,
    POLICY,
    RULE_SET,
    STAGED,
)
from reconciler.core.xds import codec
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Request, Response, decode_response
from reconciler.core.xds.effects import Send
from reconciler.errors import Refusal
from tests.unit.test_plane import plane_with, shop


class Agent:
    """One that answers by hand."""

    def __init__(self) -> None:
        self.world = shop()
        self.plane, self.journal, _ = plane_with(self.world, capacity=1000)
        self.client = Client("n1", 0.0)
        self.client.tick(0.0)
        self.open: list[Response] = []
        self.plane.stream_opened(7, "n1", 0.0)

    def begin(self) -> None:
        for frame in self.client.opened(Report(), 0.0):
            self.tell(frame)

    def tell(self, frame: bytes, now: float = 0.0) -> None:
        self.plane.received(7, frame, now)
        self.taken()

    def taken(self) -> None:
        for effect in self.plane.effects():
            if isinstance(effect, Send):
                self.open.append(decode_response(effect.frame))

    def ack(self, *types: str) -> None:
        """What is open of these types."""
        held, self.open = self.open, []
        for each in held:
            if each.type_url in types:
                self.tell(codec.encode_request(Request(type_url=each.type_url, nonce=each.nonce)))
            else:
                self.open.append(each)

    def told(self, type_url: str) -> dict[str, ResourceState]:
        (client,) = seen.clients(self.plane)
        assert (client.stream, client.node.id, client.view) == (7, "n1", "n1")
        (state,) = (each for each in client.types if each.type_url == type_url)
        return {each.name: each for each in state.resources}

    def statuses(self, *types: str) -> set[str]:
        return {each.status for type_url in types for each in self.told(type_url).values()}


def synced() -> Agent:
    agent = Agent()
    agent.begin()
    agent.ack(*STAGED)
    agent.ack(COMMIT)
    return agent


def test_a_cut_is_sent_staged_and_committed() -> None:
    agent = Agent()
    assert not next(seen.clients(agent.plane)).types
    agent.begin()
    assert agent.statuses(*STAGED) == {"sent"}
    assert agent.told(COMMIT)[CUT_NAME].status == "waiting"
    agent.ack(*STAGED)
    assert agent.statuses(*STAGED) == {"acked"}
    sent = agent.told(COMMIT)[CUT_NAME]
    assert (sent.status, sent.version) == ("sent", agent.open[0].resources[0].version)
    agent.ack(COMMIT)
    assert agent.statuses(*CUT_TYPES) == {"acked"}
    assert agent.told(COMMIT)[CUT_NAME].version == sent.version
    rollout = agent.plane.nodes.node("n1", 0.0).rollout
    assert rollout.acked is not None
    assert rollout.acked.view is not None
    for each in rollout.acked.view.resources():
        assert agent.told(each.type_url)[each.name].version == each.version
        assert seen.content(agent.plane, "n1", each.type_url, each.name) is each
    assert seen.content(agent.plane, "n1", POLICY, "none") is None
    assert seen.content(agent.plane, "n2", POLICY, "none") is None


def test_a_change_is_told_of_what_it_changes_only() -> None:
    agent = synced()
    pod = agent.world.pod("shop", "db", "n1", {"app": "web"}, ["10.1.0.2"])
    agent.plane.objects_changed([pod], 1.0)
    agent.taken()
    changed = {each.name for response in agent.open for each in response.resources}
    assert changed
    for type_url in STAGED:
        for name, state in agent.told(type_url).items():
            assert state.status == ("sent" if name in changed else "acked")
    assert agent.told(COMMIT)[CUT_NAME].status == "waiting"


def test_what_is_refused_is_named_and_the_rest_waits() -> None:
    agent = synced()
    ports = tuple(NetworkPolicyPort(protocol="TCP", port=port) for port in range(1001, 1041, 2))
    spec = NetworkPolicySpec(
        pod_selector=LabelSelector(),
        policy_types=("Ingress",),
        ingress=(NetworkPolicyIngressRule(ports=ports),),
    )
    many = NetworkPolicy(metadata=ObjectMeta(name="many", namespace="shop"), spec=spec)
    agent.plane.objects_changed([agent.world.policy(many)], 1.0)
    agent.taken()
    response = next(each for each in agent.open if each.type_url == RULE_SET)
    refused = max(response.resources, key=lambda each: len(each.body))
    refusal = Refusal(RULE_SET, refused.name, "no room", 9, 5)
    agent.tell(agent.client.nack(RULE_SET, response.nonce, "no room", refusal), 2.0)
    agent.open.clear()
    state = agent.told(RULE_SET)[refused.name]
    assert (state.status, state.reason) == ("nacked", "NetworkPolicy shop/many: no room")
    assert (state.version, state.refused_version) == ("", refused.version)
    assert "nacked" not in agent.statuses(*(each for each in STAGED if each != RULE_SET))
    assert agent.told(COMMIT)[CUT_NAME].status == "acked"  # what was before
    # Served as closed after a grace, and everything else goes on.
    agent.plane.tick(1000.0)
    agent.taken()
    agent.ack(*STAGED)
    agent.ack(COMMIT)
    assert agent.told(COMMIT)[CUT_NAME].status == "acked"
    assert agent.told(RULE_SET)[refused.name].status == "nacked"
    others = [each for name, each in agent.told(RULE_SET).items() if name != refused.name]
    assert {each.status for each in others} == {"acked"}


def test_identities_are_told_of_by_name() -> None:
    agent = synced()
    (number,) = {str(each.number) for each in agent.plane.intake.allocator.live().values()}
    agent.tell(codec.encode_request(Request(type_url=IDENTITY, subscribe=(number, "60000"))))
    assert {name: each.status for name, each in agent.told(IDENTITY).items()} == {
        number: "sent", "60000": "sent",
    }  # fmt: skip
    agent.ack(IDENTITY)
    told = agent.told(IDENTITY)
    assert (told[number].status, told["60000"].status) == ("acked", "absent")
    assert told[number].version


def test_a_refused_identity_is_refused_until_it_is_taken() -> None:
    agent = synced()
    (number,) = {str(each.number) for each in agent.plane.intake.allocator.live().values()}
    ask = Request(type_url=IDENTITY, subscribe=(number,))
    agent.tell(codec.encode_request(ask))
    (response,) = agent.open
    agent.open.clear()
    refusal = Request(type_url=IDENTITY, nonce=response.nonce, error="not today")
    agent.tell(codec.encode_request(refusal))
    state = agent.told(IDENTITY)[number]
    assert (state.status, state.reason) == ("nacked", "not today")
    assert state.refused_version == response.resources[0].version
    agent.tell(codec.encode_request(ask))  # anew
    agent.ack(IDENTITY)
    assert agent.told(IDENTITY)[number].status == "acked"


def test_nothing_is_kept_of_a_refused_name_that_is_asked_for_no_more() -> None:
    agent = synced()
    (number,) = {str(each.number) for each in agent.plane.intake.allocator.live().values()}
    agent.tell(codec.encode_request(Request(type_url=IDENTITY, subscribe=(number,))))
    (response,) = agent.open
    agent.tell(codec.encode_request(Request(type_url=IDENTITY, unsubscribe=(number,))))
    refusal = Request(type_url=IDENTITY, nonce=response.nonce, error="not today")
    agent.tell(codec.encode_request(refusal))
    served = agent.plane.streams[7].identities
    assert served is not None
    assert not served.refused
    assert not agent.told(IDENTITY)


def test_a_stream_that_was_replaced_is_not_told_of() -> None:
    agent = synced()
    agent.plane.stream_opened(8, "n1", 1.0)
    (client,) = seen.clients(agent.plane)
    assert (client.stream, client.opened_at, client.types) == (8, 1.0, ())
