"""What a request without a stream is answered, on the core: all that it asks for, at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.discovery.service import Service
from reconciler.core.discovery.types import CDS, EDS, LDS, Node, Variant
from reconciler.core.xds.codec import MAX_NAMES, Request
from reconciler.errors import ProtocolError
from tests.unit.discovery_rig import Answer, Rig, encode, lasting, read, resource

BOTH = {CDS: {"a": "1", "b": "2"}}


def asked(
    rig: Rig, *names: str, of: str = CDS, version: str = "", named: str = CDS, node: str = "n"
) -> tuple[Answer, bool]:
    """The answer, and whether it is new to who asks."""
    request = Request(named, node=node, names=names, version=version)
    polled = rig.service.poll(of, encode(Variant.SOTW, request))
    return read(Variant.SOTW, polled.frame), polled.new


@pytest.fixture
def rig() -> Rig:
    found = Rig()
    found.publish(BOTH)
    return found


def test_no_names_or_a_star_are_everything(rig: Rig) -> None:
    for names in ((), ("*",), ("a", "*")):
        answer, new = asked(rig, *names)
        assert (answer.type_url, answer.put, new) == (CDS, BOTH[CDS], True)


def test_names_are_just_these_and_what_is_not_there_is_left_out(rig: Rig) -> None:
    assert asked(rig, "b", "nowhere")[0].put == {"b": "2"}
    assert asked(rig, "nowhere")[0].put == {}


def test_a_type_without_resources_is_empty(rig: Rig) -> None:
    for type_url in (EDS, LDS):
        answer, new = asked(rig, of=type_url, named=type_url)
        assert (answer.type_url, answer.put, new) == (type_url, {}, True)
        assert not asked(rig, of=type_url, named=type_url, version=answer.version)[1]


def test_the_type_is_the_services_where_it_is_not_said(rig: Rig) -> None:
    assert asked(rig, named="")[0].put == BOTH[CDS]


def test_whoever_has_the_version_of_it_is_told_nothing_new_until_it_changes(rig: Rig) -> None:
    version = asked(rig, "a")[0].version
    assert not asked(rig, "a", version=version)[1]
    assert asked(rig, version=version)[1]  # of something else
    rig.publish({CDS: {"a": "1", "b": "3"}})
    assert not asked(rig, "a", version=version)[1]
    rig.publish({CDS: {"a": "2", "b": "3"}})
    answer, new = asked(rig, "a", version=version)
    assert (answer.put, new) == ({"a": "2"}, True)


def test_the_version_is_that_of_streams(rig: Rig) -> None:
    peer = rig.open(Variant.SOTW)
    peer.ask(CDS, node="n")
    assert peer.take().version == asked(rig)[0].version


def test_all_who_ask_for_the_same_share_its_bytes(rig: Rig) -> None:
    request = encode(Variant.SOTW, Request(CDS, node="n", names=("a",)))
    first, second = (rig.service.poll(CDS, request).frame for _ in range(2))
    assert first is second


def test_a_time_to_live_is_not_for_polls() -> None:
    rig = Rig()
    rig.service.publish("", {CDS: {"a": lasting(CDS, "a", "1", 60.0)}}, 0.0)
    assert asked(rig)[0].put == {"a": "1"}
    assert rig.service.next_deadline() is None


def test_large_answers_are_not_split() -> None:
    rig = Rig(Service(lambda node: "", response_bytes=1024))
    many = {f"name-{at:03}": "1" for at in range(200)}
    rig.publish({EDS: many})
    assert asked(rig, of=EDS, named=EDS)[0].put == many


def test_the_node_says_what_is_seen_and_a_proven_one_outranks_it() -> None:
    def view_of(node: Node) -> str:
        if node.id == "nobody":
            raise ProtocolError("PERMISSION_DENIED", "nobody is served nothing")
        return node.id

    rig = Rig(Service(view_of))
    rig.service.publish("a", {CDS: {"of-a": resource(CDS, "of-a", "1")}}, 0.0)
    rig.service.publish("b", {CDS: {"of-b": resource(CDS, "of-b", "1")}}, 0.0)
    assert asked(rig, node="a")[0].put == {"of-a": "1"}
    request = encode(Variant.SOTW, Request(CDS, node="a"))
    assert read(Variant.SOTW, rig.service.poll(CDS, request, "b").frame).put == {"of-b": "1"}
    refused(rig, "PERMISSION_DENIED", request, "nobody")
    refused(rig, "UNAVAILABLE", request, "c")  # of which nothing was published


def refused(rig: Rig, status: str, request: bytes, node: str | None = None) -> str:
    with pytest.raises(ProtocolError) as error:
        rig.service.poll(CDS, request, node)
    assert error.value.status == status
    return error.value.reason


def test_what_is_no_request_is_refused_with_a_reason(rig: Rig) -> None:
    assert "not a DiscoveryRequest" in refused(rig, "INVALID_ARGUMENT", b"\xff\xff")
    other = encode(Variant.SOTW, Request(EDS, node="n"))
    assert f"this service is for {CDS}, not for {EDS}" in refused(rig, "INVALID_ARGUMENT", other)
    names = tuple(map(str, range(MAX_NAMES + 1)))
    many = encode(Variant.SOTW, Request(CDS, node="n", names=names))
    assert "names" in refused(rig, "INVALID_ARGUMENT", many)


states = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"))


@given(
    published=st.lists(states, min_size=1, max_size=6),
    names=st.frozensets(st.sampled_from("abcdx*"), max_size=4),
)
def test_whatever_was_published_the_answer_is_just_that(
    published: list[dict[str, str]], names: frozenset[str]
) -> None:
    rig, version, had = Rig(), "", None
    for state in published:
        rig.publish({CDS: state})
        everything = not names or "*" in names
        wanted = {name: each for name, each in state.items() if everything or name in names}
        answer, new = asked(rig, *sorted(names), version=version)
        assert answer.put == wanted
        assert new == (wanted != had), "new is what is not what was had"
        version, had = answer.version, wanted
