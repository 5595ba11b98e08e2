"""Spec → code for specs/StageCommit.tla: one real rollout, one real agent on the in-memory kernel.

The server's side is a `Rollout` behind a `DeltaStream`, the agent's an `AgentCore` on a
`TwinDatapath`, and what goes between them are the frames that they make. What the spec's state says
of messages, of what is held and enforced, of what is refused and closed is read back from frames,
from the cores and from the kernel; verdicts are the twin's, for packets.

What is the world's and not the code's stays here: which revisions are published, how many faults
there may be, when a time comes.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping
from typing import Any, Final

from reconciler.core.dataplane.cut import Committing, Item
from reconciler.core.dataplane.effects import (
    Apply,
)
from reconciler.core.dataplane.layout import Reason
from reconciler.core.policy.ir import Direction
from reconciler.core.resources import encode
from reconciler.core.resources.types import COMMIT, RULE_SET, STAGED
from reconciler.core.xds.codec import Encoder, Frame, decode_request
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record, Value
from reconciler.testing.replay.stage_commit_ends import LINK, Agent, Server
from reconciler.testing.replay.stage_commit_worlds import TYPES, Worlds, message

PORT: Final = 80


class Adapter:
    refuses_cleanly = True

    def __init__(self) -> None:
        self.published: tuple[str, ...] = ()
        self.bounds: Any = None
        self.node = ""
        self.faults = 0
        self._owns = [True, True]  # whether server and agent are this adapter's alone

    # -------------------------------------------------------------------- what replay asks

    def start(self, constants: Mapping[str, Value], state: Mapping[Any, Value]) -> None:
        self.worlds = _worlds(constants)
        self.constants = constants
        bounds, rollouts = _any(state["bounds"]), _any(state["rollout"])
        self.bounds = bounds
        (self.node,) = rollouts
        self.published = bounds["history"]
        self.encoder = Encoder()
        self.server = Server(self.worlds, self.encoder, self.published, len(self.published))
        self.agent = Agent()
        self.agent.starts(cached=False)
        self.up: list[tuple[bytes, ...]] = []
        self.down: list[bytes] = []
        self.connected = False
        if bounds["enforces"]:
            self._enforce(bounds["enforces"])

    def _enforce(self, revision: int) -> None:
        """The agent alone comes to enforce a cut, from frames."""
        view = self.worlds.view(self.published[revision - 1], revision)
        self._connects()
        agent = self.agent
        frames: list[Frame] = []
        for type_url in STAGED:
            found = [each for each in view.resources() if each.type_url == type_url]
            frames += self.encoder.frames(type_url, sorted(found, key=lambda each: each.name))
        frames += self.encoder.frames(COMMIT, [encode.commit(revision, view.root)])
        for frame in frames:
            assert agent.core is not None
            agent.core.received(frame.data, agent.now)
            agent.collects()
            while agent.kind:
                agent.writes()
                agent.collects()
        self._breaks_agent()

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        before = self.server, self.agent, list(self._owns)
        try:
            getattr(self, f"_{_snake(action)}")(*(args[1:] if action != "Publish" else args))
        except Disabled:
            self.server, self.agent, self._owns = before
            raise

    def fork(self) -> Adapter:
        made: Adapter = copy.copy(self)
        self._owns = [False, False]
        made._owns = [False, False]
        made.up, made.down = self.up.copy(), self.down.copy()
        return made

    def observe(self) -> Mapping[str, Value]:
        rollout, agent = self.server.rollout, self.agent
        worlds = self.worlds
        word = agent.twin.cut()
        content = worlds.at(word.roots[word.active])
        seen: dict[str, Value] = {
            "newest": rollout.newest,
            "rollout": rollout.state,
            "acked": self._acked(),
            "target": self._cut_of(rollout.target),
            "waiting": frozenset(self._waiting()),
            "stray": frozenset(worlds.key(*key) for key in rollout._stray),
            "causes": frozenset(self._causes()),
            "refusal": self._refusal(),
            "due": rollout.reopen_at is not None and rollout.reopen_at <= self.server.now,
            "link": self._link(),
            "down": tuple(map(worlds.response, self.down)),
            "up": tuple(self._up(each) for each in self.up),
            "enforced": self._judged(content, word.revisions[word.active]),
            "cut": word.revisions[word.active],
            "flipped": agent.written,
            **self._agent(),
        }
        found = {name: Record({self.node: value}) for name, value in seen.items()}
        return {
            **found,
            "published": self.published,
            "revision": len(self.published),
            "faults": self.faults,
        }

    # -------------------------------------------------------------------- what is observed

    def _agent(self) -> dict[str, Value]:
        core, nothing = self.agent.core, self.worlds.nothing
        if core is None:
            return {
                "cutState": "current",
                "held": nothing,
                "preparing": (),
                "backlog": (),
                "item": self.worlds.no_message,
            }
        cut = core._cut
        item = cut._item if cut.state == "flipping" else None
        return {
            "cutState": cut.state,
            "held": self.worlds.content((*key, each.version) for key, each in cut.held.now.items()),
            "preparing": tuple(map(self._item, cut._preparing.values())),
            "backlog": tuple(map(self._item, cut.waiting)),
            "item": self.worlds.no_message if item is None else self._item(item),
        }

    def _item(self, item: Item) -> Record:
        own = item.answer is None
        if isinstance(item, Committing):
            type = "own" if own else "commit"
            return message("commit", type, self.worlds.at(item.root), item.revision)
        put: dict[Value, Value] = {}
        for key, resource in item.held:
            name = self.worlds.key(*key)
            put[name] = self.worlds.version(name, None if resource is None else resource.version)
        if item.answer is None:
            return message("stage", "own", self.worlds.nothing.replaced(put))
        return message("stage", TYPES[item.answer[0]], Record(put))

    def _judged(self, content: Record, revision: int) -> Value:
        """The content, if every verdict of the kernel is what it means; else what differs."""
        meant = self.worlds.allowed(content)
        for flow in _any(self.constants["Flows"]):
            src = self.worlds.address(flow["src"])
            got = self.agent.twin.classify(LINK, Direction.INGRESS, src, 6, PORT)
            if (got is Reason.ALLOWED) != (flow in meant) and revision:
                return f"{flow}: {got.name}, though cut {revision} says otherwise"
        return content

    def _link(self) -> str:
        if self.agent.core is None:
            return "dead"
        if not self.connected:
            return "down"
        return "closing" if self.agent.closes else "up"

    def _cut_of(self, view: Any) -> Record:
        if view is None:
            return Record(rev=0, has=self.worlds.nothing)
        return Record(rev=view.revision, has=self.worlds.at(view.root))

    def _acked(self) -> Record:
        acked = self.server.rollout.acked
        if acked is None or acked.view is not None:
            return self._cut_of(None if acked is None else acked.view)
        said = [
            (type_url, *item)
            for type_url, versions in acked.reported.items()
            for item in versions.items()
        ]
        return Record(rev=acked.revision, has=self.worlds.content(said))

    def _waiting(self) -> list[Record]:
        waiting = self.server.rollout.waiting.items()
        return [self.worlds.nonces[each, nonce] for each, nonces in waiting for nonce in nonces]

    def _causes(self) -> list[Record]:
        return [
            self._cause(key, version, names)
            for key, (version, names) in self.server.rollout.causes.items()
        ]

    def _refusal(self) -> Record:
        found = self.server.rollout.refusal
        if found is None:
            return Record(key="", version=0, rules=frozenset())
        return self._cause(*found, frozenset())

    def _cause(self, key: tuple[str, str], version: str, names: frozenset[str]) -> Record:
        name = self.worlds.key(*key)
        rules = frozenset(self.worlds.key(RULE_SET, each) for each in names)
        return Record(key=name, version=self.worlds.version(name, version), rules=rules)

    def _up(self, frames: tuple[bytes, ...]) -> Record:
        requests = [decode_request(each) for each in frames]
        if len(requests) > 1:
            return self.worlds.report(requests)
        (request,) = requests
        said = self.worlds.nonces[request.type_url, request.nonce]
        refusal = request.refusal
        key = "" if refusal is None else self.worlds.key(refusal.type_url, refusal.name)
        kind = "ack" if request.error is None else "nack"
        return said.replaced(kind=kind, key=key)

    # ------------------------------------------------------------------ steps of the world

    def _publish(self, world: str) -> None:
        last = self.published[-1]
        if len(self.published) >= self.bounds["revisions"]:
            raise Disabled("no more revisions in these bounds")
        if (last, world) not in self.bounds["moves"]:
            raise Disabled("another world is next in these bounds")
        self.published = (*self.published, world)

    def _fault(self, kind: str) -> None:
        if kind not in self.bounds["kinds"] or self.faults >= self.bounds["faults"]:
            raise Disabled("no more faults in these bounds")
        self.faults += 1

    # ------------------------------------------------------------------ steps of the server

    def _own_server(self, *, trial: bool = False) -> Server:
        """The server, to be changed. trial: and perhaps to be dropped."""
        if trial or not self._owns[0]:
            self.server = self.server.fork()
            self._owns[0] = True
        self.server.history = self.published
        return self.server

    def _served(self, server: Server) -> None:
        for frame in server.sends():
            self.worlds.response(frame)  # learn its nonce
            self.down.append(frame)

    def _hear(self) -> None:
        newest = self.server.rollout.newest
        if newest >= len(self.published):
            raise Disabled("there is nothing newer")
        server = self._own_server()
        server.rollout.view_changed(newest + 1, server.now)
        self._served(server)

    def _server_receives(self) -> None:
        if not self.up:
            raise Disabled("nothing arrives")
        server = self._own_server()
        server.receives(self.up.pop(0))
        self._served(server)

    def _ticks(self, at: float | None) -> tuple[Server, str]:
        """Let a time come; the state before."""
        if at is None:
            raise Disabled("the rollout waits for no time")
        server = self._own_server(trial=True)
        before = server.rollout.state
        server.ticks(at)
        return server, before

    def _grace_over(self) -> None:
        server, before = self._ticks(self.server.rollout.deadline)
        if before != "held" or not server.rollout.state.startswith("closed"):
            raise Disabled(f"from {before} to {server.rollout.state}")
        self._served(server)

    def _reopen_due(self) -> None:
        if "reopen" not in self.bounds["kinds"]:
            raise Disabled("no such time in these bounds")
        at = self.server.rollout.reopen_at
        if at is None or at <= self.server.now:
            raise Disabled("nothing is closed, or it is time already")
        self._own_server().now = at

    def _reopen(self) -> None:
        server, before = self._ticks(self.server.now)
        if before != "closed-fallback" or server.rollout.state == before:
            raise Disabled(f"from {before} to {server.rollout.state}")
        self._served(server)

    def _retry(self) -> None:
        server, before = self._ticks(self.server.rollout.deadline)
        if before != "held" or server.rollout.state != "absent":
            raise Disabled(f"from {before} to {server.rollout.state}")
        self._ends()

    def _failover(self, rev: int) -> None:
        if self.connected:
            raise Disabled("the stream breaks first")
        if rev > self.server.rollout.newest:
            raise Disabled("that one would be ahead")
        self._fault("failover")
        self.server = Server(self.worlds, self.encoder, self.published, rev)
        self._owns[0] = True

    # ------------------------------------------------------------------ steps of the agent

    def _own_agent(self, *, trial: bool = False) -> Agent:
        if trial or not self._owns[1]:
            self.agent = self.agent.fork()
            self._owns[1] = True
        self.agent.copied = None
        return self.agent

    def _answers(self, agent: Agent) -> None:
        agent.collects()
        self.up += [(each,) for each in agent.sent]
        agent.sent.clear()

    def _connect(self) -> None:
        if self.connected or self.agent.core is None:
            raise Disabled("there is a stream, or no agent")
        self._owns[1] = False
        sent = self._connects()
        self.up = [tuple(sent)]
        server = self._own_server()
        server.opens()

    def _connects(self) -> list[bytes]:
        agent = self._own_agent(trial=True)
        assert agent.core is not None
        at, cut = agent.core._client.retry_at, agent.core._cut
        if not agent.wants_stream:
            if at is not None and cut.retry_at is not None:
                cut.retry_at = max(cut.retry_at, at + 1)  # these times are none of each other's
            agent.passes(at)
            agent.collects()
        if not agent.wants_stream:
            raise Disabled("it does not want a stream")
        agent.wants_stream = False
        agent.core.connected(agent.now)
        agent.collects()
        sent, agent.sent = agent.sent, []
        if not sent:
            raise Disabled("it does not know yet what to report")
        self.connected = True
        return sent

    def _receives(self, *, commit: bool) -> None:
        if not self.connected or self.agent.closes:
            raise Disabled("there is no stream, or it is given up")
        if not self.down or (self.worlds.response(self.down[0])["type"] == "commit") != commit:
            raise Disabled("no such response arrives")
        agent = self._own_agent()
        assert agent.core is not None
        agent.core.received(self.down.pop(0), agent.now)
        self._answers(agent)

    def _stage(self) -> None:
        self._receives(commit=False)

    def _take_commit(self) -> None:
        self._receives(commit=True)

    def _write(self, kind: str, *, written: bool = False, fault: str = "") -> None:
        """The kernel answers the write that is next, which has to be of this kind."""
        if self.agent.kind != kind or self.agent.written != written:
            raise Disabled(f"the next write is {self.agent.kind or 'none'}")
        if fault:
            self._fault(fault)
        agent = self._own_agent()
        if fault:
            agent.fails()
        else:
            agent.writes()
        self._answers(agent)

    def _prepared(self) -> None:
        self._write("prepare")

    def _refuse(self) -> None:
        self._write("prepare", fault="refuse")

    def _kernel_flips(self) -> None:
        if self.agent.kind != "flip" or self.agent.written:
            raise Disabled(f"the next write is {self.agent.kind or 'none'}")
        agent = self._own_agent()
        head = agent.work[0]
        assert isinstance(head, Apply)
        agent.twin.apply(head.ops)
        agent.written = True

    def _flipped(self) -> None:
        self._write("flip", written=True)

    def _flip_failed(self) -> None:
        self._write("flip", fault="flip")

    def _cleaned(self) -> None:
        self._write("clean")

    def _clean_failed(self) -> None:
        self._write("clean", fault="clean")

    def _undone(self) -> None:
        self._write("undo")

    def _roll_back_failed(self) -> None:
        self._write("undo", fault="undo")
        self._tries_again("undo")

    def _clean_again(self) -> None:
        self._owns[1] = False
        self._tries_again("clean")

    def _tries_again(self, kind: str) -> None:
        if self.agent.core is None or self.agent.core._cut.retry_at is None:
            raise Disabled("nothing is to be tried again")
        agent = self._own_agent()
        assert agent.core is not None
        agent.passes(agent.core._cut.retry_at)
        self._answers(agent)
        if agent.kind != kind:
            raise Disabled(f"the next write is {agent.kind or 'none'}")

    # ------------------------------------------------------------------ ends

    def _ends(self) -> None:
        """Both ends of the stream are told; what was on it is gone."""
        server = self._own_server()
        server.rollout.disconnected(server.now)
        server.rollout.take()
        self._breaks_agent()

    def _breaks_agent(self) -> None:
        agent = self._own_agent()
        assert agent.core is not None
        self.connected = agent.closes = agent.wants_stream = False
        agent.core.disconnected("the stream broke", agent.now, 0.0)
        agent.collects()
        agent.sent.clear()
        self.up, self.down = [], []

    def _break(self) -> None:
        if not self.connected:
            raise Disabled("there is no stream")
        if not self.agent.closes:
            self._fault("break")
        self._ends()

    def _crash(self) -> None:
        if self.connected or self.agent.core is None:
            raise Disabled("the stream breaks first, or it is dead")
        self._fault("crash")
        self._own_agent().dies()

    def _start(self, cached: bool) -> None:
        if self.agent.core is not None:
            raise Disabled("it runs")
        if cached and not self.agent.disk:
            raise Disabled("nothing is cached")
        self._own_agent().starts(cached=cached)


def _any(value: Value) -> Any:
    """A value whose shape the spec gives."""
    return value


@functools.cache
def _snake(action: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", action).lower()


_LAST: list[tuple[Mapping[str, Value], Worlds]] = []


def _worlds(constants: Mapping[str, Value]) -> Worlds:
    """Made once for all adapters of one graph."""
    if not _LAST or _LAST[0][0] is not constants:
        _LAST[:] = [(constants, Worlds(constants))]
    return _LAST[0][1]
