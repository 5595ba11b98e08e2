"""Who of several replicas writes: a Lease is held and renewed, and the journal taken over with it.

Pure: the shell reads and writes the Lease object and opens the journal, as `effects` say. The times
are those of Kubernetes' own components: a Lease that was not renewed for `duration` is anybody's,
whoever holds it stops writing after `deadline` without a renewal, and tries every `retry` seconds.
Clocks of different machines are never compared: what counts is for how long this replica has seen
the Lease unchanged.

The Lease keeps two replicas from trying at once. What keeps a deposed one from writing is the
journal's epoch; see models/leadership.toml.
"""

from __future__ import annotations

from typing import Final

import msgspec

from reconciler.core.machine import load
from reconciler.core.trace import Event, Trace

SPEC: Final = "Leadership"
MODEL: Final = load("leadership")


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. deadline must be less than duration, and retry less than deadline."""

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0


class Lease(msgspec.Struct, frozen=True):
    """The object as read. holder: "" when it was released; version: its resourceVersion."""

    holder: str
    duration: float
    transitions: int
    version: str


class Look(msgspec.Struct, frozen=True):
    """Read the Lease; answer with `looked` or `failed`."""


class Write(msgspec.Struct, frozen=True):
    """Write the Lease as its holder, if it is still what was read (None: there is none).

    anew: this replica did not hold it before. Answer with `wrote` or `failed`.
    """

    over: Lease | None
    anew: bool


class Release(msgspec.Struct, frozen=True):
    """Write the Lease without a holder, if it is still ours. Not answered."""

    over: Lease


class TakeOver(msgspec.Struct, frozen=True):
    """Open the journal; answer with `opened` or `unopened`, however late."""


class Lead(msgspec.Struct, frozen=True):
    """The journal is ours, in the state in which it was opened."""


class StandDown(msgspec.Struct, frozen=True):
    """Write nothing any more; answer with `stood_down` when nothing is under way."""

    reason: str


Effect = Look | Write | Release | TakeOver | Lead | StandDown


class Leadership:
    """models/leadership.toml. name: of this replica, like no other's."""

    def __init__(
        self, name: str, now: float, times: Times | None = None, trace: Trace | None = None
    ) -> None:
        self.name = name
        self._trace = trace
        self.state = MODEL.initial
        self.holder = ""  # as last seen
        self._times = times or Times()
        self._due = now  # next look
        self._asking = False
        self._seen: Lease | None = None
        self._seen_at = now  # when it was first seen like this
        self._renewed_at = now
        self._reason = ""
        self._unanswered = 0  # takings over and standings down
        self._out: list[Effect] = []

    @property
    def leading(self) -> bool:
        return self.state == "leader"

    def effects(self) -> list[Effect]:
        out, self._out = self._out, []
        return out

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        if self.state in ("candidate", "leader"):
            return min(self._due, self._renewed_at + self._times.deadline)
        return self._due

    def tick(self, now: float, jitter: float = 0.0) -> None:
        """jitter: 0..1, random; spreads the attempts of those who follow."""
        overdue = now >= self._renewed_at + self._times.deadline
        if self.state in ("candidate", "leader") and overdue:
            self._lose(f"the Lease was not renewed for {self._times.deadline:g} s")
        if now >= self._due and not self._asking:
            spread = 0.0 if self.leading else jitter * self._times.retry / 2
            self._due = now + self._times.retry + spread
            self._asking = True
            self._out.append(Look())
        elif now >= self._due:
            self._due = now + self._times.retry  # the last request is not answered yet

    # ---------------------------------------------------------------------------- the Lease

    def looked(self, lease: Lease | None, now: float) -> None:
        if lease != self._seen:
            self._seen, self._seen_at = lease, now
        self.holder = "" if lease is None else lease.holder
        mine = self.holder == self.name
        if self.state in ("candidate", "leader") and not mine:
            self._asking = False
            self._lose(f"{self.holder or 'nobody'} holds the Lease")
            return
        over = lease is None or not lease.holder or now >= self._seen_at + lease.duration
        if self.state == "fenced" or not (mine or over):
            self._asking = False
            return
        self._out.append(Write(lease, anew=self.state == "follower"))

    def wrote(self, lease: Lease, asked: float, now: float) -> None:
        """asked: the time before the request, from which on the Lease counts."""
        self._asking = False
        self._seen, self._seen_at = lease, now
        self.holder = lease.holder
        self._renewed_at = asked
        if self.state == "follower":
            self._fires("acquired", "Acquire")

    def failed(self, now: float) -> None:
        """The Lease could not be read or written; it is tried again when it is due."""
        self._asking = False

    # -------------------------------------------------------------------------- the journal

    def opened(self, epoch: int) -> None:
        """The journal is ours, at this epoch; if the Lease was lost meanwhile, it is to be closed
        again."""
        self._unanswered -= 1
        if self.state == "candidate":
            self._fires("opened", "Open", epoch=epoch)
        else:
            self._records("OpensLate", epoch=epoch)
            self._reason = "the Lease was lost while the journal was opened"
            self.stand_down()

    def unopened(self) -> None:
        self._unanswered -= 1
        if self.state == "candidate":
            self._fires("unopened", "OpenFails")
        else:
            self._records("OpensLate", epoch=0)

    def overtaken(self, reason: str) -> None:
        """A write met a newer epoch."""
        if self.state == "leader":
            self._reason = reason
            self._fires("overtaken", "Conflict")

    def stood_down(self) -> None:
        """Nothing that this replica wrote is under way."""
        self._unanswered -= 1

    def settle(self) -> None:
        """Follow again, if all that was asked for is answered."""
        if self.state == "fenced" and not self._unanswered:
            self._fires("settled", "Settle")

    def stop(self, reason: str = "this replica stops") -> None:
        """This replica ends, or can't lead: the Lease is given back if it has it."""
        if self.state in ("candidate", "leader"):
            self.release()
            self._lose(reason)

    # ------------------------------------------------------------------------------- inside

    def _lose(self, reason: str) -> None:
        self._reason = reason
        self._fires("lost", "Lose")

    def _fires(self, trigger: str, action: str, **args: int) -> None:
        MODEL.fire(self, trigger)
        self._records(action, **args)

    def _records(self, action: str, **args: int) -> None:
        """What is done now, and where that leads. epoch: 0 if the journal was not opened."""
        if self._trace is not None:
            self._trace(Event(SPEC, action, {"state": self.state, **args}))

    # Effects of the model

    def take_over(self) -> None:
        self._unanswered += 1
        self._out.append(TakeOver())

    def lead(self) -> None:
        self._out.append(Lead())

    def stand_down(self) -> None:
        self._unanswered += 1
        self._out.append(StandDown(self._reason))

    def release(self) -> None:
        if self._seen is not None and self.holder == self.name:
            self._out.append(Release(self._seen))
            self._renewed_at -= self._times.duration
