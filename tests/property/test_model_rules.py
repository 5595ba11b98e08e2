"""Each machine's own object, driven by rules that come from its model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from reconciler.core.identity import Allocator, JournalState
from reconciler.core.identity.journal import Entry
from reconciler.core.machine import load
from reconciler.core.resources.types import IDENTITY, PEER_SET, Resource
from reconciler.core.xds import codec
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Encoder, Request, encode_request
from reconciler.core.xds.nodes import LAG_SECONDS, Node
from reconciler.core.xds.rollout import Rollout
from reconciler.core.xds.stream import DeltaStream
from reconciler.testing.model_rules import Row, Subject, rows, rules_of

NAME = "k8s:app=a;"
DRAIN = 5.0
GRACE = 60.0


class OneIdentity:
    """The allocator with one label set. Written and refused are the journal's answers."""

    def __init__(self) -> None:
        self.now, self.revision = 0.0, 1
        self._open(())
        self.batch: object = None

    def _open(self, entries: tuple[Entry, ...]) -> None:
        state = JournalState(epoch=1, revision=self.revision, cursor=256, entries=entries)
        pool = range(256, 260)
        self.allocator = Allocator(state, pool=pool, drain_seconds=DRAIN, now=self.now)
        self.batch = None

    @property
    def state(self) -> str:
        found = [each.state for each in self.allocator.entries() if each.label_set == NAME]
        return found[0] if found else "absent"

    def events(self) -> Mapping[str, Callable[[], object]]:
        state = self.state
        found: dict[str, Callable[[], object]] = {}
        bound = state in ("waiting", "reserving", "active", "recalled", "reviving") or (
            state.endswith("-wanted")
        )
        if bound:
            found["release"] = lambda: self.allocator.release([NAME], self.now)
        else:
            found["bind"] = lambda: self.allocator.bind([NAME], self.now)
        if self.batch is not None:
            found |= {"written": self._written, "refused": self._refused}
        elif state in WRITES:
            found[WRITES[state]] = self._write
        if state == "absent" and self.batch is None:
            for phase in ("active", "retiring"):
                entry = Entry(number=257, birth=1, label_set=NAME, phase=phase)
                found[f"adopt_{phase}"] = lambda entry=entry: self._open((entry,))  # type: ignore[misc]
        return found

    def guard(self, name: str) -> bool:
        raise AssertionError(name)

    def _write(self) -> None:
        """The next batch, when everything that it waits for has come."""
        self.now += DRAIN
        self.allocator.published(self.revision)
        self.allocator.advance(self.now, self.revision)
        self.batch = self.allocator.next_batch(self.now)
        assert self.batch is not None

    def _written(self) -> None:
        self.batch = None
        self.revision += 1
        self.allocator.written(self.revision, self.now)

    def _refused(self) -> None:
        self.batch = None
        self.allocator.refused("disk is full")


WRITES = {"waiting": "reserve", "draining": "retire", "recalled": "revive", "retiring": "free"}


class OneNode:
    def __init__(self) -> None:
        self.now = 0.0

        def no_view(refused: object) -> object:
            raise AssertionError("nothing is served here")

        rollout = Rollout(no_view, Encoder(), 5.0)  # type: ignore[arg-type]
        self.node = Node("n1", rollout, 0.0, GRACE)

    @property
    def state(self) -> str:
        return self.node.state

    def events(self) -> Mapping[str, Callable[[], object]]:
        found: dict[str, Callable[[], object]] = {
            trigger: lambda trigger=trigger: self.node.fire(trigger, self.now)  # type: ignore[misc]
            for trigger in ("connect", "committed_newest", "view_changed", "disconnect")
        }
        if self.node.lag_at is not None and self.state == "syncing":
            found["lag_limit"] = lambda: self._wait(LAG_SECONDS)
        if self.node.absent_until is not None:
            found["absence_over"] = lambda: self._wait(GRACE)
        return found

    def guard(self, name: str) -> bool:
        raise AssertionError(name)

    def _wait(self, seconds: float) -> None:
        self.now += seconds
        self.node.tick(self.now)


class OneStream:
    """One type on a stream, its peer made of frames."""

    def __init__(self) -> None:
        self.stream = DeltaStream([IDENTITY])
        self.encoder = Encoder()
        self.open: list[str] = []
        self.sent = 0
        self.closed = False

    @property
    def state(self) -> str:
        return self.stream.state(IDENTITY)

    def events(self) -> Mapping[str, Callable[[], object]]:
        if self.closed:
            return {"subscribe": lambda: self._say(subscribe=("a",))}
        if self.state == "idle":
            # No type has been heard of that could end.
            return {"subscribe": lambda: self._say(subscribe=("a",))}
        found: dict[str, Callable[[], object]] = {
            "resubscribe": lambda: self._say(subscribe=("b",)),
            "stale_ack": lambda: self._say(nonce="of another stream"),
            "stale_nack": lambda: self._say(nonce="of another stream", error="no"),
            "send": self._send,
            "close": self._close,
        }
        if self.open:
            found["ack_last" if len(self.open) == 1 else "ack"] = self._ack
            found["nack"] = lambda: self._say(nonce=self.open.pop(0), error="no room")
        return found

    def guard(self, name: str) -> bool:
        raise AssertionError(name)

    def _say(
        self, *, subscribe: tuple[str, ...] = (), nonce: str = "", error: str | None = None
    ) -> None:
        request = Request(type_url=IDENTITY, subscribe=subscribe, nonce=nonce, error=error)
        self.stream.receive(encode_request(request))

    def _send(self) -> None:
        self.sent += 1
        resource = Resource(IDENTITY, "a", str(self.sent), str(self.sent).encode())
        for frame in self.encoder.frames(IDENTITY, [resource]):
            self.stream.sent(frame)
            self.open.append(frame.nonce)

    def _ack(self) -> None:
        self.stream.receive(codec.ack(IDENTITY, self.open.pop(0)))

    def _close(self) -> None:
        self.closed = True
        self.stream.close()


class OneClient:
    STALE = 60.0

    def __init__(self) -> None:
        self.now = 0.0
        self.client = Client("n1", 0.0, self.STALE)
        resource = Resource(PEER_SET, "s/0", "1", b"1")
        self.response = Encoder().frames(PEER_SET, [resource])[0].data

    @property
    def state(self) -> str:
        return self.client.state

    def events(self) -> Mapping[str, Callable[[], object]]:
        state = self.state
        found: dict[str, Callable[[], object]] = {
            "opened": lambda: self.client.opened(Report(), self.now),
            "response": lambda: self.client.received(self.response, self.now),
        }
        if self.client.retry_at is not None:
            found["connect"] = self._connect
        if state in ("connecting", "stale-connecting", "syncing", "in-sync"):
            found["lost"] = lambda: self.client.lost(self.now, 0.0)
        if state == "syncing":
            found["committed"] = lambda: self.client.committed(self.now)
            found["refused"] = lambda: self.client.refused(self.now)
        if state == "connecting" or (state == "disconnected" and self.client.retry_at is None):
            found["too_old"] = self._too_old
        if state == "disconnected" and self.client.retry_at is not None:
            found["too_old"] = self._too_old_before_the_next_attempt
        return found

    def guard(self, name: str) -> bool:
        raise AssertionError(name)

    def _connect(self) -> None:
        assert self.client.retry_at is not None
        self.now = max(self.now, self.client.retry_at)
        self.client.last_contact = max(self.client.last_contact, self.now - self.STALE / 2)
        self.client.tick(self.now)

    def _too_old(self) -> None:
        self.now = max(self.now, self.client.last_contact + self.STALE)
        self.client.tick(self.now)

    def _too_old_before_the_next_attempt(self) -> None:
        """The back-off has just begun when the limit is over."""
        self.client.last_contact = self.now - self.STALE
        self.client.retry_at = self.now + 1.0
        self.client.tick(self.now)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "identity": OneIdentity,
    "node": OneNode,
    "stream": OneStream,
    "client": OneClient,
}


NOT_KEPT: frozenset[Row] = frozenset({("idle", "close", "closed")})
"""A stream keeps nothing of a type that it never heard of, so there is nothing that closes."""


def run(name: str, make: Callable[[], Subject], examples: int = 40) -> set[Row]:
    taken: set[Row] = set()
    machine: type[RuleBasedStateMachine] = rules_of(load(name), make, taken)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return taken


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_an_object_follows_its_model(name: str) -> None:
    examples = 250 if len(rows(load(name))) > 25 else 60
    assert run(name, SUBJECTS[name], examples) == rows(load(name)) - NOT_KEPT


def test_an_object_that_strays_is_found() -> None:
    class Stray(OneNode):
        @property
        def state(self) -> str:
            return "in-sync" if self.node.state == "lagging" else self.node.state

    with pytest.raises(AssertionError, match="the model says lagging"):
        run("node", Stray)
