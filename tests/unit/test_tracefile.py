"""A trace comes back as it was recorded; a full disk ends the trace, not the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.trace import Event, about
from reconciler.errors import ConfigError
from reconciler.tracefile import Head, Life, Recorder, encode, read

EVENTS = (
    Event("Allocation", "Bind", {"label_set": "k8s:a=b;"}),
    Event("Allocation", "Advance"),
    Event("StageCommit", "Begin", {"node": "n1", "types": ["a", "b"]}),
)


async def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    recorder = Recorder(path, Head("server", "server"))
    for event in EVENTS:
        recorder(event)
    recorder.close()
    assert read(path) == (Life("server", "server", 2, EVENTS),)
    assert encode(read(path)[0]) == path.read_bytes()


async def test_a_second_life_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for events in (EVENTS, EVENTS[:1], ()):
        recorder = Recorder(path, Head("agent", "n1"))
        for event in events:
            recorder(event)
        recorder.close()
    assert [life.events for life in read(path)] == [EVENTS, EVENTS[:1], ()]
    assert [life.line for life in read(path)] == [2, 6, 8]


async def test_a_process_that_is_killed_early_has_lived(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    recorder = Recorder(path, Head("agent", "n1"))
    assert read(path) == (Life("agent", "n1", 2, ()),)
    recorder.close()


async def test_half_a_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    life = Life("agent", "n1", 2, EVENTS)
    path.write_bytes(encode(life)[:-9])
    (found,) = read(path)
    assert found.torn
    assert found.events == EVENTS[:2]
    recorder = Recorder(path, Head("agent", "n1"))
    recorder(EVENTS[0])
    recorder.close()
    assert [len(life.events) for life in read(path)] == [2, 1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "t.jsonl:1: expected the start of a process"),
        ('{"spec":"A","action":"B"}\n', "t.jsonl:1: expected the start of a process"),
        (
            '{"process":"server","name":"s"}\n{"spec":"A"}\n{"spec":"A","action":"B"}\n',
            "t.jsonl:2: expected an event",
        ),
        (
            '{"process":"server","name":"s"}\n{"spec":"\x80","action":"B"}\n{"spec":"A"}\n',
            "t.jsonl:2: expected an event",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_the_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=problem):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "none")


async def test_a_full_disk_ends_the_trace_once() -> None:
    told: list[str] = []
    recorder = Recorder(Path("/dev/full"), Head("server", "server"))
    recorder.tell(told.append)
    recorder(EVENTS[0])
    recorder.flush()
    recorder(EVENTS[1])
    recorder.close()
    assert told == ["/dev/full: No space left on device: the trace ends here"]
    assert recorder.lost == told[0]


async def test_a_file_that_cant_be_opened_ends_the_trace(tmp_path: Path) -> None:
    told: list[str] = []
    recorder = Recorder(tmp_path / "no" / "t.jsonl", Head("server", "server"))
    recorder(EVENTS[0])
    recorder.tell(told.append)
    recorder.close()
    assert len(told) == 1
    assert "No such file" in told[0]


def test_a_part_of_a_node_has_it_in_its_events() -> None:
    got: list[Event] = []
    record = about(got.append, node="n1")
    assert record is not None
    record(Event("S", "A", {"number": 1}))
    assert got == [Event("S", "A", {"node": "n1", "number": 1})]
    assert about(None, node="n1") is None
