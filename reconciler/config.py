"""Every option of server, agent and `xds serve`, written once; `options` is how they are read."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from reconciler.address import Address as Address
from reconciler.address import address_of as address_of
from reconciler.address import parse_address as parse_address
from reconciler.options import CONFIG_ENV as CONFIG_ENV
from reconciler.options import Configuration as Configuration
from reconciler.options import Loaded as Loaded
from reconciler.options import Option as Option
from reconciler.options import Refuse as Refuse
from reconciler.options import docs_table as docs_table
from reconciler.options import load as load
from reconciler.options import options as options
from reconciler.options import shown as shown
from reconciler.options import typer_parameters as typer_parameters

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
MapSize = Annotated[int, Meta(ge=16, le=1 << 24)]


_LOCAL = "only a Unix socket or a loopback address"


def _say(text: str) -> Meta:
    return Meta(description=text)


ClusterName = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")]
Transport = Annotated[
    Literal["grpc", "http2"],
    _say("What carries it: gRPC's library, or our own HTTP/2 for very many streams."),
]
ServerCertificate = Annotated[str, _say("PEM certificate (chain) of the server.")]
ServerKey = Annotated[str, _say("PEM private key of the server.")]
StreamAge = Annotated[
    Seconds,
    _say("After this long, a tenth more or less, a stream is ended and proven anew; 0: never."),
]
Drain = Annotated[Seconds, _say("Over how long streams are ended at a stop, one after the other.")]
StatusAddress = Annotated[
    str, _say("Address of the status API: `unix:PATH` or a loopback `host:port`.")
]
MetricsAddress = Annotated[
    str,
    _say(
        "Address for Prometheus and kubelet, which other machines may reach: `/metrics`, "
        "`/healthz`, `/readyz` and nothing else; empty: none."
    ),
]
TraceFile = Annotated[
    str, _say("File that every step is appended to, for `reconciler check trace`; empty: none.")
]


class ServerConfig(Configuration, frozen=True, kw_only=True):
    """Options of `reconciler server`."""

    table: ClassVar[str] = "server"
    variables: ClassVar[str] = "RECONCILER_"

    manifests: Annotated[
        str, _say("Directory of Kubernetes manifests (YAML or JSON) to serve; watched for changes.")
    ] = ""
    kubernetes: Annotated[
        bool,
        _say("Serve the objects of a Kubernetes cluster, with its identities as CiliumIdentity."),
    ] = False
    kubeconfig: Annotated[
        str, _say("Kubeconfig file; default: the pod's own credentials, else the usual file.")
    ] = ""
    kube_context: Annotated[str, _say("Context of the kubeconfig; default: its current one.")] = ""
    namespace: Annotated[
        str, _say("Namespace of the server's own objects: its Lease, and what replicas tell.")
    ] = "reconciler"
    lease: Annotated[str, _say("Name of the Lease by which replicas agree on who writes.")] = (
        "reconciler-server"
    )
    lease_seconds: Annotated[
        float,
        Meta(ge=1, le=3600),
        _say("After this long without a sign of life the Lease is another replica's."),
    ] = 15.0
    replica: Annotated[
        str, _say("Name of this replica, like no other's; default: host and process.")
    ] = ""
    state_dir: Annotated[str, _say("Directory of the server's state (the allocation journal).")] = (
        "/var/lib/reconciler"
    )
    journal: Annotated[
        str, _say("Journal file; default: `journal.sqlite` in the state directory.")
    ] = ""
    listen: Annotated[
        str, _say("Address of the xDS service: `host:port`, `[v6]:port` or `unix:PATH`.")
    ] = "127.0.0.1:18000"
    transport: Transport = "grpc"
    tls_cert: ServerCertificate = ""
    tls_key: ServerKey = ""
    tls_ca: Annotated[str, _say("PEM certificates of the CA that signs node certificates.")] = ""
    node_auth: Annotated[
        Literal["certificate", "token"],
        _say("How a node proves who it is on `--listen`: client certificate or its pod's token."),
    ] = "certificate"
    token_listen: Annotated[
        str, _say("Second address of the xDS service, for tokens where `--listen` is for others.")
    ] = ""
    token_audience: Annotated[str, _say("Audience that a node's token must be for.")] = "reconciler"
    agent_service_account: Annotated[
        str, _say("Whose tokens count: `namespace/name` of the agent's ServiceAccount.")
    ] = ""
    max_stream_age: StreamAge = 3600.0
    stream_drain: Drain = 0.0
    insecure: Annotated[
        bool,
        _say(
            "Serve without TLS and believe the node name that a client claims. "
            "Loopback and Unix sockets only."
        ),
    ] = False
    discovery_resources: Annotated[
        str,
        _say(
            "Directory of resources of other xDS types to serve beside agents' on `--listen`, as "
            "`reconciler xds serve` does; empty: none."
        ),
    ] = ""
    discovery_admin: Annotated[
        str,
        _say(
            "Address of reflection for these and of CSDS, which tells of agents too: `unix:PATH` "
            "or a loopback `host:port`; empty: on `--listen` where that is without TLS, else "
            "nowhere."
        ),
    ] = ""
    status: StatusAddress = "unix:/run/reconciler/server.sock"
    metrics: MetricsAddress = ""
    label: Annotated[
        tuple[str, ...],
        _say("Label filter rule, `[!][source:]pattern`; may be given more than once."),
    ] = ()
    label_filter_file: Annotated[str, _say("Label filter as a JSON file.")] = ""
    cluster_name: Annotated[
        ClusterName,
        _say("Name of the cluster, part of every label set."),
    ] = "default"
    cluster_cidr: Annotated[
        tuple[str, ...],
        _say("CIDR of pods beyond the Nodes' podCIDRs; may be given more than once."),
    ] = ()
    named_ports: Annotated[
        bool, _say("Make a pod's named ports part of its identity, so rules on them are exact.")
    ] = True
    scope: Annotated[
        Literal["all", "selected"],
        _say(
            "What a node is served: `all` groups, or those that a rule on the node can tell apart."
        ),
    ] = "all"
    drain_seconds: Annotated[
        Seconds, _say("How long an identity without pods is kept before it is retired.")
    ] = 30.0
    absent_grace: Annotated[
        Seconds, _say("How long a retired number waits for nodes that are not connected.")
    ] = 3600.0
    closed_grace: Annotated[
        Seconds,
        _say("How long a node may refuse a cut before what it named is replaced by drop-all."),
    ] = 5.0
    policy_capacity: Annotated[
        int,
        Meta(ge=16, le=1 << 24),
        _say("Policy entries that one node can hold; a rule set beyond it is refused here."),
    ] = 262_144
    debounce_ms: Annotated[
        int, Meta(ge=0, le=60_000), _say("How long changes are collected before one cut is made.")
    ] = 20
    record_trace: TraceFile = ""

    def check(self, refuse: Refuse) -> None:
        """What no single field can tell."""
        peers = [_address("listen", self.listen, refuse)]
        _check_status(self.status, self.metrics, refuse)
        _check_cidrs("cluster_cidr", self.cluster_cidr, refuse)
        if self.kubernetes and self.manifests:
            refuse("manifests", "can't be combined with --kubernetes")
        if self.kubernetes and self.insecure:
            refuse("insecure", "can't be combined with --kubernetes: nodes must prove who they are")
        if self.discovery_admin and not self.discovery_resources:
            refuse("discovery_admin", "has no use without --discovery-resources")
        if (
            self.discovery_admin
            and not _address("discovery_admin", self.discovery_admin, refuse).local
        ):
            refuse("discovery_admin", f"{self.discovery_admin}: {_LOCAL}")
        _check_tokens(self, refuse)
        if self.token_listen:
            _address("token_listen", self.token_listen, refuse)
        tokens = self.node_auth == "token"
        _check_tls(self, peers, refuse, tokens=tokens, unused=("tls_ca",) if tokens else ())


class AgentConfig(Configuration, frozen=True, kw_only=True):
    """Options of `reconciler agent`."""

    table: ClassVar[str] = "agent"
    variables: ClassVar[str] = "RECONCILER_"

    node: Annotated[
        str, _say("Name of this node; default: the one in the certificate, else the host's name.")
    ] = ""
    server: Annotated[
        str,
        _say(
            "Address of the xDS server: `host:port`, `[v6]:port` or `unix:PATH`; of several "
            "replicas with commas between."
        ),
    ] = "127.0.0.1:18000"
    tls_cert: Annotated[str, _say("PEM certificate (chain) of this node.")] = ""
    tls_key: Annotated[str, _say("PEM private key of this node.")] = ""
    tls_ca: Annotated[str, _say("PEM certificates of the CA that signs the server's.")] = ""
    token_file: Annotated[
        str, _say("File with the pod's token (projected), instead of a certificate and key.")
    ] = ""
    tls_server_name: Annotated[
        str, _say("Name to expect in the server's certificate, if not that of the address.")
    ] = ""
    insecure: Annotated[bool, _say("Connect without TLS. Loopback and Unix sockets only.")] = False
    datapath: Annotated[
        Literal["kernel", "memory"],
        _say("`kernel`: eBPF maps and programs; `memory`: the same maps in memory, no packets."),
    ] = "kernel"
    pin_dir: Annotated[
        str, _say("Directory in a BPF file system for the pinned maps and links.")
    ] = "/sys/fs/bpf/reconciler"
    cache_dir: Annotated[
        str, _say("Directory of the last committed cut, used until a server answers.")
    ] = "/var/lib/reconciler"
    status: StatusAddress = "unix:/run/reconciler/agent.sock"
    metrics: MetricsAddress = ""
    cni_socket: Annotated[str, _say("Unix socket that the CNI plugin asks; empty: none.")] = (
        "/run/reconciler/cni.sock"
    )
    max_addresses: Annotated[MapSize, _say("Entries of the addresses map.")] = 524_288
    max_endpoints: Annotated[MapSize, _say("Entries of the endpoints map.")] = 4_096
    max_groups: Annotated[MapSize, _say("Entries of the groups map.")] = 131_072
    max_policies: Annotated[MapSize, _say("Entries of the policies map.")] = 262_144
    max_conntrack: Annotated[MapSize, _say("Entries of the connection tracking map.")] = 262_144
    max_fragments: Annotated[MapSize, _say("Entries of the fragments map.")] = 8_192
    max_stale: Annotated[
        Seconds,
        _say(
            "After this long without a server, remote pods count as unknown; 0: never. Counted "
            "from the start of the agent at the earliest, and of no effect while it enforces a cut "
            "that it found in the kernel and could not read from its cache."
        ),
    ] = 0.0
    service_cidr: Annotated[
        tuple[str, ...],
        _say(
            "CIDR of Services, whose egress has its own drop reason; may be given more than once."
        ),
    ] = ()
    pod_interfaces: Annotated[str, _say("Glob of the host sides of pods' veth pairs.")] = "veth*"
    attach: Annotated[
        Literal["auto", "tcx", "clsact"],
        _say("How programs are attached; `auto`: TCX where the kernel has it."),
    ] = "auto"
    record_trace: TraceFile = ""

    def check(self, refuse: Refuse) -> None:
        """What no single field can tell."""
        peers = [_address("server", each.strip(), refuse) for each in self.server.split(",")]
        _check_status(self.status, self.metrics, refuse)
        _check_cidrs("service_cidr", self.service_cidr, refuse)
        tokens = bool(self.token_file)
        unused = ("tls_cert", "tls_key") if tokens else ()
        _check_tls(self, peers, refuse, tokens=tokens, unused=unused)


class DiscoveryConfig(Configuration, frozen=True, kw_only=True):
    """Options of `reconciler xds serve`."""

    table: ClassVar[str] = "xds"
    variables: ClassVar[str] = "RECONCILER_XDS_"

    resources: Annotated[
        str, _say("Directory of resources (YAML or JSON) to serve; watched for changes.")
    ] = ""
    push: Annotated[
        str,
        _say(
            "Address of the API that is given the resources instead, by PUT and PATCH of "
            "`/resources`: `unix:PATH` or a loopback `host:port`."
        ),
    ] = ""
    listen: Annotated[
        str, _say("Address of the xDS services: `host:port`, `[v6]:port` or `unix:PATH`.")
    ] = "127.0.0.1:18000"
    transport: Transport = "grpc"
    tls_cert: ServerCertificate = ""
    tls_key: ServerKey = ""
    tls_ca: Annotated[str, _say("PEM certificates of the CA that signs client certificates.")] = ""
    cluster_name: Annotated[
        ClusterName,
        _say("Of which cluster SPIFFE IDs of nodes are believed."),
    ] = "default"
    insecure: Annotated[
        bool,
        _say(
            "Serve without TLS and believe the node that a client claims to be. "
            "Loopback and Unix sockets only."
        ),
    ] = False
    admin: Annotated[
        str,
        _say(
            "Address of CSDS and reflection, `unix:PATH` or a loopback `host:port`; empty: on "
            "`--listen` where that is without TLS, else nowhere."
        ),
    ] = ""
    rest: Annotated[
        str,
        _say(
            "Address of REST-JSON polling (`POST /v3/discovery:clusters` and so on): `unix:PATH` "
            "or a loopback `host:port`; empty: none. There is no TLS, and what node a client "
            "claims to be is believed."
        ),
    ] = ""
    status: Annotated[
        str, _say("Address of the status API: `unix:PATH` or a loopback `host:port`; empty: none.")
    ] = "unix:/run/reconciler/xds.sock"
    metrics: MetricsAddress = ""
    max_streams: Annotated[
        int, Meta(ge=0), _say("Streams at a time; one more is refused. 0: no limit.")
    ] = 20_000
    max_stream_age: StreamAge = 3600.0
    drain: Drain = 5.0
    initial_rate: Annotated[
        float, Meta(ge=0), _say("Streams a second that get their first resources; 0: no limit.")
    ] = 0.0
    response_bytes: Annotated[
        int,
        Meta(ge=1024, le=1 << 30),
        _say("Bytes of resources in one delta response; more are split over several."),
    ] = 1 << 20
    keepalive: Annotated[
        float, Meta(ge=1, le=86_400), _say("Seconds between pings on a connection.")
    ] = 30.0
    keepalive_timeout: Annotated[
        float, Meta(ge=1, le=86_400), _say("Seconds without an answer that end a connection.")
    ] = 10.0

    def check(self, refuse: Refuse) -> None:
        """What no single field can tell."""
        if bool(self.resources) == bool(self.push):
            reason = "is needed, the directory that is served, or --push"
            refuse("resources", reason if not self.push else "and --push exclude each other")
        for field, local in (
            ("admin", True), ("push", True), ("rest", True), ("status", True), ("metrics", False)
        ):  # fmt: skip
            value = getattr(self, field)
            if value and not _address(field, value, refuse).local and local:
                refuse(field, f"{value}: {_LOCAL}")
        _check_tls(self, [_address("listen", self.listen, refuse)], refuse)


Config = ServerConfig | AgentConfig


def _address(field: str, value: str, refuse: Refuse) -> Address:
    try:
        return parse_address(value)
    except ValueError as error:
        refuse(field, str(error))


def _check_status(status: str, metrics: str, refuse: Refuse) -> None:
    if metrics:
        _address("metrics", metrics, refuse)
    if not _address("status", status, refuse).local:
        refuse("status", f"{status}: {_LOCAL}")


def _check_cidrs(field: str, values: Sequence[str], refuse: Refuse) -> None:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            refuse(field, str(error))


def _check_tls(
    config: ServerConfig | AgentConfig | DiscoveryConfig,
    peers: Sequence[Address],
    refuse: Refuse,
    *,
    tokens: bool = False,
    unused: Sequence[str] = (),
) -> None:
    """TLS files, or none and nobody from elsewhere. peers: where it listens, or the servers;
    unused: fields that have no use where nodes prove themselves by token."""
    files = {name: getattr(config, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    if config.insecure:
        if any(files.values()) or tokens:
            refuse("insecure", "can't be combined with TLS files or tokens")
        if not all(peer.local for peer in peers):
            where = config.server if isinstance(config, AgentConfig) else config.listen
            reason = "plaintext is for loopback addresses and Unix sockets only"
            refuse("insecure", f"{where}: {reason}")
        return
    for name, value in files.items():
        if name in unused:
            if value:
                refuse(name, "has no use where nodes prove themselves by token")
        elif not value:
            refuse(name, "is needed (or --insecure, on loopback or a Unix socket)")


def _check_tokens(config: ServerConfig, refuse: Refuse) -> None:
    if config.token_listen and (config.node_auth == "token" or config.insecure):
        refuse("token_listen", "is for a server whose --listen takes certificates")
    if config.node_auth == "certificate" and not config.token_listen:
        return
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", config.agent_service_account):
        refuse("agent_service_account", "is needed, as namespace/name: only its tokens count")
    if not config.token_audience:
        refuse("token_audience", "is needed: a token for anyone would be one for no one")
