"""The fine points of the xDS protocol, by the names of the document's sections, in both
variants."""

from __future__ import annotations

import pytest

from reconciler.core.discovery.service import (
    AGAIN_SECONDS,
    MAX_OPEN,
    Service,
)
from reconciler.core.discovery.types import (
    CDS,
    EDS,
    LDS,
    RDS,
    Variant,
)
from reconciler.errors import ProtocolError
from tests.unit.discovery_rig import Rig, read

BOTH = pytest.mark.parametrize("variant", list(Variant), ids=lambda variant: variant.value)
SOTW, DELTA = Variant.SOTW, Variant.DELTA
AB = {"a": "1", "b": "1"}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def states(rig: Rig) -> dict[str, str]:
    """Of the first client's types."""
    return {each.type_url: each.state for each in next(rig.service.clients()).types}


# 1. "ACK and NACK semantics", "Resource updates": nonces


def test_1_a_sotw_request_with_a_stale_nonce_is_ignored_whole(rig: Rig) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(SOTW)
    peer.ask(EDS, "a")
    first = peer.take()
    rig.publish({EDS: {"a": "2", "b": "1"}})
    peer.ask(EDS, "a", "b", nonce=first.nonce)  # it crosses the second response
    second = peer.take()
    assert not peer.inbox
    peer.ask(EDS, "a", "b", nonce="")
    assert not peer.inbox
    peer.ask(EDS, "a", "b", nonce=second.nonce)
    assert peer.put() == [{"b": "1"}]


def test_1_a_delta_request_with_a_stale_nonce_still_changes_the_subscription(rig: Rig) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a")
    peer.got()
    peer.ask(EDS, "b", drop=("a",), nonce="of another stream")
    assert peer.put() == [{"b": "1"}]
    rig.publish({EDS: {"a": "2", "b": "1"}})
    assert peer.got() == []


@BOTH
def test_1_an_ack_with_a_stale_nonce_answers_nothing(rig: Rig, variant: Variant) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(variant)
    peer.ask(EDS, "a")
    first = peer.take()
    peer.answer(first)
    rig.publish({EDS: {"a": "2", "b": "1"}})
    peer.answer(first)
    assert states(rig) == {EDS: "awaiting-ack"}
    # In the state of the world it reads as a request for the same list once more, see below.
    assert peer.put() == [{"a": "2"}] * (1 if variant is DELTA else 2)
    assert states(rig) == {EDS: "acked"}


@BOTH
def test_1_nonces_are_per_type(rig: Rig, variant: Variant) -> None:
    rig.publish({EDS: AB, RDS: AB})
    peer = rig.open(variant)
    peer.ask(EDS, "a")
    peer.ask(RDS, "a")
    of_endpoints, of_routes = peer.take(), peer.take()
    peer.answer(of_routes)
    assert states(rig) == {EDS: "awaiting-ack", RDS: "acked"}
    peer.answer(of_endpoints)
    assert states(rig) == {EDS: "acked", RDS: "acked"}


@BOTH
def test_1_the_node_is_that_of_the_first_message(rig: Rig, variant: Variant) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(variant)
    peer.ask(CDS, node="n1")
    peer.got()
    peer.ask(EDS, "a")
    assert next(rig.service.clients()).node.id == "n1"
    peer.ask(EDS, "a", node="n1")  # some clients say it every time
    with pytest.raises(ProtocolError, match="can't change"):
        peer.ask(EDS, "a", node="n2")


@BOTH
def test_1_a_proven_name_outranks_the_claimed_one(variant: Variant) -> None:
    rig = Rig(Service(lambda node: node.id))
    rig.publish({CDS: {"mine": "1"}}, view="n1")
    rig.publish({CDS: {"other": "1"}}, view="n2")
    peer = rig.open(variant, node="n1")
    peer.ask(CDS, node="n2")
    assert peer.put() == [{"mine": "1"}]


@BOTH
def test_1_a_client_that_never_answers_is_sent_every_change(rig: Rig, variant: Variant) -> None:
    peer = rig.open(variant)
    rig.publish({CDS: {"a": "0"}})
    peer.ask(CDS, "*")
    for version in range(1, 3 * MAX_OPEN):
        rig.publish({CDS: {"a": str(version)}})
    read = [peer.take().put for _ in range(3 * MAX_OPEN)]
    assert read == [{"a": str(version)} for version in range(3 * MAX_OPEN)]
    assert not peer.inbox


# 2. "ACK", "NACK", "When to send an update"


@BOTH
@pytest.mark.parametrize("type_url", [CDS, EDS])
def test_2_what_was_refused_is_sent_again_only_when_it_changes(
    rig: Rig, variant: Variant, type_url: str
) -> None:
    rig.publish({type_url: AB})
    peer = rig.open(variant)
    peer.ask(type_url, "a", "b")
    peer.got()
    rig.publish({type_url: {"a": "bad", "b": "1"}})
    peer.answer(peer.take(), error="no such port")
    assert not peer.inbox
    rig.publish({type_url: {"a": "bad", "b": "1"}})
    assert not peer.inbox
    rig.publish({type_url: {"a": "3", "b": "1"}})
    assert [each["a"] for each in peer.put()] == ["3"]


@BOTH
def test_2_a_nack_is_what_has_error_detail_and_nothing_else(rig: Rig, variant: Variant) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(variant)
    peer.ask(CDS, "*")
    first = peer.take()
    # An answer that goes on to name the version before is an acknowledgement all the same.
    if variant is SOTW:
        peer.ask(CDS, "*", version="", nonce=first.nonce)
    else:
        peer.ask(CDS, nonce=first.nonce)
    assert [each.status for each in next(rig.service.clients()).types[0].resources] == [
        "acked",
        "acked",
    ]
    rig.publish({CDS: {"a": "2", "b": "1"}})
    second = peer.take()
    peer.ask(CDS, *(("*",) if variant is SOTW else ()), nonce=second.nonce, error="")
    states = next(rig.service.clients()).types[0].resources
    assert states[0].status == "nacked"
    assert next(rig.service.clients()).types[0].state == "nacked"


@BOTH
def test_2_a_refused_type_holds_no_other_type_back(rig: Rig, variant: Variant) -> None:
    rig.publish({CDS: {"a": "1"}, LDS: {"l": "1"}})
    peer = rig.open(variant)
    peer.ask(CDS, "*")
    peer.ask(LDS, "*")
    peer.got()
    rig.publish({CDS: {"a": "2"}, LDS: {"l": "2"}})
    clusters = peer.take()
    assert clusters.type_url == CDS
    peer.answer(clusters, error="no")
    assert peer.put() == [{"l": "2"}]


# 3. "How the client specifies what resources to return": wildcards


@BOTH
@pytest.mark.parametrize("names", [(), ("*",)], ids=["legacy", "explicit"])
def test_3_both_ways_of_asking_for_everything(
    rig: Rig, variant: Variant, names: tuple[str, ...]
) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(variant)
    peer.ask(CDS, *names)
    assert peer.put() == [AB]
    rig.publish({CDS: {**AB, "c": "1"}})
    assert peer.put() == [{"c": "1"} if variant is DELTA else {**AB, "c": "1"}]


def test_3_the_sotw_example_of_the_document(rig: Rig) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(SOTW)
    peer.ask(CDS)
    assert peer.put() == [AB]
    peer.ask(CDS, "*", "a")
    assert peer.put() == [AB]
    peer.ask(CDS, "a")
    assert peer.got() == []
    rig.publish({CDS: {"a": "2", "b": "2"}})
    assert peer.put() == [{"a": "2"}]
    peer.ask(CDS)
    rig.publish({CDS: {"a": "3", "b": "3"}})
    assert peer.got() == []


@pytest.mark.parametrize("ends", ["before", "after"])
@pytest.mark.parametrize("others", [(), ("x",)], ids=["", "names"])
def test_3_who_asks_for_everything_again_is_told_the_end_of_what_was_on_its_way(
    rig: Rig, ends: str, others: tuple[str, ...]
) -> None:
    """It reads the first response only after all that follows, and then wants all of it."""
    rig.publish({EDS: {"a": "1", "b": "1"}})
    peer = rig.open(DELTA)
    peer.ask(EDS, "*", *others)
    peer.ask(EDS, drop=["*"])
    if ends == "before":
        rig.publish({EDS: {"a": "2"}})
    peer.ask(EDS, "*")
    rig.publish({EDS: {"a": "2"}})
    peer.ask(EDS, drop=["*"])
    before = len(peer.inbox)
    peer.ask(EDS, "*")
    assert read(DELTA, peer.inbox[before]).removed == ()  # it was told, once
    held: dict[str, str] = {}
    for each in peer.got():
        held.update(each.put)
        for name in each.removed:
            held.pop(name, None)
    assert held == {"a": "2"}


def test_3_the_incremental_example_of_the_document(rig: Rig) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(DELTA)
    peer.ask(CDS)
    assert peer.put() == [AB]
    peer.ask(CDS, "a")
    assert peer.put() == [{"a": "1"}]
    peer.ask(CDS, drop=("*",))
    rig.publish({CDS: {"a": "2", "b": "2"}})
    assert peer.put() == [{"a": "2"}]
    peer.ask(CDS, drop=("a",))
    rig.publish({CDS: {"a": "3", "b": "3"}})
    assert peer.got() == []


@BOTH
def test_3_no_names_after_a_name_means_nothing(rig: Rig, variant: Variant) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(variant)
    peer.ask(EDS, "a")
    assert peer.put() == [{"a": "1"}]
    peer.ask(EDS, drop=("a",))
    rig.publish({EDS: {"a": "2", "b": "2"}})
    assert peer.got() == []
    peer.ask(EDS, "b")
    assert peer.put() == [{"b": "2"}]


# 4. "Subscribing to Resources": what is asked for again is sent again


@BOTH
def test_4_names_that_come_back_are_sent_again(rig: Rig, variant: Variant) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(variant)
    peer.ask(EDS, "a", "b")
    peer.got()
    peer.ask(EDS, "b", drop=("a",))
    peer.got()
    peer.ask(EDS, "a", "b")
    assert all("a" in each for each in peer.put())


def test_4_a_name_that_is_subscribed_already_is_sent_again(rig: Rig) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a")
    peer.got()
    peer.ask(EDS, "a")
    assert peer.put() == [{"a": "1"}]
    peer.ask(EDS, "nothing")
    assert [each.removed for each in peer.got()] == [("nothing",)]
    peer.ask(EDS, "nothing")
    assert [each.removed for each in peer.got()] == [("nothing",)]


def test_4_a_sotw_request_that_repeats_its_names_is_answered_but_never_in_a_circle(
    rig: Rig,
) -> None:
    """A cluster that warms anew asks for its endpoints with the list that it has ("Resource
    warming")."""
    rig.publish({EDS: AB, CDS: {"c": "1"}})
    peer = rig.open(SOTW)
    peer.ask(CDS)
    peer.ask(EDS, "a")
    peer.got()
    peer.ask(EDS, "a")
    assert peer.put() == [{"a": "1"}]
    peer.ask(EDS, "a")
    assert peer.got() == []
    rig.publish({EDS: AB, CDS: {"c": "2"}})  # something else came in between
    peer.got()
    peer.ask(EDS, "a")
    assert peer.put() == [{"a": "1"}]
    rig.wait(AGAIN_SECONDS)
    peer.ask(EDS, "a")
    assert peer.put() == [{"a": "1"}]


# 5. "Grouping Resources into Responses", "Deleting Resources": by type


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_5_clusters_and_listeners_are_complete_and_absence_removes(rig: Rig, type_url: str) -> None:
    rig.publish({type_url: {**AB, "c": "1"}})
    peer = rig.open(SOTW)
    peer.ask(type_url, "a", "b")
    assert peer.put() == [AB]
    rig.publish({type_url: {"a": "2", "b": "1"}})
    assert peer.put() == [{"a": "2", "b": "1"}]
    rig.publish({type_url: {"b": "1"}})
    assert peer.put() == [{"b": "1"}]
    rig.publish({})
    assert peer.put() == [{}]
    rig.publish({type_url: {"c": "1"}})
    assert peer.got() == []


@pytest.mark.parametrize("type_url", [EDS, RDS])
def test_5_of_other_types_only_what_changed_and_absence_is_not_said(
    rig: Rig, type_url: str
) -> None:
    rig.publish({type_url: AB})
    peer = rig.open(SOTW)
    peer.ask(type_url, "a", "b", "missing")
    assert peer.put() == [AB]
    rig.publish({type_url: {"a": "2", "b": "1"}})
    assert peer.put() == [{"a": "2"}]
    rig.publish({type_url: {"a": "2"}})
    assert peer.got() == []
    rig.publish({type_url: {"a": "2", "missing": "1"}})
    assert peer.put() == [{"missing": "1"}]


@pytest.mark.parametrize(("type_url", "answers"), [(CDS, [{}]), (EDS, [])])
def test_5_nothing_there_is_said_of_complete_types_only(
    rig: Rig, type_url: str, answers: list[dict[str, str]]
) -> None:
    rig.publish({})
    for names in ((), ("*",), ("missing",)):
        peer = rig.open(SOTW)
        peer.ask(type_url, *names)
        assert peer.put() == answers


def test_5_a_type_of_ones_own_says_which_it_is() -> None:
    own = "type.googleapis.com/reconciler.v1.Identity"
    for full_state, expected in (((), [{"a": "2"}]), ((own,), [{"a": "2", "b": "1"}])):
        rig = Rig(Service(lambda node: "", full_state=full_state))
        rig.publish({own: AB})
        peer = rig.open(SOTW)
        peer.ask(own)
        peer.got()
        rig.publish({own: {"a": "2", "b": "1"}})
        assert peer.put() == expected


# 6. "Deleting Resources", "Knowing When a Requested Resource Does Not Exist", "Unsubscribing"


def test_6_what_is_gone_and_what_never_was_is_removed_once(rig: Rig) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a", "missing")
    (answer,) = peer.got()
    assert (answer.put, answer.removed) == ({"a": "1"}, ("missing",))
    rig.publish({EDS: {"b": "1"}})
    (answer,) = peer.got()
    assert (answer.put, answer.removed) == ({}, ("a",))
    rig.publish({EDS: {"b": "2"}})
    assert peer.got() == []
    rig.publish({EDS: {"b": "2", "missing": "1"}})
    assert peer.put() == [{"missing": "1"}]


def test_6_unsubscribing_from_what_was_never_asked_for_is_fine(rig: Rig) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a")
    peer.got()
    peer.ask(EDS, drop=("b", "never heard of", "*"))
    assert peer.got() == []


def test_6_a_name_given_up_beside_a_wildcard_is_answered(rig: Rig) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(DELTA)
    peer.ask(CDS, "*", "a", "missing")
    peer.got()
    peer.ask(CDS, drop=("a",))
    assert peer.put() == [{"a": "1"}]
    peer.ask(CDS, drop=("missing",))
    assert [each.removed for each in peer.got()] == [("missing",)]


def test_6_who_asks_for_everything_hears_that_there_is_nothing(rig: Rig) -> None:
    rig.publish({})
    peer = rig.open(DELTA)
    peer.ask(CDS)
    (answer,) = peer.got()
    assert (answer.put, answer.removed) == ({}, ())
    rig.publish({CDS: {"a": "1"}})
    assert peer.put() == [{"a": "1"}]


# 7. "Incremental xDS": reconnecting


def test_7_equal_versions_are_not_sent_again_and_what_is_gone_is_removed(rig: Rig) -> None:
    rig.publish({EDS: {"same": "1", "other": "2", "new": "1"}})
    held = {"same": "1", "other": "1", "gone": "1", "unasked": "1"}
    peer = rig.open(DELTA)
    peer.ask(EDS, "same", "other", "new", "gone", initial=held)
    (answer,) = peer.got()
    assert (answer.put, answer.removed) == ({"other": "2", "new": "1"}, ("gone",))


@pytest.mark.parametrize("names", [(), ("*",)], ids=["legacy", "explicit"])
def test_7_the_same_with_a_wildcard(rig: Rig, names: tuple[str, ...]) -> None:
    rig.publish({CDS: AB})
    peer = rig.open(DELTA)
    peer.ask(CDS, *names, initial=AB)
    assert peer.got() == []
    rig.publish({CDS: {"a": "1"}})
    assert [each.removed for each in peer.got()] == [("b",)]


def test_7_what_a_client_holds_counts_in_its_first_request_of_a_type_only(rig: Rig) -> None:
    rig.publish({EDS: AB})
    peer = rig.open(DELTA)
    peer.ask(EDS, "a")
    peer.got()
    peer.ask(EDS, "b", initial={"b": "1"})
    assert peer.put() == [{"b": "1"}]


@pytest.mark.parametrize("type_url", [CDS, EDS])
def test_7_a_sotw_wildcard_with_the_present_version_is_sent_nothing(
    rig: Rig, type_url: str
) -> None:
    rig.publish({type_url: AB})
    peer = rig.open(SOTW)
    peer.ask(type_url)
    (answer,) = peer.got()
    other = Rig()  # another replica
    other.publish({type_url: {"b": "1", "a": "1"}})
    again = other.open(SOTW)
    again.ask(type_url, "*", version=answer.version, nonce=answer.nonce)
    assert again.got() == []
    other.publish({type_url: {"a": "1", "b": "2"}})
    assert [each["b"] for each in again.put()] == ["2"]
    behind = other.open(SOTW)
    behind.ask(type_url, version=answer.version)
    assert behind.put() == [{"a": "1", "b": "2"}]


def test_7_what_a_sotw_client_names_on_a_new_stream_is_sent_whatever_its_version(
    rig: Rig,
) -> None:
    """It may have given a resource up, and still have the version."""
    rig.publish({EDS: AB})
    peer = rig.open(SOTW)
    peer.ask(EDS, "a", "b")
    (answer,) = peer.got()
    again = rig.open(SOTW)
    again.ask(EDS, "a", "b", version=answer.version)
    assert again.put() == [AB]
