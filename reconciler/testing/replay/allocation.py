"""specs/Allocation.tla on the code: the allocator behind its intake, the journal, and the nodes.

Real are `Allocator`, `Intake` (but for its store and compiler, which have nothing to do here),
`MemoryJournal`, `Nodes` and `ControlPlane._clear_before`. What stage and commit promises of a node
is played: a `Cuts` in place of each rollout.

The spec has no time: a drain time, a lag limit or a grace may be over at any moment. So no clock
runs here. A step that says that a time is over sets that deadline to now and lets the code look;
and how long label sets have waited or drained, which is the order of the code's queues, is what
the step says it is.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, cast

from reconciler.core.identity import Allocator, JournalBatch, JournalState, apply_batch
from reconciler.core.identity.entry import IdentityEntry
from reconciler.core.identity.journal import Entry
from reconciler.core.intake import Intake, _Pending
from reconciler.core.plane import ControlPlane
from reconciler.core.policy.published import PolicyDelta
from reconciler.core.xds.nodes import Node, Nodes
from reconciler.core.xds.rollout import Rollout
from reconciler.errors import JournalConflict, ModelError
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record, function
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.replay.pickled import Pickled

Value = Any
"""A value of TLA+, whose shape the spec says."""

NOW: Final = 0.0
NEVER: Final = 1e9

NO_CUT: Final = (0, frozenset[tuple[int, int, str]]())
Cut = tuple[int, frozenset[tuple[int, int, str]]]


class Cuts:
    """In place of a rollout: what was begun for a node, and what is believed of it."""

    def __init__(self, newest: int) -> None:
        self.floor, self.newest = 0, newest
        self.reported = False
        self.begun: Cut = NO_CUT
        self.deadline: float | None = None

    @property
    def in_sync(self) -> bool:
        return self.reported and self.begun == NO_CUT and self.floor == self.newest

    def tick(self, now: float) -> None:
        """Nothing of it takes time."""


class _Compiler:
    """Has no policies, so nothing ever changes."""

    def apply(self, **changes: object) -> PolicyDelta:
        return PolicyDelta()


class _Intake(Intake):
    """An intake of label sets, without objects: `bind` and `release` go to the allocator."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.cluster = cast(Any, SimpleNamespace(label_sets={}))
        self.compiler = cast(Any, _Compiler())
        self._loaded, self._holding = True, False
        self._queue, self._pending = [], _Pending()
        self._set_of, self._groups_with = {}, {}
        for label_set, identity in allocator.live().items():
            self._enter(label_set, identity)

    def something_changed(self) -> None:
        """A change of objects that binds and releases nothing."""
        self._pending.nodes.add("any")


class Adapter(Pickled):
    """`formal.replay.Adapter` for Allocation."""

    refuses_cleanly = True

    def __init__(self) -> None:
        self._journal = MemoryJournal()
        self._shown: dict[str, Cut] = {}
        self._begun_elsewhere: dict[str, Cut] = {}  # by a stream or server that is over
        self._late: list[JournalBatch] = []
        self._cuts = 0
        self._newest: Cut = NO_CUT
        self._flight: JournalBatch | None = None
        self._allocator: Allocator
        self._intake: _Intake
        self._nodes: Nodes

    def start(self, constants: Mapping[str, Value], state: Mapping[str, Value]) -> None:
        """The first server leads, over what the state's journal holds and its nodes enforce."""
        self._names = sorted(constants["Nodes"])
        self._label_sets = sorted(constants["LabelSets"])
        self._pool = range(constants["First"], constants["Last"] + 1)
        self._limits = {
            name: constants[name]
            for name in ("MaxRevision", "MaxEpoch", "MaxCut", "MaxLate", "Older")
        }
        journal = state["journal"]
        self._journal.state = JournalState(
            epoch=journal["epoch"],
            revision=journal["revision"],
            cursor=journal["cursor"],
            entries=tuple(
                Entry(each["number"], each["birth"], _key(each["owner"]), each["phase"])
                for each in journal["entries"]
            ),
        )
        self._cuts = state["cuts"]
        self._shown = {name: _cut(state["shown"][name]) for name in self._names}
        self._begun_elsewhere = dict.fromkeys(self._names, NO_CUT)
        self._lead(self._journal.state)

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        self.changes()
        try:
            getattr(self, f"_on_{action}")(*args)
        except ModelError as error:
            raise Disabled(str(error)) from error

    def observe(self) -> Mapping[str, Value]:
        entries = {_name(each.label_set): each for each in self._allocator.entries()}
        flight = self._flight
        nodes = {name: self._node(name) for name in self._names}
        return {
            "journal": Record(
                epoch=self._journal.state.epoch,
                revision=self._journal.state.revision,
                cursor=self._journal.state.cursor,
                entries=frozenset(
                    Record(
                        number=each.number,
                        birth=each.birth,
                        owner=_name(each.label_set),
                        phase=each.phase,
                    )
                    for each in self._journal.state.entries
                ),
            ),
            "flight": frozenset(() if flight is None else (_write(flight),)),
            "late": frozenset(map(_write, self._late)),
            "deposed": self._allocator.deposed,
            "life": self._each(entries, lambda entry: entry.state, "absent"),
            "number": self._each(entries, lambda entry: entry.number if entry.birth else 0, 0),
            "birth": self._each(entries, lambda entry: entry.birth, 0),
            "without": self._each(entries, lambda entry: entry.without, 0),
            "cuts": self._cuts,
            "newest": _cut_value(self._newest),
            "nodes": function({name: node.state for name, node in nodes.items()}),
            "heard": function({name: node.heard for name, node in nodes.items()}),
            "reported": function({name: _cuts(node).reported for name, node in nodes.items()}),
            "floor": function({name: _cuts(node).floor for name, node in nodes.items()}),
            "shown": function({name: _cut_value(cut) for name, cut in self._shown.items()}),
            "begun": function(
                {
                    name: _cut_value(_cuts(node).begun)
                    if _cuts(node).reported
                    else _cut_value(self._begun_elsewhere[name])
                    for name, node in nodes.items()
                }
            ),
        }

    # What the cluster wants

    def _on_Bind(self, label_set: str) -> None:
        self._allocator.bind([_key(label_set)], NOW)

    def _on_Release(self, label_set: str) -> None:
        self._allocator.release([_key(label_set)], NOW)

    # The journal

    def _on_Write(self, drained: frozenset[str], order: Value) -> None:
        self._bound("MaxRevision", self._journal.state.revision)
        chosen = [name for name in self._label_sets if order[name]]
        first = [_key(name) for name in sorted(chosen, key=lambda name: order[name])]
        over = [_key(name) for name in sorted(drained)]
        saved = None if self._flight is not None else pickle.dumps(self, pickle.HIGHEST_PROTOCOL)
        self._wait(first, over)
        newest = SimpleNamespace(nodes=self._nodes, mark=self._newest[0])
        plane = cast(ControlPlane, newest)
        self._allocator.advance(NOW, ControlPlane._clear_before(plane, NOW))
        batch = self._intake.batch(NOW)
        if batch is None:
            raise Disabled("there is nothing to write")
        self._flight = batch
        given = [label_set for _, label_set in batch.allocate]
        if given != first or len(batch.retire) != len(over):
            if saved is not None:
                self.__dict__ = pickle.loads(saved).__dict__
            raise Disabled(f"it gives numbers to {given} and retires {batch.retire}")

    def _wait(self, first: Sequence[str], over: Sequence[str]) -> None:
        """Some label sets have waited longest, in this order, others drained long enough."""
        queues = self._allocator._queues
        for entry in queues["draining"].values():
            entry.deadline = NOW if entry.label_set in over else NEVER
        for queue, front in ((queues["draining"], over), (queues["waiting"], first)):
            for label_set in reversed(front):
                if label_set in queue:
                    queue.move_to_end(label_set, last=False)

    def _on_Written(self) -> None:
        batch = self._under_way()
        try:
            revision = self._journal.append(batch)
        except JournalConflict as error:
            raise Disabled(str(error)) from error
        self._flight = None
        self._intake.written(revision, NOW)

    def _on_Refused(self) -> None:
        self._under_way()
        self._flight = None
        self._intake.refused("disk is full", deposed=False)

    def _on_TimedOut(self) -> None:
        batch = self._under_way()
        self._bound("MaxLate", len(self._late))
        self._late.append(batch)
        self._on_Refused()

    def _on_Conflict(self) -> None:
        try:
            apply_batch(self._journal.state, self._under_way())
        except JournalConflict as error:
            self._flight = None
            self._intake.refused(str(error), deposed=True)
        else:
            raise Disabled("the journal takes the write")

    def _on_Late(self) -> None:
        if not self._late:
            raise Disabled("no write is still to come")
        with contextlib.suppress(JournalConflict):  # nobody hears of it
            self._journal.append(self._late.pop())

    def _on_Lead(self) -> None:
        self._bound("MaxEpoch", self._journal.state.epoch)
        if self._flight is not None and len(self._late) < self._limits["MaxLate"]:
            self._late.append(self._flight)
        for name in self._names:
            self._lose_stream(self._node(name), name)
        self._lead(self._journal.open())

    def _lead(self, state: JournalState) -> None:
        self._flight = None
        self._allocator = Allocator(state, pool=self._pool, drain_seconds=NEVER, now=NOW)
        self._intake = _Intake(self._allocator)
        self._newest = NO_CUT
        self._nodes = Nodes(self._rollout, NEVER, -NEVER)
        self._nodes.known(self._names, NOW)

    # Cuts

    def _on_Publish(self) -> None:
        self._bound("MaxCut", self._cuts)
        self._intake.something_changed()
        if self._intake.publish(NOW) is None:
            raise Disabled("what was applied waits for numbers, or it is deposed")
        self._cuts += 1
        self._newest = (
            self._cuts,
            frozenset(
                (identity.number, identity.birth, _name(label_set))
                for label_set, identity in self._allocator.live().items()
            ),
        )
        self._allocator.published(self._cuts)
        for node in self._nodes:
            _cuts(node).newest = self._cuts
            if node.state != "gone":
                node.fire("view_changed", NOW)
            self._nodes.noted(node)

    # Nodes

    def _on_Connect(self, name: str) -> None:
        if self._node(name).stream is not None:
            raise Disabled("its stream is open")
        node = self._nodes.node(name, NOW)
        node.stream = 1
        node.fire("connect", NOW)
        self._nodes.noted(node)

    def _on_Report(self, name: str, cut: int) -> None:
        node, cuts = self._streaming(name)
        if cuts.reported:
            raise Disabled("it has reported")
        shown = self._shown[name][0]
        if cut > shown or (cut < shown and not self._limits["Older"]):
            raise Disabled("it has not enforced that cut")
        cuts.reported, cuts.floor, cuts.begun = True, cut, NO_CUT
        self._begun_elsewhere[name] = NO_CUT
        node.heard = node.heard or cuts.reported
        self._nodes.noted(node)

    def _on_Begin(self, name: str) -> None:
        _, cuts = self._idle(name)
        if cuts.begun != NO_CUT and (
            cuts.begun == self._shown[name] or cuts.begun[0] >= self._newest[0]
        ):
            raise Disabled("a cut is under way")
        cuts.begun = self._newest

    def _on_Same(self, name: str) -> None:
        node, cuts = self._idle(name)
        if cuts.begun != NO_CUT:
            raise Disabled("a cut is under way")
        cuts.floor = self._newest[0]
        self._shown[name] = self._newest
        self._nodes.noted(node)

    def _on_Flip(self, name: str) -> None:
        cuts = _cuts(self._node(name))
        begun = cuts.begun if cuts.reported else self._begun_elsewhere[name]
        if begun[0] <= self._shown[name][0]:
            raise Disabled("it enforces what was begun")
        self._shown[name] = begun
        self._begun_elsewhere[name] = NO_CUT

    def _on_Acked(self, name: str) -> None:
        node, cuts = self._streaming(name)
        if cuts.begun == NO_CUT or cuts.begun != self._shown[name]:
            raise Disabled("there is nothing to acknowledge")
        cuts.floor, cuts.begun = cuts.begun[0], NO_CUT
        self._nodes.noted(node)

    def _on_InSync(self, name: str) -> None:
        node, cuts = self._streaming(name)
        if not cuts.in_sync:
            raise Disabled("it is behind")
        node.fire("committed_newest", NOW)
        self._nodes.noted(node)

    def _on_Lag(self, name: str) -> None:
        node = self._node(name)
        node.lag_at = None if node.lag_at is None else NOW
        self._look(node, "lagging")

    def _on_Break(self, name: str) -> None:
        node = self._node(name)
        node.fire("disconnect", NOW)
        self._lose_stream(node, name)
        self._nodes.noted(node)

    def _on_LetGo(self, name: str) -> None:
        node = self._node(name)
        node.absent_until = None if node.absent_until is None else NOW
        self._look(node, "gone")

    # Inside

    def _look(self, node: Node, becomes: str) -> None:
        """Time has passed for this node."""
        before = node.state
        self._nodes.noted(node)
        self._nodes.tick(NOW)
        if node.state == before or node.state != becomes:
            raise Disabled(f"it is {node.state} and no time runs for it")

    def _lose_stream(self, node: Node, name: str) -> None:
        """What was begun on it may still be enforced."""
        cuts = _cuts(node)
        if cuts.reported and cuts.begun != self._shown[name]:
            self._begun_elsewhere[name] = cuts.begun
        cuts.reported, cuts.begun = False, NO_CUT
        node.stream = None

    def _streaming(self, name: str) -> tuple[Node, Cuts]:
        node = self._node(name)
        if node.stream is None:
            raise Disabled("it has no stream")
        return node, _cuts(node)

    def _idle(self, name: str) -> tuple[Node, Cuts]:
        node, cuts = self._streaming(name)
        if not cuts.reported or cuts.floor >= self._newest[0]:
            raise Disabled("there is no newer cut for it")
        return node, cuts

    def _under_way(self) -> JournalBatch:
        if self._flight is None:
            raise Disabled("no write is under way")
        return self._flight

    def _bound(self, name: str, value: int) -> None:
        """The bounds of the search are the spec's alone."""
        if value >= self._limits[name]:
            raise Disabled(f"{name} is reached")

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        assert node is not None
        return node

    def _rollout(self, name: str) -> Rollout:
        return cast(Rollout, Cuts(self._newest[0]))

    def _each(self, entries: Mapping[str, IdentityEntry], value: Any, other: Value) -> Value:
        return function(
            {name: value(entries[name]) if name in entries else other for name in self._label_sets}
        )


def _key(name: str) -> str:
    """A label set of the spec as the code's key."""
    return f"k8s:app={name};"


def _name(key: str) -> str:
    return key.removeprefix("k8s:app=").removesuffix(";")


def _cuts(node: Node) -> Cuts:
    return cast(Cuts, node.rollout)


def _cut(value: Any) -> Cut:
    return value["cut"], frozenset((p["number"], p["birth"], p["owner"]) for p in value["uses"])


def _cut_value(cut: Cut) -> Value:
    number, uses = cut
    pairs = (Record(number=number, birth=birth, owner=owner) for number, birth, owner in uses)
    return Record(cut=number, uses=frozenset(pairs))


def _write(batch: JournalBatch) -> Value:
    return Record(
        epoch=batch.epoch,
        expected=batch.expected,
        allocate=frozenset(
            Record(number=number, owner=_name(label_set)) for number, label_set in batch.allocate
        ),
        retire=frozenset(batch.retire),
        revive=frozenset(batch.revive),
        free=frozenset(batch.free),
        cursor=batch.cursor,
    )
