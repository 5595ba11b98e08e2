"""A whole cluster in one thread: server core, agents on the in-memory datapath, network, clock.

Nothing happens by itself. A test calls one small step at a time – one frame delivered, one kernel
map entry written, one journal answer, the clock moved – adds faults (broken streams, crashed agents
and servers, refused writes) and edits of the objects, and looks at the kernel maps after each.

What survives what is as with the real parts: an agent's crash leaves its maps and its disk cache; a
server's crash leaves its journal and the objects; a broken stream loses every frame on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from reconciler.core.dataplane import effects as agent_effects
from reconciler.core.dataplane.adopt import Adopted
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import CONNTRACK_KEY, ENDPOINT_VALUE, MapId, map_specs
from reconciler.core.dataplane.ops import Op, Put, Remove
from reconciler.core.dataplane.records import decode_record, replay
from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import Change, KubeObject, Namespace, NetworkPolicy, ObjectKey, Pod
from reconciler.core.plane import ControlPlane, PlaneConfig, WriteJournal
from reconciler.core.policy.ir import Direction
from reconciler.core.resources.build import CLOSED
from reconciler.core.resources.types import POLICY
from reconciler.core.store import Endpoint
from reconciler.core.trace import Event, Trace
from reconciler.core.xds.effects import Close, Send
from reconciler.datapath.base import Datapath
from reconciler.datapath.twin import TwinDatapath
from reconciler.errors import DatapathError, JournalConflict
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.world import World
from reconciler.tracefile import Head, Process
from reconciler.wire import resources_pb2 as pb

ADOPTED_MAPS = (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.GROUPS, MapId.POLICIES)


def read_kernel(datapath: Datapath) -> Adopted:
    """What a starting agent finds in its node's kernel."""
    word = datapath.cut()
    endpoints = datapath.dump(MapId.ENDPOINTS)
    ids = {ENDPOINT_VALUE.unpack(value)[0] for value in endpoints.values()}
    ids |= {CONNTRACK_KEY.unpack(key)[0] for key in datapath.dump(MapId.CONNTRACK)}
    return Adopted(
        active=word.active,
        revision=word.revisions[word.active],
        root=word.roots[word.active],
        maps={map_id: datapath.dump(map_id) for map_id in ADOPTED_MAPS},
        attached=frozenset(datapath.attached()),
        ids=frozenset(ids),
    )


class Snapshot(msgspec.Struct, frozen=True, eq=False):
    """The objects of one publication, as an oracle reads them. numbers: pod → its identity."""

    revision: int
    namespaces: Mapping[str, Namespace]
    policies: tuple[NetworkPolicy, ...]
    pods: Mapping[str, Pod]
    endpoints: Mapping[str, Endpoint]
    numbers: Mapping[str, int]
    nodes: Mapping[str, tuple[bytes, ...]]


class Meaning(msgspec.Struct, frozen=True, eq=False):
    """What a root stands for on one node. closed: (identity number, direction) served as closed."""

    snapshot: Snapshot
    closed: frozenset[tuple[int, int]]


class AgentProcess:
    """One agent with its node's kernel (the twin) and disk. `core` is None while it is dead."""

    def __init__(self, name: str, limits: Mapping[str, int], cluster: Joined) -> None:
        self.name = name
        self._cluster = cluster
        self._specs = map_specs(**limits)
        self.twin = TwinDatapath(self._specs, lambda: int(cluster.now * 1e9))
        self.disk: list[bytes] = []
        self.links: dict[int, Link] = {}
        self.core: AgentCore | None = None
        self.wants_stream = False
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.stream: int | None = None
        self.lost_at: float | None = None  # when its last stream ended; None: connected
        self.work: deque[tuple[int, deque[Op]] | agent_effects.SaveCache] = deque()
        self.alarms: list[agent_effects.Alarm] = []
        self.start()

    def start(self) -> None:
        """A process starts with what kernel and disk hold, and nothing else."""
        kernel = read_kernel(self.twin)
        records = [record for data in self.disk if (record := decode_record(data)) is not None]
        self.core = AgentCore(
            self.name,
            self.twin.limits,
            kernel,
            replay(records, self.name, kernel.root if any(kernel.maps.values()) else None),
            self._cluster.now,
            agent_effects.Options(self._cluster.max_stale, instance=str(self._cluster.now)),
            trace=self._cluster.life("agent", self.name),
        )
        self.core.links_listed(self.links.values(), self._cluster.now)
        self.core.tick(self._cluster.now)
        self.collect()

    def crash(self) -> None:
        self.core = None
        self.wants_stream = False
        self.work.clear()

    def reboot(self) -> None:
        """The node restarts: its maps are empty, its disk is not."""
        self.crash()
        self.twin = TwinDatapath(self._specs, lambda: int(self._cluster.now * 1e9))

    def collect(self) -> None:
        """Take the core's effects; what touches kernel or disk becomes work, in order."""
        while self.core is not None and (taken := self.core.effects()):
            for effect in taken:
                self._take(effect)

    def _take(self, effect: agent_effects.Effect) -> None:
        assert self.core is not None
        match effect:
            case agent_effects.Connect():
                self.wants_stream = True
            case agent_effects.Disconnect():
                self._cluster.break_stream(self.name)
            case agent_effects.Send(frame=frame):
                if self.stream is not None:
                    self.up.append(frame)
            case agent_effects.Apply(token=token, ops=ops):
                self.work.append((token, deque(small(ops))))
            case agent_effects.SaveCache():
                self.work.append(effect)
            case agent_effects.Attach(ifindex=ifindex):
                self.twin.attach(ifindex)
                self.core.attached(ifindex, self._cluster.now)
            case agent_effects.Detach(ifindex=ifindex):
                self.twin.detach(ifindex)
            case agent_effects.Alarm():
                self.alarms.append(effect)

    def step(self) -> bool:
        """One write to kernel or disk. False: there is none to do."""
        if self.core is None or not self.work:
            return False
        head = self.work[0]
        if isinstance(head, agent_effects.SaveCache):
            self.work.popleft()
            self.disk = [*self.disk, head.data] if head.append else [head.data]
            return True
        token, ops = head
        try:
            if ops:
                self.twin.apply([ops.popleft()])
        except DatapathError as error:
            self.work.popleft()
            self.core.apply_failed(token, error, self._cluster.now)
            self.collect()
            return True
        if not ops:
            self.work.popleft()
            self.core.applied(token, self._cluster.now)
            self.collect()
        return True

    def fail(self) -> bool:
        """The kernel refuses the write that is next, or the disk does. False: none is."""
        if self.core is None or not self.work:
            return False
        head = self.work.popleft()
        if isinstance(head, agent_effects.SaveCache):
            self.core.cache_failed("no space left on device", self._cluster.now)
        else:
            error = DatapathError("update", "a map", 5, "input/output error")
            self.core.apply_failed(head[0], error, self._cluster.now)
        self.collect()
        return True


def small(ops: tuple[Op, ...]) -> Iterator[Op]:
    """The same writes one entry at a time: a packet may come between any two."""
    for op in ops:
        if isinstance(op, Put) and op.map is not MapId.POLICIES:
            for entry in op.entries:
                yield Put(op.map, (entry,))
        elif isinstance(op, Remove):
            for key in op.keys:
                yield Remove(op.map, (key,))
        else:
            yield op  # rule sets may not fit: such a write is whole or not at all


class Joined:
    def __init__(
        self,
        nodes: tuple[str, ...] = ("n1", "n2"),
        *,
        pool: range = range(256, 262),
        limits: Mapping[str, int] | None = None,
        scope: str = "all",
        drain_seconds: float = 5.0,
        absent_grace: float = 60.0,
        max_stale: float = 0.0,
        record: bool = False,
    ) -> None:
        """record: keep in `lives` what each process records, from each of its starts."""
        self.now, self.max_stale = 0.0, max_stale
        self.others: dict[int, deque[bytes]] = {}  # frames to streams of no agent
        self._record = record
        self.lives: list[tuple[Head, list[Event]]] = []
        self.world = World()
        self.journal = MemoryJournal()
        self.config = PlaneConfig(
            intake=IntakeConfig(
                filter=LabelFilter.default(), pool=pool, drain_seconds=drain_seconds
            ),
            scope="selected" if scope == "selected" else "all",
            absent_grace=absent_grace,
            closed_grace=2.0,
        )
        self.snapshots: dict[int, Snapshot] = {}
        self.meanings: dict[tuple[str, bytes], Meaning] = {}
        self.plane: ControlPlane | None = None
        self.writes: deque[WriteJournal] = deque()
        self.freed: list[tuple[frozenset[int], frozenset[int]]] = []  # (in use then, freed)
        self.too_early: list[str] = []  # publications that did not wait for numbers
        self._streams, self._ifindex = 0, 10
        self._history: list[dict[ObjectKey, KubeObject]] = []
        for index, name in enumerate(nodes, 1):
            self.world.node(name, index)
        self.agents: dict[str, AgentProcess] = {}
        for name in nodes:
            self.agents[name] = AgentProcess(name, limits or {}, self)
        self.start_server()

    # -------------------------------------------------------------------------------- server

    def life(self, process: Process, name: str) -> Trace | None:
        """Where a process that starts now is to record."""
        if not self._record:
            return None
        events: list[Event] = []
        self.lives.append((Head(process, name), events))
        return events.append

    def start_server(self) -> None:
        self.crash_server()
        self._history.append(dict(self.world.objects))
        journal, trace = self.journal.open(), self.life("server", "server")
        self.plane = ControlPlane(self.config, journal, self.now, self._published, trace)
        self.plane.objects_changed(self.world.everything(), self.now)
        self.collect()

    def crash_server(self) -> None:
        self.plane = None
        self.writes.clear()
        for name in self.agents:
            self.break_stream(name)

    def edit(self, change: Change | None) -> None:
        if change is None:
            return
        self._history.append(dict(self.world.objects))
        if self.plane is not None:
            self.plane.objects_changed([change], self.now)
            self.collect()

    def answer_journal(self, *, refuse: bool = False) -> bool:
        if self.plane is None or not self.writes:
            return False
        batch = self.writes.popleft().batch
        if refuse:
            self.plane.journal_refused("disk is full", self.now)
        else:
            try:
                self.plane.journal_written(self.journal.append(batch), self.now)
            except JournalConflict as error:
                self.plane.journal_refused(str(error), self.now, deposed=True)
        self.collect()
        return True

    def lose_answer(self) -> None:
        """The journal takes the write, and the server dies before it hears of it."""
        if self.plane is not None and self.writes:
            self.journal.append(self.writes.popleft().batch)
            self.crash_server()

    def collect(self) -> None:
        """Carry out the server's effects, and note what the cuts that it began stand for."""
        while self.plane is not None and (effects := self.plane.effects()):
            for effect in effects:
                if isinstance(effect, WriteJournal):
                    self.writes.append(effect)
                    if effect.batch.free:
                        self.freed.append((self._used(), frozenset(effect.batch.free)))
                elif isinstance(effect, Send):
                    agent = self._at(effect.stream)
                    down = agent.down if agent is not None else self.others.get(effect.stream)
                    if down is not None:
                        down.append(effect.frame)
                elif isinstance(effect, Close):
                    self.others.pop(effect.stream, None)
                    agent = self._at(effect.stream)
                    if agent is not None:
                        self._lose(agent)
        self._note_targets()

    def _published(self, revision: int) -> None:
        assert self.plane is not None
        intake = self.plane.intake
        cluster = intake.cluster
        objects = self._history[-1 - intake.queued].values()
        unbound = [
            name
            for name, endpoint in cluster.endpoints.items()
            if intake.binding(endpoint.group) is None
        ]
        used, capacity = intake.allocator.usage()
        if unbound and used < capacity:
            self.too_early.append(f"{unbound[0]} has no number, and {capacity - used} are free")
        self.snapshots[revision] = Snapshot(
            revision,
            {item.metadata.name: item for item in objects if isinstance(item, Namespace)},
            tuple(item for item in objects if isinstance(item, NetworkPolicy)),
            {
                f"{item.metadata.namespace}/{item.metadata.name}": item
                for item in objects
                if isinstance(item, Pod)
            },
            dict(cluster.endpoints),
            {
                name: identity.number
                for name, endpoint in cluster.endpoints.items()
                if (identity := intake.binding(endpoint.group)) is not None
            },
            {name: info.addresses for name, info in cluster.nodes.items()},
        )

    def _note_targets(self) -> None:
        if self.plane is None:
            return
        for name in self.agents:
            node = self.plane.nodes.get(name)
            if node is None:
                continue
            acked = None if node.rollout.acked is None else node.rollout.acked.view
            for view in (node.rollout.target, acked):
                if view is None or (name, view.root) in self.meanings:
                    continue
                closed = {
                    each
                    for item in view.resources()
                    if item.type_url == POLICY
                    for each in _closed(item.body)
                }
                snapshot = self.snapshots[view.revision]
                self.meanings[name, view.root] = Meaning(snapshot, frozenset(closed))

    # ------------------------------------------------------------------------------- network

    def connect(self, name: str) -> bool:
        agent = self.agents[name]
        if agent.core is None or not agent.wants_stream or agent.stream is not None:
            return False
        agent.wants_stream = False
        if self.plane is None:
            agent.core.disconnected("connection refused", self.now)
            agent.collect()
            return True
        self._streams += 1
        agent.stream = self._streams
        agent.lost_at = None
        agent.up.clear()
        agent.down.clear()
        self.plane.stream_opened(agent.stream, name, self.now)
        agent.core.connected(self.now)
        agent.collect()
        self.collect()
        return True

    def break_stream(self, name: str) -> None:
        agent = self.agents.get(name)
        if agent is None or agent.stream is None:
            return
        stream = agent.stream
        self._lose(agent)
        if self.plane is not None:
            self.plane.stream_closed(stream, self.now)
            self.collect()

    def deliver_up(self, name: str) -> bool:
        agent = self.agents[name]
        if self.plane is None or agent.stream is None or not agent.up:
            return False
        self.plane.received(agent.stream, agent.up.popleft(), self.now)
        self.collect()
        return True

    def deliver_down(self, name: str) -> bool:
        agent = self.agents[name]
        if agent.core is None or agent.stream is None or not agent.down:
            return False
        agent.core.received(agent.down.popleft(), self.now)
        agent.collect()
        return True

    def _used(self) -> frozenset[int]:
        """Numbers in the cuts that nodes enforce, but for those absent beyond the grace."""
        grace = self.config.absent_grace
        used: set[int] = set()
        for name, agent in self.agents.items():
            word = agent.twin.cut()
            meaning = self.meanings.get((name, word.roots[word.active]))
            if meaning is not None and (agent.lost_at is None or self.now < agent.lost_at + grace):
                used.update(meaning.snapshot.numbers.values())
        return frozenset(used)

    def _at(self, stream: int) -> AgentProcess | None:
        return next((each for each in self.agents.values() if each.stream == stream), None)

    def _lose(self, agent: AgentProcess) -> None:
        agent.stream = None
        agent.lost_at = self.now
        agent.up.clear()
        agent.down.clear()
        if agent.core is not None:
            agent.core.disconnected("the stream broke", self.now)
            agent.collect()

    # --------------------------------------------------------------------------------- nodes

    def crash_agent(self, name: str) -> None:
        self.agents[name].crash()
        self.break_stream(name)

    def start_agent(self, name: str) -> None:
        if self.agents[name].core is None:
            self.agents[name].start()

    def link(self, name: str, pod: str) -> None:
        """The pod's interface appears on the node, named by the CNI."""
        agent = self.agents[name]
        self._ifindex += 1
        link = Link(self._ifindex, f"veth{self._ifindex}", frozenset(), pod)
        agent.links[link.ifindex] = link
        if agent.core is not None:
            agent.core.link_added(link, self.now)
            agent.collect()

    def unlink(self, name: str, pod: str) -> None:
        agent = self.agents[name]
        for ifindex, link in list(agent.links.items()):
            if link.pod == pod:
                del agent.links[ifindex]
                if agent.core is not None:
                    agent.core.link_removed(ifindex, self.now)
                    agent.collect()

    def work(self, name: str) -> bool:
        return self.agents[name].step()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.plane is not None:
            self.plane.tick(self.now)
            self.collect()
        for agent in self.agents.values():
            if agent.core is not None:
                agent.core.tick(self.now)
                agent.collect()

    def pump(self, name: str, limit: int = 5000) -> None:
        """Everything under way at one node happens, until nothing moves."""
        for _ in range(limit):
            moved = [self.connect(name), self.deliver_up(name), self.deliver_down(name)]
            moved += [self.work(name), self.answer_journal()]
            if not any(moved):
                return
        raise AssertionError(f"{name}: something goes round in circles")


def _closed(body: bytes) -> Iterator[tuple[int, int]]:
    policy = pb.Policy.FromString(body)
    for direction, name in ((Direction.INGRESS, policy.ingress), (Direction.EGRESS, policy.egress)):
        if name == CLOSED[direction]:
            yield policy.number, int(direction)
