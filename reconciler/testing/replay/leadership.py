"""specs/Leadership.tla on the code: a real `Leadership` for each replica, with the real
`Allocator` of who leads and `Followed` of who does not.

The adapter is what stands around them: the Lease as the API server keeps it (a write names the
version that was read, or does nothing), the journal with its compare-and-swap, and the shell that
carries out effects and says that a standing down has ended when no write is under way. Who may
try, who leads, with which epoch, what a write is made for, and when a replica follows again is
the code's.

Each replica has a clock of its own. The Lease lasts so long that nothing but `End` makes it pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from reconciler.core.identity import Allocator, JournalBatch, apply_batch
from reconciler.core.identity.followed import Followed
from reconciler.core.leadership import (
    Effect,
    Lead,
    Leadership,
    Lease,
    Look,
    Release,
    StandDown,
    TakeOver,
    Times,
    Write,
)
from reconciler.errors import JournalConflict
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record, Value
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.replay.pickled import Pickled

TIMES: Final = Times(duration=1e9, deadline=1e3, retry=1.0)
NEVER: Final = 1e15
POOL: Final = range(256, 356)


class Replica:
    """One process. opening: TakeOver is not answered; standing: how many StandDown are not."""

    def __init__(self, name: str, journal: MemoryJournal) -> None:
        self.now = 0.0
        self.core = Leadership(name, self.now, TIMES)
        self.numbers: Allocator | Followed = Followed(journal.state, pool=POOL)
        self.epoch = 0  # of the journal as it was opened
        self.opening = False
        self.open = False  # the journal; closed by standing down
        self.standing = 0
        self.flight: JournalBatch | None = None
        self.sent = 0


class Adapter(Pickled):
    refuses_cleanly = True

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.lease: Lease | None = None
        self.ended = True  # it was not renewed for its duration
        self.writer = 0
        self.replicas: dict[str, Replica] = {}
        self.most = 0

    # --- what replay asks ------------------------------------------------------------------

    def start(self, constants: Mapping[str, Value], state: Mapping[Any, Any]) -> None:
        names = constants["Replicas"]
        most = constants["MaxEpoch"]
        assert isinstance(names, frozenset)
        assert isinstance(most, int)
        self.replicas = {str(name): Replica(str(name), self.journal) for name in names}
        self.most = most

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        self.changes()
        if action == "End":
            self._do_end()
            return
        name, *more = args
        getattr(self, f"_do_{action.lower()}")(self.replicas[str(name)], *more)

    def observe(self) -> Mapping[str, Value]:
        replicas = self.replicas.items()
        holder = "" if self.ended else self._holder
        return {
            "life": Record({name: each.core.state for name, each in replicas}),
            "lease": frozenset({holder} if holder else ()),
            "opening": frozenset(name for name, each in replicas if each.opening),
            "own": Record({name: each.epoch for name, each in replicas}),
            "flight": Record(
                {name: each.flight.epoch if each.flight else 0 for name, each in replicas}
            ),
            "epoch": self.journal.state.epoch,
            "wrote": self.journal.state.revision % 2 == 1,
            "writer": self.writer,
        }

    @property
    def _holder(self) -> str:
        return self.lease.holder if self.lease is not None else ""

    # --- the Lease -------------------------------------------------------------------------

    def _do_end(self) -> None:
        if self.ended or not self._holder:
            raise Disabled("nobody holds it")
        self.ended = True

    def _do_acquire(self, replica: Replica) -> None:
        self._is(replica, "follower")
        self._looks(replica)
        if replica.core.state == "follower" and self.ended:
            replica.now += TIMES.duration  # nobody renews it meanwhile
            self._looks(replica)
        if replica.core.state != "candidate":
            raise Disabled("it leaves the Lease to its holder")

    def _do_lose(self, replica: Replica) -> None:
        before = replica.core.state
        others = self._holder not in ("", replica.core.name)
        if before == "follower" or not others:
            replica.now += TIMES.deadline
            replica.core.tick(replica.now)
            for effect in replica.core.effects():
                if isinstance(effect, Look):
                    replica.core.failed(replica.now)  # that is why it was not renewed
                else:
                    self._carry_out(replica, effect)
        else:
            self._looks(replica)
        if replica.core.state == before:
            raise Disabled("it has nothing to lose")

    def _looks(self, replica: Replica) -> None:
        """It reads the Lease when that is due, and writes it if it wants to."""
        replica.now = max(replica.now, replica.core.next_deadline())
        replica.core.tick(replica.now)
        self._effects(replica)

    def _write(self, replica: Replica, effect: Write) -> None:
        if effect.over != self.lease:
            replica.core.failed(replica.now)
            return
        over = effect.over
        transitions = (over.transitions + effect.anew) if over is not None else 0
        self._put(replica.core.name, transitions)
        assert self.lease is not None
        replica.core.wrote(self.lease, replica.now, replica.now)

    def _put(self, holder: str, transitions: int) -> None:
        version = int(self.lease.version) + 1 if self.lease is not None else 1
        self.lease = Lease(holder, TIMES.duration, transitions, str(version))
        self.ended = not holder

    # --- the journal -----------------------------------------------------------------------

    # An answer is another step by what it finds.

    def _do_open(self, replica: Replica) -> None:
        self._is(replica, "candidate")
        self._opens(replica, done=True, told=True)

    def _do_openfails(self, replica: Replica, done: bool) -> None:
        self._is(replica, "candidate")
        self._opens(replica, done=done, told=False)

    def _do_openslate(self, replica: Replica, done: bool) -> None:
        self._is(replica, "fenced")
        self._opens(replica, done=done, told=done)

    def _is(self, replica: Replica, state: str) -> None:
        if replica.core.state != state:
            raise Disabled(f"it is {replica.core.state}")

    def _opens(self, replica: Replica, *, done: bool, told: bool) -> None:
        """done: the journal was opened. told: and the replica hears so."""
        if not replica.opening:
            raise Disabled("it does not take over")
        if done and self.journal.state.epoch >= self.most:
            raise Disabled("the bounds of the search allow no more")
        replica.opening = False
        if done:
            self.journal.open()
        if told:
            replica.open = True
            replica.core.opened(self.journal.state.epoch)
        else:
            replica.core.unopened()
        self._effects(replica)

    def _do_send(self, replica: Replica) -> None:
        if replica.core.leading and not self.ended and self._holder == replica.core.name:
            self._looks(replica)  # it renews the Lease, now and then
        replica.sent += 1  # of a label set that nobody had before
        label_set = f"k8s:app={replica.core.name}-{replica.sent};"
        replica.numbers.bind([label_set], replica.now)
        batch = replica.numbers.next_batch(replica.now)
        if batch is None:
            raise Disabled("it writes nothing")
        replica.flight = batch

    def _do_arrive(self, replica: Replica) -> None:
        batch = self._under_way(replica)
        try:
            revision = self.journal.append(batch)
        except JournalConflict as error:
            raise Disabled(str(error)) from error
        self.writer, replica.flight = batch.epoch, None
        if self._is_of(replica, batch):
            assert isinstance(replica.numbers, Allocator)
            replica.numbers.written(revision, replica.now)

    def _do_conflict(self, replica: Replica) -> None:
        batch = self._under_way(replica)
        try:
            apply_batch(self.journal.state, batch)
        except JournalConflict as error:
            replica.flight = None
            if self._is_of(replica, batch):
                replica.core.overtaken(str(error))
                self._effects(replica)
        else:
            raise Disabled("the journal takes the write")

    def _is_of(self, replica: Replica, batch: JournalBatch) -> bool:
        """As the driver asks: still the leadership that wrote."""
        return replica.core.leading and replica.epoch == batch.epoch

    def _under_way(self, replica: Replica) -> JournalBatch:
        if replica.flight is None:
            raise Disabled("no write is under way")
        return replica.flight

    def _do_settle(self, replica: Replica) -> None:
        before = replica.core.state
        if replica.flight is None:  # what the driver's `written` waits for
            for _ in range(replica.standing):
                replica.core.stood_down()
            replica.standing = 0
        replica.core.settle()
        if before == "follower" or replica.core.state != "follower":
            raise Disabled("something is under way, or nothing was")
        if replica.open:
            raise AssertionError("it follows, and has the journal open")

    # --- effects ---------------------------------------------------------------------------

    def _effects(self, replica: Replica) -> None:
        due = deque(replica.core.effects())
        while due:
            self._carry_out(replica, due.popleft())
            due.extend(replica.core.effects())

    def _carry_out(self, replica: Replica, effect: Effect) -> None:
        match effect:
            case Look():
                replica.core.looked(self.lease, replica.now)
            case Write():
                self._write(replica, effect)
            case Release(over):
                if over == self.lease:
                    self._put("", over.transitions)
            case TakeOver():
                replica.opening = True
            case Lead():
                replica.epoch = self.journal.state.epoch
                replica.numbers = Allocator(
                    self.journal.state, pool=POOL, drain_seconds=NEVER, now=replica.now
                )
            case StandDown():
                replica.standing += 1
                replica.open = False
                replica.epoch = 0
                replica.numbers = Followed(self.journal.state, pool=POOL)
