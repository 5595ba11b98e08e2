"""The cut machine (models/cut.toml): responses in, writes and answers out, in order.

Works on what the tables can be asked to do: at most one cut is staged, a flip is only asked for
when what is held has the root that the commit names, and everything else waits in a queue. Writes
are carried out in the order in which they are given, each is reported as done or failed.

A cut of the agent's own (after a restart, a repair, or a long time without a server) goes the same
way as one from a server; only nobody waits for an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from reconciler.core.dataplane.ops import Op
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.recorded import held, undone
from reconciler.core.dataplane.records import FORMAT, Record
from reconciler.core.dataplane.tables import Tables
from reconciler.core.dataplane.values import Change
from reconciler.core.machine import load
from reconciler.core.resources import root as roots
from reconciler.core.resources.types import COMMIT, CUT_NAME, Resource
from reconciler.core.trace import Trace
from reconciler.errors import DatapathError, MapFull, Refusal

MODEL: Final = load("cut")
RETRY_SECONDS: Final = 1.0
"""Between attempts at writes that must succeed some time: cleaning and rolling back."""

Key = tuple[str, str]


class Answer(msgspec.Struct, frozen=True):
    """Answer a response: refusal None = ACK."""

    type_url: str
    nonce: str
    refusal: Refusal | None = None


class Write(msgspec.Struct, frozen=True):
    token: int
    ops: tuple[Op, ...]


class Save(msgspec.Struct, frozen=True):
    record: Record


class Enforced(msgspec.Struct, frozen=True):
    """The kernel enforces this cut now. own: it was not a server's."""

    revision: int
    root: bytes
    own: bool


class Refused(msgspec.Struct, frozen=True):
    """A cut was given up. resync: what is held is not what the server believes."""

    refusal: Refusal
    resync: bool


class Settled(msgspec.Struct, frozen=True):
    """The maps hold the cut in force and nothing else."""


Output = Answer | Write | Save | Enforced | Refused | Settled


class Staging(msgspec.Struct, frozen=True):
    """Resources of the next cut. answer: (type URL, nonce), None for a cut of the agent's own.

    held: resource of each changed key, None where it goes; refusal: they can't even be read.
    """

    answer: tuple[str, str] | None
    changes: tuple[Change, ...]
    held: tuple[tuple[Key, Resource | None], ...]
    refusal: Refusal | None = None
    distrust: bool = False


class Committing(msgspec.Struct, frozen=True):
    answer: tuple[str, str] | None
    revision: int
    root: bytes
    distrust: bool = False
    position: str = ""


Item = Staging | Committing


class Cut:
    __slots__ = (
        "_again", "_flip_ops", "_item", "_now", "_preparing", "_record", "_root",
        "_root_before", "_token", "_trace", "_whole", "_writes", "distrusts", "held", "node", "out",
        "position", "refusal", "retry_at", "revision", "root", "state", "tables", "unconfirmed",
        "waiting",
    )  # fmt: skip

    def __init__(self, node: str, tables: Tables, trace: Trace | None = None) -> None:
        self._trace = trace
        self.state = MODEL.initial
        self.node = node
        self.tables = tables
        self.held: Overlay[Key, Resource] = Overlay()
        self.revision = 0  # in force
        self.root = bytes(roots.SIZE)
        self.position = ""  # of the cut in force, as its server said it
        self.distrusts = False  # in force
        self.waiting: deque[Item] = deque()
        self.out: list[Output] = []
        self.refusal: Refusal | None = None  # of the last cut that was given up
        self.unconfirmed: set[Key] | None = None  # resync: what the server has not named yet
        self.retry_at: float | None = None
        self._root = self._root_before = 0
        self._item: Item | None = None
        self._preparing: dict[int, Staging] = {}
        self._writes: dict[int, str] = {}  # token → "prepare" | "flip" | "clean" | "undo"
        self._again: tuple[Op, ...] = ()  # cleaning or rolling back, until all of it is done
        self._flip_ops: tuple[Op, ...] = ()
        self._token = 0
        self._now = 0.0
        self._whole = True  # the next record has to stand alone

    # --- events ----------------------------------------------------------------------------

    def offer(self, item: Item, now: float) -> None:
        """A response, or a step of a cut of the agent's own."""
        self._now = now
        if self.waiting or self.state == "flipping":
            self.waiting.append(item)  # nothing else is looked at before the flip is known
        else:
            self._handle(item)
        self._drain()

    def done(self, token: int, now: float) -> bool:
        """A write was carried out; False: not one of this machine's."""
        self._now = now
        kind = self._writes.pop(token, None)
        if kind is None:
            return False
        if kind == "prepare":
            if token in self._preparing:
                MODEL.fire(self, "prepared")
                self._preparing.pop(token, None)
        elif kind == "flip":
            MODEL.fire(self, "flipped")
            self._again = ()
            MODEL.fire(self, "clean_due")
        elif kind == "clean":
            self._again, self._item = (), None
            self.out.append(Settled())
            MODEL.fire(self, "cleaned")
        else:
            self._again, self._item = (), None
            MODEL.fire(self, "undone")
        self._drain()
        return True

    def failed(self, token: int, refusal: Refusal, now: float) -> bool:
        self._now = now
        kind = self._writes.pop(token, None)
        if kind is None:
            return False
        if kind == "prepare":
            if token in self._preparing:
                self.refusal = _named(refusal, self._preparing[token])
                MODEL.fire(self, "prepare_failed")
        elif kind == "flip":
            self.refusal = refusal
            self._whole = True  # what was saved did not come into force
            self.tables.uncommit()
            MODEL.fire(self, "flip_failed")
        else:
            if kind == "clean":
                MODEL.fire(self, "clean_failed")
            self.retry_at = now + RETRY_SECONDS
        self._drain()
        return True

    def discard(self, now: float) -> None:
        """The stream is gone: so are the responses that came on it."""
        self._now = now
        self.waiting = deque(item for item in self.waiting if item.answer is None)
        self._preparing = {
            token: item for token, item in self._preparing.items() if item.answer is None
        }
        self.unconfirmed = None
        if self._item is not None and self._item.answer is None:
            return  # a cut of the agent's own needs no stream
        if self.state == "flipping" and self._item is not None:
            self._item = msgspec.structs.replace(self._item, answer=None)  # nobody to tell
        MODEL.fire(self, "discard")
        self._drain()

    def record_lost(self) -> None:
        """What was saved is not on disk, so nothing can be said as a difference from it."""
        self._whole = True

    def tick(self, now: float) -> None:
        self._now = now
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            if self.state == "committed":
                MODEL.fire(self, "clean_due")
            elif self.state == "rolled-back":
                MODEL.fire(self, "roll_back_failed")
            self._drain()

    def take(self) -> list[Output]:
        out, self.out = self.out, []
        return out

    def successor(self, tables: Tables) -> Cut:
        """The same cut in force, with other tables into which nothing was staged yet."""
        assert self.settled, "a cut is under way"
        cut = Cut(self.node, tables, self._trace)
        cut.revision, cut.root, cut.distrusts = self.revision, self.root, self.distrusts
        cut.position = self.position
        cut.unconfirmed, cut.refusal, cut._token = self.unconfirmed, self.refusal, self._token
        return cut

    def next_token(self) -> int:
        """Numbers of writes are shared with whoever else writes."""
        self._token += 1
        return self._token

    @property
    def held_root(self) -> bytes:
        """Root of what is held: in force, and staged on top of it."""
        return roots.to_bytes(self._root)

    @property
    def under_way(self) -> Mapping[int, str]:
        """Writes that were given out and not answered: token → what they are for."""
        return self._writes

    @property
    def settled(self) -> bool:
        """Nothing is staged, under way or waiting."""
        return self.state == "current" and not self.waiting and not self._writes

    # --- guards ----------------------------------------------------------------------------

    @property
    def more_under_way(self) -> bool:
        return len(self._preparing) > 1

    @property
    def has_backlog(self) -> bool:
        return bool(self.waiting) and isinstance(self.waiting[0], Staging)

    @property
    def root_matches(self) -> bool:
        """Also stages what no response brings: trust, removals after a resync, and a cut of no
        resources, since what an earlier process staged may be in the other half."""
        item = self._item
        assert isinstance(item, Committing)
        self._flip_ops = ()
        self.refusal = None
        if item.revision < self.revision:
            self.refusal = _no(f"revision {item.revision} is older than {self.revision}")
            return False
        gone = sorted(self.unconfirmed or ()) if item.answer is not None else []
        for key in gone:
            self._hold(key, None)
        if self.held_root != item.root:
            self.refusal = _no("what is held has another root")
            return False
        changes = [Change(*key, None) for key in gone]
        if changes or self.tables.view.distrust != item.distrust or not self.tables.begun:
            ops = self.tables.stage(changes, distrust=item.distrust)
            if isinstance(ops, Refusal):
                self.refusal = ops
                return False
            self._flip_ops = tuple(ops)
        return True

    # --- effects ---------------------------------------------------------------------------

    def prepare(self) -> None:
        item = self._item
        if item is None:
            head = self.waiting.popleft()
            assert isinstance(head, Staging)
            item = self._item = head
        assert isinstance(item, Staging)
        self._preparing[self.next_token()] = item
        if item.refusal is not None:
            self.refusal = item.refusal
            return
        for key, resource in item.held:
            self._hold(key, resource)
            if self.unconfirmed is not None and item.answer is not None:
                self.unconfirmed.discard(key)
        ops = self.tables.stage(item.changes, distrust=item.distrust)
        if isinstance(ops, Refusal):
            self.refusal = ops
            return
        self._writes[self._token] = "prepare"
        self.out.append(Write(self._token, tuple(ops)))

    def queue(self) -> None:
        assert self._item is not None
        self.waiting.append(self._item)

    def ack_staged(self) -> None:
        token = min(self._preparing)
        self._answer(self._preparing[token].answer)

    def save_cache(self) -> None:
        item = self._item
        assert isinstance(item, Committing)
        changed: list[Resource] = []
        removed: list[Key] = []
        for key in self.held.touched:
            now, before = self.held.get(key), self.held.before(key)
            if now is None and before is not None:
                removed.append(key)
            elif now is not None and (before is None or before.version != now.version):
                changed.append(now)
        unchanged = not changed and not removed and item.distrust == self.distrusts
        if unchanged and (item.revision, item.root) == (self.revision, self.root):
            return
        whole = self._whole
        self._whole = False
        resources = tuple(self.held.now.values()) if whole else tuple(changed)
        record = Record(
            FORMAT,
            self.node,
            whole,
            item.revision,
            item.root,
            self.tables.endpoints.next_id,
            item.distrust,
            resources,
            () if whole else tuple(removed),
            item.position,
        )
        self.out.append(Save(record))

    def flip(self) -> None:
        item = self._item
        assert isinstance(item, Committing)
        ops = (*self._flip_ops, *self.tables.commit(item.revision, item.root))
        self._write("flip", ops)

    def ack_commit(self) -> None:
        item = self._item
        assert isinstance(item, Committing)
        self.revision, self.root, self.distrusts = item.revision, item.root, item.distrust
        self.position = item.position
        self.held.keep()
        self._root_before = self._root
        if item.answer is not None:
            self.unconfirmed = None
            self.refusal = None
        self._answer(item.answer)
        self.out.append(Enforced(item.revision, item.root, item.answer is None))
        self._item = None

    def clean(self) -> None:
        again, tables = self._again, self.tables
        self._again = tuple(tables.repeat(again) if again else tables.settle())
        self._write("clean", self._again)

    def roll_back(self) -> None:
        if self._again:
            self._again = tuple(self.tables.repeat(self._again))
        else:
            self._again = tuple(self.tables.rollback())
            self.held.undo()
            undone(self._trace)
            self._root = self._root_before
            self._preparing = {}
            if self.unconfirmed is not None:
                self.unconfirmed = set(self.held)
        self._write("undo", self._again)

    def nack(self) -> None:
        assert self.refusal is not None
        item = self._item
        for staging in self._preparing.values():
            self._answer(staging.answer, self.refusal)
        if not self._preparing and isinstance(item, Committing):
            self._answer(item.answer, self.refusal)  # else it waits, and is answered in its turn
        self.out.append(Refused(self.refusal, resync=False))

    def nack_root(self) -> None:
        assert self.refusal is not None
        assert self._item is not None
        self._answer(self._item.answer, self.refusal)
        self.out.append(Refused(self.refusal, resync=self.refusal.type_url == COMMIT))

    # --- inside ----------------------------------------------------------------------------

    def _handle(self, item: Item) -> None:
        self._item = item
        if isinstance(item, Committing):
            MODEL.fire(self, "commit")
        else:
            MODEL.fire(self, "stage")
            self._check_refusal()

    def _check_refusal(self) -> None:
        """`prepare` could not: the machine leaves staging by its own event."""
        if self.state == "staging" and self._unprepared():
            MODEL.fire(self, "prepare_failed")

    def _unprepared(self) -> bool:
        return any(token not in self._writes for token in self._preparing)

    def _drain(self) -> None:
        """Go on with what waits, as far as the state allows."""
        self._check_refusal()
        while self.waiting:
            head = self.waiting[0]
            ready = ("current", "staging", "staged")
            if self.state not in ready or (
                self.state == "staging" and isinstance(head, Committing)
            ):
                return
            self.waiting.popleft()
            self._handle(head)

    def _hold(self, key: Key, resource: Resource | None) -> None:
        held(self._trace, key, resource)
        old = self.held.get(key)
        if old is not None:
            self._root -= roots.contribution(*key, old.version)
            self.held.drop(key)
        if resource is not None:
            self._root += roots.contribution(*key, resource.version)
            self.held.put(key, resource)

    def _write(self, kind: str, ops: tuple[Op, ...]) -> None:
        token = self.next_token()
        self._writes[token] = kind
        self.out.append(Write(token, ops))

    def _answer(self, answer: tuple[str, str] | None, refusal: Refusal | None = None) -> None:
        if answer is not None:
            self.out.append(Answer(*answer, refusal))


def _no(reason: str) -> Refusal:
    return Refusal(COMMIT, CUT_NAME, reason)


def _named(refusal: Refusal, staging: Staging) -> Refusal:
    """A write failed: of the resources that it was for, name the type, and the only one."""
    if refusal.type_url or not staging.changes:
        return refusal
    first = staging.changes[0]
    name = first.name if len(staging.changes) == 1 else ""
    return msgspec.structs.replace(refusal, type_url=first.type_url, name=name)


def refusal_of(error: DatapathError) -> Refusal:
    if isinstance(error, MapFull):
        return Refusal("", error.object, str(error), error.needed, error.limit)
    return Refusal("", error.object, str(error))
