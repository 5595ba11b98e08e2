"""All nodes that the server knows: their life cycles, and what the oldest cut in use may be.

A number may be used again only when no node can enforce a cut that has it. `clear_before` is the
revision of which that can be said: the oldest of what every node that counts may enforce. A node
counts while it is connected and, after that, for the grace of absent nodes; one that was not heard
of since this server started counts as enforcing anything, also one of which there is no object
any more: for the grace after its start a server takes no number back. Absence is never an ACK.

Neither that revision nor the next deadline is found by a walk over all nodes: whoever has done
anything to a node or to its rollout says so by `noted`, which costs O(log n).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from reconciler.core.machine import load
from reconciler.core.trace import Event, Trace, cut
from reconciler.core.xds.least import Least
from reconciler.core.xds.rollout import Rollout, mark

MODEL = load("node")

SPEC: Final = "Allocation"
ACTIONS: Final = {
    "connect": "Connect",
    "disconnect": "Break",
    "committed_newest": "InSync",
    "lag_limit": "Lag",
    "absence_over": "LetGo",
}
"""Triggers that are recorded, as actions of the spec; a view changes with a publication."""

LAG_SECONDS: Final = 30.0
"""After this long behind a newer view a node is shown as lagging."""


STRANGERS: Final = "*"
"""Name, in what is recorded, of all nodes that were not heard of since the start."""


class Node:
    """One node: models/node.toml, and the rollout that is kept over its streams."""

    __slots__ = (
        "_absent_grace", "_now", "_told", "_trace", "absent_until", "alarm", "exists", "heard",
        "lag_at", "name", "rollout", "state", "stream",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        rollout: Rollout,
        now: float,
        absent_grace: float,
        trace: Trace | None = None,
    ) -> None:
        self._trace = trace
        self._told = (False, 0, 0)  # reported, floor and cut under way, as recorded
        self.name = name
        self.rollout = rollout
        self.state = MODEL.initial
        self.stream: int | None = None
        self.exists = False  # there is a Node object
        self.heard = False  # it has reported what it enforces
        self.alarm = ""
        self.lag_at: float | None = None
        self.absent_until: float | None = now + absent_grace
        self._absent_grace = absent_grace
        self._now = now

    def fire(self, trigger: str, now: float) -> None:
        self._now = now
        MODEL.fire(self, trigger)
        if self._trace is not None and trigger in ACTIONS:
            self._trace(Event(SPEC, ACTIONS[trigger], {"node": self.name}))
            if trigger == "disconnect":
                self._told = (False, self._told[1], 0)

    def record(self) -> None:
        """To be called after anything was done to its rollout: what is believed of it now."""
        if self._trace is None:
            return
        reported, floor, begun = self._told
        rollout = self.rollout
        cut_begun = rollout.target
        target = 0 if cut_begun is None else mark(cut_begun.revision, cut_begun.position)
        self._told = (rollout.reported, rollout.floor, target)
        if rollout.reported and not reported:
            self._trace(Event(SPEC, "Report", {"node": self.name}))
            self._trace(Event(SPEC, "Stands", {"node": self.name, **cut(rollout.floor)}))
        elif rollout.reported and rollout.floor != floor:
            if floor < begun <= rollout.floor:
                self._trace(Event(SPEC, "Acked", {"node": self.name, **cut(begun)}))
            if begun != rollout.floor:
                self._trace(Event(SPEC, "Same", {"node": self.name, **cut(rollout.floor)}))
        if target and target != begun:
            self._trace(Event(SPEC, "Begin", {"node": self.name, **cut(target)}))

    def record_known(self) -> None:
        """What a replica that begins to lead knows of it."""
        if self._trace is None:
            return
        reported, floor, begun = self._told
        known = {"state": self.state, "reported": reported, "heard": self.heard}
        args = {"node": self.name, **known, **cut(floor), "begun": begun}
        self._trace(Event(SPEC, "Known", args))

    @property
    def counts(self) -> bool:
        return self.state != "gone"

    @property
    def floor(self) -> int:
        """Mark of the oldest cut that it may enforce; 0: anything."""
        return self.rollout.floor if self.heard else 0

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = (self.lag_at, self.absent_until, self.rollout.deadline)
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: float) -> None:
        if self.lag_at is not None and now >= self.lag_at:
            self.lag_at = None
            if self.state == "syncing":
                self.fire("lag_limit", now)
        if self.absent_until is not None and now >= self.absent_until:
            self.fire("absence_over", now)
        self.rollout.tick(now)

    # Effects of the model

    def start_lag(self) -> None:
        self.lag_at = self._now + LAG_SECONDS

    def start_absence(self) -> None:
        self.absent_until = self._now + self._absent_grace
        self.lag_at = None

    def stop_absence(self) -> None:
        self.absent_until = None

    def raise_alarm(self) -> None:
        self.alarm = f"has not reached a newer view for {LAG_SECONDS:.0f} s"

    def clear_alarm(self) -> None:
        self.alarm = ""

    def let_go(self) -> None:
        self.absent_until = None


class Nodes:
    def __init__(
        self,
        rollout_of: Callable[[str], Rollout],
        absent_grace: float,
        started: float,
        trace: Trace | None = None,
        *,
        leading: bool = True,
    ) -> None:
        self._trace = trace
        self._rollout_of = rollout_of
        self._absent_grace = absent_grace
        self._nodes: dict[str, Node] = {}
        self.elsewhere: Mapping[str, int] = {}  # replica → mark of the oldest cut in use there
        self._deadlines = Least()
        self._floors = Least()  # of nodes that count
        # Whoever may have been served by the server before this one, and may never be heard of.
        self._strangers_until = started + absent_grace
        self._strangers_over = False  # as recorded
        if not leading:
            self.follows()

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def node(self, name: str, now: float) -> Node:
        """The node; one that is gone begins anew."""
        node = self._nodes.get(name)
        if node is None or node.state == "gone":
            exists = node is not None and node.exists
            if self._trace is not None and node is not None:
                self._trace(Event(SPEC, "Anew", {"node": name}))
            rollout = self._rollout_of(name)
            node = Node(name, rollout, now, self._absent_grace, self._trace)
            node.exists = exists
            self._nodes[name] = node
            self.noted(node)
        return node

    def noted(self, node: Node) -> None:
        """To be called after anything was done to a node or to its rollout."""
        if self._nodes.get(node.name) is not node:
            return  # it is over
        self._deadlines.set(node.name, node.deadline)
        self._floors.set(node.name, node.floor if node.counts else None)

    def known(self, names: Iterable[str], now: float) -> None:
        """These Node objects are there."""
        for name in names:
            self.node(name, now).exists = True

    def deleted(self, name: str) -> None:
        """The Node object is gone; what its agent may enforce counts as before."""
        node = self._nodes.get(name)
        if node is not None:
            node.exists = False
            self._drop_if_over(node)

    def tick(self, now: float) -> list[Node]:
        """Do what is due; the nodes to which something was done."""
        moved = [self._nodes[name] for name in self._deadlines.take(now)]
        for node in moved:
            node.tick(now)
            self.noted(node)
            self._drop_if_over(node)
        return moved

    def next_deadline(self) -> float | None:
        return self._deadlines.least()

    def clear_before(self, now: float) -> int | None:
        """Every node uses only cuts of this mark or a newer one; None: there is no node at all."""
        if now < self._strangers_until:
            return 0
        if self._trace is not None and not self._strangers_over:
            self._strangers_over = True
            self._trace(Event(SPEC, "LetGo", {"node": STRANGERS}))
        least = self._floors.least()
        return None if least is None else int(least)

    def wait_anew(self, now: float, mark: int) -> None:
        """Another server led until now: what it was told of, and did not pass on, is waited for.

        mark: of what this one publishes since it followed
        """
        self._strangers_until = now + self._absent_grace
        self._strangers_over = False
        for node in self._nodes.values():
            node.record_known()
        if self._trace is not None:
            self._trace(Event(SPEC, "Stood", cut(mark)))
        self.told(self.elsewhere)

    def told(self, marks: Mapping[str, int]) -> None:
        """What other replicas say: the mark of the oldest cut that a node of theirs may enforce."""
        self.elsewhere = marks
        if self._trace is not None:
            of = [{"replica": name, "mark": mark} for name, mark in marks.items()]
            self._trace(Event(SPEC, "Elsewhere", {"marks": of}))

    # What is recorded of a replica besides

    def follows(self) -> None:
        """It does not lead, or no more: what it does is no step of the spec."""
        if self._trace is not None:
            self._trace(Event(SPEC, "Follow"))

    def moved(self, mark: int) -> None:
        """What is published is that of a newer journal too."""
        if self._trace is not None:
            self._trace(Event(SPEC, "Moved", cut(mark)))

    def oldest_heard(self, none: int) -> int:
        """Mark of the oldest cut in use by nodes that were heard of, or are connected and have
        yet to say what they enforce; `none` if there are none."""
        nodes = (node for node in self._nodes.values() if node.heard or node.stream is not None)
        return min((node.floor for node in nodes if node.counts), default=none)

    def _drop_if_over(self, node: Node) -> None:
        if node.state == "gone" and not node.exists:
            del self._nodes[node.name]
            self._deadlines.set(node.name, None)
            self._floors.set(node.name, None)
