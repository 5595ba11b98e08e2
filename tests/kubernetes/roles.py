"""Users that may do what some rules say, and nothing else, as the server's own account."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.reading import WAIT

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_GROUP: Final = "rbac.authorization.k8s.io"
_REVIEW: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@asynccontextmanager
async def granted(
    cluster: Cluster, api: Api, user: str, rules: Sequence[dict[str, Any]]
) -> AsyncIterator[str]:
    """Path of the user's kubeconfig, once the API server's authorizer knows of the rules."""
    path = cluster.kubeconfig(user, ("system:authenticated",))
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": _GROUP, "kind": "User", "name": user}],
    }
    await api.create(f"{RBAC}/clusterroles", {"metadata": {"name": user}, "rules": rules})
    await api.create(f"{RBAC}/clusterrolebindings", binding)
    try:
        client = await ApiClient.connect(path)
        try:
            async with asyncio.timeout(WAIT):
                for rule in rules:
                    while not await _allowed(client, rule):
                        await asyncio.sleep(0.05)
        finally:
            await client.close()
        yield path
    finally:
        await api.delete(f"{RBAC}/clusterrolebindings/{user}")
        await api.delete(f"{RBAC}/clusterroles/{user}")


async def _allowed(client: ApiClient, rule: dict[str, Any]) -> bool:
    attributes = {
        "group": rule["apiGroups"][0],
        "resource": rule["resources"][0],
        "verb": rule["verbs"][0],
    }
    body = {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.request("POST", _REVIEW, body=json.dumps(body).encode())
    return bool(json.loads(answer.body)["status"]["allowed"])
