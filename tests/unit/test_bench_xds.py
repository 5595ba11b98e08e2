"""What a comparison of xDS servers says of what was measured: it flatters nobody, us least."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from bench import (
    xds,
    xds_build,
    xds_case,
    xds_conformance,
    xds_floor,
    xds_report,
    xds_rig,
    xds_soak,
)
from bench.rows import Context
from bench.xds_case import Case, Comparison, cpu, wall
from bench.xds_floor import NO_FLOOR, Floor
from bench.xds_rig import Kind, Lag, Layout, Report
from bench.xds_soak import Sample, Soak
from reconciler.errors import UnavailableError
from reconciler.testing.process import Process

SHARED = Layout("shared connections", 200, False)
STREAMS = 100
LOADS = tuple(xds.LOADS)


def report(last: float, *, used: float = 1.0, in_sync: int = STREAMS, **more: object) -> Report:
    """last: seconds"""
    whole = Report(
        streams=STREAMS, in_sync=in_sync, failed=0, missing=STREAMS - in_sync, errors={},
        first_ms=1.0, p50_ms=2.0, p99_ms=3.0, last_ms=1000 * last, from_first_ms=1000 * last - 1,
        change_ms=1.0, messages=STREAMS, messages_per_stream=1.0, resources=STREAMS, repeated=0,
        bytes=1, server_cpu_s=used, server_rss=1 << 20, client_cpu_s=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **more)


def case(**found: list[Report]) -> Case:
    servers: tuple[Kind, ...] = ("http2", "grpc", "bare", "linear", "snapshot")
    return Case(SHARED, STREAMS, {kind: {"one": found[kind]} for kind in servers if kind in found})


def run(*cases: Case, rounds: int = 1, floor: Floor = NO_FLOOR) -> Comparison:
    return Comparison(
        machine={"CPU": "a processor"},
        loads={name: f"load {name}" for name in ("sync", "one")},
        goals=(0.6, 0.5, 0.2),
        planned=[(SHARED, STREAMS)],
        kinds=["http2", "grpc", "linear", "snapshot"],
        rounds={STREAMS: rounds},
        cases=list(cases),
        floor=floor,
    )


def test_the_best_is_the_smaller_median_in_each_number() -> None:
    two = case(
        linear=[report(1, used=9), report(5, used=9), report(2, used=9)],
        snapshot=[report(3, used=4)],
    )
    assert two.best("one", wall) == 2
    assert two.best("one", cpu) == 4
    assert two.best("storm", wall) is None


@pytest.mark.parametrize(
    "lost",
    [
        report(0.1, in_sync=STREAMS - 1),
        report(0.1, failed=1),
        report(0.1, streams=STREAMS - 1, in_sync=STREAMS - 1, missing=0),
    ],
    ids=["out of time", "ended", "lost in a step before"],
)
def test_a_cache_that_lost_streams_is_not_the_better_one(lost: Report) -> None:
    made = case(http2=[report(1)], linear=[report(0.2), lost], snapshot=[report(2)])
    assert made.rivals("one") == ["snapshot"]
    assert made.best("one", wall) == 2
    assert made.factor("http2", "one", wall) == 0.5
    page = xds_report.text(run(made))
    assert (
        "| load one | 100 | ours on http2 | **0.50** | **0.50** | 1.00 | 1.00 | snapshot |" in page
    )
    alone = case(http2=[report(1)], linear=[lost])
    assert alone.best("one", wall) is None
    assert "| – | – | – | – | no cache served every stream |" in xds_report.text(run(alone))


def test_ours_has_no_factor_when_it_lost_streams() -> None:
    errors = {"Unavailable: gone": 3}
    made = case(
        http2=[report(0.1), report(0.1, in_sync=STREAMS - 5, missing=2, errors=errors)],
        linear=[report(1)],
    )
    assert made.factor("http2", "one", wall) is None
    (row,) = (row for row in xds._rows(made) if "1 KB changes, ours on http2" in row.what)
    assert row.limit is None
    page = xds_report.text(run(made))
    assert "| ours on http2 | – | – | – | – | streams were lost |" in page
    assert "| 5 of 100: Unavailable: gone (3), time was over (2) |" in page


def test_what_the_bare_server_does_not_reach_either_is_marked() -> None:
    made = case(
        http2=[report(9, used=8)],
        grpc=[report(5, used=5)],
        bare=[report(7, used=4)],
        linear=[report(10, used=10)],
    )
    page = xds_report.text(run(made))
    assert "| ours on http2 | 0.90 † | 0.90 † | 0.80 | 1.00 † | linear |" in page
    assert "| ours on grpc | **0.50** | **0.50** | **0.50** | 1.00 † | linear |" in page


def test_where_the_bare_server_is_not_measured_its_memory_is_that_of_other_loads() -> None:
    made = case(http2=[report(9)], linear=[report(10, used=10)])
    loads = {"sync": [report(1, server_rss=1 << 20)], "storm": [report(1, server_rss=1 << 17)]}
    made.found["bare"] = dict(loads)
    page = xds_report.text(run(made))
    assert "| ours on http2 | 0.90 | 0.90 | **0.10** | 1.00 | linear |" in page
    del made.found["bare"]["storm"]
    page = xds_report.text(run(made))
    assert "| ours on http2 | 0.90 | 0.90 | **0.10** | 1.00 † | linear |" in page


def test_what_the_core_takes_is_above_the_bare_servers_time() -> None:
    made = case(
        http2=[report(1, used=8)],
        grpc=[report(1, used=5)],
        bare=[report(7, used=4)],
        linear=[report(10, used=10)],
    )
    for core, marked in ((0.009, False), (0.011, True)):
        page = xds_report.text(run(made, floor=Floor({"one": core}, 0.0)))
        mark = " †" if marked else ""
        assert f"| ours on http2 | **0.10** | **0.10** | 0.80{mark} | 1.00 † | linear |" in page
        assert "| ours on grpc | **0.10** | **0.10** | **0.50** | 1.00 † | linear |" in page
        assert f"of a stream {1e6 * core:.1f} µs (load one)." in page


def test_what_the_core_takes_before_a_stream_is_sent_something_is_waited_for() -> None:
    made = case(http2=[report(9)], bare=[report(5)], linear=[report(10)])
    for led, mark in ((0.009, ""), (0.011, " †")):
        page = xds_report.text(run(made, floor=Floor({}, 0.0, {"one": led})))
        assert f"| ours on http2 | 0.90{mark} | 0.90{mark} | 1.00 † | 1.00 † | linear |" in page
        assert f"one comes after the other: of a stream {1e6 * led:.1f} µs (load one)." in page


def test_what_libraries_take_is_below_what_the_bare_server_has_for_connections() -> None:
    made = case(http2=[report(1)], bare=[report(1, server_rss=70)], linear=[report(1)])
    few = msgspec.structs.replace(made, found={"bare": {"one": [report(1, server_rss=30)]}})
    best = made.found["linear"]["one"][0].server_rss
    for libraries, mark in ((best // 5 - 41, ""), (best // 5 - 38, " †")):
        page = xds_report.text(run(made, few, floor=Floor({}, float(libraries))))
        assert f"| ours on http2 | 1.00 † | 1.00 † | 1.00 † | 1.00{mark} | linear |" in page
    assert "nothing else" in page


def test_the_floor_is_measured() -> None:
    floor = xds_floor.measure(1)
    assert set(floor.core) == set(xds.LOADS) - {"burst"}
    assert all(seconds > 0 for seconds in floor.core.values())
    assert floor.libraries > 1 << 20
    assert floor.led == {"one": floor.led["one"], "many": floor.led["many"]}
    assert all(0 < floor.led[load] < floor.core[load] for load in floor.led)


def test_the_bare_server_starts_wherever_its_modules_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with xds_rig.Server("bare", tmp_path / "server", tmp_path, None) as server:
        server.process.check()


def test_each_change_of_a_burst_is_not_for_the_bare_server() -> None:
    assert [name for name in LOADS if xds._not_for("bare", name, 200)] == ["burst"]
    assert [name for name in LOADS if xds._not_for("snapshot", name, 10_000)] == ["burst"]
    assert not [name for name in LOADS if xds._not_for("snapshot", name, 200)]
    assert not [name for name in LOADS if xds._not_for("http2", name, 10_000)]


def test_a_page_of_a_part_says_what_is_missing(tmp_path: Path) -> None:
    part = case(http2=[report(1)])
    part.found["http2"]["sync"] = [report(1)]
    part.why["linear"] = {"sync": "failed: no port", "one": "failed: no port"}
    made = run(part, rounds=2)
    xds_case.save(made, tmp_path / "made" / "xds.json")
    assert xds_case.load(tmp_path / "made" / "xds.json") == made
    page = xds_report.text(made)
    assert "**This run did not come to its end.**" in page
    assert "* ours on http2, 100 streams, shared connections: 1 of 2 rounds" in page
    assert "* snapshot, 100 streams, shared connections: 0 of 2 rounds" in page
    assert "* linear, 100" not in page
    assert page.count("| 100 | linear | 0 | – | | | | | | failed: no port |") == 2


def test_a_whole_page_has_nothing_missing() -> None:
    made = case(
        http2=[report(1)], grpc=[report(2)], linear=[report(3)], snapshot=[report(4)]
    )  # the last load of a round
    assert run(made).missing() == []
    page = xds_report.text(run(made))
    assert "did not come to its end" not in page
    assert "Streams: 100." in page
    assert "rounds: 1 with 100." in page


# -------------------------------------------------------------------- which run writes which page


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Rounds take no time; the page of the documentation is another one, which is handed back."""

    def once(context: Context, programs: Path, case: Case, kind: Kind, title: str) -> None:
        whole = report(1, streams=case.streams, in_sync=case.streams, missing=0)
        for name in LOADS:
            case.found.setdefault(kind, {}).setdefault(name, []).append(whole)

    page = tmp_path / "page.md"
    page.write_text("as it was")
    monkeypatch.setattr(xds, "_round", once)
    monkeypatch.setattr(xds, "_rounds", lambda streams: 2)  # each writes the page
    monkeypatch.setattr(xds, "OUT", tmp_path / "out")
    monkeypatch.setattr(xds_report, "PAGE", page)
    monkeypatch.setattr(xds_build, "programs", lambda: tmp_path)
    monkeypatch.setattr(xds_rig, "refused", lambda _streams: "")
    return page


def context(
    *, quick: bool = False, streams: tuple[int, ...] = (),
    transports: tuple[str, ...] = ("grpc", "http2"), page: Path | None = None,
    seconds: float | None = None, say: Callable[[str], None] = lambda _text: None,
) -> Context:  # fmt: skip
    return Context(
        quick=quick, streams=streams, transports=transports, profile="", say=say, page=page,
        seconds=seconds,
    )  # fmt: skip


def test_only_a_whole_run_writes_the_page(measured: Path, tmp_path: Path) -> None:
    for part in (context(quick=True), context(streams=(200,)), context(transports=("grpc",))):
        xds.run(part)
        assert measured.read_text() == "as it was"
        assert part.written == [tmp_path / "out" / "xds-part.json"]
    other = context(streams=(200,), page=tmp_path / "other.md")
    xds.run(other)
    assert other.written == [tmp_path / "out" / "xds-part.json", tmp_path / "other.md"]
    assert measured.read_text() == "as it was"
    assert "Streams: 200." in (tmp_path / "other.md").read_text()
    whole = context()
    xds.run(whole)
    assert "Streams: 200, 1,000, 5,000, 10,000." in measured.read_text()
    assert "did not come to its end" not in measured.read_text()
    assert whole.written == [tmp_path / "out" / "xds.json", measured]
    again = xds_case.load(tmp_path / "out" / "xds.json")
    assert xds_report.text(again) == measured.read_text()


def test_a_run_that_has_no_time_left_says_so(measured: Path) -> None:
    rows = xds.run(context(seconds=-1.0))
    assert {row.why for row in rows} == {"time was over"}
    assert "did not come to its end" in measured.read_text()


# ---------------------------------------------------------------------------------- one server


def rounds_of(monkeypatch: pytest.MonkeyPatch, kind: Kind, **loads: Report | str) -> Case:
    """What a round leaves of a server; text is an error. Loads that are not named go well."""

    def measure(of: Report | str) -> Report:
        if isinstance(of, str):
            raise RuntimeError(of)
        return of

    whole = report(1)

    def made(*_: object) -> dict[str, tuple[Callable[[], Report], int]]:
        return {name: (partial(measure, loads.get(name, whole)), 2) for name in LOADS}

    monkeypatch.setattr(xds, "loads", made)
    found = Case(SHARED, STREAMS, {}, {})
    xds._round(context(), Path(), found, kind, "round 1")
    return found


def counts(case: Case, kind: Kind) -> list[int]:
    return [len(case.runs(kind, name)) for name in LOADS]


def test_a_round_measures_every_load(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rounds_of(monkeypatch, "linear")
    assert (counts(whole, "linear"), whole.why) == ([2, 2, 2, 2, 2], {})


def test_a_round_ends_with_streams_that_waited_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of the loads after it would wait for as long."""
    found = rounds_of(monkeypatch, "http2", many=report(9, in_sync=STREAMS - 7))
    assert counts(found, "http2") == [2, 2, 1, 0, 0]
    assert found.lost("http2", "many") == "7 of 100: time was over (7)"
    assert found.why["http2"].keys() == {"burst", "storm"}
    assert "7 streams were not served in time before" in found.why["http2"]["storm"]


def test_what_was_measured_before_a_failure_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rounds_of(monkeypatch, "grpc", many="it\nended")
    assert counts(found, "grpc") == [2, 2, 0, 0, 0]
    assert found.why == {"grpc": dict.fromkeys(("many", "burst", "storm"), "failed: it ended")}


# ------------------------------------------------------------------------------ programs in Go


def test_old_builds_go_and_those_in_use_stay(tmp_path: Path) -> None:
    for at, name in enumerate(["oldest", "old", "used", "mine"]):
        (tmp_path / f"xds-bench-{name}").mkdir()
        os.utime(tmp_path / f"xds-bench-{name}", (at, at))
    (tmp_path / "xds-bench.lock").touch()
    (tmp_path / "kubernetes-v1").mkdir()
    xds_build.prune(tmp_path, tmp_path / "xds-bench-mine")
    assert {path.name for path in tmp_path.iterdir()} == {
        "xds-bench-old", "xds-bench-used", "xds-bench-mine", "xds-bench.lock", "kubernetes-v1",
    }  # fmt: skip


def test_a_server_that_says_no_ports_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xds_conformance, "_START", 0.1)
    process = Process([sys.executable, "-c", "import signal; signal.pause()"], tmp_path / "log")
    try:
        with pytest.raises(UnavailableError, match="no ports were printed"):
            xds_conformance._ports(process)
    finally:
        process.end()


# -------------------------------------------------------------------------------------- the soak


def soak(sizes: list[int], *, behind: int = 1, streams: int = STREAMS, late: int = 0) -> Soak:
    def sample(second: float, size: int, behind: int, late: int) -> Sample:
        lag = Lag(
            published=11, streams=streams, behind=behind, behind_any=late, behind_two=0,
            longest_ms=5.0, cpu_s=second / 2, rss=size,
        )  # fmt: skip
        return Sample(second, lag)

    samples = [sample(30.0 * at, size, behind, 1) for at, size in enumerate(sizes, 1)]
    return Soak(STREAMS, 30 * len(sizes), sizes[0], samples, sample(999.0, sizes[-1], late, late))


def test_a_soak_passes_or_says_what_failed() -> None:
    flat = [100, 110, 110, 112]
    assert xds_soak.failed(soak(flat), 0.05, 10) == []
    assert xds_soak.failed(soak([100, 110, 110, 120]), 0.05, 10) == [
        "memory grew by 9.1%, more than 5.0%"
    ]
    assert xds_soak.failed(soak(flat, behind=11), 0.05, 10) == [
        "a stream was 11 updates behind, more than 10"
    ]
    assert xds_soak.failed(soak(flat, streams=STREAMS - 2), 0.05, 10) == ["2 streams ended"]
    assert xds_soak.failed(soak(flat, late=3), 0.05, 10) == [
        "3 streams had not got the last update at the end"
    ]


def test_a_soak_shows_memory_each_minute() -> None:
    told = xds_soak.told(soak([10 << 20, 20 << 20, 30 << 20, 40 << 20]))
    assert told["memory_at_the_start"] == "10.0 MiB"
    assert told["memory_each_minute"] == "20.0 MiB, 40.0 MiB"
    assert told["growth"] == "20.0 MiB, later 40.0 MiB (+100.0%)"
    assert told["cpu"] == "0.50 cores"
