"""Rows of the xDS service's core alone: many wildcard streams of one view, in one thread.

Nothing goes over a network: requests are bytes that were made before, and what is to be sent is
taken and thrown away. So the rows are what the core costs a stream, beside what a transport does.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from bench import xds_rig
from bench.rows import Context, Row, measured
from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import CDS, Variant
from reconciler.core.resources.encode import version_of
from reconciler.core.resources.types import Resource
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request
from reconciler.core.xds.effects import Send
from reconciler.server.discovery import binary, documents

GROUP: Final = "discovery"
SYNC: Final = "an initial sync of 250 × 400 B"
ACK: Final = "an acknowledgement"
ONE: Final = "one broadcast of 1 KB"
MANY: Final = "5 × 600 B and 250 × 400 B changed"
RECONNECT: Final = "a reconnect with 250 equal versions"
_STREAMS: Final = 10_000
_FEW: Final = 1_000
_RUNS: Final = 3
_NAMES: Final = tuple(f"resource-{at:03}" for at in range(250))
_BIG: Final = tuple(f"big-{at}" for at in range(5))


def run(context: Context) -> list[Row]:
    streams = _FEW if context.quick else _STREAMS
    times = context.runs(_RUNS)
    rounds = [spent(streams) for _ in range(times)]
    per = f"a stream of {streams:,}"
    budgets = {ONE: 3e-6, RECONNECT: 150e-6}
    rows = [
        measured(
            GROUP,
            f"{what}, {per}",
            [each[what] / streams for each in rounds],
            limit=budgets.get(what),
        )
        for what in rounds[0]
    ]
    held = [_memory(_FEW) for _ in range(times)]
    what = f"memory, a stream of {_FEW:,} in step"
    rows.append(measured(GROUP, what, held, "B", limit=1536))
    read = [_reading() for _ in range(times)]
    for form in read[0]:
        what = f"a resource of 400 B read and checked, of {len(_NAMES)} in {form}"
        rows.append(measured(GROUP, what, [each[form] for each in read]))
    return rows


def _reading() -> dict[str, float]:
    """CPU seconds of a pushed resource, by the form that it comes in."""
    _read(1)  # imports, and what is made once of each type
    return _read(2)


def _read(generation: int) -> dict[str, float]:
    resources = xds_rig.identities(generation)
    spent: dict[str, float] = {}
    for form, data, parse in (
        ("JSON", msgspec.json.encode({"resources": resources}), documents.parse),
        ("binary", xds_rig.body(resources), binary.parse_binary),
    ):
        gc.collect()
        began = time.process_time()
        parsed = parse(data, "resources.json")
        spent[form] = (time.process_time() - began) / len(resources)
        assert len(parsed.found) == len(resources)
    return spent


class _World:
    """A service, its streams, and what the clients say."""

    def __init__(self, streams: int) -> None:
        self.service = Service(lambda node: "", initial_rate=None)
        self.streams = streams
        self.content = 0
        self.state: dict[str, Resource] = {}
        self.change(_NAMES, 400)
        self.first = [
            codec.encode_request(Request(CDS, node=f"node-{at}", subscribe=("*",)))
            for at in range(streams)
        ]

    def change(self, names: Iterable[str], size: int) -> None:
        self.content += 1
        for name in names:
            body = f"{name} {self.content} ".encode().ljust(size, b".")
            self.state[name] = Resource(CDS, name, version_of(body), body)

    def publish(self) -> None:
        self.service.publish("", {CDS: self.state}, 0.0)

    def open(self) -> None:
        for at, frame in enumerate(self.first):
            self.service.stream_opened(at, Variant.DELTA, None, 0.0)
            self.service.received(at, frame, 0.0)

    def taken(self) -> list[Send]:
        sent = [each for each in self.service.effects() if isinstance(each, Send)]
        for each in sent:
            self.service.drained(each.stream, 0.0)
        return sent

    def acknowledge(self, sent: list[Send]) -> None:
        acks = {
            id(each.frame): codec.ack(CDS, codec.decode_response(each.frame).nonce)
            for each in {id(each.frame): each for each in sent}.values()
        }
        for each in sent:
            self.service.received(each.stream, acks[id(each.frame)], 0.0)

    def leave(self) -> None:
        for at in range(self.streams):
            self.service.stream_closed(at)


def spent(streams: int) -> dict[str, float]:
    """CPU seconds of each step, all streams together."""
    world = _World(streams)
    world.publish()
    found: dict[str, float] = {}

    def timed(what: str, *steps: Callable[[], object]) -> None:
        gc.collect()
        began = time.process_time()
        for step in steps:
            step()
        found[what] = time.process_time() - began

    sent: list[Send] = []
    timed(SYNC, world.open, lambda: sent.extend(world.taken()))
    assert len(sent) == streams
    timed(ACK, lambda: world.acknowledge(sent))
    world.change(_NAMES[:1], 1000)
    timed(ONE, world.publish)
    sent = world.taken()
    assert len(sent) == streams
    world.acknowledge(sent)
    world.change(_BIG, 600)
    world.change(_NAMES, 400)
    timed(MANY, world.publish)
    sent = world.taken()
    world.acknowledge(sent)
    world.leave()
    initial = {name: each.version for name, each in world.state.items()}
    world.first = [
        codec.encode_request(Request(CDS, node=f"node-{at}", subscribe=("*",), initial=initial))
        for at in range(streams)
    ]
    timed(RECONNECT, world.open)
    assert not world.taken()
    return found


def _memory(streams: int) -> float:
    """Bytes a stream, when all are in step and have answered."""
    world = _World(streams)
    world.publish()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        world.open()
        world.acknowledge(world.taken())
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / streams
    finally:
        tracemalloc.stop()
