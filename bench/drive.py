"""The server's core in one thread, with streams that answer at once, and a clock over each step.

What a stream's other end does costs next to nothing here: it knows the ACK of every response that
was sent before, and says it. So the time is the control plane's own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import msgspec
from envoy.service.discovery.v3 import discovery_pb2

from bench import cluster
from reconciler.core.identity import Journal
from reconciler.core.objects import Change
from reconciler.core.plane import ControlPlane, WriteJournal
from reconciler.core.xds import codec
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.effects import Close, Send


class Steps(msgspec.Struct, frozen=True):
    """Seconds since a change (or a connection) began; sizes of what was sent for it.

    published:   the new state is compiled and encoded
    staged:      every node's responses are joined
    acked:       every node has acknowledged its commit
    journal:     seconds in the journal's writes, part of all of these
    cpu:         CPU seconds of all of it
    responses:   different ones; messages: how many were sent, over all streams
    node_bytes:  to the node that got most
    """

    published: float
    staged: float
    acked: float
    journal: float
    cpu: float
    writes: int
    allocated: int
    responses: int
    messages: int
    node_bytes: int


class Driven:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.plane = ControlPlane(cluster.config(), journal.open(), 0.0, self._on_publish)
        self._published = 0.0
        self._sent: dict[int, list[bytes]] = {}
        self._answers: dict[bytes, bytes] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._in_journal = self._cpu = 0.0
        self._writes = self._allocated = 0

    def change(self, changes: Sequence[Change]) -> Steps:
        self._forget()
        began = time.perf_counter()
        self.plane.objects_changed(changes, 0.0)
        self._carry_out()
        return self._steps(began)

    def connect(self, nodes: Sequence[str]) -> Steps:
        """Every node opens a stream with nothing to report, as at a cold start."""
        requests = {node: _first_requests(node) for node in nodes}
        self._forget()
        began = self._published = time.perf_counter()
        for stream, (node, frames) in enumerate(requests.items(), 1):
            self.plane.stream_opened(stream, node, 0.0)
            for frame in frames:
                self.plane.received(stream, frame, 0.0)
        self._carry_out()
        return self._steps(began)

    def frames(self, stream: int) -> list[bytes]:
        """What the last step sent to one node."""
        return self._sent.get(stream, [])

    def _forget(self) -> None:
        self._sent = {}
        self._in_journal = 0.0
        self._cpu = time.thread_time()
        self._writes = self._allocated = 0

    def _steps(self, began: float) -> Steps:
        staged = time.perf_counter()
        while self._waiting:
            stream, frame = self._waiting.popleft()
            self.plane.received(stream, self._answer(frame), 0.0)
            self._carry_out()
        acked = time.perf_counter()
        late = [node.name for node in self.plane.nodes if node.stream and not node.rollout.in_sync]
        if late or self.plane.alarms:
            raise RuntimeError(f"not in sync: {late[:3]}, alarms: {list(self.plane.alarms)[:3]}")
        every = [frame for frames in self._sent.values() for frame in frames]
        return Steps(
            published=self._published - began,
            staged=staged - began,
            acked=acked - began,
            journal=self._in_journal,
            cpu=time.thread_time() - self._cpu,
            writes=self._writes,
            allocated=self._allocated,
            responses=len({id(frame) for frame in every}),
            messages=len(every),
            node_bytes=max((sum(map(len, frames)) for frames in self._sent.values()), default=0),
        )

    def _carry_out(self) -> None:
        while effects := self.plane.effects():
            for effect in effects:
                if isinstance(effect, Send):
                    self._sent.setdefault(effect.stream, []).append(effect.frame)
                    self._waiting.append((effect.stream, effect.frame))
                elif isinstance(effect, WriteJournal):
                    began = time.perf_counter()
                    revision = self._journal.append(effect.batch)
                    self._in_journal += time.perf_counter() - began
                    self._writes += 1
                    self._allocated += len(effect.batch.allocate)
                    self.plane.journal_written(revision, 0.0)
                elif isinstance(effect, Close):
                    raise RuntimeError(f"stream {effect.stream} was closed: {effect.reason}")

    def _answer(self, frame: bytes) -> bytes:
        found = self._answers.get(frame)
        if found is None:
            message = discovery_pb2.DeltaDiscoveryResponse.FromString(frame)
            found = self._answers[frame] = codec.ack(message.type_url, message.nonce)
        return found

    def _on_publish(self, revision: int) -> None:
        self._published = time.perf_counter()


def _first_requests(node: str) -> list[bytes]:
    client = Client(node, 0.0)
    client.tick(0.0)
    return client.opened(Report(), 0.0)
