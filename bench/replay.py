"""One agent's core, fed with the frames that a server sent to its node, on a datapath.

CPU time in the core (decode, stage, answer) and in the datapath (map writes, flip) are counted
apart; in the agent they are on two threads. What is written to the disk cache is counted,
not written.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

import msgspec

from reconciler.core.dataplane import effects
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.ops import Flip, Grace, Put, Remove
from reconciler.datapath.base import Datapath


class Spent(msgspec.Struct, frozen=True):
    """CPU seconds until the last answer is given (core, maps), and bytes for the disk cache.

    clean_up: seconds after that, core and maps, but for the graces; not in the other two
    writes:   entries written or removed before the flip, by map
    """

    core: float
    maps: float
    clean_up: float
    cache_bytes: int
    writes: dict[str, int]


class Replayed:
    def __init__(self, node: str, pods: Sequence[str], datapath: Datapath) -> None:
        """pods: "namespace/name" of those whose devices are there, attached without a kernel."""
        self._datapath = datapath
        self._core = AgentCore(node, datapath.limits, None, None, 0.0)
        self._work: deque[effects.Apply] = deque()
        self._ready: deque[int] = deque()
        self._sent = 0
        self._cache_bytes = 0
        self._reset()
        links = [Link(ifindex, f"veth{ifindex}", pod=pod) for ifindex, pod in enumerate(pods, 1000)]
        self._core.links_listed(links, 0.0)
        self._core.tick(0.0)
        self._settle()

    def feed(self, frames: Sequence[bytes]) -> Spent:
        """The frames of one cut, in order; RuntimeError when it is not in force afterwards."""
        self._reset()
        before = self._core.enforced
        answers = self._sent + len(frames)
        for frame in frames:
            self._timed(lambda frame=frame: self._core.received(frame, 0.0))  # type: ignore[misc]
        while self._sent < answers and (self._work or self._ready):
            self._step()
        core, maps, writes = self._in_core, self._in_maps, dict(self._writes)
        self._settle()
        if self._core.enforced == before or self._sent != answers:
            raise RuntimeError(f"{len(frames)} frames, {answers - self._sent} without an answer")
        clean_up = self._in_core + self._in_maps - core - maps
        return Spent(core, maps, clean_up, self._cache_bytes, writes)

    def _reset(self) -> None:
        self._in_core = self._in_maps = 0.0
        self._cache_bytes = 0
        self._writes: Counter[str] = Counter()

    def _settle(self) -> None:
        self._collect()
        while self._work or self._ready:
            self._step()

    def _step(self) -> None:
        if self._ready:
            ifindex = self._ready.popleft()
            self._timed(lambda: self._core.attached(ifindex, 0.0))
            return
        job = self._work.popleft()
        ops = [op for op in job.ops if not isinstance(op, Grace)]
        began = time.thread_time()
        self._datapath.apply(ops)
        self._in_maps += time.thread_time() - began
        if len(ops) != len(job.ops):
            self._datapath.apply([Grace()])
        for op in ops:
            if isinstance(op, Put):
                self._writes[op.map] += len(op.entries)
            elif isinstance(op, Remove):
                self._writes[op.map] += len(op.keys)
            elif isinstance(op, Flip):
                self._writes["flips"] += 1
        self._timed(lambda: self._core.applied(job.token, 0.0))

    def _timed(self, call: Callable[[], None]) -> None:
        began = time.thread_time()
        call()
        self._collect()
        self._in_core += time.thread_time() - began

    def _collect(self) -> None:
        for effect in self._core.effects():
            match effect:
                case effects.Connect():
                    self._core.connected(0.0)
                    self._collect()
                case effects.Send():
                    self._sent += 1
                case effects.Apply():
                    self._work.append(effect)
                case effects.Attach(ifindex):
                    self._ready.append(ifindex)
                case effects.SaveCache(data):
                    self._cache_bytes += len(data)
                case effects.Alarm(kind, name, text):
                    raise RuntimeError(f"{kind} {name}: {text}")
                case effects.Disconnect(reason):
                    raise RuntimeError(reason)
                case _:
                    pass
