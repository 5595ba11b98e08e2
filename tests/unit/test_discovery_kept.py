"""What the xDS service keeps: all that it needs to answer, and nothing of what is over."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from reconciler.core.discovery.frames import Frames
from reconciler.core.discovery.snapshot import EMPTY, Said, Snapshot, Step
from reconciler.core.discovery.types import CDS, EDS, RDS, Variant
from reconciler.core.xds.codec import MAX_NAMES
from reconciler.core.xds.kept import Kept
from tests.unit.discovery_rig import Rig, resource
from tests.unit.test_discovery_clients import answer, of
from tests.unit.test_discovery_points import BOTH, DELTA, SOTW


@pytest.fixture
def counted() -> Iterator[None]:
    """Objects go when nothing refers to them; cycles would stay, so there may be none."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(kind: type) -> int:
    return sum(type(each) is kind for each in gc.get_objects())


def test_of_streams_that_came_with_something_else_each_nothing_is_kept(counted: None) -> None:
    rig = Rig()
    rig.publish({EDS: {f"name-{at}": "2" for at in range(10)}})
    steps, states = alive(Step), alive(Snapshot)
    rounds = 200
    for at in range(rounds):
        peer = rig.open(DELTA)
        peer.ask(EDS, "*", initial={f"name-{at % 10}": str(at + 3)})
        (got,) = peer.got()
        assert len(got.put) == 10
        peer.close()
    recent = 32  # of one state
    assert alive(Step) <= steps + recent
    rig.service._decoder._delta.clear()  # bounded on its own: what was said, by its bytes
    assert alive(Snapshot) <= states + recent
    rig.publish({EDS: {"name-0": "3"}})
    assert alive(Step) == steps
    assert alive(Snapshot) == states
    frames = rig.service._delivery._frames
    assert (len(frames._kept), frames._kept_bytes) == (0, 0)


def test_a_stream_that_is_held_between_states_keeps_none_of_them(counted: None) -> None:
    rig = Rig()
    rig.publish({CDS: {"c": "1"}, RDS: {"r": "1"}})
    peer = rig.open(DELTA)
    for type_url in (CDS, RDS):
        peer.ask(type_url, "*")
    peer.got()
    counts = []
    for at in range(20):
        rig.publish({CDS: {f"c{at}": "1"}, RDS: {"r": f"to c{at}"}})
        (sent,) = (peer.take() for _ in range(len(peer.inbox)))  # not answered: the rest waits
        assert (sent.type_url, sent.removed) == (CDS, ())
        if at in (4, 19):
            counts.append((alive(Step), alive(Snapshot)))
    assert counts[0] == counts[1]


def test_what_was_asked_for_while_the_rest_waits_is_kept_by_who_has_it(counted: None) -> None:
    rig = Rig()
    rig.publish({CDS: {"c": "1"}, RDS: {"r": "1"}})
    peer = rig.open(DELTA)
    peer.ask(CDS, "*", node="n1")
    peer.ask(RDS, "r")
    peer.got()
    counts = []
    for at in range(20):
        routes = {"r": f"to c{at}", "s": str(at), "t": str(at)}
        rig.publish({CDS: {f"c{at}": "1"}, RDS: routes})
        for name in "st":
            peer.ask(RDS, name, drop=["s", "t"])
        while peer.inbox:
            assert peer.take().put.keys() <= {f"c{at}", "s", "t"}  # not answered: the rest waits
        if at in (4, 19):
            counts.append((alive(Step), alive(Snapshot)))
    assert counts[0] == counts[1]


def test_a_type_that_nobody_has_is_kept_by_no_one_else(counted: None) -> None:
    for _ in range(2):  # the second service is not the first
        rig = Rig()
        rig.publish({})
        peer = rig.open(DELTA)
        peer.ask(EDS, "x", initial={"x": "1"}, node="n1")
        answer(peer, "still in use")
        assert of(rig, EDS)["x"].status == "nacked"
    assert len(EMPTY._steps) == 0
    steps = alive(Step)
    rig.publish({CDS: {"c": "1"}})
    assert alive(Step) < steps


@BOTH
def test_what_is_shared_is_bounded_by_its_bytes(variant: Variant) -> None:
    frames = Frames((), 1 << 20, keep=10_000)
    target = Snapshot(EDS, {})
    steps = []
    for at in range(100):
        big = resource(EDS, "a", f"{at}" * 500)
        base, target = target, Snapshot(EDS, {"a": big})
        steps.append(target.step(base))
        assert frames.of(EDS, steps[-1], variant, True, frozenset())
    assert frames._wrapped.size <= 10_000
    shared = [told for step in steps for each in step.frames.values() for told in each]
    assert 1 < len(shared) < 20
    assert sum(len(told.data) for told in shared) == frames._kept_bytes <= 10_000


def test_names_that_nobody_has_are_bounded_too() -> None:
    """Responses are found by the names that were asked for, whatever they say."""
    frames = Frames((), 1 << 20, keep=100_000)
    target = Snapshot(EDS, {"a": resource(EDS, "a", "1")})
    step = target.step(EMPTY)
    for at in range(100):
        names = frozenset({"a", *(f"{at}-{each}" for each in range(100))})
        assert len(frames.of(EDS, step, SOTW, False, names)) == 1
        other = target.step(Snapshot(EDS, {}))
        frames.of(EDS, other, SOTW, False, names)
        assert sum(len(each.frames) for each in (step, other)) <= 20


def test_what_the_oldest_response_said_is_known_when_it_is_refused() -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "1"}})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a", node="n1")
    peer.got()
    for version in "2345":
        rig.publish({EDS: {"a": version}})
    answer(peer)
    answer(peer, "no")
    assert (of(rig, EDS)["a"].status, of(rig, EDS)["a"].refused_version) == ("sent", "3")
    kind = rig.service._clients[peer.id].kinds[EDS]
    assert [each.versions for each in kind.told] == [("4",), ("5",)]
    peer.got()
    assert kind.told == ()


@BOTH
def test_what_a_client_leaves_unanswered_is_remembered_in_bounded_number(
    variant: Variant,
) -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "0"}})
    peer = rig.open(variant)
    peer.ask(EDS, "a", node="n1")
    for at in range(1, 200):
        rig.publish({EDS: {"a": str(at)}})
    kind = rig.service._clients[peer.id].kinds[EDS]
    assert [each.nonce for each in kind.told] == list(kind.open)
    assert len(kind.open) == 64
    many = tuple(str(at) for at in range(MAX_NAMES))
    for at in range(3):
        kind.told += (Said(str(at), many, many),)
    kind.bound()
    assert [each.nonce for each in kind.told] == ["2"]


def test_the_latest_that_was_asked_for_is_kept() -> None:
    kept: Kept[str, int] = Kept(10, 3)
    for at, key in enumerate("abc"):
        kept.put(key, at, 2)
    assert kept.get("a") == 0
    kept.put("d", 3, 2)
    assert [kept.get(key) for key in "abcd"] == [0, None, 2, 3]
    kept.put("d", 4, 9)  # in its place; the others go for its size
    assert [kept.get(key) for key in "acd"] == [None, None, 4]
    assert (len(kept), kept.size) == (1, 9)
    kept.put("e", 5, 100)  # what came last stays, however large
    assert (kept.get("e"), len(kept), kept.size) == (5, 1, 100)
    kept.clear()
    assert (len(kept), kept.size) == (0, 0)
