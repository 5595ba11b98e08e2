"""CiliumIdentities and journals, for tests that have the cluster's to themselves."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from reconciler.core.identity.objects import BIRTH, PINNED
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.install import install
from tests.kubernetes.api import Api
from tests.kubernetes.reading import WAIT

IDENTITIES: Final = "/apis/cilium.io/v2/ciliumidentities"
JOURNALS: Final = "/apis/reconciler.io/v1alpha1/allocationjournals"


async def clean(client: ApiClient) -> None:
    """The kinds are there, and no object of them. After a start of the API server kinds that
    it has known before are not served at once."""
    await install(client)
    for path in (IDENTITIES, JOURNALS):
        async with asyncio.timeout(WAIT):
            while not await _deleted(client, path):
                await asyncio.sleep(0.05)


async def _deleted(client: ApiClient, path: str) -> bool:
    try:
        await client.request("DELETE", path)
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


async def identity(
    api: Api, number: int | str, app: str, *, birth: int = 0, pinned: bool = False
) -> dict[str, Any]:
    """One as a Cilium agent writes it."""
    marks = {**({BIRTH: str(birth)} if birth else {}), **({PINNED: "true"} if pinned else {})}
    return await api.create(
        IDENTITIES,
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumIdentity",
            "metadata": {
                "name": str(number),
                "labels": {"io.kubernetes.pod.namespace": "shop"},
                "annotations": marks,
            },
            "security-labels": {"k8s:app": app, "k8s:io.kubernetes.pod.namespace": "shop"},
        },
    )


async def identities(client: ApiClient) -> dict[int, dict[str, Any]]:
    """number → the whole object, of all."""
    answer = await client.request("GET", IDENTITIES)
    return {int(each["metadata"]["name"]): each for each in json.loads(answer.body)["items"]}


async def journal(client: ApiClient, name: str) -> dict[str, Any] | None:
    """The journal's spec."""
    try:
        answer = await client.request("GET", f"{JOURNALS}/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        return None
    spec: dict[str, Any] = json.loads(answer.body)["spec"]
    return spec
