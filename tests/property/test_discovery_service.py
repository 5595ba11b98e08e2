"""The xDS service against a model of what its clients must be told, whatever they do."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from reconciler.core.discovery.delivery import HOLD_SECONDS
from reconciler.core.discovery.service import AGAIN_SECONDS, Service
from reconciler.core.discovery.types import CDS, EDS, RDS, Variant
from reconciler.core.xds.codec import Request
from tests.property.discovery_model import ALL, Holding
from tests.unit.discovery_rig import Peer, Rig, read, resources

TYPES = (CDS, EDS, RDS)  # complete ones, others, and others that wait for those before
VIEWS = ("left", "right")
NAMES = ("a", "b")
SLOTS = range(3)

names = st.sets(st.sampled_from(NAMES), max_size=2)
lists = st.sets(st.sampled_from((*NAMES, ALL)), max_size=2)
versions = st.sampled_from("12")
states = st.dictionaries(st.sampled_from(NAMES), versions)


class Client:
    """One client over its streams; what it has outlives them."""

    def __init__(self, variant: Variant, service: str | None, view: str) -> None:
        self.variant = variant
        self.service = service
        self.view = view
        self.types = TYPES if service is None else (service,)
        self.of = {type_url: Holding(variant, type_url) for type_url in self.types}
        self.peer: Peer | None = None
        self.said_node = False


class Streams(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        service = Service(lambda node: node.id, initial_rate=2.0, response_bytes=200)
        self.rig = Rig(service)
        self.rig.on_send = self.sent
        self.truth: dict[str, dict[str, dict[str, str]]] = {
            view: {type_url: {} for type_url in TYPES} for view in VIEWS
        }
        self.failed = False
        self.published: set[str] = set()
        self.clients: list[Client] = []
        self.by_stream: dict[int, Client] = {}

    @initialize(
        of=st.lists(
            st.tuples(
                st.sampled_from(Variant),
                st.sampled_from((None, None, *TYPES)),
                st.sampled_from(VIEWS),
            ),
            min_size=len(SLOTS),
            max_size=len(SLOTS),
        ),
        state=st.one_of(st.none(), states),
    )
    def begin(
        self, of: list[tuple[Variant, str | None, str]], state: dict[str, str] | None
    ) -> None:
        """state: what there is of every type at first; None: nobody has said yet"""
        self.clients = [Client(*each) for each in of]
        for client in self.clients:
            self.open(client)
        for view in VIEWS if state is not None else ():
            self.truth[view] = {type_url: dict(state or {}) for type_url in TYPES}
            self.show(view)

    # What happens

    def show(self, view: str) -> None:
        self.published.add(view)
        for client in self.clients:
            for type_url, of in client.of.items():
                if client.view == view:
                    of.told.published(self.truth[view][type_url])
        self.rig.publish(self.truth[view], view)

    def open(self, client: Client) -> None:
        client.peer = self.rig.open(client.variant, client.service)
        self.by_stream[client.peer.id] = client
        client.said_node = False

    def sent(self, stream: int, frame: bytes) -> None:
        client = self.by_stream[stream]
        answer = read(client.variant, frame)
        of = client.of[answer.type_url]
        self.failed = True  # unless it gets past this
        of.told.sent(answer, self.truth[client.view][answer.type_url])
        self.failed = False

    def say(self, client: Client, request: Request) -> None:
        """A request is on the wire, which is to say there."""
        assert client.peer is not None
        if not client.said_node:
            client.said_node = True
            request = Request(
                **{
                    field: getattr(request, field)
                    for field in request.__struct_fields__
                    if field != "node"
                },
                node=client.view,
            )
        client.peer.say(request)

    @rule(
        view=st.sampled_from(VIEWS),
        changes=st.dictionaries(
            st.sampled_from(TYPES),
            st.dictionaries(st.sampled_from(NAMES), st.one_of(st.none(), versions), min_size=1),
            min_size=1,
        ),
    )
    def publish(self, view: str, changes: Mapping[str, Mapping[str, str | None]]) -> None:
        for type_url, of in changes.items():
            for name, version in of.items():
                if version is None:
                    self.truth[view][type_url].pop(name, None)
                else:
                    self.truth[view][type_url][name] = version
        self.show(view)

    @rule(slot=st.sampled_from(SLOTS), at=st.integers(0, 2), asked=lists, left=lists)
    def ask(self, slot: int, at: int, asked: set[str], left: set[str]) -> None:
        """Subscribe, or change what is subscribed to."""
        client = self.clients[slot]
        type_url = client.types[at % len(client.types)]
        of = client.of[type_url]
        told = of.told
        if not told.begun:
            self.subscribe(client, type_url, asked, {}, "")
        elif told.delta:
            left = left - asked
            told.change(asked, left)
            of.drop()
            request = Request(type_url, subscribe=tuple(asked), unsubscribe=tuple(left))
            self.say(client, request)
        else:
            self.list_names(client, of, asked, of.last, None)

    def list_names(
        self, client: Client, of: Holding, listed: set[str], nonce: str, error: str | None
    ) -> None:
        """A later request of the state of the world, an answer if it has the newest nonce."""
        told = of.told
        of.listed = listed
        if nonce == told.newest or (not nonce and not told.unanswered):
            told.unanswered.clear()
            told.replace(listed)
        else:
            told.narrow(listed)
        of.drop()
        request = Request(
            of.type_url, names=tuple(sorted(listed)), nonce=nonce, error=error, version=of.version
        )
        self.say(client, request)

    def subscribe(
        self, client: Client, type_url: str, asked: set[str], initial: dict[str, str], version: str
    ) -> None:
        """The first request of a type on a stream."""
        of = client.of[type_url]
        of.listed = asked
        truth = self.truth[client.view][type_url]
        has_all = bool(version) and version == of.version and of.had == truth
        has_all = has_all and asked <= {ALL} and client.view in self.published
        of.told.begin(asked, truth if has_all else initial, has_all=has_all)
        if has_all:
            of.told.said[version] = dict(truth)
        else:
            of.refused = False  # it is told everything
        of.drop()
        if of.told.delta:
            request = Request(type_url, subscribe=tuple(asked), initial=initial)
        else:
            request = Request(type_url, names=tuple(asked), version=version)
        self.say(client, request)

    @rule(slot=st.sampled_from(SLOTS), refuse=st.booleans(), all=st.booleans())
    def read(self, slot: int, refuse: bool, all: bool) -> None:
        """Read one response, or all, and answer."""
        client = self.clients[slot]
        assert client.peer is not None
        while client.peer.inbox:
            self.read_one(client, refuse)
            if not all:
                return

    def read_one(self, client: Client, refuse: bool) -> None:
        assert client.peer is not None
        frame = client.peer.inbox.popleft()
        of = client.of[read(client.variant, frame).type_url]
        answer = of.read(frame)
        if refuse:
            of.refused = True
        else:
            of.accept(answer)
        error = "no" if refuse else None
        if of.told.delta:
            of.told.unanswered.remove(answer.nonce)
            self.say(client, Request(of.type_url, nonce=answer.nonce, error=error))
        else:
            self.list_names(client, of, of.listed, answer.nonce, error)

    @rule(slot=st.sampled_from(SLOTS), at=st.integers(0, 2), asked=names, refuse=st.booleans())
    def stale(self, slot: int, at: int, asked: set[str], refuse: bool) -> None:
        """An answer to nothing: of no use but, in delta, for the subscription in it."""
        client = self.clients[slot]
        type_url = client.types[at % len(client.types)]
        of = client.of[type_url]
        if not of.told.begun:
            return
        error = "no" if refuse else None
        if of.told.delta:
            of.told.change(asked, set())
            request = Request(type_url, subscribe=tuple(asked), nonce="stale", error=error)
        else:
            listed = tuple(of.listed)
            request = Request(type_url, names=listed, nonce="stale", error=error)
        self.say(client, request)

    @rule(
        slot=st.sampled_from(SLOTS),
        claims=st.one_of(st.none(), st.none(), states),
        asked=lists,
        other=st.sampled_from((None, None, *VIEWS)),
    )
    def reconnect(
        self, slot: int, claims: dict[str, str] | None, asked: set[str], other: str | None
    ) -> None:
        """claims: what it says that it has, and perhaps has; None: what it has."""
        client = self.clients[slot]
        assert client.peer is not None
        del self.by_stream[client.peer.id]
        client.peer.close()
        client.view = other or client.view
        self.open(client)
        for type_url in client.types:
            before = client.of[type_url]
            of = client.of[type_url] = Holding(client.variant, type_url)
            if not before.told.begun:
                continue
            of.held, of.refused = before.held, before.refused
            of.version, of.had = before.version, before.had
            if before.told.delta:
                of.held = dict(before.held if claims is None else claims)
                self.subscribe(client, type_url, asked, dict(of.held), "")
            else:
                version = of.version if claims is None else "".join(claims)
                self.subscribe(client, type_url, asked, {}, version)

    @rule(slot=st.sampled_from(SLOTS), slow=st.booleans())
    def pace(self, slot: int, slow: bool) -> None:
        peer = self.clients[slot].peer
        assert peer is not None
        if slow:
            peer.slow = True
        elif peer.slow:
            peer.drain()

    @rule(seconds=st.sampled_from((0.1, 0.5, AGAIN_SECONDS, HOLD_SECONDS)))
    def wait(self, seconds: float) -> None:
        self.rig.wait(seconds)

    @rule()
    def settle(self) -> None:
        """Everybody reads and answers until all is quiet."""
        for view in VIEWS:
            self.show(view)
        for client in self.clients:
            assert client.peer is not None
            if client.peer.slow:
                client.peer.drain()
        for _ in range(100):
            for client in self.clients:
                assert client.peer is not None
                while client.peer.inbox:
                    self.read_one(client, refuse=False)
            self.rig.wait(HOLD_SECONDS)
            if not any(client.peer and client.peer.inbox for client in self.clients):
                break
        else:
            raise AssertionError("it never ends")
        for client in self.clients:
            for type_url, of in client.of.items():
                if of.told.begun:
                    of.check(self.truth[client.view][type_url])

    def teardown(self) -> None:
        if self.clients and not self.failed:
            self.settle()


TestStreams = Streams.TestCase
TestStreams.settings = settings(stateful_step_count=40, report_multiple_bugs=False)


@given(
    st.lists(st.dictionaries(st.sampled_from(TYPES), states), min_size=1, max_size=6),
    lists,
    st.sampled_from(Variant),
)
def test_streams_in_step_share_every_frame(
    published: list[dict[str, dict[str, str]]], asked: set[str], variant: Variant
) -> None:
    rig = Rig()
    rig.service.publish("", resources({}), 0.0)
    peers = [rig.open(variant) for _ in range(3)]
    for peer in peers:
        for type_url in TYPES:
            peer.ask(type_url, *sorted(asked))
    for state in published:
        rig.publish(state)
        while any(peer.inbox for peer in peers):
            frames = [list(peer.inbox) for peer in peers]
            assert len({tuple(map(id, each)) for each in frames}) == 1
            for peer in peers:
                peer.got()
