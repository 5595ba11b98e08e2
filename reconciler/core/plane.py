"""The server's core: objects, streams and journal answers in; frames and journal writes out.

Pure: a shell calls the methods with the time and executes what `effects` returns, in order.

With one server, one instance is one leadership: its epoch comes from the journal that was opened
for it. Of several replicas each has an instance that begins as a follower: it is told of the
journal by `follow`, and writes from `lead` on. Which of them it is changes nothing of what is
served: a view follows from the objects and the journal alone.

Nothing is served before the first `objects_changed`, which brings the whole initial state. A server
whose journal write was refused because another one has taken over (`journal_refused` with deposed)
publishes nothing any more; its nodes keep what they enforce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from reconciler.core.identity import ALARM_PERCENT, JournalBatch, JournalState
from reconciler.core.intake import Intake, IntakeConfig, Publication
from reconciler.core.objects import Change
from reconciler.core.policy.sizes import Sizes
from reconciler.core.resources import encode
from reconciler.core.resources.build import Changed, ViewBuilder
from reconciler.core.resources.position import Position, position_of
from reconciler.core.resources.types import CUT_TYPES, IDENTITY
from reconciler.core.standing import state_of
from reconciler.core.trace import Trace, about
from reconciler.core.xds.codec import Encoder, Frame
from reconciler.core.xds.effects import Close, Send
from reconciler.core.xds.nodes import Node, Nodes
from reconciler.core.xds.refusals import with_policies
from reconciler.core.xds.rollout import Restart, Rollout, mark
from reconciler.core.xds.served import Due, Served
from reconciler.core.xds.stream import (
    Acked,
    DeltaStream,
    Nacked,
    Resubscribed,
    StreamEvent,
    Subscribed,
)
from reconciler.core.xds.subscription import Wanted
from reconciler.errors import CapacityError, ProtocolError


class PlaneConfig(msgspec.Struct, frozen=True, kw_only=True):
    """absent_grace, closed_grace: seconds; policy_capacity: kernel entries that a node can hold."""

    intake: IntakeConfig
    scope: Literal["all", "selected"] = "all"
    absent_grace: float = 3600.0
    closed_grace: float = 5.0
    policy_capacity: int = 262_144


class WriteJournal(msgspec.Struct, frozen=True):
    """Answer with `journal_written` or `journal_refused`."""

    batch: JournalBatch


class Alarm(msgspec.Struct, frozen=True):
    """Something that a person should know of; given once when it begins."""

    kind: str
    object: str
    text: str


Effect = Send | Close | WriteJournal | Alarm

SERVED = frozenset((*CUT_TYPES, IDENTITY))


class AgentStream:
    __slots__ = ("core", "identities", "node", "opened_at")

    def __init__(self, node: str, now: float, trace: Trace | None) -> None:
        self.core = DeltaStream(SERVED, whole=CUT_TYPES, trace=trace)
        self.identities: Served | None = None  # once the stream has asked for any
        self.node = node
        self.opened_at = now


class ControlPlane:
    def __init__(
        self,
        config: PlaneConfig,
        journal: JournalState,
        now: float,
        on_publish: Callable[[int], None] = lambda revision: None,
        trace: Trace | None = None,
        *,
        leading: bool = True,
    ) -> None:
        """on_publish: told of each new revision while the store is exactly what it publishes.

        leading: False for a replica that follows the journal until `lead`.
        trace: records the steps of this leadership, in the order in which they take effect.
        """
        self._on_publish = on_publish
        self._trace = trace
        self.config = config
        self.epoch = journal.epoch
        self.revision = 0
        self.position: Position | None = None  # of what is published, where replicas have one
        self.leading = leading
        self.intake = Intake(config.intake, journal, now, trace, leading=leading)
        self.builder = ViewBuilder(state_of(self.intake), config.scope)
        self.encoder = Encoder()
        self.nodes = Nodes(self._rollout, config.absent_grace, now, trace, leading=leading)
        self.deposed = ""  # why, once it is
        self._sizes = Sizes(self.intake.compiler.peer_sets)
        self._too_large: frozenset[str] = frozenset()  # rule sets that no node could hold
        self.streams: dict[int, AgentStream] = {}
        self._effects: list[Effect] = []
        self._alarms: dict[tuple[str, str], str] = {}
        self._retry_at: float | None = None
        self._afresh = False  # publish even if nothing has changed
        self._published = False  # anything

    # ------------------------------------------------------------------------------- events

    def objects_changed(
        self, changes: Sequence[Change], now: float, positions: Mapping[str, int] | None = None
    ) -> None:
        """Changed objects, applied as one. The first call brings all there are (perhaps none).

        positions: where there are replicas, kind → resource version up to which it has been read
        """
        self.intake.enqueue(changes, now, positions)
        self._advance(now)

    def follow(self, journal: JournalState, now: float) -> None:
        """The journal has got to this state, and others write it. A leader follows from here on:
        the answer of a write that is under way means nothing any more."""
        self.nodes.follows()
        self.leading, self._retry_at = False, None
        self.epoch = max(self.epoch, journal.epoch)
        self._alarm("journal", "journal", "")
        self.intake.follow(journal, now)
        self._advance(now)

    def lead(self, journal: JournalState, now: float) -> None:
        """This replica has taken the journal over, in this state, and is the one that writes."""
        self.leading, self.epoch = True, journal.epoch
        self.intake.lead(journal, now)
        self.nodes.wait_anew(now, self.mark)
        # A cut without the numbers that are on their way out is published for this leader too.
        self._afresh = self._published
        self._advance(now)

    def hold_back(self, numbers: Iterable[int], now: float) -> None:
        """These numbers, and no others, are neither given nor taken back. A follower is told too:
        what it publishes must not wait for one of them."""
        if self.intake.hold_back(numbers):
            self._advance(now)

    def elsewhere(self, marks: Mapping[str, int], now: float) -> None:
        """What other replicas say: the mark of the oldest cut that a node of theirs may enforce."""
        self.nodes.told(marks)
        self._advance(now)

    def journal_written(self, revision: int, now: float) -> None:
        self._retry_at = None
        self._alarm("journal", "journal", "")
        self.intake.written(revision, now)
        self._advance(now)

    def journal_refused(self, reason: str, now: float, *, deposed: bool = False) -> None:
        """deposed: another server has taken over; else the write is made again after a second."""
        self.intake.refused(reason, deposed=deposed)
        self._alarm("journal", "journal", reason)
        if deposed:
            self.deposed = reason
            for stream in list(self.streams):
                self._close(stream, "UNAVAILABLE", f"no longer the leader: {reason}", now)
        else:
            self._retry_at = now + 1.0

    def stream_opened(self, stream: int, node: str, now: float) -> None:
        """node: the proven name. A second stream of a node replaces the first."""
        if self.deposed:
            self._effects.append(Close(stream, "UNAVAILABLE", "no longer the leader"))
            return
        state = self.nodes.node(node, now)
        if state.stream is not None:
            self._close(state.stream, "ABORTED", "a newer stream of this node has opened", now)
        self.streams[stream] = AgentStream(node, now, about(self._trace, node=node, stream=stream))
        state.stream = stream
        state.fire("connect", now)
        self.nodes.noted(state)

    def received(self, stream: int, frame: bytes, now: float) -> None:
        held = self.streams.get(stream)
        if held is None:
            return
        node = self.nodes.node(held.node, now)
        try:
            for event in held.core.receive(frame):
                self._handle(stream, held, node, event, now)
        except ProtocolError as error:
            self._close(stream, error.status, error.reason, now)
            return
        self._flush(node, now)

    def stream_closed(self, stream: int, now: float) -> None:
        held = self.streams.pop(stream, None)
        if held is None:
            return
        held.core.close()
        node = self.nodes.node(held.node, now)
        if node.stream == stream:
            node.record()
            node.stream = None
            node.rollout.disconnected(now)
            node.rollout.take()
            node.fire("disconnect", now)
            self.nodes.noted(node)

    def tick(self, now: float) -> None:
        """Do what is due. Call it at `next_deadline`; more often does no harm."""
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
        for node in self.nodes.tick(now):
            self._flush(node, now)
        self._advance(now)

    def next_deadline(self, now: float) -> float | None:
        times = [self.nodes.next_deadline(), self._retry_at]
        if self._retry_at is None:
            times.append(self.intake.next_deadline(now))
        return min((time for time in times if time is not None), default=None)

    def effects(self) -> list[Effect]:
        taken, self._effects = self._effects, []
        return taken

    # ---------------------------------------------------------------------------- questions

    @property
    def alarms(self) -> Mapping[tuple[str, str], str]:
        """(kind, object) → text of what stands."""
        return self._alarms

    @property
    def too_large(self) -> frozenset[str]:
        """Rule sets that no node could hold, which are served closed to all of them."""
        return self._too_large

    @property
    def mark(self) -> int:
        """Of what is published; see `rollout.mark`."""
        return mark(self.revision, self.position)

    @property
    def in_use(self) -> int:
        """Mark of the oldest cut that a node may enforce which this replica has heard of; 0, of
        any, while one is connected that has not said what it enforces."""
        return self.nodes.oldest_heard(self.mark)

    # ------------------------------------------------------------------------------- inside

    def _advance(self, now: float) -> None:
        """Numbers first, then a publication, then the nodes; again while something moves."""
        if self.deposed:
            return
        self.intake.allocator.advance(now, self._clear_before(now))
        while True:
            self.intake.absorb(now)
            if self._retry_at is None:
                batch = self.intake.batch(now)
                if batch is not None:
                    self._effects.append(WriteJournal(batch))
            published = self.intake.publish(now)
            nothing_yet = not self._published and self.intake.loaded and not self.intake.holding
            afresh = self._afresh and not self.intake.holding
            if published is None and not nothing_yet and not afresh:
                break
            self._publish(published, now)
        self._moved(now)
        self._watch_usage()

    def _publish(self, published: Publication | None, now: float) -> None:
        self._afresh, self._published = False, True
        self._number()
        if published is not None:
            if published.policy:
                self._measure()
            self.builder.update(
                Changed(
                    namespaces=published.namespaces,
                    groups=published.address_groups,
                    endpoints=published.endpoints,
                    nodes=published.nodes,
                    peer_sets=published.policy.peer_sets,
                    rule_sets_removed=published.policy.rule_sets_removed,
                    policies=published.policy.policies_changed | published.policy.policies_removed,
                )
            )
            present = [name for name in published.nodes if name in self.intake.cluster.nodes]
            self.nodes.known(present, now)
            for name in published.nodes.difference(present):
                self.nodes.deleted(name)
        self.intake.allocator.published(self.mark)
        self._on_publish(self.revision)
        for node in list(self.nodes):
            node.rollout.view_changed(self.revision, now, self.position)
            if node.state != "gone":
                node.fire("view_changed", now)
            self._flush(node, now)
        if published is not None and published.identities:
            for stream, held in self.streams.items():
                self._serve_identities(stream, held, None)

    def _number(self) -> None:
        """The revision of what is published now."""
        positions = self.intake.positions
        if positions:
            self.position = position_of(self.intake.allocator.revision, positions)
            self.revision = self.position.revision
        else:
            self.revision = self.epoch << 32 | (self.revision & 0xFFFFFFFF) + 1

    def _moved(self, now: float) -> None:
        """More has been read and nothing of it changes what is published: nodes that were served
        by a replica that is ahead may be waiting for just that."""
        if self.position is None or not self.intake.settled:
            return
        position = position_of(self.intake.allocator.revision, self.intake.positions)
        if position == self.position or not position.covers(self.position):
            return
        self.position, self.revision = position, position.revision
        self.nodes.moved(self.mark)
        for node in [node for node in self.nodes if node.rollout.state == "ahead"]:
            node.rollout.view_changed(self.revision, now, self.position)
            self._flush(node, now)

    def _measure(self) -> None:
        """Rule sets beyond the capacity are served closed to everybody, before any node refuses."""
        capacity = self.config.policy_capacity
        rule_sets = self.intake.compiler.rule_sets
        standing: dict[tuple[str, str], str] = {}
        large = set()
        for name, rules in rule_sets.items():
            needed = self._sizes.entries(name, rules)
            if needed * 100 < ALARM_PERCENT[-1] * capacity:
                continue
            of = ", ".join(sorted({each for rule in rules.rules for each in rule.origins}))
            if needed > capacity:
                large.add(name)
                error = CapacityError(of, needed, capacity, "policy entries")
                standing["capacity", name] = f"{error}; its pods are closed"
            else:
                percent = next(each for each in ALARM_PERCENT if needed * 100 >= each * capacity)
                text = f"{of}: {percent} % or more of the {capacity} policy entries of a node"
                standing["filling", name] = text
        self._sizes.keep(rule_sets)
        self._too_large = frozenset(large)
        for kind, name in [key for key in self._alarms if key[0] in ("capacity", "filling")]:
            if (kind, name) not in standing:
                self._alarm(kind, name, "")
        for (kind, name), text in standing.items():
            self._alarm(kind, name, text)

    def _handle(
        self, stream: int, held: AgentStream, node: Node, event: object, now: float
    ) -> None:
        match event:
            case Subscribed() | Resubscribed() | Acked() | Nacked() if event.type_url == IDENTITY:
                if isinstance(event, Subscribed):
                    held.identities = Served(event.initial)
                self._serve_identities(stream, held, event)
            case Subscribed():
                newest = self.revision, self.position
                node.rollout.subscribed(event.type_url, event.initial, now, newest, event.instance)
                node.heard = node.heard or node.rollout.reported
            case Acked(type_url=type_url, nonce=nonce):
                node.rollout.acked_response(type_url, nonce, now)
            case Nacked(type_url=type_url, nonce=nonce):
                compiler = self.intake.compiler
                reason = with_policies(
                    event.reason, event.refusal, compiler.rule_sets, compiler.policies
                )
                node.rollout.nacked_response(type_url, nonce, reason, event.refusal, now)

    def _serve_identities(self, stream: int, held: AgentStream, event: StreamEvent | None) -> None:
        """What is due after a request, or (None) after a change of what there is."""
        subscription = held.core.subscription(IDENTITY)
        if subscription is None or held.identities is None:
            return
        if subscription.wildcard:
            raise ProtocolError("INVALID_ARGUMENT", "Identity is served by name, not as a whole")
        live = {
            name: encode.identity(identity.number, identity.birth, label_set.rstrip(";").split(";"))
            for label_set, identity in self.intake.allocator.live().items()
            if (name := str(identity.number)) in subscription.names
        }
        served = held.identities
        if event is None:
            dues: tuple[Due, ...] = (served.due(subscription, live, Wanted()),)
        else:
            dues = served.answer(event, subscription, live)
        for due in dues:
            frames = self.encoder.frames(IDENTITY, due.put, due.removed)
            served.sent(due, frames)
            for frame in frames:
                self._send(stream, held, frame)

    def _flush(self, node: Node, now: float) -> None:
        """Carry out what a rollout has asked for, and let the node's machine know how it stands."""
        node.record()
        for out in node.rollout.take():
            if node.stream is None:
                continue
            if isinstance(out, Restart):
                self._close(node.stream, "ABORTED", out.reason, now)
            else:
                self._send(node.stream, self.streams[node.stream], out)
        if node.stream is not None and node.rollout.in_sync and node.state != "in-sync":
            node.fire("committed_newest", now)
        self.nodes.noted(node)
        self._alarm("rollout", node.name, node.rollout.alarm)
        self._alarm("lag", node.name, node.alarm)

    def _send(self, stream: int, held: AgentStream, frame: Frame) -> None:
        held.core.sent(frame)
        self._effects.append(Send(stream, frame.data))

    def _close(self, stream: int, status: str, reason: str, now: float) -> None:
        self._effects.append(Close(stream, status, reason))
        self.stream_closed(stream, now)

    def _clear_before(self, now: float) -> int:
        found = self.nodes.clear_before(now)
        return min((self.mark if found is None else found, *self.nodes.elsewhere.values()))

    def _watch_usage(self) -> None:
        level = self.intake.allocator.alarm()
        _, capacity = self.intake.allocator.usage()
        text = f"{level} % of the {capacity} identity numbers are in use, or more" if level else ""
        self._alarm("identities", "cluster", text)
        exhausted = self.intake.allocator.exhausted()
        standing = {("exhausted", error.object): str(error) for error in exhausted}
        for group in self.intake.oversized():
            key = "oversized", group
            standing[key] = self._alarms.get(key) or (
                f"{self.intake.oversize(group)}; closed, without an identity"
            )
        for kind, name in [key for key in self._alarms if key[0] in ("exhausted", "oversized")]:
            if (kind, name) not in standing:
                self._alarm(kind, name, "")
        for (kind, name), text in standing.items():
            self._alarm(kind, name, text)

    def _alarm(self, kind: str, name: str, text: str) -> None:
        """Raise, or with an empty text clear."""
        if not text:
            self._alarms.pop((kind, name), None)
        elif self._alarms.get((kind, name)) != text:
            self._alarms[kind, name] = text
            self._effects.append(Alarm(kind, name, text))

    def _rollout(self, name: str) -> Rollout:
        rollout = Rollout(
            lambda refused: self.builder.view(
                name, self.revision, refused | self._too_large, self.position
            ),
            self.encoder,
            self.config.closed_grace,
            about(self._trace, node=name),
        )
        rollout.newest, rollout.position = self.revision, self.position
        return rollout
