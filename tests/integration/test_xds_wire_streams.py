"""More of the protocol's fine points over the wire: coming back, order, time to live, services.

That something is *not* sent is shown by a marker: a later change that must be sent, and is what
comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from envoy.service.discovery.v3 import discovery_pb2

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


# ------------------------------------------------------------------------- 7. coming back


@pytest.mark.parametrize("names", [(), ("*",), ("a", "b", "gone")])
async def test_7_delta_with_its_versions_is_sent_the_difference(
    rig: Rig, names: tuple[str, ...]
) -> None:
    rig.set(EDS, a="1", b="1", gone="1")
    async with rig.peer(DELTA) as peer:
        await peer.ask(EDS, *names)
        held = {each.name: each.version for each in (await peer.get()).items}
    rig.set(EDS, b="2", gone=None)
    async with rig.peer(DELTA) as peer:
        await peer.ask(EDS, *names, initial=held)
        response = await peer.get()
        assert (versions(response), response.removed) == ({"b": "2"}, ("gone",))


async def test_7_delta_versions_without_a_subscription_are_no_subscription(rig: Rig) -> None:
    rig.set(EDS, a="1", b="1")
    async with rig.peer(DELTA) as peer:
        await peer.ask(EDS, "b", initial={"a": "old"})
        response = await peer.get()
        assert versions(response) == {"b": "1"}
        rig.set(EDS, a="2")
        rig.set(EDS, b="2")
        assert versions(await peer.get()) == {"b": "2"}


async def test_7_versions_are_equal_wherever_the_same_is_served(rig: Rig) -> None:
    rig.set(EDS, a="1")
    async with serving() as other:
        other.set(EDS, z="1")
        other.set(EDS, a="1")
        async with rig.peer(DELTA) as peer, other.peer(DELTA) as there:
            await peer.ask(EDS, "a")
            await there.ask(EDS, "a")
            first, second = await peer.get(), await there.get()
            assert first.items[0].version == second.items[0].version
        async with rig.peer(SOTW) as peer, other.peer(SOTW) as there:
            await peer.ask(EDS, "a")
            await there.ask(EDS, "a")
            assert (await peer.get()).version == (await there.get()).version


async def test_7_sotw_with_the_version_of_everything_is_sent_nothing(rig: Rig) -> None:
    rig.set(CDS, a="1")
    async with rig.peer(SOTW) as peer:
        await peer.ask(CDS)
        held = await peer.get()
    async with rig.peer(SOTW) as peer:
        await peer.ask(CDS, version=held.version)
        await rig.heard()
        rig.set(CDS, b="1")
        assert versions(await peer.get()) == {"a": "1", "b": "1"}
    async with rig.peer(SOTW) as peer:
        await peer.ask(CDS, version=held.version)  # of an older state
        assert versions(await peer.get()) == {"a": "1", "b": "1"}


async def test_7_the_first_client_of_a_new_server_is_sent_nothing_again_either(rig: Rig) -> None:
    rig.set(CDS, a="1")
    async with rig.peer(SOTW) as peer:
        await peer.ask(CDS)
        held = await peer.get()
    async with serving() as other:
        other.set(CDS, a="1")
        async with other.peer(SOTW) as peer:
            await peer.ask(CDS, version=held.version)
            await other.heard()
            other.set(CDS, b="1")
            assert versions(await peer.get()) == {"a": "1", "b": "1"}


# ------------------------------------------------------------------------- 8. order


async def test_8_make_before_break(rig: Rig) -> None:
    everything = (RDS, EDS, LDS, CDS)
    rig.put({(each, "old"): "1" for each in everything})
    async with rig.peer(DELTA) as peer:
        for type_url in everything:
            await subscribed(peer, type_url)
        change: dict[tuple[str, str], str | None] = {(each, "old"): None for each in everything}
        rig.put(change | {(each, "new"): "1" for each in everything})
        said: list[tuple[str, str]] = []
        while len(said) < 8:
            response = await peer.get()
            await peer.ack(response)
            said += [("put", response.type_url)] * len(response.items)
            said += [("removed", response.type_url)] * len(response.removed)
        order = [CDS, EDS, LDS, RDS]
        assert said[:4] == [("put", each) for each in order]
        assert said[4:] == [("removed", each) for each in reversed(order)]


async def test_8_in_the_state_of_the_world_the_old_goes_last(rig: Rig) -> None:
    rig.put({(CDS, "old"): "1", (RDS, "r"): "old"})
    async with rig.peer(SOTW) as peer:
        await subscribed(peer, RDS, "r")
        await subscribed(peer, CDS)
        rig.put({(CDS, "old"): None, (CDS, "new"): "1", (RDS, "r"): "new"})
        said = []
        for names in ((), ("r",), ()):
            response = await peer.get()
            await peer.ack(response, *names)
            said.append((response.type_url, versions(response)))
        assert said == [
            (CDS, {"new": "1", "old": "1"}),
            (RDS, {"r": "new"}),
            (CDS, {"new": "1"}),
        ]


# ------------------------------------------------------------------------- 9. time to live

TTL = ("xds.config.supports-resource-ttl", "xds.config.supports-resource-in-sotw")


@both
async def test_9_what_asks_for_a_heartbeat_gets_one(variant: Variant) -> None:
    async with serving() as rig:
        rig.set(EDS, "0.3s", a="1")
        rig.set(EDS, b="1")
        async with rig.peer(variant, node=Node("n", features=TTL)) as peer:
            await peer.ask(EDS, "a", "b")
            response = await peer.get()
            await peer.ack(response, "a", "b")
            assert {each.name: each.ttl for each in response.items} == {"a": 0.3, "b": None}
            beat = await peer.get()
            (item,) = beat.items
            held = {each.name: each for each in response.items}
            body = None if variant is DELTA else held["a"].body  # what Envoy needs there
            assert (item.name, item.body, item.ttl) == ("a", body, 0.3)
            assert item.version == held["a"].version


@both
async def test_9_who_can_not_take_one_gets_none(variant: Variant) -> None:
    async with serving() as rig:
        rig.set(EDS, "0.05s", a="1")
        features = ("xds.config.supports-resource-ttl",) if variant is SOTW else ()
        async with (
            rig.peer(variant, node=Node("n", features=features)) as peer,
            rig.peer(variant, node=Node("n", features=TTL)) as other,
        ):
            await other.ask(EDS, "a")
            await peer.ask(EDS, "a")
            response = await peer.get()
            assert response.items[0].ttl is None
            for _ in range(3):
                await other.get()
            rig.set(EDS, a="2")
            assert versions(await peer.get()) == {"a": "2"}


# ------------------------------------------------------------------------- 10. one stream for all


@both
async def test_10_types_of_one_stream_are_apart(rig: Rig, variant: Variant) -> None:
    rig.put({(CDS, "a"): "1", (EDS, "a"): "1", (LDS, "a"): "1", (RDS, "a"): "1"})
    async with rig.peer(variant) as peer:
        for type_url in (CDS, EDS, LDS, RDS):
            names = ("a",) if type_url in (EDS, RDS) else ()
            assert await subscribed(peer, type_url, *names) == {"a": "1"}
        rig.set(LDS, a="2")
        response = await peer.get()
        assert (response.type_url, versions(response)) == (LDS, {"a": "2"})


@both
@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS])
async def test_10_a_type_has_its_own_service(rig: Rig, variant: Variant, type_url: str) -> None:
    rig.set(type_url, a="1")
    async with rig.peer(variant, type_url) as peer:
        await peer.ask("", "a")  # whose type need not be said
        response = await peer.get()
        assert (response.type_url, versions(response)) == (type_url, {"a": "1"})
        await peer.ask(CDS if type_url != CDS else EDS, "a")
        status, reason = await peer.ended()
        assert status == "INVALID_ARGUMENT"
        assert type_url in reason


# ------------------------------------------------------------------------- 11. fields not in use
# `Peer.get` holds every response of this module to it.


@both
async def test_11_a_request_for_what_is_not_in_use_is_refused(rig: Rig, variant: Variant) -> None:
    if variant is DELTA:
        delta = discovery_pb2.DeltaDiscoveryRequest(type_url=EDS, resource_names_subscribe=["a"])
        delta.resource_locators_subscribe.add().name = "b"
        data = delta.SerializeToString()
    else:
        sotw = discovery_pb2.DiscoveryRequest(type_url=EDS, resource_names=["a"])
        sotw.resource_locators.add().name = "b"
        data = sotw.SerializeToString()
    async with rig.peer(variant) as peer:
        await peer.raw(data)
        status, reason = await peer.ended()
        assert status == "UNIMPLEMENTED"
        assert "resource locators are not served" in reason


# ------------------------------------------------------------------------- a stop


async def test_a_stop_ends_streams_one_by_one_and_serves_them_until_then(rig: Rig) -> None:
    async with rig.peer(DELTA) as first, rig.peer(DELTA) as second:
        rig.set(CDS, a="1")
        for peer in (first, second):
            await subscribed(peer, CDS)
        ends = [asyncio.create_task(peer.rest()) for peer in (first, second)]
        stop = asyncio.create_task(rig.server.stop(5.0, drain=1.0))
        (ended,), (open_,) = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        rig.set(CDS, a="2")
        assert ended.result()[:2] == ([], "UNAVAILABLE")
        responses, status, _ = await open_
        assert [versions(each) for each in responses] == [{"a": "2"}]
        assert status == "UNAVAILABLE"
        await stop
