"""The cluster that is measured: deployments that talk to their neighbours, spread over all nodes.

Five namespaces of 50 deployments of 80 pods on 200 nodes: 20,000 pods, 250 label sets, 100 pods a
node. Each namespace denies what comes in by default; each deployment has a policy that lets one
other deployment in, chosen by the labels of its namespace and of its pods. A relabel gives every
namespace a new value of a label that no policy asks for: every pod gets a new identity, and every
verdict stays as it was.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import (
    Change,
    KubeObject,
    LabelSelector,
    NetworkPolicy,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
    ObjectMeta,
)
from reconciler.core.plane import PlaneConfig
from reconciler.testing.world import World

_API_VERSION: Final = {"NetworkPolicy": "networking.k8s.io/v1"}
_KEEP_SECONDS: Final = 3600.0
"""Label sets that are gone are drained longer than any row takes: one row never meets the clean-up
of the one before it."""


class Size(msgspec.Struct, frozen=True):
    namespaces: int = 5
    deployments: int = 50
    replicas: int = 80
    nodes: int = 200

    @property
    def pods(self) -> int:
        return self.namespaces * self.deployments * self.replicas

    @property
    def label_sets(self) -> int:
        return self.namespaces * self.deployments

    def __str__(self) -> str:
        return f"{self.pods:,} pods, {self.label_sets} label sets, {self.nodes} nodes"


FULL: Final = Size()
QUICK: Final = Size(deployments=10, replicas=40, nodes=20)


def config() -> PlaneConfig:
    intake = IntakeConfig(filter=LabelFilter.default(), drain_seconds=_KEEP_SECONDS)
    return PlaneConfig(intake=intake)


class Cluster:
    def __init__(self, size: Size) -> None:
        self.size = size
        self._world = World()
        self.nodes = [f"node-{index}" for index in range(1, size.nodes + 1)]
        for index, name in enumerate(self.nodes, 1):
            self._world.node(name, index)
        self.pods_of: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.relabel(0)
        placed = 0
        for namespace in range(size.namespaces):
            self._policies(namespace)
            for deployment in range(size.deployments):
                for replica in range(size.replicas):
                    self._pod(namespace, deployment, replica, placed)
                    placed += 1

    def relabel(self, generation: int) -> list[Change]:
        """Another value of one label of every namespace."""
        return [
            self._world.namespace(
                f"team-{namespace}", {"team": f"t{namespace}", "release": f"r{generation}"}
            )
            for namespace in range(self.size.namespaces)
        ]

    def everything(self) -> list[Change]:
        return self._world.everything()

    def listed(self) -> bytes:
        """All objects as one JSON list, as `kubectl get -o json` writes them."""
        items = [_as_written(item) for item in self._world.objects.values()]
        return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items})

    def _pod(self, namespace: int, deployment: int, replica: int, placed: int) -> None:
        index, at = placed % self.size.nodes, placed // self.size.nodes
        name = f"app-{deployment}-{replica}"
        self.pods_of[self.nodes[index]].append(f"team-{namespace}/{name}")
        self._world.pod(
            f"team-{namespace}",
            name,
            self.nodes[index],
            {"app": f"app-{deployment}", "tier": f"tier-{deployment % 3}"},
            (f"10.{index + 1}.{at >> 8}.{at & 255}",),
            (("http", 8080, "TCP"),),
        )

    def _policies(self, namespace: int) -> None:
        self._policy(namespace, "default-deny", NetworkPolicySpec(policy_types=("Ingress",)))
        for deployment in range(self.size.deployments):
            caller = LabelSelector(
                match_labels={"app": f"app-{(deployment + 1) % self.size.deployments}"}
            )
            callers_namespace = LabelSelector(match_labels={"team": f"t{namespace}"})
            rule = NetworkPolicyIngressRule(
                peers=(NetworkPolicyPeer(caller, callers_namespace),),
                ports=(NetworkPolicyPort(port=8080),),
            )
            spec = NetworkPolicySpec(
                pod_selector=LabelSelector(match_labels={"app": f"app-{deployment}"}),
                ingress=(rule,),
                policy_types=("Ingress",),
            )
            self._policy(namespace, f"allow-app-{deployment}", spec)

    def _policy(self, namespace: int, name: str, spec: NetworkPolicySpec) -> None:
        meta = ObjectMeta(name=name, namespace=f"team-{namespace}")
        self._world.policy(NetworkPolicy(metadata=meta, spec=spec))


def _as_written(item: KubeObject) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(item)
    return {"apiVersion": _API_VERSION.get(item.kind, "v1"), "kind": item.kind, **fields}
