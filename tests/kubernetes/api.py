"""What kubectl, controllers and kubelets would do, for tests: objects made, changed and removed.

Everything of one test has a prefix of its own, so that tests share a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from reconciler.server.kubernetes.client import ApiClient, ApiError

MERGE: Final = "application/merge-patch+json"
AT_ONCE: Final = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}

_NAMESPACED: Final = (  # what the tests put into namespaces
    "/api/v1/namespaces/{}/pods",
    "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "/api/v1/namespaces/{}/serviceaccounts",
    "/api/v1/namespaces/{}/events",
)

Json = dict[str, Any]


class Api:
    """Requests as JSON values, and the usual objects by few words. Names get `prefix`."""

    def __init__(self, client: ApiClient, prefix: str) -> None:
        self.client, self.prefix = client, prefix

    def name(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    # ------------------------------------------------------------------------------- any object

    async def get(self, path: str) -> Json:
        return self._json((await self.client.request("GET", path)).body)

    async def create(self, path: str, object: Mapping[str, Any]) -> Json:
        body = json.dumps(object).encode()
        return self._json((await self.client.request("POST", path, body=body)).body)

    async def update(self, path: str, object: Mapping[str, Any]) -> Json:
        body = json.dumps(object).encode()
        return self._json((await self.client.request("PUT", path, body=body)).body)

    async def patch(self, path: str, change: Mapping[str, Any]) -> Json:
        """JSON merge patch (RFC 7386): null removes a field."""
        body = json.dumps(change).encode()
        answer = await self.client.request("PATCH", path, body=body, content_type=MERGE)
        return self._json(answer.body)

    async def delete(self, path: str, options: Mapping[str, Any] = AT_ONCE) -> None:
        await self.client.request("DELETE", path, body=json.dumps(options).encode())

    @staticmethod
    def _json(body: bytes) -> Json:
        value: Json = json.loads(body)
        return value

    # ------------------------------------------------------------------------------- namespaces

    async def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """With the service account that its controller would make; gives the full name."""
        full = self.name(name)
        await self.create("/api/v1/namespaces", {"metadata": {"name": full, "labels": labels}})
        account = {"metadata": {"name": "default"}}
        await self.create(f"/api/v1/namespaces/{full}/serviceaccounts", account)
        return full

    async def delete_namespace(self, namespace: str, kinds: Sequence[str] = _NAMESPACED) -> None:
        """As the namespace controller does: what is in it first, then itself.

        kinds: paths of collections, with {} for the namespace
        """
        path = f"/api/v1/namespaces/{namespace}"
        await self.delete(path)
        for kind in kinds:
            await self.delete(kind.format(namespace))
        object = await self.get(path)
        object["spec"]["finalizers"] = []
        await self.update(f"{path}/finalize", object)

    # ------------------------------------------------------------------------------------- pods

    async def pod(
        self,
        namespace: str,
        name: str,
        *,
        node: str = "",
        labels: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
        **spec: Any,
    ) -> Json:
        """Running where it has addresses, as its kubelet reports it."""
        containers = [{"name": "main", "image": "example.org/app:1"}]
        object = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": node, "containers": containers, **spec},
        }
        made = await self.create(f"/api/v1/namespaces/{namespace}/pods", object)
        if addresses:
            return await self.running(namespace, name, addresses)
        return made

    async def running(self, namespace: str, name: str, addresses: Sequence[str]) -> Json:
        status = {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
        }
        return await self.patch(
            f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status}
        )

    async def delete_pod(self, namespace: str, name: str) -> None:
        await self.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")

    # ------------------------------------------------------------------------------------ others

    async def node(self, name: str, address: str = "", cidr: str = "") -> str:
        full = self.name(name)
        spec = {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {}
        await self.create("/api/v1/nodes", {"metadata": {"name": full}, "spec": spec})
        if address:
            addresses = [{"type": "InternalIP", "address": address}]
            await self.patch(f"/api/v1/nodes/{full}/status", {"status": {"addresses": addresses}})
        return full

    async def policy(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Json:
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        return await self.create(path, {"metadata": {"name": name}, "spec": spec})


async def absent(api: Api, path: str) -> bool:
    """Whether the API server knows no such object."""
    try:
        await api.get(path)
    except ApiError as error:
        if error.status == 404:
            return True
        raise
    return False
