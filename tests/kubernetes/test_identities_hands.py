"""CiliumIdentity objects that others touch too: repaired, reported, pinned, or left alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from reconciler.core.identity import Entry
from reconciler.core.identity.objects import (
    BIRTH,
    PINNED,
    is_nobody,
)
from reconciler.server.kubernetes.client import ApiError
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.identities import IDENTITIES, identities, identity
from tests.kubernetes.identity_rig import FAST_PACE, Servers, labels, next_second
from tests.kubernetes.reading import wait_until


@pytest.fixture
async def servers(cluster: Cluster, api: Api) -> AsyncIterator[Servers]:
    async with Servers.of(cluster, api.name("default")) as made:
        yield made


async def test_what_others_do_to_objects_in_use_is_undone_and_reported(
    servers: Servers, api: Api
) -> None:
    server = await servers.leading()
    await server.append(*((300 + n, labels(f"app-{n}")) for n in range(5)))
    await server.settled()
    before = await identities(servers.client)
    await api.patch(f"{IDENTITIES}/300", {"security-labels": {"k8s:app": "x", "k8s:more": "y"}})
    await api.patch(f"{IDENTITIES}/301", {"metadata": {"annotations": {BIRTH: None, "a": "b"}}})
    await api.delete(f"{IDENTITIES}/302", {})
    await api.delete(f"{IDENTITIES}/303", {})
    with contextlib.suppress(ApiError):  # whoever is first
        await identity(api, 303, "squatter")
    await identity(api, 999, "agent")

    def undone(number: int, text: str) -> bool:
        return any(f"CiliumIdentity {number}: {text}" in each for each in server.reports)

    await wait_until(lambda: undone(300, "was changed by somebody, and is again as the journal"))
    await wait_until(lambda: undone(302, "was deleted by somebody while it is in use, and is the"))
    await wait_until(lambda: undone(999, "was made by somebody while a server leads, and is del"))
    await server.settled()
    after = await identities(servers.client)
    assert after.keys() == before.keys()
    for number, each in after.items():
        assert each["security-labels"] == before[number]["security-labels"]
        assert each["metadata"]["annotations"][BIRTH] == "1"
        same = each["metadata"]["uid"] == before[number]["metadata"]["uid"]
        assert same == (number not in (302, 303))
    assert after[301]["metadata"]["annotations"]["a"] == "b"


async def test_object_deleted_by_others_outlives_a_crash_before_it_is_made_again(
    servers: Servers, api: Api
) -> None:
    """What the journal had let go of comes back to it."""
    server = await servers.leading(pace=msgspec.structs.replace(FAST_PACE, rate=0.01, burst=1))
    await server.append((300, labels("web")))
    await server.settled()
    await api.delete(f"{IDENTITIES}/300", {})

    def pending() -> bool:
        return 300 in server.journal._opened().ledger.pending

    await wait_until(pending)
    await server.die()
    assert await identities(servers.client) == {}
    successor = await servers.leading()
    assert successor.state.entries == (Entry(300, 1, labels("web"), "active"),)
    await successor.settled()
    assert (await identities(servers.client)).keys() == {300}


async def test_number_whose_labels_are_lost_is_taken_back(servers: Servers, api: Api) -> None:
    """Deleted while nobody leads and nobody remembers."""
    server = await servers.leading()
    await server.append((300, labels("web")), (301, labels("db")))
    await server.settled()
    await server.die()
    await api.delete(f"{IDENTITIES}/300", {})
    await api.patch(f"{IDENTITIES}/301", {"security-labels": {"k8s:app": "forged"}})
    successor = await servers.leading()
    assert [(e.number, e.phase, is_nobody(e.label_set)) for e in successor.state.entries] == [
        (300, "retiring", True),
        (301, "retiring", True),
    ]
    assert all("its labels are lost" in each.reason for each in successor.journal.problems)
    await successor.append((400, labels("web")), free=(300, 301))
    await successor.settled()
    assert (await identities(servers.client)).keys() == {400}


async def test_number_whose_labels_a_follower_remembers_is_not_lost(
    servers: Servers, api: Api
) -> None:
    server = await servers.leading()
    await server.append((300, labels("web")))
    await server.settled()
    await server.die()
    await api.delete(f"{IDENTITIES}/300", {})
    successor = servers.new()
    remembered = [Entry(300, 1, labels("web"), "active"), Entry(301, 1, labels("db"), "active")]
    successor.journal.recall = lambda: remembered
    assert (await successor.lead()).entries == tuple(remembered[:1])
    await successor.start()
    await successor.settled()
    assert (await identities(servers.client))[300]["security-labels"]["k8s:app"] == "web"


async def test_pinned_identities_stay_and_their_numbers_are_held_back(
    servers: Servers, api: Api
) -> None:
    await identity(api, 900, "web")
    await next_second()
    await identity(api, 901, "web", pinned=True)
    server = await servers.leading()
    assert {(e.number, e.phase) for e in server.state.entries} == {
        (900, "retiring"),
        (901, "active"),
    }, "it goes before an older one"
    assert server.held == {901}
    await server.settled()
    assert server.held == {901}
    await identity(api, 902, "db", pinned=True)
    await api.patch(f"{IDENTITIES}/901", {"metadata": {"annotations": {PINNED: None}}})
    await wait_until(lambda: server.held == {902})
    await server.settled()
    assert 902 in await identities(servers.client), "made while a server leads, and pinned"
    await server.die()
    successor = await servers.leading()
    assert Entry(902, successor.state.revision, labels("db"), "active") in successor.state.entries
    await successor.settled()
    assert (await identities(servers.client))[902]["metadata"]["annotations"][BIRTH]


async def test_objects_that_mean_nothing_to_us_are_left_alone(servers: Servers, api: Api) -> None:
    await identity(api, 7, "reserved")
    await identity(api, 70000, "elsewhere")
    await identity(api, "not-a-number", "x")
    broken = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": "500"},
        "security-labels": {"no source": "x"},
    }
    await api.create(IDENTITIES, broken)
    server = await servers.leading()
    assert server.state.entries == ()
    assert [each.object for each in server.journal.problems] == [
        "CiliumIdentity 500",
        "CiliumIdentity 7",
        "CiliumIdentity 70000",
        "CiliumIdentity not-a-number",
    ]
    await server.append((300, labels("web")))
    await server.settled()
    assert server.held == {500}
    for name in ("7", "70000", "not-a-number", "500", "300"):
        await api.get(f"{IDENTITIES}/{name}")
