"""What the xDS service says of its clients, and how streams come, wait, move and go."""

from __future__ import annotations

import pytest

from reconciler.core.discovery.bucket import Bucket
from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import CDS, EDS, ClientState, Node, ResourceState, Variant
from reconciler.errors import ProtocolError
from tests.unit.discovery_rig import Peer, Rig, resources
from tests.unit.test_discovery_points import BOTH, DELTA, SOTW


def only(rig: Rig) -> ClientState:
    (state,) = rig.service.clients()
    return state


def of(rig: Rig, type_url: str) -> dict[str, ResourceState]:
    (found,) = (each for each in only(rig).types if each.type_url == type_url)
    return {each.name: each for each in found.resources}


def statuses(rig: Rig, type_url: str) -> dict[str, str]:
    return {name: each.status for name, each in of(rig, type_url).items()}


def answer(peer: Peer, error: str | None = None) -> None:
    peer.answer(peer.take(), error=error)


# What is said of a client


@BOTH
def test_each_resource_is_waiting_sent_acked_or_absent(variant: Variant) -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "1"}})
    peer = rig.open(variant)
    assert list(rig.service.clients()) == []  # nobody knows whose it is
    peer.ask(EDS, "a", "b", node="n1")
    assert statuses(rig, EDS) == {"a": "sent", "b": "sent" if variant is DELTA else "absent"}
    answer(peer)
    assert statuses(rig, EDS) == {"a": "acked", "b": "absent"}
    peer.slow = True
    rig.now = 7.0
    rig.publish({EDS: {"a": "2"}})
    assert statuses(rig, EDS)["a"] == "sent"
    rig.publish({EDS: {"a": "3"}})
    waiting = of(rig, EDS)["a"]
    assert (waiting.status, waiting.version, waiting.updated_at) == ("waiting", "2", 7.0)
    peer.drain()
    peer.got()
    state = only(rig)
    assert statuses(rig, EDS)["a"] == "acked"
    assert (state.node.id, state.variant, state.service, state.view) == ("n1", variant, None, "")
    (kind,) = state.types
    assert (kind.state, kind.wildcard) == ("acked", False)
    assert kind.names == {"a", "b"}
    assert bool(kind.version) == (variant is SOTW)


@BOTH
def test_it_is_told_since_when_a_resource_is_as_it_is(variant: Variant) -> None:
    rig = Rig()
    rig.now = 1.0
    rig.publish({EDS: {"a": "1", "b": "1", "c": "1"}})
    peer = rig.open(variant)
    peer.ask(EDS, "a", "b", "c", "d", node="n1")
    peer.got()
    rig.now = 2.0
    rig.publish({EDS: {"a": "1", "b": "2", "d": "1"}})
    peer.got()
    assert {name: each.updated_at for name, each in of(rig, EDS).items()} == {
        "a": 1.0, "b": 2.0, "c": 0.0, "d": 2.0
    }  # fmt: skip


@BOTH
@pytest.mark.parametrize("names", [("*",), ("a", "b")], ids=["wildcard", "names"])
def test_a_refusal_is_told_until_another_version_is_accepted(
    variant: Variant, names: tuple[str, ...]
) -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "1", "b": "1"}})
    peer = rig.open(variant)
    peer.ask(EDS, *names)
    peer.got()
    rig.now = 5.0
    rig.publish({EDS: {"a": "bad", "b": "1"}})
    answer(peer, "no such port")
    assert only(rig).types[0].state == "nacked"
    refused = of(rig, EDS)["a"]
    assert (refused.status, refused.refused_version, refused.reason) == (
        "nacked",
        "bad",
        "no such port",
    )
    assert refused.refused_at == 5.0
    assert statuses(rig, EDS)["b"] == "acked"
    rig.publish({EDS: {"a": "2", "b": "1"}})
    assert (of(rig, EDS)["a"].status, of(rig, EDS)["a"].reason) == ("sent", "no such port")
    peer.got()
    accepted = of(rig, EDS)["a"]
    assert (accepted.status, accepted.version, accepted.reason) == ("acked", "2", "")


def test_a_refused_removal_is_told_too() -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "1"}})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a")
    peer.got()
    rig.publish({})
    answer(peer, "still in use")
    refused = of(rig, EDS)["a"]
    assert (refused.status, refused.refused_version, refused.reason) == (
        "nacked",
        "",
        "still in use",
    )


def test_a_client_that_refuses_everything_is_not_remembered_for_what_is_gone() -> None:
    rig = Rig()
    rig.publish({EDS: {}})
    peer = rig.open(DELTA)
    peer.ask(EDS)
    peer.got()
    for at in range(20):
        rig.publish({EDS: {f"name-{at}": "1"}})
        answer(peer, "no" * 10_000)
    (refused,) = of(rig, EDS).values()
    assert (refused.name, len(refused.reason)) == ("name-19", 4096)
    kept = rig.service._clients[peer.id].kinds[EDS].refused
    assert kept is not None
    assert list(kept) == ["name-19"]


def test_why_a_response_was_refused_is_kept_once_for_all_that_was_in_it() -> None:
    rig = Rig()
    rig.publish({EDS: {f"name-{at}": "1" for at in range(100)}})
    peer = rig.open(DELTA)
    peer.ask(EDS)
    answer(peer, "no" * 10_000)
    kept = rig.service._clients[peer.id].kinds[EDS].refused
    assert kept is not None
    assert len(kept) == 100
    assert len({id(each.reason) for each in kept.values()}) == 1


# What the model of `tests/property/test_discovery_service.py` finds only by luck


@BOTH
@pytest.mark.parametrize("type_url", [CDS, EDS])
def test_each_of_many_streams_is_sent_its_own_names(variant: Variant, type_url: str) -> None:
    rig = Rig()
    names = {"x": ("a",), "y": ("b",), "z": ("a", "b")}
    rig.publish({type_url: {"a": "1", "b": "1"}})
    peers = {each: rig.open(variant) for each in names}
    for version in ("1", "2", "3"):
        rig.publish({type_url: {"a": version, "b": version}})
        for each, peer in peers.items():
            if version == "1":
                peer.ask(type_url, *names[each])
            assert peer.put() == [dict.fromkeys(names[each], version)]


@BOTH
@pytest.mark.parametrize("type_url", [CDS, EDS])
def test_what_is_given_up_before_it_could_be_sent_is_not_sent(
    variant: Variant, type_url: str
) -> None:
    rig = Rig()
    peer = rig.open(variant)
    peer.ask(type_url, "a")
    peer.ask(type_url, drop=("a",))
    rig.publish({type_url: {"a": "1"}})
    assert peer.got() == []


def test_what_a_stale_request_leaves_out_is_new_when_it_comes_back() -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "1", "b": "1"}})
    peer = rig.open(SOTW)
    peer.ask(EDS, "a", "b")
    first = peer.take()
    peer.answer(first)
    rig.publish({EDS: {"a": "2", "b": "1"}})
    peer.ask(EDS, "a", nonce=first.nonce)  # crosses the second response; it forgets b
    second = peer.take()
    assert not peer.inbox
    peer.ask(EDS, "a", "b", nonce=second.nonce)
    assert peer.put() == [{"b": "1"}]


# Streams wait, move and go


def test_first_responses_are_rationed_and_the_longest_waiting_is_next() -> None:
    rig = Rig(Service(lambda node: "", initial_rate=2.0))
    rig.publish({CDS: {"a": "1"}})
    peers = [rig.open(DELTA) for _ in range(5)]
    for peer in peers:
        peer.ask(CDS)
    assert [len(peer.inbox) for peer in peers] == [1, 1, 0, 0, 0]
    peers[2].close()
    rig.wait(0.5)
    assert [len(peer.inbox) for peer in peers] == [1, 1, 0, 1, 0]
    rig.publish({CDS: {"a": "2"}})  # those that had their first are sent the next at once
    assert [len(peer.inbox) for peer in peers] == [2, 2, 0, 2, 0]
    rig.wait(0.5)
    assert peers[4].put() == [{"a": "2"}]
    assert rig.service.next_deadline() is None


def test_who_has_everything_already_takes_no_turn() -> None:
    rig = Rig(Service(lambda node: "", initial_rate=1.0))
    rig.publish({CDS: {"a": "1"}})
    for _ in range(10):
        rig.open(DELTA).ask(CDS, "*", initial={"a": "1"})
    late = rig.open(DELTA)
    late.ask(CDS)
    assert late.put() == [{"a": "1"}]


def test_a_bucket_fills_up_to_one_second() -> None:
    bucket = Bucket(4.0)
    assert [bucket.take(0.0) for _ in range(5)] == [True] * 4 + [False]
    assert bucket.next_at == 0.25
    assert not bucket.take(0.2)
    assert bucket.take(bucket.next_at)
    assert [bucket.take(100.0) for _ in range(5)] == [True] * 4 + [False]


@BOTH
def test_a_node_that_is_given_another_view_is_sent_the_difference(variant: Variant) -> None:
    views = {"n1": "left"}
    rig = Rig(Service(lambda node: views[node.id]))
    rig.publish({CDS: {"a": "1", "b": "1"}}, view="left")
    rig.publish({CDS: {"a": "1", "c": "1"}}, view="right")
    peer = rig.open(variant)
    peer.ask(CDS, node="n1")
    peer.got()
    views["n1"] = "right"
    rig.service.reassign(rig.now)
    rig.pump()
    (moved,) = peer.got()
    if variant is DELTA:
        assert (moved.put, moved.removed) == ({"c": "1"}, ("b",))
    else:
        assert moved.put == {"a": "1", "c": "1"}
    rig.publish({}, view="left")
    assert peer.got() == []
    assert only(rig).view == "right"
    assert rig.service.drop("left")
    assert not rig.service.drop("right")
    assert set(rig.service.views) == {"right"}


def test_a_view_that_was_dropped_stays_so() -> None:
    rig = Rig(Service(lambda node: "left"))
    rig.publish({}, "left")
    peer = rig.open(DELTA)
    peer.ask(CDS, "*", node="n")
    rig.service.publish("left", resources({CDS: {"a": "1"}}), 0.0, lead=False)
    assert rig.service.behind
    peer.close()
    assert rig.service.drop("left")
    rig.service.lead(0.0)
    assert set(rig.service.views) == set()


def test_streams_are_led_some_at_a_time_and_who_ends_meanwhile_is_not() -> None:
    rig = Rig()
    rig.publish({CDS: {"a": "1"}})
    for number in range(1, 7):
        rig.open(DELTA).ask(CDS, "*", node=f"n{number}")
        answer(rig.peers[number])
    rig.service.publish("", resources({CDS: {"a": "2"}}), 0.0, lead=False)
    led = []
    for _ in rig.service.leading(0.0, lambda streams: [streams[:2], streams[2:4], streams[4:]]):
        led.append([each.stream for each in rig.service.effects()])
        if len(led) == 1:
            rig.service.stream_closed(4)
    assert led == [[1, 2], [3], [5, 6]]
    assert not rig.service.behind


def test_a_node_that_is_served_no_view_any_more_is_told_so() -> None:
    known = {"n1"}

    def view_of(node: Node) -> str:
        if node.id not in known:
            raise ProtocolError("PERMISSION_DENIED", f"{node.id} is not known")
        return ""

    rig = Rig(Service(view_of))
    rig.publish({CDS: {"a": "1"}})
    peer = rig.open(DELTA)
    peer.ask(CDS, node="n1")
    stranger = rig.open(DELTA)
    with pytest.raises(ProtocolError, match="not known"):
        stranger.ask(CDS, node="n2")
    known.clear()
    rig.service.reassign(rig.now)
    rig.pump()
    assert peer.closed == ("PERMISSION_DENIED", "n1 is not known")
    rig.publish({CDS: {"a": "2"}})
    rig.service.drained(peer.id, rig.now)
    assert rig.service.effects() == []


@BOTH
def test_a_view_that_nobody_has_published_is_waited_for(variant: Variant) -> None:
    rig = Rig()
    peer = rig.open(variant)
    peer.ask(CDS)
    assert peer.got() == []
    rig.publish({CDS: {"a": "1"}})
    assert peer.put() == [{"a": "1"}]


@BOTH
def test_the_part_of_the_streams_that_has_not_answered_is_known(variant: Variant) -> None:
    rig = Rig()
    assert rig.service.unanswered() == 0.0
    rig.publish({EDS: {"a": "1"}, CDS: {"b": "1"}})
    peers = [rig.open(variant) for _ in range(4)]
    for peer in peers:
        peer.ask(EDS, "*")
        peer.got()
    rig.publish({EDS: {"a": "2"}, CDS: {"b": "2"}})
    assert rig.service.unanswered() == 1.0
    peers[0].got()
    answer(peers[1], "no such port")
    assert rig.service.unanswered() == 0.5
    rig.service.stream_closed(peers[2].id)
    peers[3].got()
    assert rig.service.unanswered() == 0.0


def test_of_many_streams_that_part_is_told_by_some() -> None:
    rig = Rig()
    rig.publish({EDS: {"a": "1"}})
    peers = [rig.open(DELTA) for _ in range(1100)]
    for peer in peers:
        peer.ask(EDS, "*")
    assert rig.service.unanswered() == 1.0
    for peer in peers[:550]:
        peer.got()
    assert rig.service.unanswered() == 0.5
