"""The Kubernetes objects of a test cluster, edited one at a time and turned into changes.

Names are short and addresses follow from them, so that a failing example reads well: node "n1" has
10.1.0.0/16, pod numbers count up and never come back unless a test asks for an address again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from reconciler.core.objects import (
    Change,
    Container,
    ContainerPort,
    Delete,
    EndpointSlice,
    KubeObject,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectKey,
    ObjectMeta,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    SliceEndpoint,
    Upsert,
    key_of,
)


class World:
    """All objects by key. Every method returns the change that tells a server about it."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, KubeObject] = {}
        self._uids = 0

    def _put(self, item: KubeObject) -> Change:
        self.objects[key_of(item)] = item
        return Upsert(item, "test")

    def node(self, name: str, index: int) -> Change:
        return self._put(
            Node(
                metadata=ObjectMeta(name=name),
                spec=NodeSpec(
                    pod_cidr=f"10.{index}.0.0/16",
                    pod_cidrs=(f"10.{index}.0.0/16", f"fd00:{index}::/64"),
                ),
                status=NodeStatus(
                    addresses=(
                        NodeAddress(type="InternalIP", address=f"192.168.0.{index}"),
                        NodeAddress(type="InternalIP", address=f"fd01::{index}"),
                    )
                ),
            )
        )

    def api_server(self, *addresses: str) -> Change:
        """Where the API server is: ready at all of these."""
        return self._put(
            EndpointSlice(
                metadata=ObjectMeta(name="kubernetes", namespace="default"),
                address_type="IPv4",
                endpoints=(SliceEndpoint(addresses=addresses),),
            )
        )

    def namespace(self, name: str, labels: Mapping[str, str]) -> Change:
        full = {"kubernetes.io/metadata.name": name, **labels}
        return self._put(Namespace(metadata=ObjectMeta(name=name, labels=full)))

    def pod(
        self,
        namespace: str,
        name: str,
        node: str,
        labels: Mapping[str, str],
        addresses: Sequence[str],
        ports: Sequence[tuple[str, int, str]] = (),
        *,
        same_uid: bool = False,
    ) -> Change:
        """ports: (name, number, protocol). A pod made again under its name gets another uid."""
        key = ObjectKey("Pod", namespace, name)
        before = self.objects.get(key)
        if same_uid and isinstance(before, Pod):
            uid = before.metadata.uid
        else:
            self._uids += 1
            uid = f"uid-{self._uids}"
        return self._put(
            Pod(
                metadata=ObjectMeta(name=name, namespace=namespace, labels=dict(labels), uid=uid),
                spec=PodSpec(
                    node_name=node,
                    service_account_name="default",
                    containers=(
                        Container(
                            name="main",
                            ports=tuple(
                                ContainerPort(container_port=number, name=label, protocol=protocol)
                                for label, number, protocol in ports
                            ),
                        ),
                    ),
                ),
                status=PodStatus(
                    phase="Running",
                    pod_ip=addresses[0] if addresses else "",
                    pod_ips=tuple(PodIP(ip=address) for address in addresses),
                ),
            )
        )

    def relabel_pod(self, namespace: str, name: str, labels: Mapping[str, str]) -> Change | None:
        pod = self.objects.get(ObjectKey("Pod", namespace, name))
        if not isinstance(pod, Pod):
            return None
        metadata = msgspec.structs.replace(pod.metadata, labels=dict(labels))
        return self._put(msgspec.structs.replace(pod, metadata=metadata))

    def policy(self, item: NetworkPolicy) -> Change:
        return self._put(item)

    def delete(self, key: ObjectKey) -> Change | None:
        if self.objects.pop(key, None) is None:
            return None
        return Delete(key)

    def everything(self) -> list[Change]:
        """All objects, as a server that starts reads them."""
        return [Upsert(item, "test") for item in self.objects.values()]
