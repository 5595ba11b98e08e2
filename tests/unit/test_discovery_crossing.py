"""What crosses on a stream: requests and responses, answers and what is asked for meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.discovery.delivery import HOLD_SECONDS
from reconciler.core.discovery.snapshot import Changed, Snapshot
from reconciler.core.discovery.types import CDS, EDS, LDS, RDS, Variant
from tests.unit.discovery_rig import Peer, Rig, resource
from tests.unit.test_discovery_points_order import BOTH, DELTA, SOTW


@pytest.fixture
def rig() -> Rig:
    return Rig()


def subscribed(rig: Rig, variant: Variant, type_url: str, *names: str) -> Peer:
    """To all clusters, and to these names of a type of the second stage; all is answered."""
    peer = rig.open(variant)
    peer.ask(CDS, *(("*",) if variant is DELTA else ()))
    peer.ask(type_url, *names)
    peer.got()
    return peer


def test_a_cluster_that_warms_anew_gets_its_endpoints_though_another_ones_are_on_the_way(
    rig: Rig,
) -> None:
    """ "Resource warming": Envoy asks once more, with the nonce that it read last, before it reads
    the response that is on its way. The list in its answer to that is all that can say so again."""
    rig.publish({CDS: {"c": "1"}, EDS: {"c": "1", "d": "1"}})
    peer = rig.open(SOTW)
    peer.ask(CDS)
    peer.ask(EDS, "c", "d")
    peer.got()
    before = peer.last[EDS]
    rig.publish({CDS: {"c": "2"}, EDS: {"c": "1", "d": "2"}})
    clusters, endpoints = peer.take(), peer.take()
    peer.answer(clusters)
    assert endpoints.put == {"d": "2"}
    peer.ask(EDS, "c", "d", nonce=before)
    assert not peer.inbox
    peer.answer(endpoints)
    assert peer.put() == [{"c": "1", "d": "2"}]
    assert peer.got() == []


def test_who_gives_a_name_up_while_a_response_is_on_its_way_is_not_sent_the_rest_again(
    rig: Rig,
) -> None:
    rig.publish({EDS: {"c": "1", "d": "1"}})
    peer = rig.open(SOTW)
    peer.ask(EDS, "c", "d")
    (first,) = peer.got()
    rig.publish({EDS: {"c": "1", "d": "2"}})
    second = peer.take()
    peer.ask(EDS, "d", nonce=first.nonce)
    peer.answer(second)
    assert peer.got() == []


def test_who_says_everything_twice_is_answered_in_no_circle(rig: Rig) -> None:
    """Of two types: each one's answer is no reason to answer the other's."""
    rig.publish({EDS: {"c": "1"}, RDS: {"r": "1"}})
    peer = rig.open(SOTW)
    peer.ask(EDS, "c")
    peer.ask(RDS, "r")
    answers = []
    while peer.inbox:
        answers.append(peer.take())
        assert len(answers) < 10
        for _ in range(2):
            peer.answer(answers[-1])
    assert len(answers) == 4
    rig.publish({CDS: {"c": "1"}, EDS: {"c": "1"}, RDS: {"r": "1"}})
    peer.ask(CDS)
    peer.answer(peer.take())
    peer.ask(EDS, "c")
    assert peer.put() == [{"c": "1"}]


def test_who_refuses_a_response_twice_asks_for_nothing(rig: Rig) -> None:
    rig.publish({EDS: {"c": "1", "d": "1"}})
    peer = rig.open(SOTW)
    peer.ask(EDS, "c", "d")
    (first,) = peer.got()
    rig.publish({EDS: {"c": "1", "d": "2"}})
    second = peer.take()
    peer.ask(EDS, "c", "d", nonce=first.nonce, error="no")
    peer.answer(second)
    assert peer.got() == []


@BOTH
def test_who_asks_for_everything_anew_while_it_waits_is_sent_what_it_has(
    rig: Rig, variant: Variant
) -> None:
    rig.publish({CDS: {"c": "1"}, LDS: {"r": "1", "s": "1"}})
    peer = subscribed(rig, variant, LDS, "r")
    rig.publish({CDS: {"c": "2"}, LDS: {"r": "2", "s": "1"}})
    clusters = peer.take()
    peer.ask(LDS, "*")
    assert peer.put() == [{"r": "1", "s": "1"}]
    peer.answer(clusters)
    assert peer.put() == [{"r": "2"} if variant is DELTA else {"r": "2", "s": "1"}]


def test_who_asks_for_everything_anew_hears_of_what_is_gone_when_the_answer_is_made(
    rig: Rig,
) -> None:
    """It was there when it was asked for, and is not when the stream takes more."""
    rig.publish({EDS: {"a": "1"}})
    peer = rig.open(DELTA)
    peer.ask(EDS, "*")
    peer.ask(EDS, drop=["*"])
    rig.publish({})
    peer.slow = True
    peer.ask(CDS)
    rig.publish({EDS: {"a": "1"}})
    peer.ask(EDS, "*")
    rig.publish({})
    peer.drain()
    assert any(each.removed == ("a",) for each in peer.got())


@BOTH
def test_what_is_asked_for_goes_and_what_waits_beside_it_goes_on_waiting(
    rig: Rig, variant: Variant
) -> None:
    rig.publish({CDS: {"c": "1"}, RDS: {"r": "1", "s": "1", "t": "1"}})
    peer = subscribed(rig, variant, RDS, "r")
    rig.publish({CDS: {"c": "2"}, RDS: {"r": "2", "s": "1", "t": "2"}})
    clusters = peer.take()
    assert not peer.inbox
    more = ("r",) if variant is SOTW else ()
    peer.ask(RDS, *more, "s")
    assert peer.take().put == {"s": "1"}
    peer.ask(RDS, *more, *(("s",) if more else ()), "t")
    assert peer.take().put == {"t": "2"}
    peer.answer(clusters)
    assert peer.put() == [{"r": "2"}]
    rig.publish({CDS: {"c": "2"}, RDS: {"r": "2", "s": "1", "t": "3"}})
    assert peer.put() == [{"t": "3"}]


@BOTH
def test_what_is_asked_for_and_gone_is_said_to_be_gone_while_the_rest_waits(
    rig: Rig, variant: Variant
) -> None:
    rig.publish({CDS: {"c": "1"}, LDS: {"r": "1", "s": "1"}})
    peer = subscribed(rig, variant, LDS, "r", "s")
    rig.publish({CDS: {"c": "2"}, LDS: {"r": "2"}})
    clusters = peer.take()
    peer.ask(LDS, *(("r",) if variant is SOTW else ()), "s", "u")
    told = peer.take()
    if variant is DELTA:
        assert (told.put, told.removed) == ({}, ("s", "u"))
    else:
        assert told.put == {"r": "1", "s": "1"}
    peer.answer(clusters)
    peer.answer(told)
    gone = [] if variant is DELTA else [{"r": "2", "s": "1"}]
    assert peer.put() == [*gone, {"r": "2"}]


@BOTH
def test_each_step_has_its_own_time(rig: Rig, variant: Variant) -> None:
    """The first is answered in the last moment."""
    rig.publish({CDS: {"c": "1"}, LDS: {"l": "1"}})
    peer = rig.open(variant)
    every = ("*",) if variant is DELTA else ()
    peer.ask(CDS, *every)
    peer.ask(LDS, *every)
    peer.got()
    rig.publish({CDS: {"d": "1"}, LDS: {"l": "2"}})
    clusters = peer.take()
    rig.wait(HOLD_SECONDS - 0.1)
    peer.answer(clusters)
    listeners = peer.take()
    assert listeners.put == {"l": "2"}
    rig.wait(HOLD_SECONDS - 0.2)
    rig.publish({CDS: {"d": "1"}, LDS: {"l": "3"}})  # no step further
    assert peer.take().put == {"l": "3"}
    rig.wait(0.1)
    assert not peer.inbox
    rig.wait(0.1)
    gone = peer.take()
    assert gone.removed == ("c",) if variant is DELTA else gone.put == {"d": "1"}


def test_who_is_a_step_further_keeps_nobody_waiting(rig: Rig) -> None:
    rig.publish({CDS: {"c": "1"}, LDS: {"l": "1"}})
    peers = [rig.open(DELTA) for _ in range(2)]
    for peer in peers:
        peer.ask(CDS, "*")
        peer.ask(LDS, "*")
        peer.got()
    rig.publish({CDS: {"d": "1"}, LDS: {"l": "2"}})
    first, second = peers
    rig.wait(5.0)
    first.answer(first.take())
    second.take()
    rig.wait(HOLD_SECONDS - 5.0)
    assert second.take().put == {"l": "2"}
    assert second.take().removed == ("c",)
    assert first.take().put == {"l": "2"}
    assert not first.inbox


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4)),
    st.lists(st.frozensets(st.sampled_from("abcd")), min_size=1),
)
@settings(deadline=None)
def test_what_was_asked_for_on_the_way_is_all_that_differs(
    states: list[dict[str, str]], asked: list[frozenset[str]]
) -> None:
    base = Snapshot(EDS, {})
    for at, state in enumerate(states):
        target = Snapshot(EDS, {name: resource(EDS, name, each) for name, each in state.items()})
        names = asked[at % len(asked)]
        step = target.step(base)
        found = step.only(names)
        assert step.only(names) is found
        wanted = {name: each for name, each in base.resources.items() if name not in names}
        wanted.update((name, each) for name, each in target.resources.items() if name in names)
        assert dict(found.resources) == wanted
        assert len(found.resources) == len(wanted)
        assert {name for name in "abcd" if name in found.resources} == wanted.keys()
        assert not isinstance(getattr(found.resources, "_others", None), Changed)
        assert {each.name for each in found.step(base).put} <= names
        base = found


def test_of_what_was_asked_for_on_the_way_not_all_is_kept() -> None:
    names = [f"n{at}" for at in range(100)]
    target = Snapshot(EDS, {name: resource(EDS, name, "1") for name in names})
    step = target.step(Snapshot(EDS, {}))
    for name in names:
        assert step.only(frozenset({name})).resources.keys() == {name}
    assert len(step._only) < 50
