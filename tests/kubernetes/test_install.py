"""`reconciler install` against a real API server: what is made, and what is left alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.install import PATH, definitions, install
from reconciler.testing.kubernetes import Cluster
from tests.command import cli_here
from tests.kubernetes.api import Api, absent
from tests.kubernetes.identities import identity
from tests.kubernetes.reading import WAIT

CILIUM = "ciliumidentities.cilium.io"
OURS = "allocationjournals.reconciler.io"
REALIZATIONS = "policyrealizations.reconciler.io"
ALL = (OURS, CILIUM, REALIZATIONS)


@pytest.fixture(autouse=True)
async def none_there(client: ApiClient, api: Api) -> AsyncIterator[None]:
    """Begins without the kinds, and leaves them as later tests expect them."""
    await remove(client, api)
    yield
    await remove(client, api)
    await install(client)


async def remove(client: ApiClient, api: Api) -> None:
    for each in definitions():
        path = f"{PATH}/{each['metadata']['name']}"
        if not await absent(api, path):
            await client.request("DELETE", path)
        async with asyncio.timeout(WAIT):
            while not await absent(api, path):
                await asyncio.sleep(0.05)


def command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler.cli", "install", *arguments],
        env={**os.environ, "KUBECONFIG": cluster.kubeconfig()},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def command_here(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `command`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", cluster.kubeconfig())
        return await asyncio.to_thread(cli_here, "install", *arguments)


async def test_kinds_are_made_and_served_and_a_second_time_changes_nothing(
    client: ApiClient, api: Api
) -> None:
    first = await install(client)
    assert {each.name: each.done for each in first} == dict.fromkeys(ALL, "created")
    before = {name: (await api.get(f"{PATH}/{name}"))["metadata"] for name in ALL}
    await identity(api, 300, "web")
    second = await install(client)
    assert {each.name: each.done for each in second} == {
        **dict.fromkeys(ALL, "unchanged"),
        CILIUM: "kept",
    }
    for name, metadata in before.items():
        after = (await api.get(f"{PATH}/{name}"))["metadata"]
        assert (after["uid"], after["generation"]) == (metadata["uid"], metadata["generation"])


async def test_dry_run_makes_nothing(cluster: Cluster, api: Api) -> None:
    done = await command_here(cluster, "--dry-run", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [(row["name"], row["done"]) for row in rows] == [(name, "created") for name in ALL]
    for name in ALL:
        assert await absent(api, f"{PATH}/{name}")


async def test_command_prints_what_it_did(cluster: Cluster) -> None:
    done = command(cluster)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["NAME", "KIND", "VERSIONS", "DONE"],
        [OURS, "AllocationJournal", "v1alpha1", "created"],
        [CILIUM, "CiliumIdentity", "v2", "created"],
        [REALIZATIONS, "PolicyRealization", "v1alpha1", "created"],
    ]


async def test_ciliums_own_definition_is_never_changed(client: ApiClient, api: Api) -> None:
    theirs = ciliums("v2", note={"type": "string"})
    await api.create(PATH, theirs)
    before = await api.get(f"{PATH}/{CILIUM}")
    done = {each.name: each.done for each in await install(client)}
    assert done[CILIUM] == "kept"
    after = await api.get(f"{PATH}/{CILIUM}")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


async def test_definition_of_another_version_is_refused(client: ApiClient, api: Api) -> None:
    await api.create(PATH, ciliums("v3"))
    with pytest.raises(UnavailableError, match=r"does not serve version v2, which this program"):
        await install(client)


def ciliums(version: str, **properties: Any) -> dict[str, Any]:
    """The kind as somebody else defines it."""
    (definition,) = (each for each in definitions() if each["metadata"]["name"] == CILIUM)
    copy: dict[str, Any] = json.loads(json.dumps(definition))
    copy["spec"]["versions"][0]["name"] = version
    copy["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] |= properties
    return copy


async def test_ours_is_brought_to_this_version(client: ApiClient, api: Api) -> None:
    await install(client)
    version = (await api.get(f"{PATH}/{OURS}"))["spec"]["versions"][0]
    version["additionalPrinterColumns"] = version["additionalPrinterColumns"][:1]
    await api.patch(f"{PATH}/{OURS}", {"spec": {"versions": [version]}})
    done = {each.name: each.done for each in await install(client)}
    assert done == {CILIUM: "kept", OURS: "configured", REALIZATIONS: "unchanged"}
    columns = (await api.get(f"{PATH}/{OURS}"))["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns][:4] == ["Epoch", "Leader", "Revision", "In use"]


async def test_who_may_not_install_is_told(cluster: Cluster) -> None:
    done = await command_here(cluster, "--kubeconfig", cluster.kubeconfig("nobody", ()))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("reconciler: ")
    assert '"nobody" cannot get resource "customresourcedefinitions"' in line


async def test_api_server_refuses_what_the_schema_does_not_allow(
    client: ApiClient, api: Api
) -> None:
    await install(client)
    wrong = {
        "apiVersion": "reconciler.io/v1alpha1",
        "kind": "AllocationJournal",
        "metadata": {"name": api.name("wrong")},
        "spec": {"epoch": "one"},
    }
    with pytest.raises(ApiError) as refused:
        await api.create("/apis/reconciler.io/v1alpha1/allocationjournals", wrong)
    assert refused.value.status == 422
    assert "spec.epoch" in refused.value.message
