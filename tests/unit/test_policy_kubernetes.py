"""Kubernetes NetworkPolicy, point by point: what independent implementations get wrong.

Each test is one small cluster and asks the whole compiler (through `Verdicts`), and the oracle too.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from reconciler.core.labels import LabelFilter
from reconciler.core.objects import (
    Container,
    ContainerPort,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    validate,
)
from reconciler.core.policy import oracle
from reconciler.core.policy.rules import HOST_ORIGIN
from reconciler.core.policy.translate import translate
from reconciler.core.verdicts import Probe, Verdicts

FILTER = LabelFilter.default()
NODE = Node(
    ObjectMeta(name="node-1"),
    NodeSpec("10.244.0.0/16", ("10.244.0.0/16",)),
    NodeStatus((NodeAddress("InternalIP", "192.0.2.101"),)),
)
OTHER_NODE = Node(
    ObjectMeta(name="node-2"), NodeSpec(), NodeStatus((NodeAddress("InternalIP", "192.0.2.102"),))
)
SHOP = Namespace(ObjectMeta(name="shop", labels={"team": "a"}))
PAY = Namespace(ObjectMeta(name="pay", labels={"team": "b", "flag": ""}))


def pod(name: str, *ports: tuple[str, str, int], **labels: str) -> Pod:
    """A pod "namespace/name" on node-1 with container ports (name, protocol, number)."""
    namespace, _, short = name.partition("/")
    return Pod(
        ObjectMeta(name=short, namespace=namespace, labels=labels),
        PodSpec(
            node_name="node-1",
            containers=(
                Container("c", tuple(ContainerPort(p, n, proto) for n, proto, p in ports)),
            ),
        ),
    )


def policy(spec: str, name: str = "shop/p") -> NetworkPolicy:
    """A valid policy from its spec in JSON."""
    namespace, _, short = name.partition("/")
    text = f'{{"metadata": {{"name": "{short}", "namespace": "{namespace}"}}, "spec": {spec}}}'
    found = msgspec.json.decode(text, type=NetworkPolicy)
    assert not [problem for problem in validate(found) if problem.severity == "error"]
    return found


class Story:
    """Asks the compiler and the oracle, which must agree, whether a packet passes."""

    def __init__(self, pods: Iterable[Pod], *policies: NetworkPolicy) -> None:
        self.pods = {f"{p.metadata.namespace}/{p.metadata.name}": p for p in pods}
        self.verdicts = Verdicts((SHOP, PAY, NODE, OTHER_NODE, *self.pods.values(), *policies))
        self.world = oracle.World(
            {"shop": SHOP, "pay": PAY}, policies, lambda key: key == "etcd_node"
        )

    def party(self, name: str) -> oracle.Party:
        if name in self.pods:
            return self.pods[name]
        nodes = {"192.0.2.101": "node-1", "192.0.2.102": "node-2"}
        if name in nodes:
            return oracle.Host(nodes[name])
        return oracle.Unknown() if name.startswith("10.244.") else oracle.External(name)

    def sides(self, source: str, destination: str, probe: Probe) -> tuple[bool, bool]:
        found = self.verdicts.decide(
            self.verdicts.party(source), self.verdicts.party(destination), probe
        )
        sides = tuple(side is None or side.allowed for side in found)
        expected = oracle.oracle(
            self.world, self.party(source), self.party(destination), probe.protocol, probe.port
        )
        assert sides == expected
        return expected

    def passes(self, source: str, destination: str, port: int = 80, protocol: str = "TCP") -> bool:
        return all(self.sides(source, destination, Probe(protocol, port)))


WEB = pod("shop/web", app="web")
DB = pod("shop/db", app="db", flag="")
BARE = pod("shop/bare")
PAYER = pod("pay/payer", app="payer")
PODS = (WEB, DB, BARE, PAYER)


def test_notin_and_doesnotexist_match_an_absent_key() -> None:
    notin = policy(
        '{"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchExpressions":'
        ' [{"key": "app", "operator": "NotIn", "values": ["web"]}]}}]}]}'
    )
    story = Story(PODS, notin)
    assert story.passes("shop/bare", "shop/db")
    assert not story.passes("shop/web", "shop/db")
    absent = policy(
        '{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}'
    )
    story = Story(PODS, absent)
    assert not story.passes("shop/web", "shop/bare")
    assert story.passes("shop/bare", "shop/web")


def test_an_empty_value_needs_the_key() -> None:
    story = Story(
        PODS,
        policy(
            '{"podSelector": {}, "ingress": [{"from": [{"podSelector":'
            ' {"matchLabels": {"flag": ""}}}]}]}'
        ),
    )
    assert story.passes("shop/db", "shop/web")
    assert not story.passes("shop/bare", "shop/web")
    story = Story(
        PODS,
        policy(
            '{"podSelector": {}, "ingress": [{"from": [{"namespaceSelector":'
            ' {"matchLabels": {"flag": ""}}}]}]}'
        ),
    )
    assert story.passes("pay/payer", "shop/web")
    assert not story.passes("shop/db", "shop/web")


def test_no_policy_types_with_egress_isolates_ingress_too() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "egress": [{}]}'))
    assert story.sides("shop/web", "shop/db", Probe("TCP", 80)) == (True, False)


def test_no_policy_types_without_egress_leaves_egress_open() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "egress": []}'))
    assert story.sides("shop/web", "pay/payer", Probe("TCP", 80)) == (True, True)
    assert story.sides("shop/web", "shop/db", Probe("TCP", 80)) == (True, False)


def test_policy_types_egress_ignores_ingress_rules() -> None:
    spec = (
        '{"podSelector": {}, "policyTypes": ["Egress"],'
        ' "ingress": [{"from": [{"podSelector": {}}]}]}'
    )
    story = Story(PODS, policy(spec))
    assert story.sides("pay/payer", "shop/web", Probe("TCP", 80)) == (True, True)
    assert story.sides("shop/web", "pay/payer", Probe("TCP", 80)) == (False, True)
    assert [w.path for w in story.verdicts.warnings] == ["spec.ingress"]


def test_an_empty_rule_allows_everybody() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "ingress": [{}]}'))
    for source in ("pay/payer", "203.0.113.7", "192.0.2.102", "10.244.9.9", "2001:db8::1"):
        assert story.passes(source, "shop/web")
    assert story.passes("pay/payer", "shop/web", 0, "ICMP")


@pytest.mark.parametrize("peers", ['"from": [], ', ""])
def test_an_empty_from_is_everybody(peers: str) -> None:
    spec = f'{{"podSelector": {{}}, "ingress": [{{{peers}"ports": [{{"port": 80}}]}}]}}'
    story = Story(PODS, policy(spec))
    assert story.passes("pay/payer", "shop/web")
    assert story.passes("203.0.113.7", "shop/web")
    assert story.passes("10.244.9.9", "shop/web")
    assert not story.passes("203.0.113.7", "shop/web", 81)


def test_no_rules_isolate_but_for_the_own_node() -> None:
    story = Story(PODS, policy('{"podSelector": {}}'))
    assert not story.passes("shop/db", "shop/web")
    assert not story.passes("203.0.113.7", "shop/web")
    assert not story.passes("192.0.2.102", "shop/web")
    assert story.passes("192.0.2.101", "shop/web")


def test_which_node_is_host_depends_on_the_pod() -> None:
    elsewhere = msgspec.structs.replace(
        WEB,
        metadata=ObjectMeta(name="far", namespace="shop", labels={"app": "web"}),
        spec=PodSpec(node_name="node-2"),
    )
    story = Story((WEB, elsewhere), policy('{"podSelector": {}}'))
    assert story.passes("192.0.2.101", "shop/web")
    assert not story.passes("192.0.2.101", "shop/far")
    assert story.passes("192.0.2.102", "shop/far")


def test_the_own_node_is_no_peer_of_egress() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "policyTypes": ["Egress"]}'))
    assert not story.passes("shop/web", "192.0.2.101")


def test_a_pod_selector_alone_means_the_own_namespace() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}'))
    assert story.passes("shop/db", "shop/web")
    assert not story.passes("pay/payer", "shop/web")


def test_a_namespace_selector_alone_means_all_its_pods() -> None:
    spec = '{"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}'
    story = Story(PODS, policy(spec))
    assert story.passes("pay/payer", "shop/web")
    for nobody in ("203.0.113.7", "192.0.2.102", "10.244.9.9"):
        assert not story.passes(nobody, "shop/web")


def test_both_selectors_in_one_peer_are_joined_by_and() -> None:
    both = (
        '{"namespaceSelector": {"matchLabels": {"team": "b"}},'
        ' "podSelector": {"matchLabels": {"app": "payer"}}}'
    )
    other = pod("pay/other", app="other")
    story = Story(
        (*PODS, other), policy(f'{{"podSelector": {{}}, "ingress": [{{"from": [{both}]}}]}}')
    )
    assert story.passes("pay/payer", "shop/web")
    assert not story.passes("pay/other", "shop/web")
    assert not story.passes("shop/db", "shop/web")


def test_selectors_in_two_peers_are_joined_by_or() -> None:
    peers = (
        '{"namespaceSelector": {"matchLabels": {"team": "b"}}},'
        ' {"podSelector": {"matchLabels": {"app": "db"}}}'
    )
    story = Story(PODS, policy(f'{{"podSelector": {{}}, "ingress": [{{"from": [{peers}]}}]}}'))
    assert story.passes("pay/payer", "shop/web")
    assert story.passes("shop/db", "shop/web")
    assert not story.passes("shop/bare", "shop/web")


def test_policies_add_up() -> None:
    story = Story(
        PODS,
        policy('{"podSelector": {}}', "shop/closed"),
        policy(
            '{"podSelector": {"matchLabels": {"app": "web"}},'
            ' "ingress": [{"ports": [{"port": 80}]}]}',
            "shop/open",
        ),
    )
    assert story.passes("shop/db", "shop/web")
    assert not story.passes("shop/web", "shop/db")


def test_all_addresses_are_neither_pods_nor_nodes_nor_unknown() -> None:
    block = '{"ipBlock": {"cidr": "0.0.0.0/0"}}'
    story = Story(
        PODS,
        policy(
            f'{{"podSelector": {{}}, "ingress": [{{"from": [{block}]}}],'
            f' "egress": [{{"to": [{block}]}}]}}'
        ),
    )
    assert story.passes("203.0.113.7", "shop/web")
    assert story.passes("shop/web", "203.0.113.7")
    assert not story.passes("2001:db8::1", "shop/web")
    for other in ("shop/db", "pay/payer", "192.0.2.102", "10.244.9.9"):
        assert not story.passes(other, "shop/web")
        assert not story.passes("shop/web", other)


def test_a_block_of_pod_or_node_addresses_selects_nothing() -> None:
    addressed = msgspec.structs.replace(
        DB, status=PodStatus("Running", "10.244.0.7", (PodIP("10.244.0.7"),))
    )
    blocks = '{"ipBlock": {"cidr": "10.244.0.7/32"}}, {"ipBlock": {"cidr": "192.0.2.102/32"}}'
    story = Story(
        (WEB, addressed),
        policy(f'{{"podSelector": {{}}, "ingress": [{{"from": [{blocks}]}}]}}'),
    )
    assert not story.passes("shop/db", "shop/web")
    assert not story.passes("192.0.2.102", "shop/web")


def test_an_ip_block_lets_no_pod_of_the_namespace_in() -> None:
    block = '{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}'
    story = Story(PODS, policy(f'{{"podSelector": {{}}, "ingress": [{{"from": [{block}]}}]}}'))
    assert story.passes("203.0.113.7", "shop/web")
    assert not story.passes("203.0.113.200", "shop/web")
    assert not story.passes("198.51.100.1", "shop/web")
    assert not story.passes("shop/db", "shop/web")


def test_except_of_one_block_is_no_except_of_another() -> None:
    blocks = (
        '{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}},'
        '{"ipBlock": {"cidr": "203.0.113.200/32"}}'
    )
    story = Story(PODS, policy(f'{{"podSelector": {{}}, "ingress": [{{"from": [{blocks}]}}]}}'))
    assert story.passes("203.0.113.200", "shop/web")
    assert not story.passes("203.0.113.201", "shop/web")


def test_a_range_of_ports_ends_where_it_says() -> None:
    ports = '[{"port": 8000, "endPort": 8010}, {"protocol": "UDP", "port": 53}]'
    story = Story(PODS, policy(f'{{"podSelector": {{}}, "ingress": [{{"ports": {ports}}}]}}'))
    inside = [p for p in range(7990, 8020) if story.passes("pay/payer", "shop/web", p)]
    assert inside == list(range(8000, 8011))
    assert story.passes("pay/payer", "shop/web", 53, "UDP")
    assert not story.passes("pay/payer", "shop/web", 53)
    assert not story.passes("pay/payer", "shop/web", 8000, "UDP")


def test_the_protocol_is_tcp_unless_said() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "ingress": [{"ports": [{}]}]}'))
    assert story.passes("pay/payer", "shop/web", 1234)
    assert not story.passes("pay/payer", "shop/web", 1234, "UDP")
    assert not story.passes("pay/payer", "shop/web", 1234, "SCTP")


def test_a_protocol_without_a_port_is_all_its_ports() -> None:
    story = Story(
        PODS, policy('{"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP"}]}]}')
    )
    assert story.passes("pay/payer", "shop/web", 1, "UDP")
    assert story.passes("pay/payer", "shop/web", 65535, "UDP")
    assert not story.passes("pay/payer", "shop/web", 53)
    assert not story.passes("pay/payer", "shop/web", 0, "ICMP")


def test_named_ports_of_ingress_are_the_subjects_own() -> None:
    one, two = pod("shop/one", ("http", "TCP", 8080)), pod("shop/two", ("http", "TCP", 9090))
    udp = pod("shop/udp", ("http", "UDP", 8080))
    story = Story(
        (one, two, udp, PAYER),
        policy('{"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}'),
    )
    assert story.passes("pay/payer", "shop/one", 8080)
    assert not story.passes("pay/payer", "shop/one", 9090)
    assert story.passes("pay/payer", "shop/two", 9090)
    assert not story.passes("pay/payer", "shop/udp", 8080)
    assert not story.passes("pay/payer", "shop/udp", 8080, "UDP")


def test_a_port_name_that_nobody_has_opens_nothing() -> None:
    ports = '[{"ports": [{"port": "nope"}]}]'
    spec = f'{{"podSelector": {{}}, "ingress": {ports}, "egress": {ports}}}'
    story = Story(PODS, policy(spec))
    assert not story.passes("pay/payer", "shop/web")
    assert not story.passes("shop/web", "pay/payer")
    assert not story.passes("shop/web", "203.0.113.7")


def test_named_ports_of_egress_are_each_destinations_own() -> None:
    one, two = pod("pay/one", ("http", "TCP", 8080)), pod("shop/two", ("http", "TCP", 9090))
    story = Story(
        (WEB, one, two),
        policy(
            '{"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],'
            ' "egress": [{"ports": [{"port": "http"}]}]}'
        ),
    )
    assert story.passes("shop/web", "pay/one", 8080)
    assert not story.passes("shop/web", "pay/one", 9090)
    assert story.passes("shop/web", "shop/two", 9090)
    assert not story.passes("shop/web", "203.0.113.7", 8080)


def test_named_ports_of_egress_ask_for_the_peer_too() -> None:
    one, two = pod("pay/one", ("http", "TCP", 8080)), pod("shop/two", ("http", "TCP", 8080))
    story = Story(
        (WEB, one, two),
        policy(
            '{"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress":'
            ' [{"to": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}],'
            ' "ports": [{"port": "http"}, {"port": 443}]}]}'
        ),
    )
    assert story.passes("shop/web", "pay/one", 8080)
    assert not story.passes("shop/web", "shop/two", 8080)
    assert story.passes("shop/web", "pay/one", 443)


def test_a_filtered_label_never_matches_and_is_warned_of() -> None:
    marked = pod("shop/marked", etcd_node="yes")
    spec = (
        '{"podSelector": {"matchLabels": {"app": "web"}},'
        ' "ingress": [{"from": [{"podSelector": %s}]}]}'
    )
    story = Story((WEB, marked), policy(spec % '{"matchLabels": {"etcd_node": "yes"}}'))
    assert not story.passes("shop/marked", "shop/web")
    (warning,) = story.verdicts.warnings
    assert warning.severity == "warning"
    assert warning.object == "NetworkPolicy shop/p"
    assert warning.path == "spec.ingress[0].from[0].podSelector.matchLabels[etcd_node]"
    assert "etcd_node is hidden by the label filter" in warning.reason
    absent = '{"matchExpressions": [{"key": "etcd_node", "operator": "DoesNotExist"}]}'
    story = Story((WEB, marked), policy(spec % absent))
    assert story.passes("shop/marked", "shop/web")
    assert story.verdicts.warnings[0].path.endswith("podSelector.matchExpressions[0].key")


@pytest.mark.parametrize(
    "key",
    [
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.policy.serviceaccount",
        "io.cilium.k8s.namespace.labels.team",
        "reserved.host",
    ],
)
def test_a_derived_label_is_no_pod_label(key: str) -> None:
    """No pod object has it, so nothing that the control plane adds may match it."""
    values = {"io.kubernetes.pod.namespace": "pay", "io.cilium.k8s.namespace.labels.team": "b"}
    spec = (
        '{"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector":'
        f' {{"matchLabels": {{"{key}": "{values.get(key, "")}"}}}}}}]}}]}}'
    )
    forged = msgspec.structs.replace(
        PAYER,
        metadata=ObjectMeta(name="payer", namespace="pay", labels={"app": "x"}),
        spec=PodSpec(service_account_name=""),
    )
    story = Story((WEB, forged), policy(spec))
    assert not story.passes("pay/payer", "shop/web")
    assert len(story.verdicts.warnings) == 1


def test_a_pod_cannot_forge_its_namespace() -> None:
    forger = msgspec.structs.replace(
        PAYER,
        metadata=ObjectMeta(
            name="payer", namespace="pay", labels={"io.kubernetes.pod.namespace": "shop"}
        ),
    )
    story = Story(
        (WEB, forger),
        policy('{"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}'),
    )
    assert not story.passes("pay/payer", "shop/web")


def test_namespace_labels_are_never_pod_labels() -> None:
    labelled = pod("shop/labelled", team="b")
    spec = (
        '{"podSelector": {"matchLabels": {"app": "web"}},'
        ' "ingress": [{"from": [{"%s": {"matchLabels": {"team": "b"}}}]}]}'
    )
    story = Story((WEB, labelled, PAYER), policy(spec % "namespaceSelector"))
    assert not story.passes("shop/labelled", "shop/web")
    assert story.passes("pay/payer", "shop/web")
    story = Story((WEB, labelled, PAYER), policy(spec % "podSelector"))
    assert story.passes("shop/labelled", "shop/web")
    assert not story.passes("pay/payer", "shop/web")


def test_one_bad_rule_is_never_left_out() -> None:
    """What validation should have refused is an error here, not a policy without that rule."""
    for spec in (
        '{"podSelector": {}, "ingress": [{"from": [{}]}]}',
        '{"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 79}]}]}',
        '{"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "ANY"}]}]}',
        '{"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "nope"}}]}]}',
        '{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}',
        '{"podSelector": {}, "ingress": [{"ports": [{"port": "http", "endPort": 90}]}]}',
        '{"podSelector": {}, "ingress": [{"ports": [{"endPort": 90}]}]}',
        '{"podSelector": {}, "ingress": [{"from":'
        ' [{"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]}]}',
    ):
        text = f'{{"metadata": {{"name": "p", "namespace": "shop"}}, "spec": {spec}}}'
        bad = msgspec.json.decode(text, type=NetworkPolicy)
        with pytest.raises(ValueError):
            translate(bad, FILTER)


def test_the_deciding_rule_names_its_policy() -> None:
    story = Story(PODS, policy('{"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}'))
    verdicts = story.verdicts
    _, ingress = verdicts.decide(
        verdicts.party("pay/payer"), verdicts.party("shop/web"), Probe("TCP", 80)
    )
    assert ingress is not None
    assert ingress.rule is not None
    assert ingress.rule.origins == ("NetworkPolicy shop/p#spec.ingress[0]",)
    _, host = verdicts.decide(
        verdicts.party("192.0.2.101"), verdicts.party("shop/web"), Probe("TCP", 22)
    )
    assert host is not None
    assert host.rule is not None
    assert host.rule.origins == (HOST_ORIGIN,)
