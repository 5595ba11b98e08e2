"""Validation as the Kubernetes API does it, and addresses as bytes."""

from __future__ import annotations

import pytest

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
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    Prefix,
    format_address,
    parse_address,
    parse_prefix,
    validate,
)
from reconciler.core.objects.validate import (
    is_dns_label,
    is_dns_subdomain,
    is_port_name,
    label_key_problem,
    label_value_problem,
)

META = ObjectMeta(name="p", namespace="shop")


def paths(spec: NetworkPolicySpec) -> list[str]:
    return [
        problem.path
        for problem in validate(NetworkPolicy(META, spec), "f")
        if problem.severity == "error"
    ]


def port_paths(port: NetworkPolicyPort) -> list[str]:
    rules = (NetworkPolicyEgressRule(ports=(port,)),)
    found = paths(NetworkPolicySpec(egress=rules))
    assert all(path.startswith("spec.egress[0].ports[0].") for path in found)
    return [path.rpartition(".")[2] for path in found]


def peer_problems(peer: NetworkPolicyPeer) -> list[tuple[str, str]]:
    rules = (NetworkPolicyIngressRule(peers=(peer,)),)
    found = validate(NetworkPolicy(META, NetworkPolicySpec(ingress=rules)))
    return [
        (problem.path.removeprefix("spec.ingress[0].from[0]"), problem.severity)
        for problem in found
    ]


# ------------------------------------------------------------------------------ ports


@pytest.mark.parametrize(
    ("port", "bad"),
    [
        (NetworkPolicyPort(), []),
        (NetworkPolicyPort(port=1), []),
        (NetworkPolicyPort(port=65535, protocol="UDP"), []),
        (NetworkPolicyPort(port=0), ["port"]),
        (NetworkPolicyPort(port=65536), ["port"]),
        (NetworkPolicyPort(port=-1), ["port"]),
        (NetworkPolicyPort(port=80, end_port=80, protocol="SCTP"), []),
        (NetworkPolicyPort(port=80, end_port=79), ["endPort"]),
        (NetworkPolicyPort(port=80, end_port=65536), ["endPort"]),
        (NetworkPolicyPort(port=0, end_port=80), ["port"]),
        (NetworkPolicyPort(end_port=80), ["endPort"]),
        (NetworkPolicyPort(port="http"), []),
        (NetworkPolicyPort(port="http", end_port=80), ["endPort"]),
        (NetworkPolicyPort(port="80"), ["port"]),  # a text is a name
        (NetworkPolicyPort(port=""), ["port"]),
        (NetworkPolicyPort(port="HTTP"), ["port"]),
        (NetworkPolicyPort(protocol="tcp"), ["protocol"]),
        (NetworkPolicyPort(protocol="ICMP"), ["protocol"]),
        (NetworkPolicyPort(protocol=""), ["protocol"]),
    ],
)
def test_ports(port: NetworkPolicyPort, bad: list[str]) -> None:
    assert port_paths(port) == bad


@pytest.mark.parametrize("name", ["a", "http", "8080-http", "a1-b2-c3", "x" * 15])
def test_port_names(name: str) -> None:
    assert is_port_name(name)


@pytest.mark.parametrize(
    "name", ["", "80", "-a", "a-", "a--b", "A", "a_b", "a.b", "x" * 16, "a\n", "1-2"]
)
def test_what_is_no_port_name(name: str) -> None:
    assert not is_port_name(name)


# ------------------------------------------------------------------------------ peers


ALL = LabelSelector()


@pytest.mark.parametrize(
    ("peer", "problems"),
    [
        (NetworkPolicyPeer(), [("", "error")]),
        (NetworkPolicyPeer(pod_selector=ALL), []),
        (NetworkPolicyPeer(pod_selector=ALL, namespace_selector=ALL), []),
        (NetworkPolicyPeer(ip_block=IPBlock("10.0.0.0/8")), []),
        (NetworkPolicyPeer(ip_block=IPBlock("10.0.0.0/8"), pod_selector=ALL), [("", "error")]),
        (
            NetworkPolicyPeer(ip_block=IPBlock("10.0.0.0/8"), namespace_selector=ALL),
            [("", "error")],
        ),
        (
            NetworkPolicyPeer(pod_selector=LabelSelector(match_labels={"a b": "c"})),
            [(".podSelector.matchLabels[a b]", "error")],
        ),
        (
            NetworkPolicyPeer(namespace_selector=LabelSelector(match_labels={"a": "-"})),
            [(".namespaceSelector.matchLabels[a]", "error")],
        ),
    ],
)
def test_peers(peer: NetworkPolicyPeer, problems: list[tuple[str, str]]) -> None:
    assert peer_problems(peer) == problems


@pytest.mark.parametrize(
    ("cidr", "excepts", "problems"),
    [
        ("10.0.0.0/8", ("10.1.0.0/16", "10.0.0.0/9"), []),
        ("0.0.0.0/0", ("10.0.0.0/8",), []),
        ("fd00::/8", ("fd00::/16",), []),
        ("10.0.0.0/8", ("10.0.0.0/8",), [("except[0]", "error")]),  # strictly inside
        ("10.0.0.0/8", ("0.0.0.0/0",), [("except[0]", "error")]),
        ("10.0.0.0/8", ("10.1.0.0/16", "11.0.0.0/16"), [("except[1]", "error")]),
        ("10.0.0.0/8", ("fd00::/16",), [("except[0]", "error")]),
        ("10.0.0.0/8", ("10.1.0.0",), [("except[0]", "error")]),
        ("10.0.0.1", (), [("cidr", "error")]),
        ("10.0.0.0/33", (), [("cidr", "error")]),
        ("", (), [("cidr", "error")]),
        ("10.0.0.5/8", (), [("cidr", "warning")]),
        ("10.0.0.0/8", ("10.1.2.3/16",), [("except[0]", "warning")]),
        ("010.0.0.0/8", (), []),  # decimal, as the API server reads it
    ],
)
def test_ip_blocks(cidr: str, excepts: tuple[str, ...], problems: list[tuple[str, str]]) -> None:
    found = peer_problems(NetworkPolicyPeer(ip_block=IPBlock(cidr, excepts)))
    assert [(path.removeprefix(".ipBlock."), severity) for path, severity in found] == problems


# -------------------------------------------------------------------------- selectors


@pytest.mark.parametrize(
    ("operator", "values", "bad"),
    [
        ("In", ("a", ""), []),
        ("In", (), ["values"]),
        ("NotIn", (), ["values"]),
        ("NotIn", ("a",), []),
        ("Exists", (), []),
        ("Exists", ("a",), ["values"]),
        ("DoesNotExist", (), []),
        ("DoesNotExist", ("a",), ["values"]),
        ("in", ("a",), ["operator"]),
        ("", (), ["operator"]),
        ("In", ("a", "b c"), ["values[1]"]),
    ],
)
def test_selector_operators(operator: str, values: tuple[str, ...], bad: list[str]) -> None:
    requirement = LabelSelectorRequirement("key", operator, values)
    selector = LabelSelector(match_expressions=(requirement,))
    found = paths(NetworkPolicySpec(pod_selector=selector))
    assert [path.removeprefix("spec.podSelector.matchExpressions[0].") for path in found] == bad


def test_selector_keys() -> None:
    selector = LabelSelector(match_expressions=(LabelSelectorRequirement("a b", "Exists"),))
    assert paths(NetworkPolicySpec(pod_selector=selector)) == [
        "spec.podSelector.matchExpressions[0].key"
    ]


@pytest.mark.parametrize(
    "key", ["a", "A_b.c-1", "x" * 63, "example.com/a", "a.b-c.d/X", "y" * 253 + "/a", "1"]
)
def test_label_keys(key: str) -> None:
    assert label_key_problem(key) == ""


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "-a",
        "a-",
        "a b",
        "x" * 64,
        "A/b",
        "a_b/c",
        "a/b/c",
        "a..b/c",
        "y" * 254 + "/a",
        "a\n",
        "é",
        "a:b",
        "a=b",
        "a;b",
    ],
)
def test_what_is_no_label_key(key: str) -> None:
    assert label_key_problem(key)


@pytest.mark.parametrize("value", ["", "a", "A_b.c-1", "x" * 63, "1"])
def test_label_values(value: str) -> None:
    assert label_value_problem(value) == ""


@pytest.mark.parametrize("value", ["-", "a-", ".a", "a b", "x" * 64, "a/b", "a\n", "é"])
def test_what_is_no_label_value(value: str) -> None:
    assert label_value_problem(value)


# ------------------------------------------------------------------------ other fields


@pytest.mark.parametrize(
    ("types", "bad"),
    [
        ((), []),
        (("Ingress",), []),
        (("Egress", "Ingress"), []),
        (("Ingress", "Ingress"), []),
        (("ingress",), ["spec.policyTypes[0]"]),
        (("Ingress", ""), ["spec.policyTypes[1]"]),
        (("Ingress", "Egress", "Ingress"), ["spec.policyTypes"]),
    ],
)
def test_policy_types(types: tuple[str, ...], bad: list[str]) -> None:
    assert paths(NetworkPolicySpec(policy_types=types)) == bad


@pytest.mark.parametrize(
    ("meta", "path"),
    [
        (ObjectMeta(name="A"), "metadata.name"),
        (ObjectMeta(name="a_b"), "metadata.name"),
        (ObjectMeta(name="x" * 254), "metadata.name"),
        (ObjectMeta(name="p", namespace="a.b"), "metadata.namespace"),
        (ObjectMeta(name="p", labels={"a": "b c"}), "metadata.labels[a]"),
        (ObjectMeta(name="p", labels={"-a": "b"}), "metadata.labels[-a]"),
    ],
)
def test_metadata(meta: ObjectMeta, path: str) -> None:
    assert [problem.path for problem in validate(NetworkPolicy(meta))] == [path]


def test_names() -> None:
    assert is_dns_subdomain("a.b-c.1")
    assert not is_dns_subdomain("a..b")
    assert is_dns_label("a-1")
    assert not is_dns_label("a.b")
    assert [p.path for p in validate(Namespace(ObjectMeta(name="a.b")))] == ["metadata.name"]
    assert validate(Node(ObjectMeta(name="node.example.com"))) == ()


def test_a_problem_says_where_what_and_why() -> None:
    spec = NetworkPolicySpec(policy_types=("X",))
    (problem,) = validate(NetworkPolicy(META, spec), "f.yaml#2")
    assert str(problem) == (
        "f.yaml#2: NetworkPolicy shop/p: spec.policyTypes[0]: 'X' is not one of Ingress, Egress"
    )


def test_pods() -> None:
    ports = (
        ContainerPort(container_port=80, name="http"),
        ContainerPort(container_port=0, name="http"),
        ContainerPort(container_port=80, name="B", protocol="tcp"),
    )
    pod = Pod(
        META,
        PodSpec(
            containers=(Container(ports=ports),), init_containers=(Container(ports=ports[1:2]),)
        ),
        PodStatus(pod_ips=(PodIP("10.0.0.1"), PodIP("10.0.0.2"), PodIP("x"))),
    )
    assert [problem.path for problem in validate(pod)] == [
        "spec.containers[0].ports[1].containerPort",
        "spec.containers[0].ports[1].name",
        "spec.containers[0].ports[2].protocol",
        "spec.containers[0].ports[2].name",
        "spec.initContainers[0].ports[0].containerPort",
        "status.podIPs[1].ip",
        "status.podIPs[2].ip",
    ]
    alone = Pod(META, status=PodStatus(pod_ip="x"))
    assert [problem.path for problem in validate(alone)] == ["status.podIP"]


def test_nodes() -> None:
    node = Node(
        ObjectMeta(name="n"),
        NodeSpec(pod_cidr="10.0.0.0/24", pod_cidrs=("10.0.0.0/24", "x")),
        NodeStatus((NodeAddress("Hostname", "n"), NodeAddress("InternalIP", "n"))),
    )
    assert [problem.path for problem in validate(node)] == [
        "status.addresses[1].address",
        "spec.podCIDRs[1]",
    ]


# -------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("10.0.0.1", b"\x0a\0\0\1"),
        ("010.0.0.001", b"\x0a\0\0\1"),
        ("255.255.255.255", b"\xff" * 4),
        ("::1", b"\0" * 15 + b"\1"),
        ("FD00::1", b"\xfd" + b"\0" * 14 + b"\1"),
    ],
)
def test_addresses(text: str, data: bytes) -> None:
    assert parse_address(text) == data
    assert parse_address(format_address(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "10.0.0.0.0",
        "10.0.0.256",
        "10.0.0.-1",
        "10.0.0.a",
        "10.0.0.1 ",
        "1e1.0.0.1",
        "²0.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        ":::",
        "10.0.0.99999999999",
        "10.0.0.1/32",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone"):
        parse_address(text)


def test_prefixes() -> None:
    assert parse_prefix("10.1.2.3/16") == Prefix(b"\x0a\1\0\0", 16)
    assert parse_prefix("0.0.0.0/0") == Prefix(b"\0" * 4, 0)
    assert str(parse_prefix("FD00::1/8")) == "fd00::/8"
    assert parse_prefix("10.0.0.1/32").address == parse_address("10.0.0.1")


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/-1",
        "10.0.0.0/08",
        "10.0.0/8",
        "/8",
        "10.0.0.0/8/8",
        "::ffff:10.0.0.0/104",
    ],
)
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match="CIDR"):
        parse_prefix(text)


def test_covers() -> None:
    outer, inner = parse_prefix("10.0.0.0/8"), parse_prefix("10.1.0.0/16")
    assert outer.covers(inner)
    assert outer.covers(outer)
    assert not inner.covers(outer)
    assert not parse_prefix("11.0.0.0/8").covers(inner)
    assert not parse_prefix("::/0").covers(inner)
