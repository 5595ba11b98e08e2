"""XdsStream explains what streams and clients record, and nothing that they could not have done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from reconciler.core.resources.encode import commit
from reconciler.core.resources.types import COMMIT, IDENTITY, PEER_SET, Resource
from reconciler.core.trace import Event
from reconciler.core.xds import codec
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Encoder, Frame, Request
from reconciler.core.xds.stream import DeltaStream
from reconciler.formal.tracecheck import TraceSpec, check_traces
from reconciler.testing.replay import Recorded
from reconciler.testing.replay.xds_trace import TRACE

SPECS = Path(__file__).resolve().parents[2] / "specs"
SERVER, AGENT = TRACE
ROOT = bytes(range(32))


def refused(reading: Recorded, traces: dict[str, list[Event]]) -> dict[str, int | None]:
    """Trace → number of the first line that has no explanation, None if all have one."""
    constants = reading.constants([event for events in traces.values() for event in events])
    spec = TraceSpec(SPECS / "trace" / f"{reading.module}.tla", constants, (SPECS, SPECS / "mc"))
    return {
        each.name: None if each.passed else each.explained + 1
        for each in check_traces(spec, traces, show=0)
    }


def changed(events: Sequence[Event], line: int, **args: object) -> list[Event]:
    """The same but for the arguments of one line, counted from 1."""
    event = events[line - 1]
    other = msgspec.structs.replace(event, args={**event.args, **args})
    return [*events[: line - 1], other, *events[line:]]


def renamed(events: Sequence[Event], line: int, action: str) -> list[Event]:
    other = msgspec.structs.replace(events[line - 1], action=action)
    return [*events[: line - 1], other, *events[line:]]


def frame(name: str) -> Frame:
    return Encoder().frames(IDENTITY, [Resource(IDENTITY, name, "v", b"")])[0]


def served() -> list[Event]:
    events: list[Event] = []
    stream = DeltaStream((IDENTITY,), trace=events.append)

    def ask(**fields: object) -> None:
        stream.receive(codec.encode_request(Request(**({"type_url": IDENTITY} | fields))))  # type: ignore[arg-type]

    ask(subscribe=("1", "2"))
    first, second = frame("1"), frame("2")
    stream.sent(first)
    stream.sent(second)
    stream.sent(first)
    ask(nonce=first.nonce)
    ask(nonce=second.nonce, error="no")
    ask(nonce="of long ago", unsubscribe=("1",))
    ask(nonce=first.nonce)
    ask(nonce=first.nonce, error="again")
    stream.close()
    return events


def test_a_server_s_stream() -> None:
    events = served()
    assert [event.action for event in events] == [
        *("Subscribe", "Send", "Send", "Send", "Ack", "Nack", "StaleAck", "Resubscribe"),
        *("AckLast", "StaleNack", "Close"),
    ]
    found = refused(
        SERVER,
        {
            "as it was": events,
            "the last answer is not the last": renamed(events, 9, "Ack"),
            "an answer to what was not sent": changed(events, 5, nonce="made up"),
            "a refusal taken for an answer to nothing": renamed(events, 6, "StaleNack"),
            "a name is kept": changed(events, 8, names=["1", "2"]),
            "a state": changed(events, 9, state="acked"),
            "nothing is said before it is asked for": events[1:],
        },
    )
    assert found == {
        "as it was": None,
        "the last answer is not the last": 9,
        "an answer to what was not sent": 5,
        "a refusal taken for an answer to nothing": 6,
        "a name is kept": 8,
        "a state": 9,
        "nothing is said before it is asked for": 1,
    }


def enforced() -> list[Event]:
    events: list[Event] = []
    client = Client("n1", 0.0, 60.0, trace=events.append)
    part = Encoder().frames(PEER_SET, [Resource(PEER_SET, "a/0", "v", b"")])[0].data

    def cut(sequence: int) -> bytes:
        return Encoder().frames(COMMIT, [commit(1 << 32 | sequence, ROOT)])[0].data

    client.tick(0.0)
    client.opened(Report(), 0.0)
    client.received(part, 0.0)
    client.refused(0.0)
    client.received(cut(2), 0.0)
    client.committed(0.0)
    client.received(cut(5), 0.0)
    client.lost(1.0, 0.5)  # while the kernel is flipping
    client.tick(2.0)
    client.opened(Report(1 << 32 | 5, ROOT), 2.0)
    client.received(cut(5), 3.0)
    client.committed(3.0)
    client.lost(4.0, 0.5)
    client.tick(70.0)
    client.lost(71.0, 0.5)
    return events


def test_an_agent_s_streams() -> None:
    events = enforced()
    assert [event.action for event in events] == [
        *("Dial", "Connect", "Stage", "Refuse", "Stage", "Flip", "Stage", "Break"),
        *("Dial", "Connect", "Stage", "Flip", "Break", "Dial", "Expire", "Fail"),
    ]
    found = refused(
        AGENT,
        {
            "as it was": events,
            "the flip that was under way did not come about": changed(events, 10, cut=2),
            "it reports what it never had": changed(events, 10, cut=9),
            "it reports nothing": changed(events, 10, cut=0),
            "an older cut is enforced": changed(events, 11, cut=2),
            "two commits at once": [*events[:5], *events[4:]],
            "enforced twice": [*events[:6], *events[5:]],
        },
    )
    assert found == {
        "as it was": None,
        "the flip that was under way did not come about": None,
        "it reports what it never had": 10,
        "it reports nothing": None,
        "an older cut is enforced": 12,
        "two commits at once": 6,
        "enforced twice": 7,
    }
