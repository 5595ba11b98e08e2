"""From changed objects to published state: store, allocator and compiler, one step after another.

A batch of changes is applied whole, the label sets that it needs get numbers by one journal write,
and only then is the result compiled and published. While a write that gives numbers is under way
nothing newer is applied – what is served stays the last publication – so a publication is always
the state of the objects at one instant, and a group is never served without the identity that it
is about to get. Writes that only take numbers back hold nothing up.

A label set that gets no number (the pool is used up, or it is too large) is published without one:
its pods are unknown to others and closed themselves, everything else goes on.

Where the journal refuses writes, newer changes are applied all the same: what wants a number that
can't be had may be gone with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from reconciler.core.identity import (
    MAX_LABEL_SET_BYTES,
    POOL,
    Allocator,
    Changes,
    Followed,
    Identity,
    JournalBatch,
    JournalState,
)
from reconciler.core.labels import LabelFilter, LabelSet
from reconciler.core.objects import Change, Prefix
from reconciler.core.policy.compiler import Compiler
from reconciler.core.policy.published import PolicyDelta
from reconciler.core.store import Cluster, Delta
from reconciler.core.trace import Trace
from reconciler.errors import CapacityError


class IntakeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """drain_seconds: how long a number without groups is kept before it is retired."""

    filter: LabelFilter
    cluster_name: str = "default"
    named_ports: bool = True
    cluster_cidrs: tuple[Prefix, ...] = ()
    pool: range = POOL
    drain_seconds: float = 30.0


class Publication(msgspec.Struct, frozen=True):
    """What differs from the publication before; current values are in cluster and compiler.

    namespaces:     whose bindings may differ
    address_groups: groups that own other addresses than before
    endpoints:      "namespace/pod"; nodes: names
    policy:         what the compiler changed
    identities:     numbers that entered or left what is live
    """

    namespaces: frozenset[str]
    address_groups: frozenset[str]
    endpoints: frozenset[str]
    nodes: frozenset[str]
    policy: PolicyDelta
    identities: frozenset[int]

    def __bool__(self) -> bool:
        return bool(
            self.namespaces
            or self.address_groups
            or self.endpoints
            or self.nodes
            or self.policy
            or self.identities
        )


class _Pending:
    """What has been applied since the last publication."""

    def __init__(self) -> None:
        self.namespaces: set[str] = set()
        self.address_groups: set[str] = set()
        self.endpoints: set[str] = set()
        self.nodes: set[str] = set()
        self.policies: set[str] = set()
        self.entered: dict[int, tuple[int, LabelSet]] = {}
        self.left: set[int] = set()

    def add(self, delta: Delta) -> None:
        for group in (*delta.groups_added, *delta.groups_removed, *delta.groups_rebound):
            self.namespaces.add(group.rpartition("/")[0])
        self.address_groups |= delta.address_groups
        self.endpoints |= delta.endpoints
        self.nodes |= delta.nodes
        self.policies |= delta.policies

    def __bool__(self) -> bool:
        return bool(
            self.namespaces
            or self.address_groups
            or self.endpoints
            or self.nodes
            or self.policies
            or self.entered
            or self.left
        )


class Intake:
    """Feed it with `enqueue`, `written` and `refused`; after each: `absorb`, `batch`, `publish`.

    The first `enqueue` is the whole initial state: nothing is published before it.
    """

    def __init__(
        self,
        config: IntakeConfig,
        journal: JournalState,
        now: float,
        trace: Trace | None = None,
        *,
        leading: bool = True,
    ) -> None:
        """leading: numbers are given here; else they are those that the journal gets to have."""
        self.cluster = Cluster(
            config.filter,
            cluster_name=config.cluster_name,
            named_ports=config.named_ports,
            cluster_cidrs=config.cluster_cidrs,
        )
        self._config, self._trace = config, trace
        self._held_back: frozenset[int] = frozenset()
        self.allocator: Allocator | Followed = (
            self._leader(journal, now) if leading else self._follower(journal)
        )
        self.compiler = Compiler(config.filter)
        self._room: tuple[int, int] | None = None  # of the journal, as it was last told
        self._queue: list[Change] = []
        self._read: Mapping[str, int] = {}  # positions of what is queued
        self.positions: Mapping[str, int] = {}  # and of what is applied: kind → resource version
        self._loaded = False
        self._holding = False  # a write that gives numbers is under way
        self._refused = False  # the last write was, and none is under way
        self._pending = _Pending()
        self._set_of: dict[str, str] = {}  # group -> key of its label set
        self._groups_with: dict[str, set[str]] = {}  # the other way
        for label_set, identity in self.allocator.live().items():
            self._enter(label_set, identity)

    def enqueue(
        self, changes: Sequence[Change], now: float, positions: Mapping[str, int] | None = None
    ) -> None:
        """positions: up to where each kind has been read, with these changes."""
        self._queue.extend(changes)
        self._read = positions or {}
        if not self._queue:
            self.positions = self._read
        self._loaded = True

    def lead(self, journal: JournalState, now: float) -> None:
        """Give numbers from now on; the journal is ours, in this state."""
        allocator = self._leader(journal, now)
        if self._room is not None:
            allocator.room(*self._room)
        self._swap(allocator)
        allocator.bind(self._groups_with, now)

    def follow(self, journal: JournalState, now: float) -> None:
        """Somebody else gives the numbers; the journal has got to this state."""
        if isinstance(self.allocator, Followed):
            self._note(self.allocator.follow(journal))
            return
        self._holding = False  # what is under way is not ours any more
        own = self.allocator.journal()
        followed = self._follower(journal if journal.revision > own.revision else own)
        self._swap(followed)
        followed.bind(self._groups_with, now)

    def room(self, revision: int, size: int) -> None:
        """What the journal has room for (`Allocator.room`); of a follower's for when it leads."""
        self._room = revision, size
        if isinstance(self.allocator, Allocator):
            self.allocator.room(revision, size)

    def hold_back(self, numbers: Iterable[int]) -> bool:
        """From now these numbers, and no others, are neither given nor taken back, here or by who
        leads; False: nothing new."""
        before, self._held_back = self._held_back, frozenset(numbers)
        if before == self._held_back:
            return False
        self.allocator.hold_back(self._held_back)
        return True

    def batch(self, now: float) -> JournalBatch | None:
        """The next journal write, if one is due and none is under way."""
        if not self._loaded:
            return None
        batch = self.allocator.next_batch(now)
        if batch is not None:
            self._holding = bool(batch.allocate or batch.revive)
            self._refused = False
        return batch

    def written(self, revision: int, now: float) -> None:
        assert isinstance(self.allocator, Allocator), "only a leader writes"
        changes = self.allocator.written(revision, now)
        self._holding = False
        self._note(changes)

    def refused(self, reason: str, *, deposed: bool) -> None:
        """The write did not take effect; what needs its numbers stays unpublished until it does."""
        assert isinstance(self.allocator, Allocator), "only a leader writes"
        self.allocator.refused(reason, deposed=deposed)
        self._holding = False  # who still wants a number waits for the next write
        self._refused = True

    @property
    def queued(self) -> int:
        """Changes that wait until what was applied before them is published."""
        return len(self._queue)

    @property
    def settled(self) -> bool:
        """All that has been read is published."""
        return not (self._queue or self._pending or self.holding)

    @property
    def loaded(self) -> bool:
        """The initial state is here."""
        return self._loaded

    def next_deadline(self, now: float) -> float | None:
        return self.allocator.next_deadline(now) if self._loaded else None

    @property
    def holding(self) -> bool:
        """What has been applied waits for numbers."""
        return self._holding or self.allocator.unserved()

    def publish(self, now: float) -> Publication | None:
        """Compile what has been applied; None while there is nothing, or it waits for numbers.

        Call `batch` first: whatever can get a number must have it before it is published. What
        could not be compiled is still there to be published.
        """
        if not self._loaded or self.holding or self.allocator.deposed or not self._pending:
            return None
        pending = self._pending
        policy = self.compiler.apply(
            identities_added=pending.entered,
            identities_removed=pending.left,
            policies_changed={key: self.cluster.policies.get(key) for key in pending.policies},
        )
        self._pending = _Pending()
        return Publication(
            namespaces=frozenset(pending.namespaces),
            address_groups=frozenset(pending.address_groups),
            endpoints=frozenset(pending.endpoints),
            nodes=frozenset(pending.nodes),
            policy=policy,
            identities=frozenset(pending.left | pending.entered.keys()),
        )

    def binding(self, group: str) -> Identity | None:
        """The identity of a group; None while its label set has none."""
        label_set = self._set_of.get(group)
        return None if label_set is None else self.allocator.identity(label_set)

    def oversized(self) -> tuple[str, ...]:
        """Groups whose label sets are too large for a number."""
        label_sets = self.allocator.oversized()
        return tuple(group for each in label_sets for group in sorted(self._groups_with[each]))

    def oversize(self, group: str) -> CapacityError:
        """What is wrong with one of them, with the names of pods; costs a pass over all pods."""
        pods = self.cluster.pods_of(group)
        named = f"Pod {group.rpartition('/')[0]}/{pods[0]}"
        if len(pods) > 1:
            named += f" and {len(pods) - 1} of the same labels"
        size = len(self._set_of[group].encode())
        return CapacityError(named, size, MAX_LABEL_SET_BYTES, "bytes of labels")

    def absorb(self, now: float) -> None:
        """Apply what is queued, unless what was applied before still waits for its numbers.

        What the journal refuses is not waited for. Nor does a follower wait: who gives the numbers
        may have read on, and never give those that were wanted for an instant only. The store is
        ahead of what is published from here until `publish`.
        """
        if not self._queue or (
            isinstance(self.allocator, Allocator) and self.holding and not self._refused
        ):
            return
        queue, self._queue = self._queue, []
        self.positions = self._read
        delta = self.cluster.apply(queue)
        self._pending.add(delta)
        self._rebind((*delta.groups_added, *delta.groups_removed, *delta.groups_rebound), now)

    # ------------------------------------------------------------------------------- inside

    def _leader(self, journal: JournalState, now: float) -> Allocator:
        allocator = Allocator(
            journal,
            pool=self._config.pool,
            drain_seconds=self._config.drain_seconds,
            now=now,
            trace=self._trace,
        )
        allocator.hold_back(self._held_back)
        return allocator

    def _follower(self, journal: JournalState) -> Followed:
        followed = Followed(journal, pool=self._config.pool)
        followed.hold_back(self._held_back)
        return followed

    def _swap(self, successor: Allocator | Followed) -> None:
        old, new = self.allocator.live(), successor.live()
        changed = {key: each for key, each in new.items() if old.get(key) != each}
        gone = [each for key, each in old.items() if new.get(key) != each]
        self.allocator, self._refused = successor, False
        self._note(Changes(activated=tuple(changed.items()), retired=tuple(gone)))

    def _rebind(self, groups: Iterable[str], now: float) -> None:
        touched: dict[str, bool] = {}  # label set -> had groups before
        for name in groups:
            old = self._set_of.pop(name, None)
            if old is not None:
                touched.setdefault(old, True)
                self._groups_with[old].discard(name)
            group = self.cluster.groups.get(name)
            if group is not None:
                new = group.label_set.key
                with_it = self._groups_with.setdefault(new, set())
                touched.setdefault(new, bool(with_it))
                with_it.add(name)
                self._set_of[name] = new
        gone = [key for key, had in touched.items() if had and not self._groups_with[key]]
        come = [key for key, had in touched.items() if not had and self._groups_with[key]]
        for key in touched:
            if not self._groups_with[key]:
                del self._groups_with[key]
        self.allocator.release(gone, now)
        self.allocator.bind(come, now)

    def _note(self, changes: Changes) -> None:
        for identity in changes.retired:
            self._pending.entered.pop(identity.number, None)
            self._pending.left.add(identity.number)
        for label_set, identity in (*changes.activated, *changes.revived):
            self._enter(label_set, identity)

    def _enter(self, label_set: str, identity: Identity) -> None:
        known = self.cluster.label_sets.get(label_set)
        labels = known if known is not None else LabelSet.parse(label_set)
        self._pending.entered[identity.number] = (identity.birth, labels)
        self._pending.left.discard(identity.number)
        for group in self._groups_with.get(label_set, ()):
            self._pending.namespaces.add(group.rpartition("/")[0])
