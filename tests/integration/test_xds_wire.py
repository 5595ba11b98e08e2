"""The xDS protocol's fine points over the wire, by name, in both variants where both have them.

That something is *not* sent is shown by a marker: a later change that must be sent, and is what
comes next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from reconciler.core.discovery.types import CDS, EDS, LDS, RDS
from reconciler.probe.frames import Node
from reconciler.probe.services import Variant
from tests.integration.grpc_rig import transport
from tests.integration.xds_wire_rig import DELTA, SOTW, Rig, serving, subscribed, versions

__all__ = ["transport"]  # a fixture of every test here

both = pytest.mark.parametrize("variant", [SOTW, DELTA])


@pytest.fixture
async def rig(transport: None) -> AsyncIterator[Rig]:
    async with serving() as found:
        yield found


# ------------------------------------------------------------------------- 1. nonces, the node


async def test_1_a_stale_sotw_request_is_ignored_whole(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(SOTW) as peer:
        await peer.ask(EDS, "a")
        first = await peer.get()
        rig.set(EDS, a="2")
        second = await peer.get()
        await peer.ask(EDS, "a", "b", nonce=first.nonce, version=first.version)  # overtaken
        await rig.heard()
        rig.set(EDS, a="3")
        assert versions(await peer.get()) == {"a": "3"}  # and nothing of b
        assert second.nonce != first.nonce


async def test_1_a_stale_delta_request_still_changes_the_subscription(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(DELTA) as peer:
        await peer.ask(EDS, "a")
        await peer.get()
        await peer.ask(EDS, "b", nonce="never-sent")
        assert versions(await peer.get()) == {"b": "1"}


async def test_1_a_delta_request_needs_no_nonce(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(DELTA) as peer:
        await peer.ask(EDS, "a")
        await peer.get()  # never answered
        await peer.ask(EDS, "b")
        assert versions(await peer.get()) == {"b": "1"}


@both
async def test_1_the_node_is_in_the_first_request_only(rig: Rig, variant: Variant) -> None:
    rig.set(CDS, a="1")
    rig.set(EDS, a="1")
    async with rig.peer(variant, node=Node("n-1")) as peer:
        await subscribed(peer, CDS)
        await subscribed(peer, EDS, "a")
        (client,) = rig.driver.clients()
        assert client.node.id == "n-1"
        assert {each.type_url for each in client.types} == {CDS, EDS}


# ------------------------------------------------------------------------- 2. NACKs


@both
async def test_2_a_refusal_is_kept_and_not_answered_by_the_same(rig: Rig, variant: Variant) -> None:
    rig.set(CDS, a="1", b="1")
    async with rig.peer(variant) as peer:
        await peer.ask(CDS)
        good = await peer.get()
        await peer.ack(good)
        rig.set(CDS, a="2")
        bad = await peer.get()
        await peer.nack(bad, version=good.version)
        await rig.heard()
        rig.set(CDS, b="2")
        after = versions(await peer.get())
        assert after == ({"b": "2"} if variant is DELTA else {"a": "2", "b": "2"})
        (client,) = rig.driver.clients()
        states = {each.name: each for each in client.types[0].resources}
        assert states["a"].reason == "no good"


@both
async def test_2_without_error_detail_it_is_no_refusal(rig: Rig, variant: Variant) -> None:
    rig.set(CDS, a="1")
    async with rig.peer(variant) as peer:
        await peer.ask(CDS)
        response = await peer.get()
        fields = {"version": "another"} if variant is SOTW else {}
        await peer.ask(CDS, nonce=response.nonce, **fields)
        await rig.heard()
        rig.set(CDS, a="2")
        assert versions(await peer.get()) == {"a": "2"}
        (client,) = rig.driver.clients()
        assert [each.reason for each in client.types[0].resources] == [""]


@both
async def test_2_who_never_answers_is_sent_what_changes(rig: Rig, variant: Variant) -> None:
    rig.set(CDS, a="0")
    async with rig.peer(variant) as peer:
        await peer.ask(CDS)
        await peer.get()
        for version in "123":
            rig.set(CDS, a=version)
            assert versions(await peer.get()) == {"a": version}


# ------------------------------------------------------------------------- 3. wildcards


@both
@pytest.mark.parametrize("said", [(), ("*",)])
async def test_3_everything_by_the_legacy_rule_or_by_a_star(
    rig: Rig, variant: Variant, said: tuple[str, ...]
) -> None:
    rig.set(CDS, a="1", b="1")
    async with rig.peer(variant) as peer:
        assert await subscribed(peer, CDS, *said) == {"a": "1", "b": "1"}
        rig.set(CDS, c="1")
        now = versions(await peer.get())
        assert now == ({"c": "1"} if variant is DELTA else {"a": "1", "b": "1", "c": "1"})


async def test_3_sotw_no_names_after_names_means_nothing(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    rig.set(CDS, marker="0")
    async with rig.peer(SOTW) as peer:
        await peer.ask(EDS, "a")
        first = await peer.get()
        await peer.ack(first)  # no names any more
        await rig.heard()
        await subscribed(peer, CDS)
        rig.put({(EDS, "a"): "2", (CDS, "marker"): "1"})
        assert (await peer.get()).type_url == CDS
        rig.set(CDS, marker="2")
        assert (await peer.get()).type_url == CDS


async def test_3_delta_unsubscribing_from_all_names_means_nothing(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS, "a")
        await peer.ask(EDS, unsubscribe=("a",))
        await rig.heard()
        rig.set(EDS, a="2", b="2")
        await peer.ask(EDS, "b")
        assert versions(await peer.get()) == {"b": "2"}


async def test_3_delta_names_stay_when_the_star_goes(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS, "*", "a")
        await peer.ask(EDS, unsubscribe=("*",))
        await rig.heard()
        rig.set(EDS, a="2", b="2")
        assert versions(await peer.get()) == {"a": "2"}


async def test_3_delta_a_legacy_wildcard_ends_by_the_star(rig: Rig) -> None:
    rig.set(EDS, a="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS)
        await peer.ask(EDS, unsubscribe=("*",))
        await rig.heard()
        rig.set(EDS, a="2", b="1")
        await peer.ask(EDS, "b")
        assert versions(await peer.get()) == {"b": "1"}


# ------------------------------------------------------------------------- 4. asked for again


async def test_4_delta_what_is_asked_for_again_is_sent_again(rig: Rig) -> None:
    rig.set(EDS, a="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS, "a")
        await peer.ask(EDS, "a")
        assert versions(await peer.get()) == {"a": "1"}


async def test_4_sotw_a_name_that_comes_back_is_sent_again(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(SOTW) as peer:
        await peer.ask(EDS, "a", "b")
        first = await peer.get()
        await peer.ack(first, "a")
        await peer.ask(EDS, "a", "b", nonce=first.nonce, version=first.version)
        assert versions(await peer.get())["b"] == "1"


# ------------------------------------------------------------------------- 5. states of the world


@pytest.mark.parametrize("type_url", [CDS, LDS])
async def test_5_what_is_not_in_a_full_state_is_gone(rig: Rig, type_url: str) -> None:
    rig.set(type_url, a="1", b="1")
    async with rig.peer(SOTW) as peer:
        await subscribed(peer, type_url)
        rig.set(type_url, a=None)
        response = await peer.get()
        assert versions(response) == {"b": "1"}
        await peer.ack(response)
        rig.set(type_url, b=None)
        assert versions(await peer.get()) == {}


@pytest.mark.parametrize("type_url", [EDS, RDS])
async def test_5_of_other_types_absence_is_not_said(rig: Rig, type_url: str) -> None:
    rig.set(type_url, a="1", b="1")
    async with rig.peer(SOTW) as peer:
        await subscribed(peer, type_url, "a", "b")
        rig.set(type_url, a=None)
        rig.set(type_url, b="2")
        assert versions(await peer.get()) == {"b": "2"}


# ------------------------------------------------------------------------- 6. removals in delta


async def test_6_a_removal_is_said(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS, "a", "b")
        rig.set(EDS, a=None)
        response = await peer.get()
        assert (versions(response), response.removed) == ({}, ("a",))


async def test_6_a_name_that_is_not_there_is_removed_and_told_when_it_comes(rig: Rig) -> None:
    rig.set(EDS, a="1")
    async with rig.peer(DELTA) as peer:
        await peer.ask(EDS, "none")
        response = await peer.get()
        assert (versions(response), response.removed) == ({}, ("none",))
        await peer.ack(response)
        rig.set(EDS, none="1")
        assert versions(await peer.get()) == {"none": "1"}


async def test_6_unsubscribing_from_a_name_under_a_star_is_answered(rig: Rig) -> None:
    rig.set(EDS, a="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS, "*", "a", "none")
        await peer.ask(EDS, unsubscribe=("a",))
        assert versions(await peer.get()) == {"a": "1"}
        await peer.ask(EDS, unsubscribe=("none",))
        assert (await peer.get()).removed == ("none",)


async def test_6_unsubscribing_from_what_was_never_wanted_is_fine(rig: Rig) -> None:
    rig.set(EDS, a="1")
    async with rig.peer(DELTA) as peer:
        await subscribed(peer, EDS, "a")
        await peer.ask(EDS, unsubscribe=("b",))
        await rig.heard()
        rig.set(EDS, a="2")
        assert versions(await peer.get()) == {"a": "2"}
