"""The Kubernetes objects that decide about network policy, with only the fields that do.

Field names are Python's, the encoded names those of the Kubernetes API (`pod_ips` ↔ `podIPs`).
Values are frozen and compare by content. A NetworkPolicy's spec is typed strictly: a field that the
API doesn't know is refused, because a misspelt `from` would otherwise mean everybody. The other
kinds have many fields that don't matter here; those are skipped.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Timestamps stay the RFC 3339 text that the API server writes ("" when missing).

    generation: rises with each change of `spec`; 0 where nobody counts
    """

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""


class Namespace(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta

    @property
    def kind(self) -> Literal["Namespace"]:
        return "Namespace"


# ---------------------------------------------------------------------------------------- nodes


class NodeAddress(msgspec.Struct, frozen=True, rename="camel"):
    """type: InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS."""

    type: str
    address: str


class NodeSpec(msgspec.Struct, frozen=True, rename="camel"):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")


class NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    addresses: tuple[NodeAddress, ...] = ()


class Node(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def kind(self) -> Literal["Node"]:
        return "Node"


# ----------------------------------------------------------------------------------------- pods


class ContainerPort(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """restart_policy: "Always" marks an init container as a sidecar, which serves its ports."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = ""


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    host_network: bool = False
    service_account_name: str = ""
    service_account: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(msgspec.Struct, frozen=True, rename="camel"):
    ip: str = ""


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    """That a container has ended; how doesn't matter."""


class ContainerState(msgspec.Struct, frozen=True, rename="camel"):
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    state: ContainerState = ContainerState()


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def kind(self) -> Literal["Pod"]:
        return "Pod"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Address texts: `podIPs`, or `podIP` where a writer left out the list."""
        listed = tuple(entry.ip for entry in self.status.pod_ips if entry.ip)
        if listed or not self.status.pod_ip:
            return listed
        return (self.status.pod_ip,)

    @property
    def account(self) -> str:
        """Service account; `serviceAccount` is the deprecated name of `serviceAccountName`."""
        return self.spec.service_account_name or self.spec.service_account

    @property
    def terminating(self) -> bool:
        return bool(self.metadata.deletion_timestamp)

    @property
    def done(self) -> bool:
        """No process of this pod runs any more, and none will.

        The phase says so, or the pod is being deleted and all its containers have ended (the
        kubelet may remove the sandbox, and its address be given away, before the phase follows).
        """
        if self.status.phase in ("Succeeded", "Failed"):
            return True
        statuses = self.status.container_statuses
        return (
            self.terminating
            and bool(statuses)
            and all(
                status.state.terminated is not None
                for status in (*statuses, *self.status.init_container_statuses)
            )
        )


# ------------------------------------------------------------------------------------- policies


class LabelSelectorRequirement(
    msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True
):
    """operator: In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """All of it must hold; an empty one selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class IPBlock(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    cidr: str
    excepts: tuple[str, ...] = msgspec.field(default=(), name="except")


class NetworkPolicyPeer(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """None is "not given", which differs from an empty selector (everything)."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class NetworkPolicyPort(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """port: a number, the name of a container port, or None for every port of the protocol."""

    protocol: str = "TCP"
    port: int | str | None = None
    end_port: int | None = None


class NetworkPolicyIngressRule(
    msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True
):
    """`peers` is the API's `from`: empty means everybody. Empty `ports` means every port."""

    peers: tuple[NetworkPolicyPeer, ...] = msgspec.field(default=(), name="from")
    ports: tuple[NetworkPolicyPort, ...] = ()


class NetworkPolicyEgressRule(
    msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True
):
    """`peers` is the API's `to`: empty means everybody. Empty `ports` means every port."""

    peers: tuple[NetworkPolicyPeer, ...] = msgspec.field(default=(), name="to")
    ports: tuple[NetworkPolicyPort, ...] = ()


class NetworkPolicySpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pod_selector: LabelSelector = LabelSelector()
    ingress: tuple[NetworkPolicyIngressRule, ...] = ()
    egress: tuple[NetworkPolicyEgressRule, ...] = ()
    policy_types: tuple[str, ...] = ()

    @property
    def effective_types(self) -> tuple[str, ...]:
        """`policyTypes` with the API's default: Ingress always, Egress where it has a rule."""
        if self.policy_types:
            return self.policy_types
        return ("Ingress", "Egress") if self.egress else ("Ingress",)


class NetworkPolicy(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    spec: NetworkPolicySpec = NetworkPolicySpec()

    @property
    def kind(self) -> Literal["NetworkPolicy"]:
        return "NetworkPolicy"


# ------------------------------------------------------------------------------------ workloads


class PodTemplate(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()


class Workload(msgspec.Struct, frozen=True):
    """What makes pods. `kind`: Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob."""

    kind: str
    metadata: ObjectMeta
    template: PodTemplate


class Conditions(msgspec.Struct, frozen=True, rename="camel"):
    """ready: None is unknown, which the API says to read as ready."""

    ready: bool | None = None


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: tuple[str, ...] = ()
    conditions: Conditions = Conditions()


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """Of discovery.k8s.io/v1, of the Service of the API server: where that is.

    address_type: IPv4, IPv6 or FQDN
    """

    metadata: ObjectMeta
    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] = ()

    @property
    def kind(self) -> Literal["EndpointSlice"]:
        return "EndpointSlice"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of endpoints that are ready, sorted; none of names."""
        ready = (e for e in self.endpoints if e.conditions.ready is not False)
        found = {address for endpoint in ready for address in endpoint.addresses}
        return () if self.address_type == "FQDN" else tuple(sorted(found))


KubeObject: TypeAlias = Namespace | Node | Pod | NetworkPolicy | EndpointSlice


# ------------------------------------------------------------------------------ keys and changes


class ObjectKey(msgspec.Struct, frozen=True, order=True):
    """Kind, namespace ("" for cluster-scoped kinds) and name. As text "Pod shop/web-1"."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        if self.namespace:
            return f"{self.kind} {self.namespace}/{self.name}"
        return f"{self.kind} {self.name}"


class Upsert(msgspec.Struct, frozen=True):
    """This object exists and reads so; whether it is new is for the receiver to see."""

    object: KubeObject
    source: str = ""

    @property
    def key(self) -> ObjectKey:
        return key_of(self.object)


class Delete(msgspec.Struct, frozen=True):
    key: ObjectKey


Change: TypeAlias = Upsert | Delete


def key_of(object: KubeObject | Workload) -> ObjectKey:
    meta = object.metadata
    return ObjectKey(object.kind, meta.namespace, meta.name)
