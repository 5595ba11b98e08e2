"""The load client tells the truth: counts that are known beforehand, and streams that are lost.

It is built of Go sources, which takes a while, so nearly all of this is for the longer profile. One
test is for any run where the programs are built already (`python -m bench.xds_build`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from bench import xds_build, xds_rig
from bench.xds import LAYOUTS
from bench.xds_rig import IDENTITIES, OURS, POLICIES, THEIRS, Kind, Layout, Load, Server
from reconciler.errors import UnavailableError

longer = pytest.mark.slow
unless_built = [] if xds_build.built() else [longer]

STREAMS = 20
NAMES = dict(zip(("own connections", "shared connections"), LAYOUTS, strict=True))
Rig = tuple[Server, Load]
BARE: tuple[Kind, ...] = ("bare",)


@pytest.fixture(scope="module")
def programs() -> Path:
    return xds_build.programs()


layouts = pytest.mark.parametrize("layout", NAMES.values(), ids=NAMES)

rigs = pytest.mark.parametrize(
    ("kind", "layout"),
    [
        pytest.param(
            kind,
            layout,
            id=f"{kind}, {name}",
            marks=unless_built if (kind, layout) == ("http2", LAYOUTS[0]) else longer,
        )
        for kind in (*OURS, *THEIRS, *BARE)
        for name, layout in NAMES.items()
    ],
)
"""Of each server; one is of any run, in the tests that are not longer themselves."""


@pytest.fixture
def rig(kind: Kind, programs: Path, tmp_path: Path, layout: Layout) -> Iterator[Rig]:
    keys = xds_rig.make_keys(tmp_path) if layout.tls else None
    with (
        Server(kind, tmp_path / "server", programs, keys) as server,
        Load(server, programs, layout, keys, tmp_path / "load.log") as load,
    ):
        yield server, load


@rigs
def test_each_stream_is_counted_once(rig: Rig) -> None:
    server, load = rig
    opened = load.open(STREAMS)
    assert (opened.in_sync, opened.failed, opened.missing) == (STREAMS, 0, 0)
    assert (opened.resources, opened.repeated) == (STREAMS * IDENTITIES, 0)
    assert 0 < opened.first_ms <= opened.p50_ms <= opened.p99_ms <= opened.last_ms
    assert opened.server_cpu_s > 0
    assert opened.server_rss > 1 << 20

    one = load.change([server.change(xds_rig.one(2))], 2, 1)
    assert (one.in_sync, one.resources, one.messages) == (STREAMS, STREAMS, STREAMS)

    both = [*xds_rig.identities(3), *xds_rig.policies(3)]
    many = load.change([server.change(both)], 3, len(both))
    assert (many.in_sync, many.repeated) == (STREAMS, 0)
    assert many.resources == STREAMS * (IDENTITIES + POLICIES)

    actions = [server.change(xds_rig.one(generation)) for generation in range(4, 14)]
    burst = load.change(actions, 13, 1)
    assert burst.in_sync == STREAMS
    assert STREAMS <= burst.resources <= 10 * STREAMS


@longer
@rigs
def test_a_reconnect_with_equal_versions_brings_nothing_but_answers(rig: Rig) -> None:
    server, load = rig
    load.open(STREAMS)
    load.change([server.change(xds_rig.one(2))], 2, 1)
    again = load.reconnect()
    assert (again.in_sync, again.failed, again.resources) == (STREAMS, 0, 0)
    after = load.change([server.change(xds_rig.one(3))], 3, 1)
    assert (after.in_sync, after.resources) == (STREAMS, STREAMS)


@longer
@rigs
def test_streams_are_behind_what_they_have_not_got(rig: Rig) -> None:
    server, load = rig
    load.open(STREAMS)
    load.publish([], 2)  # it says so, and the server never hears of it
    load.publish([], 3)
    lag = load.lag()
    assert (lag.published, lag.streams) == (3, STREAMS)
    assert (lag.behind, lag.behind_any, lag.behind_two) == (2, STREAMS, STREAMS)
    assert lag.longest_ms > 0
    load.change([server.change(xds_rig.one(3))], 3, 1)
    assert load.lag().behind_any == 0


@longer
@rigs
def test_a_server_that_ends_is_no_success(rig: Rig) -> None:
    server, load = rig
    load.open(STREAMS)
    server.process.end(SIGKILL)
    with pytest.raises(UnavailableError, match="ended with -9"):
        load.change([], 2, 1)


@longer
@layouts
def test_streams_that_end_are_counted_with_their_status(
    programs: Path, tmp_path: Path, layout: Layout
) -> None:
    """Nothing serves these types, so each stream is refused."""
    keys = xds_rig.make_keys(tmp_path) if layout.tls else None
    with (
        Server("linear", tmp_path / "server", programs, keys) as server,
        Load(server, programs, layout, keys, tmp_path / "load.log", types="none") as load,
    ):
        opened = load.open(STREAMS)
    assert (opened.in_sync, opened.failed, opened.missing) == (0, STREAMS, 0)
    assert opened.errors == {"Unknown: no cache defined for key none": STREAMS}
