"""Brings one node from cut to cut: stage what differs, commit, hold when it is refused.

The machine is models/rollout.toml. A cut that is begun is finished unchanged or abandoned whole;
changes meanwhile coalesce into the next one. What the node is believed to enforce is only ever what
it reported or acknowledged. What it *may* enforce is that or anything begun since, so numbers are
held by the older of both, over broken streams too, until the node reports again.

A refused cut is not sent again at once. If the refusal names a rule set (or what leads to one),
that rule set is served to this node as *closed* after a grace and everything else goes on, until
what was refused changes, or is tried again: from time to time, and when the agent is another
process than the one that refused, which may be of another version or have more room. If the refusal
names nothing, the stream is restarted and the node starts anew from what it reports.

A node that refuses takes back all that it had staged, but stages what was pipelined behind the
refusal. The next cut overwrites that, so that its root fits at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from reconciler.core.machine import load
from reconciler.core.resources.build import CLOSED_RULES, NodeView
from reconciler.core.resources.encode import commit, parse_commit_version
from reconciler.core.resources.parts import Key, Part, missing_of, parts_of
from reconciler.core.resources.position import Position, parse_position
from reconciler.core.resources.types import (
    COMMIT,
    CUT_NAME,
    CUT_TYPES,
    PEER_SET,
    POLICY,
    RULE_SET,
    STAGED,
)
from reconciler.core.trace import Event, Trace, cut
from reconciler.core.xds.codec import Encoder, Frame
from reconciler.errors import Refusal
from reconciler.wire import resources_pb2 as pb

MODEL = load("rollout")

RETRY_SECONDS: Final = 60.0
"""How long a node is served a closed view before the real one is tried again."""


class Enforced(msgspec.Struct, frozen=True):
    """A cut that a node is known to enforce. view: None if only its report is known."""

    revision: int
    root: bytes
    view: NodeView | None = None
    reported: Mapping[str, Mapping[str, str]] = {}
    position: Position | None = None


class Restart(msgspec.Struct, frozen=True):
    """Close the node's stream, so that it reports anew."""

    reason: str


Out = Frame | Restart

ViewOf = Callable[[frozenset[str]], NodeView]
"""Makes the newest view of the node; the argument are the rule sets to serve as closed."""


class Rollout:
    __slots__ = (
        "_encoder",
        "_grace",
        "_initial",
        "_noted",
        "_now",
        "_out",
        "_stray",
        "_trace",
        "acked",
        "alarm",
        "bytes",
        "causes",
        "committed_at",
        "deadline",
        "floor",
        "instance",
        "nack",
        "newest",
        "position",
        "refusal",
        "reopen_at",
        "reported",
        "resources",
        "sent",
        "state",
        "target",
        "view_of",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        view_of: ViewOf,
        encoder: Encoder,
        closed_grace: float,
        trace: Trace | None = None,
    ) -> None:
        self._trace = trace
        self._noted = 0  # lines recorded
        self.state = MODEL.initial
        self.view_of = view_of
        self._encoder = encoder
        self._grace = closed_grace
        self._initial: dict[str, dict[str, str]] = {}
        self._now = 0.0
        self._out: list[Out] = []
        self.waiting: dict[str, set[str]] = {}  # type → nonces that are not answered
        self.sent: dict[str, Part] = {}  # type → what the cut under way sends of it
        self._stray: set[Key] = set()  # of cuts given up: the node may have it staged
        self.acked: Enforced | None = None
        self.target: NodeView | None = None
        self.newest = 0  # newest revision that there is
        self.position: Position | None = None  # its position, where replicas have one
        self.floor = 0  # mark of the oldest cut that the node may enforce
        # What was refused: its version, and the rule sets that are closed for it.
        self.causes: dict[Key, tuple[str, frozenset[str]]] = {}
        self.refusal: tuple[Key, str] | None = None  # with its version; not yet among `causes`
        self.reopen_at: float | None = None  # when what is closed is tried again
        self.instance = ""
        self.reported = False
        self.nack = self.alarm = ""
        self.deadline: float | None = None
        self.resources = self.bytes = 0
        self.committed_at = 0.0

    # ------------------------------------------------------------------------------- events

    def subscribed(
        self,
        type_url: str,
        initial: dict[str, str],
        now: float,
        newest: tuple[int, Position | None] | None = None,
        instance: str = "",
    ) -> None:
        """The first request of a type. Nothing is sent before that of every type is here.

        newest: revision and position now. A replica reads on without a word to nodes where nothing
        changes, and a report is judged by what it has read.
        instance: of the agent's process, as far as it says.
        """
        self._now = now
        if newest is not None:
            self.newest, self.position = newest
        if instance != self.instance:
            self.instance = instance
            if self.causes:
                self.reopen_at = now
        self._initial[type_url] = initial
        if not self.reported and all(each in self._initial for each in CUT_TYPES):
            self.reported = True
            self._report()
            self._note("Report")

    def view_changed(self, revision: int, now: float, position: Position | None = None) -> None:
        """There is a newer state. Costs nothing while a cut is under way."""
        self._now = now
        self.newest, self.position = revision, position
        for held in (self.target, self.acked.view if self.acked else None):
            if held is not None:
                held.shorten()
        caught_up = (
            self.state == "ahead" and self.acked is not None and not self._behind(self.acked)
        )
        if caught_up:
            self.alarm = ""
            MODEL.fire(self, "caught_up")
        if self.state in ("current", "held", "closed-fallback"):
            self._advance(reported=caught_up)
        else:
            MODEL.fire(self, "view_changed")
        self._note("Hear")

    def acked_response(self, type_url: str, nonce: str, now: float) -> None:
        self._now = now
        if not self._settle(type_url, nonce) or self.waiting:
            return
        if type_url == COMMIT:
            MODEL.fire(self, "commit_acked")
            self._advance()
        else:
            MODEL.fire(self, "all_acked")
        self._note("Commit" if type_url == COMMIT else "Acked")

    def nacked_response(
        self, type_url: str, nonce: str, reason: str, refusal: Refusal | None, now: float
    ) -> None:
        self._now = now
        if not self._settle(type_url, nonce):
            return
        self.nack = reason
        self.refusal = None
        if refusal is not None and self.target is not None:
            found = self.target.get(refusal.type_url, refusal.name)
            if found is not None:
                self.refusal = ((found.type_url, found.name), found.version)
        MODEL.fire(self, "nack")
        self._note("Nacked")

    def tick(self, now: float) -> None:
        self._now = now
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = None
        if self.state == "held":
            if self._named():
                MODEL.fire(self, "grace_over")
                self._begun()
            else:
                MODEL.fire(self, "retry")
        elif self.state == "closed-fallback":
            self._forget_refusals()
            MODEL.fire(self, "retry")
            self._begun()
        self._note("Tick")

    def disconnected(self, now: float) -> None:
        self._now = now
        MODEL.fire(self, "disconnect")
        self._note("Break")

    def take(self) -> list[Out]:
        out, self._out = self._out, []
        return out

    # ---------------------------------------------------------------------------- questions

    @property
    def refused(self) -> frozenset[str]:
        """Rule sets that are served to this node as closed."""
        return frozenset(name for _, names in self.causes.values() for name in names)

    @property
    def committed(self) -> int:
        """Revision that the node is believed to enforce; 0: not known."""
        return 0 if self.acked is None else self.acked.revision

    @property
    def in_sync(self) -> bool:
        return self.state == "current" and self.committed >= self.newest

    def still_refused(self) -> bool:
        """Guard: the newest view still has, with the same content, what was refused."""
        if self.refusal is None:
            return bool(self.causes)  # `_advance` has dropped those that changed
        return self._stands(*self.refusal)

    # ------------------------------------------------------------------- effects of the model

    def adopt_report(self) -> None:
        assert self.acked is not None
        self.floor = mark(self.acked.revision, self.acked.position)

    def begin_cut(self) -> None:
        view = self.view_of(self.refused)
        base = self.acked
        if base is not None and base.view is not None:
            parts = view.parts_since(base.view)
        else:
            parts = view.parts_lacking({} if base is None else base.reported)
        if self._stray:
            missing = missing_of(parts)
            for key in self._stray:
                missing.setdefault(key, view.get(*key))
            parts = parts_of(missing)
        self.target = view
        self.waiting = {}
        self.sent = {}
        self._stray = set()
        for part in parts:
            self.sent[part.type_url] = part
            self._send(self._encoder.joined(part))

    def send_commit(self) -> None:
        assert self.target is not None
        position = "" if self.target.position is None else str(self.target.position)
        resource = commit(self.target.revision, self.target.root, position)
        self._send(self._encoder.frames(COMMIT, [resource]))

    def record_committed(self) -> None:
        assert self.target is not None
        self._enforces(self.target)
        self.target = None
        self.sent = {}
        self.committed_at = self._now
        if self.causes:
            self.deadline = self.reopen_at
        else:
            self.nack = ""

    def abandon_cut(self) -> None:
        for type_url in self.waiting:
            if type_url in self.sent:
                self._stray.update(self.sent[type_url].keys())
        self.target = None
        self.waiting = {}
        self.sent = {}

    def raise_alarm(self) -> None:
        self.alarm = self.nack

    def clear_alarm(self) -> None:
        self.alarm = self.nack = ""
        self._forget_refusals()

    def start_grace(self) -> None:
        self.deadline = self._now + self._grace

    def close_refused(self) -> None:
        if self.refusal is not None:
            key, version = self.refusal
            self.causes[key] = (version, self._named())
            self.refusal = None
        if self.reopen_at is None or self.reopen_at <= self._now:
            self.reopen_at = self._now + RETRY_SECONDS

    def restart_stream(self) -> None:
        self._out.append(Restart(f"starting anew after a refusal: {self.nack}"))

    def keep_in_use(self) -> None:
        """`floor` stays: what was committed is the oldest that the node may enforce."""
        self.reported = False
        self._initial = {}
        self.waiting = {}
        self.sent = {}
        self._stray = set()  # what was staged goes with the stream
        self.target = None
        self.refusal = None
        self.deadline = None

    # ------------------------------------------------------------------------------- inside

    def _report(self) -> None:
        said = parse_commit_version(self._initial[COMMIT].get(CUT_NAME, ""))
        if said is None:
            self.acked = Enforced(0, b"")
        else:
            held = {each: self._initial[each] for each in STAGED}
            revision, root, position = said
            self.acked = Enforced(revision, root, None, held, parse_position(position))
        self._initial = {}
        if self._behind(self.acked):
            self.alarm = (
                f"enforces revision {self.acked.revision}, newer than this server's "
                f"{self.newest}: waiting to catch up (was the journal replaced?)"
            )
            self._forget_refusals()
            MODEL.fire(self, "report_ahead")
            return
        if self.reopen_at is not None and self.reopen_at <= self._now:
            self._forget_refusals()
        if self.causes:
            self.deadline = self.reopen_at
            MODEL.fire(self, "report_closed")
        else:
            MODEL.fire(self, "report")
        self._advance(reported=True)

    def _advance(self, *, reported: bool = False) -> None:
        """Towards the newest view, from a state in which nothing is under way.

        A report is always answered by a commit, be it of what the node enforces already: that is
        how it knows that it is in sync, and may trust what it holds.
        """
        if self.newest == 0 or self.state not in ("current", "held", "closed-fallback"):
            return
        if self.state == "closed-fallback":
            self.causes = {
                key: cause for key, cause in self.causes.items() if self._stands(key, cause[0])
            }
        view = self.view_of(self.refused)
        settled = self.state == "current" or (self.state == "closed-fallback" and self.causes)
        if settled and self.acked is not None and self.acked.root == view.root:
            # Equal content: nothing to send, whatever the number of the revision.
            self._enforces(view)
            if self.state == "current":
                self.alarm = self.nack = ""
            if not reported:
                return
        MODEL.fire(self, "view_changed")
        self._begun()

    def _enforces(self, view: NodeView) -> None:
        self.acked = Enforced(view.revision, view.root, view, position=view.position)
        self.floor = mark(view.revision, view.position)

    def _behind(self, enforced: Enforced) -> bool:
        """This replica has not read all that the node's cut was made of."""
        if enforced.position is not None and self.position is not None:
            return not self.position.covers(enforced.position)
        return enforced.revision > self.newest

    def _begun(self) -> None:
        """After `begin_cut`: a cut that differs in nothing but its revision is acked at once."""
        if self.state in ("staging", "closed-staging") and not self.waiting:
            MODEL.fire(self, "all_acked")

    def _note(self, action: str) -> None:
        """For a recorded trace: what happened, and what is believed and under way after it."""
        if self._trace is not None:
            self._noted += 1
            args = {
                "line": self._noted,
                "state": self.state,
                "newest": {**cut(self.newest), "at": _at(self.position)},
                "acked": _named_cut(self.acked),
                "target": _named_cut(self.target),
            }
            self._trace(Event("StageCommit", action, args))

    def _send(self, frames: tuple[Frame, ...]) -> None:
        for frame in frames:
            self._out.append(frame)
            self.waiting.setdefault(frame.type_url, set()).add(frame.nonce)
            self.resources += frame.resources
            self.bytes += len(frame.data)

    def _settle(self, type_url: str, nonce: str) -> bool:
        """False: an answer to a response of a cut that was given up, which means nothing now."""
        open_nonces = self.waiting.get(type_url)
        if open_nonces is None or nonce not in open_nonces:
            return False
        open_nonces.discard(nonce)
        if not open_nonces:
            del self.waiting[type_url]
        return True

    def _forget_refusals(self) -> None:
        self.causes = {}
        self.refusal = self.reopen_at = self.deadline = None

    def _stands(self, key: Key, version: str) -> bool:
        found = self.view_of(frozenset()).get(*key)
        return found is not None and found.version == version

    def _named(self) -> frozenset[str]:
        """Names of the rule sets that the refusal leads to and that are not closed yet."""
        if self.refusal is None:
            return frozenset()
        (type_url, name), _ = self.refusal
        view = self.view_of(frozenset())
        names: set[str] = set()
        if type_url == RULE_SET:
            names = {name}
        elif type_url == PEER_SET:
            names = rule_sets_naming(view, name.rpartition("/")[0])
        elif type_url == POLICY:
            names = rule_sets_of(view, name)
        return frozenset(names) - self.refused - CLOSED_RULES.keys()


def mark(revision: int, position: Position | None) -> int:
    """What says of a cut which numbers may be in it: the revision; between replicas, whose
    revisions are not in one order, that of the journal."""
    return revision if position is None else position.journal


def _named_cut(held: Enforced | NodeView | None) -> dict[str, Any]:
    if held is None:
        return {**cut(0), "root": "", "at": ()}
    return {**cut(held.revision), "root": held.root[:8].hex(), "at": _at(held.position)}


def _at(position: Position | None) -> tuple[int, ...]:
    """Replicas have the same kinds."""
    return () if position is None else (position.journal, *(each for _, each in position.objects))


def rule_sets_naming(view: NodeView, selector: str) -> set[str]:
    """Names of the view's rule sets that name a peer set."""
    return {
        each.name
        for each in view.resources()
        if each.type_url == RULE_SET
        and any(selector in rule.peer_sets for rule in pb.RuleSet.FromString(each.body).rules)
    }


def rule_sets_of(view: NodeView, number: str) -> set[str]:
    """Names of the two rule sets of a policy."""
    found = view.get(POLICY, number)
    if found is None:
        return set()
    message = pb.Policy.FromString(found.body)
    return {message.ingress, message.egress}
