"""The two ends of the stream that a replay drives: a real rollout; a real agent with its kernel.

Both can be copied cheaply, for a state of a spec's graph has many steps out of it.
"""

from __future__ import annotations

import copy
import pickle
from collections import deque
from typing import Any, Final

from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.effects import (
    Apply,
    Attach,
    Connect,
    Disconnect,
    Effect,
    SaveCache,
    Send,
)
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import map_specs
from reconciler.core.dataplane.records import decode_record, replay
from reconciler.core.resources.types import CUT_TYPES
from reconciler.core.xds.codec import Encoder, Frame
from reconciler.core.xds.rollout import Rollout
from reconciler.core.xds.stream import Acked, DeltaStream, Nacked, Subscribed
from reconciler.datapath.twin import TwinDatapath
from reconciler.errors import DatapathError
from reconciler.formal.replay import Disabled
from reconciler.testing.joined import read_kernel
from reconciler.testing.replay.stage_commit_worlds import NAMESPACE, NODE, Worlds

GRACE: Final = 0.001
"""Seconds before what was refused is closed: so short that it never brings the time to reopen."""

LINK: Final = 7


class Server:
    """A rollout, its stream, and the time as it sees it."""

    def __init__(
        self, worlds: Worlds, encoder: Encoder, history: tuple[str, ...], newest: int
    ) -> None:
        self.worlds, self.encoder, self.history = worlds, encoder, history
        self.now = 0.0
        self.rollout = Rollout(self._view, encoder, GRACE)
        self.rollout.newest = newest
        self.stream = DeltaStream(CUT_TYPES)

    def _view(self, refused: frozenset[str]) -> Any:
        newest = self.rollout.newest
        return self.worlds.view(self.history[newest - 1], newest, refused)

    def fork(self) -> Server:
        made: Server = Server.__new__(Server)
        made.worlds, made.encoder, made.history, made.now = (
            self.worlds, self.encoder, self.history, self.now
        )  # fmt: skip
        old = self.rollout
        new = made.rollout = Rollout(made._view, self.encoder, GRACE)
        for name in Rollout.__slots__:
            value = getattr(old, name)
            if isinstance(value, dict):
                value = {
                    key: set(each) if isinstance(each, set) else each for key, each in value.items()
                }
            elif isinstance(value, set | list):
                value = value.copy()
            setattr(new, name, value)
        new.view_of = made._view
        made.stream = copy.copy(self.stream)
        made.stream._acks = dict(self.stream._acks)
        # The subscription never changes after the first request of a type.
        made.stream._types = {each: copy.copy(of) for each, of in self.stream._types.items()}
        return made

    def opens(self) -> None:
        self.stream = DeltaStream(CUT_TYPES)

    def receives(self, frames: tuple[bytes, ...]) -> None:
        for frame in frames:
            for event in self.stream.receive(frame):
                match event:
                    case Subscribed():
                        self.rollout.subscribed(event.type_url, event.initial, self.now)
                    case Acked():
                        self.rollout.acked_response(event.type_url, event.nonce, self.now)
                    case Nacked():
                        self.rollout.nacked_response(
                            event.type_url, event.nonce, event.reason, event.refusal, self.now
                        )

    def sends(self) -> list[bytes]:
        frames = [out for out in self.rollout.take() if isinstance(out, Frame)]
        for frame in frames:
            self.stream.sent(frame)
        return [frame.data for frame in frames]

    def ticks(self, now: float) -> None:
        self.now = max(self.now, now)
        self.rollout.tick(self.now)


class Agent:
    """An agent's process (None: dead), its kernel and its disk."""

    def __init__(self) -> None:
        self.now = 0.0
        self.twin = TwinDatapath(map_specs(), _no_time)  # no connection is looked at
        self.copied: bytes | None = None
        self.disk: list[bytes] = []
        self.core: AgentCore | None = None
        self.work: deque[Effect] = deque()
        self.sent: list[bytes] = []
        self.wants_stream = self.closes = self.written = False

    def starts(self, *, cached: bool) -> None:
        kernel = read_kernel(self.twin)
        records = [found for data in self.disk if (found := decode_record(data)) is not None]
        cache = replay(records, NODE, kernel.root) if cached else None
        self.core = AgentCore(NODE, self.twin.limits, kernel, cache, self.now)
        self.core.links_listed([Link(LINK, pod=f"{NAMESPACE}/d")], self.now)
        self.collects()

    def dies(self) -> None:
        self.core = None
        self.work.clear()
        self.sent.clear()
        self.wants_stream = self.closes = self.written = False

    def collects(self) -> None:
        """Take effects; what the spec has no step for is done at once."""
        while True:
            for effect in self.core.effects() if self.core is not None else ():
                match effect:
                    case Connect():
                        self.wants_stream = True
                    case Disconnect():
                        self.closes = True
                    case Send():
                        self.sent.append(effect.frame)
                    case Apply() | SaveCache() | Attach():
                        self.work.append(effect)
            if not self.work or self.kind:
                return
            self._does(self.work.popleft())

    def _does(self, effect: Effect) -> None:
        assert self.core is not None
        match effect:
            case Apply():
                self.twin.apply(effect.ops)
                self.core.applied(effect.token, self.now)
            case SaveCache():
                self.disk = [*self.disk, effect.data] if effect.append else [effect.data]
            case Attach():
                self.twin.attach(effect.ifindex)
                self.core.attached(effect.ifindex, self.now)

    @property
    def kind(self) -> str:
        """Of the next write: "prepare", "flip", "clean", "undo", or "" if it is none of a cut."""
        head = self.work[0] if self.work else None
        if self.core is None or not isinstance(head, Apply):
            return ""
        cut = self.core._cut
        kind = cut._writes.get(head.token, "")
        stale = kind == "prepare" and head.token not in cut._preparing
        return "" if stale else kind

    def writes(self) -> None:
        """The next write, and what the core makes of it."""
        head = self.work.popleft()
        assert isinstance(head, Apply)
        assert self.core is not None
        if not self.written:
            self.twin.apply(head.ops)
        self.written = False
        self.core.applied(head.token, self.now)

    def fails(self) -> None:
        head = self.work.popleft()
        assert isinstance(head, Apply)
        assert self.core is not None
        error = DatapathError("update", "a map", 5, "input/output error")
        self.core.apply_failed(head.token, error, self.now)

    def passes(self, when: float | None) -> None:
        if when is None or self.core is None:
            raise Disabled("nothing waits for a time")
        self.now = max(self.now, when)
        self.core.tick(self.now)

    def fork(self) -> Agent:
        """Several times as quick as `deepcopy`, and a state has several forks."""
        if self.copied is None:
            self.copied = pickle.dumps((self.core, self.twin), pickle.HIGHEST_PROTOCOL)
        made: Agent = copy.copy(self)
        made.core, made.twin = pickle.loads(self.copied)
        made.copied = None
        made.work, made.sent = self.work.copy(), self.sent.copy()
        return made


def _no_time() -> int:
    return 0
