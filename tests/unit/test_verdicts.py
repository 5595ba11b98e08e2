"""The matrix as its users see it: rows, differences, probes, addresses of every kind."""

from __future__ import annotations

import msgspec
import pytest

from reconciler.core.objects import (
    KubeObject,
    Namespace,
    NetworkPolicy,
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
    PodTemplate,
    Workload,
    parse_prefix,
    representative,
)
from reconciler.core.verdicts import Difference, Probe, Row, Verdicts, diff, matrix, parse_probes

HTTP = (Probe("TCP", 80),)
SHOP = Namespace(ObjectMeta(name="shop"))
CLOSED = NetworkPolicy(ObjectMeta(name="closed", namespace="shop"), NetworkPolicySpec())
NODE = Node(
    ObjectMeta(name="node-1"),
    NodeSpec("10.244.0.0/16", ("10.244.0.0/16",)),
    NodeStatus((NodeAddress("InternalIP", "192.0.2.101"),)),
)


def pod(name: str, address: str = "", **spec: object) -> Pod:
    namespace, _, short = name.partition("/")
    status = PodStatus("Running", address, (PodIP(address),)) if address else PodStatus()
    return Pod(
        ObjectMeta(name=short, namespace=namespace, labels={"app": short}),
        msgspec.convert(spec, PodSpec),
        status,
    )


def row(source: str, destination: str, egress: str, ingress: str) -> Row:
    both = "allow" if (egress, ingress) == ("allow", "allow") else "deny"
    return Row(source, destination, "TCP", 80, egress, ingress, both)


def test_rows_come_sorted_and_without_self_traffic() -> None:
    rows = matrix([pod("shop/b"), SHOP, CLOSED, pod("shop/a"), pod("pay/c")], HTTP)
    assert rows == [
        row("pay/c", "shop/a", "allow", "deny"),
        row("pay/c", "shop/b", "allow", "deny"),
        row("shop/a", "pay/c", "allow", "allow"),
        row("shop/a", "shop/b", "allow", "deny"),
        row("shop/b", "pay/c", "allow", "allow"),
        row("shop/b", "shop/a", "allow", "deny"),
    ]


def test_addresses_are_sources_and_destinations() -> None:
    rows = matrix([pod("shop/a"), CLOSED], HTTP, ["203.0.113.7", "203.0.113.7", "2001:db8::1"])
    assert rows == [
        row("shop/a", "203.0.113.7", "allow", "allow"),
        row("shop/a", "2001:db8::1", "allow", "allow"),
        row("203.0.113.7", "shop/a", "allow", "deny"),
        row("2001:db8::1", "shop/a", "allow", "deny"),
    ]


def test_an_address_of_a_node_or_pod_is_that_node_or_pod() -> None:
    here, there = pod("shop/a", "10.244.0.1", nodeName="node-1"), pod("shop/b", nodeName="node-2")
    objects: list[KubeObject] = [here, there, CLOSED, NODE]
    found = {(r.source, r.destination): r for r in matrix(objects, HTTP, ["192.0.2.101"])}
    assert found["192.0.2.101", "shop/a"].verdict == "allow"
    assert found["192.0.2.101", "shop/b"].verdict == "deny"
    found = {(r.source, r.destination): r for r in matrix(objects, HTTP, ["10.244.0.1"])}
    assert found["shop/b", "10.244.0.1"].ingress == "deny"
    assert ("shop/a", "10.244.0.1") not in found


def test_an_address_inside_the_cluster_without_owner_is_unknown() -> None:
    verdicts = Verdicts([NODE, pod("shop/a")])
    assert verdicts.party("10.244.9.9").number == 0
    assert verdicts.party("203.0.113.7").number == 9
    configured = Verdicts([], cluster_cidrs=(parse_prefix("203.0.113.0/24"),))
    assert configured.party("203.0.113.7").number == 0


def test_what_is_no_pod_and_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="'shop/nope' is neither"):
        Verdicts([pod("shop/a")]).party("shop/nope")


def test_pods_that_are_done_or_on_the_host_network_have_no_rows() -> None:
    done = msgspec.structs.replace(pod("shop/done"), status=PodStatus("Succeeded"))
    assert matrix([done, pod("shop/host", hostNetwork=True), pod("shop/a")], HTTP) == []


def test_a_workloads_representative_will_do() -> None:
    meta = ObjectMeta(name="web", namespace="shop")
    workload = Workload("Deployment", meta, PodTemplate(ObjectMeta(labels={"app": "web"})))
    rows = matrix([representative(workload), pod("pay/c"), CLOSED], HTTP)
    assert rows[0] == row("pay/c", "shop/web", "allow", "deny")


def test_only_rows_of_some_namespaces() -> None:
    objects: list[KubeObject] = [pod("shop/a"), pod("pay/c"), pod("ops/x"), CLOSED]
    rows = matrix(objects, HTTP, ["203.0.113.7"], namespaces={"shop"})
    assert len(rows) == 6
    assert all("shop/a" in (r.source, r.destination) for r in rows)


def test_diff_names_what_changed_came_and_went() -> None:
    a, b, c = pod("shop/a"), pod("shop/b"), pod("pay/c")
    old = matrix([a, b], HTTP)
    assert diff(old, matrix([a, b, SHOP], HTTP)) == []
    closed = matrix([a, b, CLOSED], HTTP)
    assert diff(old, closed) == [
        Difference("shop/a", "shop/b", "TCP", 80, "allow", "deny"),
        Difference("shop/b", "shop/a", "TCP", 80, "allow", "deny"),
    ]
    assert diff(old, matrix([a, c], HTTP)) == [
        Difference("pay/c", "shop/a", "TCP", 80, "", "allow"),
        Difference("shop/a", "pay/c", "TCP", 80, "", "allow"),
        Difference("shop/a", "shop/b", "TCP", 80, "allow", ""),
        Difference("shop/b", "shop/a", "TCP", 80, "allow", ""),
    ]


def test_rows_are_written_with_the_words_from_and_to() -> None:
    text = msgspec.json.encode(row("shop/a", "shop/b", "allow", "deny"))
    assert text == (
        b'{"from":"shop/a","to":"shop/b","protocol":"TCP","port":80,'
        b'"egress":"allow","ingress":"deny","verdict":"deny"}'
    )


def test_probes_are_read() -> None:
    found = parse_probes("80/tcp, 53/udp,443,icmp,80/TCP,9/sctp")
    assert list(map(str, found)) == ["80/tcp", "53/udp", "443/tcp", "icmp", "9/sctp"]
    assert [probe.number for probe in found] == [6, 17, 6, 1, 132]


@pytest.mark.parametrize("text", ["", "http/tcp", "0/tcp", "65536", "80/icmp", "80/", "-1/udp"])
def test_a_bad_probe_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="probe"):
        parse_probes(text)
