"""Groups, label sets and named ports."""

from __future__ import annotations

import msgspec
import pytest

from reconciler.core.labels import (
    Grouper,
    Label,
    LabelFilter,
    LabelSet,
    group_key,
    label_set,
    pod_named_ports,
)
from reconciler.core.labels.label import NAMED_PORTS, decode_named_ports, encode_named_ports
from reconciler.core.objects import (
    Container,
    ContainerPort,
    Namespace,
    ObjectMeta,
    Pod,
    PodSpec,
)

FILTER = LabelFilter.default()


def make_pod(
    labels: dict[str, str] | None = None, *, account: str = "default", ports: str = ""
) -> Pod:
    """ports: "http:80/TCP dns:53/UDP"."""
    found = []
    for text in ports.split():
        name, _, rest = text.partition(":")
        number, _, protocol = rest.partition("/")
        found.append(ContainerPort(container_port=int(number), name=name, protocol=protocol))
    return Pod(
        metadata=ObjectMeta(name="p", namespace="shop", labels=labels or {}),
        spec=PodSpec(service_account_name=account, containers=(Container(ports=tuple(found)),)),
    )


def labels_of(pod: Pod, namespace: Namespace | None = None) -> LabelSet:
    return label_set(group_key(pod, FILTER), namespace, FILTER, "default")


def test_the_label_set_of_a_pod() -> None:
    namespace = Namespace(ObjectMeta(name="shop", labels={"team": "a"}))
    pod = make_pod({"app": "web", "pod-template-hash": "1"}, account="sa", ports="http:80/TCP")
    assert labels_of(pod, namespace).key == (
        "k8s:app=web;"
        "gen:io.cilium.k8s.named-ports=http.TCP.80;"
        "k8s:io.cilium.k8s.namespace.labels.team=a;"
        "k8s:io.cilium.k8s.policy.cluster=default;"
        "k8s:io.cilium.k8s.policy.serviceaccount=sa;"
        "k8s:io.kubernetes.pod.namespace=shop;"
    )


def test_of_an_unknown_namespace_only_what_kubernetes_guarantees_is_there() -> None:
    found = labels_of(make_pod())
    key = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"
    assert found.get(key, "k8s") == "shop"
    assert [x.key for x in found.labels if x.key.startswith("io.cilium.k8s.namespace")] == [key]


@pytest.mark.parametrize(
    "key",
    [
        "io.cilium.k8s.policy.cluster",
        "io.cilium.k8s.policy.serviceaccount",
        "io.cilium.k8s.namespace.labels.team",
        "io.cilium.k8s.named-ports",
        "io.cilium.k8sfoo",
        "io.kubernetes.pod.namespace",
        "reserved.io.cilium.k8s.policy.cluster",
        "reserved.io.cilium.k8s.namespace.labels.team",
        "reserved.io.kubernetes.pod.namespace",
    ],
)
def test_a_pod_label_cannot_forge_what_the_control_plane_gives(key: str) -> None:
    assert labels_of(make_pod({key: "evil"})).key == labels_of(make_pod()).key


def test_a_label_with_the_prefix_reserved_becomes_a_k8s_label() -> None:
    found = labels_of(make_pod({"reserved.host": "x"}))
    assert found.get("host", "k8s") == "x"
    assert not found.has("host", "reserved")
    assert not found.has("reserved.host")


def test_the_plain_label_holds_where_a_reserved_one_meets_it() -> None:
    for labels in ({"reserved.a": "x", "a": "y"}, {"a": "y", "reserved.a": "x"}):
        assert labels_of(make_pod(labels)).get("a", "k8s") == "y"


def test_the_filter_sees_a_reserved_label_under_its_new_key() -> None:
    assert not labels_of(make_pod({"reserved.pod-template-hash": "x"})).has("pod-template-hash")


def test_no_service_account_no_label() -> None:
    assert not labels_of(make_pod(account="")).has("io.cilium.k8s.policy.serviceaccount")


def test_filtered_labels_do_not_make_groups() -> None:
    one, two = (group_key(make_pod({"pod-template-hash": x}), FILTER) for x in "12")
    assert one == two
    assert one.name == two.name


def test_what_makes_a_group_of_its_own() -> None:
    pods = [
        make_pod(),
        make_pod({"app": "web"}),
        make_pod(account="other"),
        make_pod(ports="http:80/TCP"),
        make_pod(ports="http:80/UDP"),
        make_pod(ports="http:81/TCP"),
    ]
    names = {group_key(pod, FILTER).name for pod in pods}
    assert len(names) == len(pods)
    other = msgspec.structs.replace(pods[0], metadata=ObjectMeta(name="p", namespace="other"))
    assert group_key(other, FILTER).hash != group_key(pods[0], FILTER).hash


def test_unnamed_ports_and_switched_off_named_ports_make_no_groups() -> None:
    plain = group_key(make_pod(), FILTER)
    assert group_key(make_pod(ports=":80/TCP"), FILTER) == plain
    assert group_key(make_pod(ports="http:80/TCP"), FILTER, named_ports=False) == plain


def test_a_groups_name_is_the_same_on_every_replica() -> None:
    # Written down, so that a change of the encoding can't go unseen.
    key = group_key(make_pod({"app": "web"}), FILTER)
    assert key.name == "shop/e2c3d1670c509ee630e30d183ad335ff"
    assert key.hash.hex() == key.name.removeprefix("shop/")


def test_the_order_of_labels_does_not_matter() -> None:
    one = group_key(make_pod({"a": "1", "b": "2"}), FILTER)
    assert one == group_key(make_pod({"b": "2", "a": "1"}), FILTER)


def test_one_grouper_gives_equal_pods_one_key_and_runs_the_filter_once_a_key() -> None:
    class Counting(LabelFilter):
        asked = 0

        def _decide(self, source: str, key: str) -> bool:
            self.asked += 1
            return super()._decide(source, key)

    counting = Counting(FILTER.rules, whitelist=False)
    start = counting.asked
    grouper = Grouper(counting)
    keys = {
        id(grouper.group_key(make_pod({"app": "web", "pod-template-hash": str(i)})))
        for i in range(50)
    }
    assert len(keys) == 1
    assert counting.asked - start == 3  # the two labels and the service account


# ------------------------------------------------------------------------------- named ports


def test_named_ports_are_written_as_cilium_does() -> None:
    ports = [
        ("readiness-probe", 6, 8181),
        ("dns", 17, 53),
        ("metrics", 6, 9153),
        ("dns-tcp", 6, 53),
        ("liveness-probe", 6, 8080),
    ]
    assert encode_named_ports(ports) == (
        Label(
            "gen",
            "io.cilium.k8s.named-ports",
            "dns.UDP.53_dns-tcp.TCP.53_liveness-probe.TCP.8080",
        ),
        Label("gen", "io.cilium.k8s.named-ports-1", "metrics.TCP.9153_readiness-probe.TCP.8181"),
    )


def test_named_ports_come_back_from_the_label_set() -> None:
    pod = make_pod(ports="dns:53/UDP dns:53/TCP http:80/TCP a-long-name-x:65535/SCTP")
    found = labels_of(pod)
    assert found.named_ports == pod_named_ports(pod)
    assert ("dns", 17, 53) in found.named_ports
    assert LabelSet.parse(found.key).named_ports == found.named_ports


def test_only_generated_labels_say_named_ports_and_only_in_their_form() -> None:
    found = LabelSet.of(
        [
            Label("k8s", "io.cilium.k8s.named-ports", "http.TCP.80"),
            Label("gen", "io.cilium.k8s.named-ports", "x_.TCP.1_a.XXX.1_b.TCP.²_c.TCP.5"),
        ]
    )
    assert found.named_ports == (("c", 6, 5),)


def test_ports_that_can_not_be_say_nothing() -> None:
    value = "web.TCP.99999_a.TCP.0_b.TCP." + "9" * 5000 + "_c.TCP.5_d.UDP.65536_e.UDP.65535"
    assert decode_named_ports([Label("gen", NAMED_PORTS, value)]) == (
        ("c", 6, 5),
        ("e", 17, 65535),
    )


def test_the_first_port_of_a_name_and_protocol_counts_and_sidecars_come_last() -> None:
    def container(port: int, policy: str = "") -> Container:
        return Container(
            ports=(ContainerPort(container_port=port, name="http"),), restart_policy=policy
        )

    pod = Pod(
        ObjectMeta(name="p", namespace="shop"),
        PodSpec(
            containers=(container(80), container(81)), init_containers=(container(82, "Always"),)
        ),
    )
    assert pod_named_ports(pod) == (("http", 6, 80),)
    only = PodSpec(init_containers=(container(83), container(84, "Always")))
    assert pod_named_ports(msgspec.structs.replace(pod, spec=only)) == (("http", 6, 84),)


# -------------------------------------------------------------------------------- label sets


def test_get_and_has() -> None:
    found = LabelSet.of([Label("k8s", "a", ""), Label("gen", "a", "x")])
    assert found.get("a", "k8s") == ""
    assert found.has("a", "k8s")
    assert found.get("a") == "x"  # first in order of sources
    assert found.get("b") is None


@pytest.mark.parametrize(
    "text",
    ["k8s:a=b", "a=b;", "k8s:a;", "k8s:b=1;k8s:a=1;", "k8s:a=%3b;", "k8s:a=1;k8s:a=2;", ";"],
)
def test_text_that_is_no_canonical_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="label"):
        LabelSet.parse(text)


def test_security_labels_there_and_back() -> None:
    labels = {"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "shop", "reserved:x:y": ""}
    found = LabelSet.from_security_labels(labels)
    assert found.namespace == "shop"
    assert found.get("x:y", "reserved") == ""
    assert found.security_labels() == labels
    with pytest.raises(ValueError, match="without a source"):
        LabelSet.from_security_labels({"app": "web"})
