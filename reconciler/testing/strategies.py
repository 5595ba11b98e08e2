"""Hypothesis strategies for clusters and policies: small vocabularies, so that things meet.

`worlds` are whole clusters of objects (namespaces, pods, policies); `rule_sets` are compiled rules
with denies, for what stands behind the compiler; `translated_policies` are the compiler's inner
form, with denies, reserved peers and policies that isolate nobody. Every policy from here is valid.
"""

from __future__ import annotations

from functools import partial
from ipaddress import ip_network

import msgspec
from hypothesis import strategies as st

from reconciler.core.objects import (
    Container,
    ContainerPort,
    IPBlock,
    LabelSelector,
    LabelSelectorRequirement,
    Namespace,
    NetworkPolicy,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
    ObjectMeta,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)
from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    PortRange,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)
from reconciler.core.policy.rules import PolicyRule, Translated
from reconciler.core.policy.selectors import (
    EVERYTHING,
    NAMESPACE,
    NAMESPACE_LABEL,
    NamedPort,
    Requirement,
    Selector,
    selector,
)

NAMESPACES = ("shop", "pay", "ops")
NODES = ("node-1", "node-2")
KEYS = ("app", "tier", "flag")
VALUES = ("", "web", "db", "x")
PORT_NAMES = ("http", "dns")
PROTOCOL_NAMES = ("TCP", "UDP", "SCTP")
PROTOCOLS = (6, 17, 132)
PORTS = (1, 53, 80, 81, 443, 8080, 8081, 32768, 65535)
BLOCKS = (
    "0.0.0.0/0", "203.0.113.0/24", "203.0.113.128/25", "203.0.113.7/32", "198.51.100.0/24",
    "::/0", "2001:db8::/32", "2001:db8::/64",
)  # fmt: skip
EXTERNALS = (
    "203.0.113.7", "203.0.113.8", "203.0.113.200", "198.51.100.1", "192.0.2.1",
    "2001:db8::1", "2001:db8:1::1", "2001:db9::1",
)  # fmt: skip
"""Addresses outside the cluster, inside and beside BLOCKS."""

POD_NETWORK = "10.244.0.0/16"
PEER_SETS = ("a" * 32, "b" * 32, "c" * 32)
RESERVED = (1, 2, 6, 7, 9, 10)


class World(msgspec.Struct, frozen=True):
    """Objects of a cluster; pods have distinct addresses inside POD_NETWORK."""

    namespaces: tuple[Namespace, ...]
    pods: tuple[Pod, ...]
    policies: tuple[NetworkPolicy, ...]

    @property
    def objects(self) -> tuple[Namespace | Pod | NetworkPolicy, ...]:
        return (*self.namespaces, *self.pods, *self.policies)


# ---------------------------------------------------------------------------- labels, selectors


def labels() -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)


def label_selectors() -> st.SearchStrategy[LabelSelector]:
    """All operators; often empty."""
    return st.builds(
        LabelSelector,
        match_labels=st.dictionaries(
            st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2
        ).flatmap(lambda found: st.sampled_from([found, {}])),
        match_expressions=st.lists(label_expressions(), max_size=2).map(tuple),
    )


@st.composite
def label_expressions(draw: st.DrawFn) -> LabelSelectorRequirement:
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
    values: tuple[str, ...] = ()
    if operator in ("In", "NotIn"):
        values = tuple(draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=2, unique=True)))
    return LabelSelectorRequirement(draw(st.sampled_from(KEYS)), operator, values)


# --------------------------------------------------------------------------------------- objects


def namespaces() -> st.SearchStrategy[tuple[Namespace, ...]]:
    """One object for each of NAMESPACES."""
    return st.tuples(*(labels().map(partial(_namespace, name)) for name in NAMESPACES))


def _namespace(name: str, labels: dict[str, str]) -> Namespace:
    return Namespace(ObjectMeta(name=name, labels=labels))


@st.composite
def pods(draw: st.DrawFn, index: int = 0) -> Pod:
    """A running pod, or one without address and node. `index` < 250 makes name and address."""
    ports = [
        ContainerPort(draw(st.sampled_from(PORTS)), name, draw(st.sampled_from(PROTOCOL_NAMES)))
        for name in draw(st.lists(st.sampled_from(PORT_NAMES), max_size=2, unique=True))
    ]
    address = f"10.244.0.{index + 1}"
    placed = draw(st.integers(0, 4)) > 0
    return Pod(
        ObjectMeta(
            name=f"pod-{index}",
            namespace=draw(st.sampled_from(NAMESPACES)),
            labels=draw(labels()),
            uid=f"uid-{index}",
        ),
        PodSpec(
            node_name=draw(st.sampled_from(NODES)) if placed else "",
            service_account_name=draw(st.sampled_from(("default", "robot"))),
            containers=(Container("main", tuple(ports)),),
        ),
        PodStatus("Running", address, (PodIP(address),)) if placed else PodStatus("Pending"),
    )


@st.composite
def ip_blocks(draw: st.DrawFn) -> IPBlock:
    cidr = draw(st.sampled_from(BLOCKS))
    inside = [
        block
        for block in BLOCKS
        if block != cidr
        and ip_network(block).version == ip_network(cidr).version
        and ip_network(block).subnet_of(ip_network(cidr))  # type: ignore[arg-type]
    ]
    excepts = draw(st.lists(st.sampled_from(inside), max_size=2, unique=True)) if inside else []
    return IPBlock(cidr, tuple(excepts))


@st.composite
def policy_peers(draw: st.DrawFn) -> NetworkPolicyPeer:
    form = draw(st.sampled_from(("pod", "namespace", "both", "block")))
    if form == "block":
        return NetworkPolicyPeer(ip_block=draw(ip_blocks()))
    return NetworkPolicyPeer(
        pod_selector=None if form == "namespace" else draw(label_selectors()),
        namespace_selector=None if form == "pod" else draw(label_selectors()),
    )


@st.composite
def policy_ports(draw: st.DrawFn) -> NetworkPolicyPort:
    protocol = draw(st.sampled_from(PROTOCOL_NAMES))
    form = draw(st.sampled_from(("all", "number", "number", "range", "name")))
    if form == "all":
        return NetworkPolicyPort(protocol)
    if form == "name":
        return NetworkPolicyPort(protocol, draw(st.sampled_from(PORT_NAMES)))
    port = draw(st.sampled_from(PORTS))
    if form == "number":
        return NetworkPolicyPort(protocol, port)
    return NetworkPolicyPort(protocol, port, draw(st.integers(port, 65535)))


@st.composite
def network_policies(draw: st.DrawFn, index: int = 0) -> NetworkPolicy:
    """Every form of policyTypes, with sections that they leave out; from/to/ports often empty."""
    peers = st.lists(policy_peers(), max_size=2).map(tuple)
    ports = st.lists(policy_ports(), max_size=2).map(tuple)
    types = st.sampled_from(((), ("Ingress",), ("Egress",), ("Ingress", "Egress")))
    return NetworkPolicy(
        ObjectMeta(name=f"policy-{index}", namespace=draw(st.sampled_from(NAMESPACES))),
        NetworkPolicySpec(
            pod_selector=draw(label_selectors()),
            ingress=tuple(
                draw(st.lists(st.builds(NetworkPolicyIngressRule, peers, ports), max_size=2))
            ),
            egress=tuple(
                draw(st.lists(st.builds(NetworkPolicyEgressRule, peers, ports), max_size=2))
            ),
            policy_types=draw(types),
        ),
    )


@st.composite
def worlds(draw: st.DrawFn, max_pods: int = 6, max_policies: int = 4) -> World:
    count = draw(st.integers(1, max_pods))
    return World(
        draw(namespaces()),
        tuple(draw(pods(index)) for index in range(count)),
        tuple(draw(network_policies(i)) for i in range(draw(st.integers(0, max_policies)))),
    )


# ----------------------------------------------------------------------------- the compiler's form


def port_ranges() -> st.SearchStrategy[PortRange]:
    """Any protocol of PROTOCOLS and any range, with a liking for PORTS and for all."""
    edge = st.one_of(st.sampled_from(PORTS), st.integers(0, 65535))
    some = st.builds(
        lambda protocol, a, b: PortRange(protocol, min(a, b), max(a, b)),
        st.sampled_from(PROTOCOLS),
        edge,
        edge,
    )
    one = st.builds(
        lambda protocol, port: PortRange(protocol, port, port), st.sampled_from(PROTOCOLS), edge
    )
    near = st.builds(  # ranges that overlap, touch, or miss each other by one
        lambda first, width: PortRange(6, first, first + width),
        st.integers(80, 86),
        st.integers(0, 3),
    )
    every = st.sampled_from([PortRange(number) for number in PROTOCOLS])
    return st.one_of(one, some, near, every)


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def cidr_blocks() -> st.SearchStrategy[CidrBlock]:
    return ip_blocks().map(
        lambda block: CidrBlock(prefix(block.cidr), tuple(sorted(map(prefix, block.excepts))))
    )


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """One compiled rule: ALLOW or DENY, all kinds of peers."""
    return Rule(
        draw(st.sampled_from(Verdict)),
        tuple(draw(st.lists(port_ranges(), max_size=3))),
        draw(st.booleans()),
        tuple(draw(st.lists(st.sampled_from(PEER_SETS), max_size=2, unique=True))),
        tuple(draw(st.lists(cidr_blocks(), max_size=2))),
        tuple(draw(st.lists(st.sampled_from(RESERVED), max_size=2, unique=True))),
    )


def rule_sets() -> st.SearchStrategy[RuleSet]:
    return st.builds(
        RuleSet, st.sampled_from(Direction), st.booleans(), st.lists(rules(), max_size=6).map(tuple)
    )


def selectors() -> st.SearchStrategy[Selector]:
    """Over pod labels, namespace labels and the namespace."""
    keys = [f"k8s:{key}" for key in KEYS] + [NAMESPACE_LABEL + key for key in KEYS]
    terms = st.builds(
        lambda key, term: Requirement(key, term.operator, term.values),
        st.sampled_from(keys),
        label_expressions(),
    )
    homes = st.sampled_from(NAMESPACES).map(lambda name: Requirement(NAMESPACE, "In", (name,)))
    return st.one_of(
        st.just(EVERYTHING),
        homes.map(lambda home: selector([home])),
        st.lists(st.one_of(terms, homes), max_size=3).map(selector),
    )


@st.composite
def policy_rules(draw: st.DrawFn, origin: str = "test") -> PolicyRule:
    named = st.builds(NamedPort, st.sampled_from(PORT_NAMES), st.sampled_from(PROTOCOLS))
    ports = st.lists(st.one_of(port_ranges(), named, named), max_size=2).map(tuple)
    return PolicyRule(
        draw(st.sampled_from(Verdict)),
        draw(st.integers(0, 4)) == 0,
        tuple(draw(st.lists(selectors(), max_size=2))),
        tuple(draw(st.lists(cidr_blocks(), max_size=1))),
        tuple(draw(st.lists(st.sampled_from(RESERVED), max_size=1))),
        draw(st.one_of(st.none(), ports, ports)),
        origin,
    )


@st.composite
def translated_policies(draw: st.DrawFn, origin: str = "test") -> Translated:
    """The compiler's form of one policy, with rules that deny."""
    section = st.one_of(st.none(), st.lists(policy_rules(origin), max_size=2).map(tuple))
    return Translated(draw(selectors()), draw(section), draw(section), draw(st.booleans()))
