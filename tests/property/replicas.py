"""Several replicas of the server over one cluster's objects, each reading them at its own pace.

There is no network here and no API server: what those do is a rule of the test (events of a kind
arrive in order, kinds don't wait for each other, and the journal is one of them).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from reconciler.core.identity import Entry, JournalState
from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import Change, Delete, Upsert
from reconciler.core.plane import ControlPlane, PlaneConfig, WriteJournal
from reconciler.core.resources.build import NodeView
from reconciler.core.resources.position import Position, parse_position, position_of
from reconciler.core.resources.types import BINDINGS, COMMIT
from reconciler.core.trace import Trace
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import decode_response
from reconciler.core.xds.effects import Close, Send
from reconciler.errors import JournalConflict, JournalError
from reconciler.server.kubernetes.reports import OwnMark
from reconciler.testing.journal import MemoryJournal
from reconciler.wire import resources_pb2 as pb
from tests.property.test_plane import HoldingAgent

KINDS = ("namespaces", "nodes", "pods")
ABSENT_GRACE = 50.0
POOL = range(256, 262)


def config() -> PlaneConfig:
    intake = IntakeConfig(filter=LabelFilter.default(), drain_seconds=0.0, pool=POOL)
    return PlaneConfig(intake=intake, absent_grace=ABSENT_GRACE)


def kind_of(change: Change) -> str:
    kind = change.key.kind if isinstance(change, Delete) else change.object.kind
    return kind.lower() + "s"


class Store:
    """The API server: objects by kind, in the order of their resource versions, and the journal."""

    def __init__(self) -> None:
        self.version = 0
        self.log: dict[str, list[tuple[int, Change]]] = {kind: [] for kind in KINDS}
        self.journal = MemoryJournal()
        self.states = [self.journal.state]
        self.held_back: frozenset[int] = frozenset()
        """Numbers of objects that somebody pinned, as all replicas have read."""

    def wrote(self, change: Change | None) -> None:
        if change is not None:
            self.version += 1
            self.log[kind_of(change)].append((self.version, change))

    def open(self) -> JournalState:
        self.states.append(self.journal.open())
        return self.journal.state

    def append(self, plane: ControlPlane, effect: WriteJournal) -> tuple[int, list[Entry]]:
        """The revision, and what was freed."""
        before = {entry.number: entry for entry in self.journal.state.entries}
        revision = self.journal.append(effect.batch)
        self.states.append(self.journal.state)
        return revision, [before[number] for number in effect.batch.free]

    @property
    def position(self) -> Position:
        """Of all that there is."""
        return position_of(self.journal.state.revision, dict.fromkeys(KINDS, self.version))

    def at(self, position: Position) -> ControlPlane:
        """What a replica has that read exactly this, and nothing before it."""
        state = next(each for each in self.states if each.revision == position.journal)
        read = dict(position.objects)
        held: dict[object, Change] = {}
        for kind in KINDS:
            for version, change in self.log[kind]:
                if version <= read[kind]:
                    held[_name(change)] = change
        plane = ControlPlane(config(), state, 0.0, leading=False)
        plane.hold_back(self.held_back, 0.0)
        upserts = [change for change in held.values() if isinstance(change, Upsert)]
        plane.objects_changed(upserts, 0.0, read)
        assert plane.position == position, "not a position at which anything may be published"
        return plane


def _name(change: Change) -> object:
    item = change.key if isinstance(change, Delete) else change.object
    if isinstance(change, Delete):
        return (change.key.kind, change.key.namespace, change.key.name)
    meta = change.object.metadata
    return (item.kind, meta.namespace, meta.name)


class Replica:
    def __init__(
        self,
        name: str,
        store: Store,
        now: float,
        told: Callable[[Replica], None],
        trace: Trace | None = None,
    ) -> None:
        self.name, self.store = name, store
        self.read = dict.fromkeys(KINDS, 0)  # events of the log
        self.positions = dict.fromkeys(KINDS, 0)  # up to where each kind is read
        self.state = 0  # index of the journal's state
        self.plane = ControlPlane(
            config(), store.states[0], now, lambda _: told(self), trace, leading=False
        )
        self.says = OwnMark(lambda: self.plane.in_use, ABSENT_GRACE)
        self.plane.hold_back(store.held_back, now)
        self.frames: dict[int, deque[bytes]] = {}  # stream → what is on its way to the node
        self.closed: set[int] = set()
        self.flight: WriteJournal | None = None
        self.epoch_of_flight = 0

    def listed(self, now: float) -> None:
        """Everything, as it is now."""
        changes = []
        for kind in KINDS:
            self.read[kind] = len(self.store.log[kind])
            self.positions[kind] = self.store.version
            changes += [change for _, change in self.store.log[kind]]
        self.plane.objects_changed(changes, now, dict(self.positions))
        self.carry_out()

    def deliver(self, kind: str, count: int, now: float) -> None:
        """So many events; a bookmark where there are fewer: nothing of the kind is newer."""
        log = self.store.log[kind][self.read[kind] : self.read[kind] + count]
        self.read[kind] += len(log)
        if len(log) < count:
            self.positions[kind] = self.store.version
        else:
            self.positions[kind] = log[-1][0]
        self.plane.objects_changed([change for _, change in log], now, dict(self.positions))
        self.carry_out()

    def deliver_journal(self, now: float) -> None:
        """The journal's newest state. One's own writes come back too."""
        self.state = len(self.store.states) - 1
        state = self.store.states[self.state]
        if not self.plane.leading or state.epoch > self.plane.epoch:
            self.flight = None if self.plane.leading else self.flight
            self.plane.follow(state, now)
        self.carry_out()

    def stand_down(self, now: float) -> None:
        """Its Lease is over. What it has read of the journal may be older than what it wrote."""
        self.flight = None
        self.plane.follow(self.store.states[self.state], now)
        self.carry_out()

    def lead(self, now: float) -> None:
        self.flight = None
        self.plane.lead(self.store.open(), now)
        self.carry_out()

    def write(self, now: float) -> list[Entry]:
        """Carry out the journal write that is under way; what it freed."""
        flight, self.flight = self.flight, None
        if flight is None or not self.plane.leading:
            return []
        freed: list[Entry] = []
        try:
            revision, freed = self.store.append(self.plane, flight)
            self.plane.journal_written(revision, now)
        except JournalConflict:
            self.plane.follow(self.store.states[-1], now)
        except JournalError as error:  # a contradiction would be a bug of the allocator
            raise AssertionError(str(error)) from error
        self.carry_out()
        return freed

    def carry_out(self) -> None:
        for effect in self.plane.effects():
            match effect:
                case Send(stream, frame):
                    self.frames.setdefault(stream, deque()).append(frame)
                case Close(stream):
                    self.closed.add(stream)
                case WriteJournal():
                    assert self.flight is None, "one write at a time"
                    self.flight = effect


class Node(HoldingAgent):
    """An agent that keeps the position of what it enforces, as the real one does."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.position: Position | None = None
        self.text = ""
        self.replica: Replica | None = None
        self.stream = 0
        self.lost_at = 0.0

    def requests(self, now: float) -> list[bytes]:
        self.staged = dict(self.enforced)
        versions: dict[str, dict[str, str]] = {}
        for (type_url, name), version in self.enforced.items():
            versions.setdefault(type_url, {})[name] = version
        client = Client(self.name, now)
        client.tick(now)
        return client.opened(Report(self.revision, self.root, versions, self.text), now)

    def receive(self, frame: bytes, refuse: bool) -> bytes:
        before = self.revision, self.root
        answer = super().receive(frame, refuse)
        response = decode_response(frame)
        if response.type_url == COMMIT and (self.revision, self.root) != before:
            self.text = pb.Commit.FromString(response.resources[0].body).position
            newer = parse_position(self.text)
            assert newer is not None
            if self.position is not None:
                assert newer.covers(self.position), f"{self.name} went back to {newer}"
            self.position = newer
        return answer


def used_in(view: NodeView) -> frozenset[tuple[int, int]]:
    """(number, birth) pairs of a cut. There are no policies here, so no peer sets."""
    return frozenset(
        (bound.number, bound.birth)
        for each in view.resources()
        if each.type_url == BINDINGS
        for bound in pb.Bindings.FromString(each.body).bindings
    )
