"""Decoding: what comes out, and that every problem names its place."""

from __future__ import annotations

import msgspec
import pytest

from reconciler.core.objects import (
    Decoded,
    LabelSelector,
    NetworkPolicy,
    Node,
    ObjectMeta,
    Pod,
    PodSpec,
    PodTemplate,
    Workload,
    decode,
    key_of,
    representative,
)


def problems(text: str) -> list[str]:
    return [str(problem) for problem in decode(text.encode(), "f.yaml").problems]


def names(decoded: Decoded) -> list[str]:
    return [str(key_of(item)) for _, item in decoded.objects]


def one_policy(spec: str) -> NetworkPolicy:
    decoded = decode(_policy(spec).encode(), "f.yaml")
    assert decoded.problems == ()
    ((_, item),) = decoded.objects
    assert isinstance(item, NetworkPolicy)
    return item


def _policy(spec: str) -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )


def _pod(metadata: str) -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {metadata}\n"


# ----------------------------------------------------------------------------- what is read


def test_documents_are_counted_with_empty_ones() -> None:
    text = f"# nothing\n---\n{_pod('{name: a}')}---\n---\n{_pod('{name: b}')}"
    decoded = decode(text.encode(), "f.yaml")
    assert [source for source, _ in decoded.objects] == ["f.yaml#1", "f.yaml#3"]
    assert decode(f"---\n{text}".encode(), "f.yaml").objects[0][0] == "f.yaml#2"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n---\n", "null\n"])
def test_nothing_is_nothing(text: str) -> None:
    assert decode(text.encode(), "f.yaml") == Decoded()


def test_one_bad_object_does_not_hide_the_good_ones() -> None:
    text = "---\n".join([_pod("{name: a}"), _pod("{name: b, labels: {x: [1]}}"), _pod("{name: c}")])
    decoded = decode(text.encode(), "f.yaml")
    assert names(decoded) == ["Pod default/a", "Pod default/c"]
    assert [problem.source for problem in decoded.problems] == ["f.yaml#2"]


def test_a_text_that_does_not_parse_is_one_problem_and_no_object() -> None:
    decoded = decode((_pod("{name: a}") + "---\na: b: c\n").encode(), "f.yaml")
    assert not decoded.objects
    (problem,) = decoded.problems
    assert str(problem).startswith("f.yaml: can't be read: line 5, column 5:")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00",
        b"a: \x01",
        b"a: [",
        b"\tb: c",
        b"a: !unknown b",
        b'{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "\xff"}}',
        b"[" * 5000,
    ],
)
def test_what_is_no_yaml_is_one_problem(data: bytes) -> None:
    decoded = decode(data, "f.yaml")
    assert len(decoded.problems) == 1
    assert not decoded.objects


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "apiVersion: v1\nkind: List\nitems: &a [{kind: List, items: *a}]"]
)
def test_yaml_that_contains_itself_is_refused(text: str) -> None:
    assert len(problems(text)) == 1


@pytest.mark.parametrize("of", ["yaml", "json"])
@pytest.mark.parametrize("kind", ["List", "PodList"])
def test_lists_as_kubectl_writes_them(of: str, kind: str) -> None:
    head = {"apiVersion": "v1", "kind": "Pod"} if kind == "List" else {}
    items = [
        {**head, "metadata": {"name": "a", "creationTimestamp": None, "labels": None}},
        {**head, "metadata": {"name": "b", "labels": {"x": 1}}},
        {**head, "metadata": {"name": "c"}},
    ]
    value = {"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": ""}, "items": items}
    data = msgspec.json.encode(value) if of == "json" else msgspec.yaml.encode(value)
    decoded = decode(data, "f")
    assert names(decoded) == ["Pod default/a", "Pod default/c"]
    (problem,) = decoded.problems
    assert (problem.source, problem.object) == ("f#1", "Pod default/b")
    assert problem.path == "metadata.labels[x]"


def test_a_list_may_hold_other_kinds_and_lists() -> None:
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: s}}
- apiVersion: v1
  kind: NodeList
  items: [{metadata: {name: n}}]
- {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: x}, spec: {a: b}}
"""
    decoded = decode(text.encode(), "f")
    assert names(decoded) == ["Node n"]
    assert decoded.ignored == ("projectcalico.org/v3 NetworkPolicy", "v1 Service")
    assert decoded.problems == ()


def test_empty_lists_hold_nothing() -> None:
    for text in (
        '{"apiVersion":"v1","kind":"PodList","items":[]}',
        "kind: List\napiVersion: v1\nitems: []",
    ):
        assert decode(text.encode(), "f").objects == ()
        assert decode(text.encode(), "f").problems == ()


def test_a_flow_mapping_is_yaml_though_it_begins_like_json() -> None:
    assert names(decode(b"{apiVersion: v1, kind: Node, metadata: {name: n}}", "f")) == ["Node n"]


def test_json_and_yaml_give_the_same() -> None:
    value = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop", "labels": {"a": "b"}},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "ingress": [
                {
                    "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                    "ports": [{"port": 80, "endPort": 90}, {"port": "http", "protocol": "UDP"}],
                }
            ],
            "egress": [{"to": [{"namespaceSelector": {}}]}],
            "policyTypes": ["Ingress", "Egress"],
        },
    }
    one = decode(msgspec.json.encode(value), "f")
    two = decode(msgspec.yaml.encode(value), "f")
    assert one == two
    assert one.problems == ()
    (item,) = one.objects
    assert isinstance(item[1], NetworkPolicy)
    assert item[1].spec.ingress[0].peers[0].ip_block is not None
    assert item[1].spec.ingress[0].ports[0].end_port == 90


# ------------------------------------------------------------------------ YAML 1.1's traps


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("x: on", '[x]: on is a boolean (true) in YAML: write "on" in quotes'),
        ("x: No", '[x]: No is a boolean (false) in YAML: write "No" in quotes'),
        ("on: x", '[on]: on is a boolean (true) in YAML: write "on" in quotes'),
        ("x: true", '[x]: expected text, got the boolean true: write "true" in quotes'),
        ("true: x", '[True]: expected text, got the boolean true: write "true" in quotes'),
        ("x: 12", '[x]: expected text, got the number 12: write "12" in quotes'),
        ("12: x", '[12]: expected text, got the number 12: write "12" in quotes'),
        ("x: 1.10", '[x]: 1.10 is a number in YAML: write "1.10" in quotes'),
        ("x: 010", '[x]: 010 is the number 8 in YAML: write "010" in quotes'),
        ("x: 0800", '[x]: 0800 is a number in YAML: write "0800" in quotes'),
        ("x: 1_000", '[x]: 1_000 is the number 1000 in YAML: write "1_000" in quotes'),
        ("x: 12e4567", '[x]: 12e4567 is a number in YAML: write "12e4567" in quotes'),
        ("x: 0b1", '[x]: 0b1 is the number 1 in YAML: write "0b1" in quotes'),
        ("x:", "[x]: is empty (null): leave it out, or write what is meant"),
        ("x: {a: b}", "[x]: expected text, got an object"),
    ],
)
def test_a_label_that_is_no_text(label: str, reason: str) -> None:
    found = problems(_pod(f"\n  name: a\n  labels:\n    {label}"))
    assert found == [f"f.yaml#1: Pod default/a: metadata.labels{reason}"]


def test_what_looks_like_a_time_is_text() -> None:
    text = _pod(
        "{name: a, creationTimestamp: 2024-01-02T03:04:05Z, labels: {d: 2024-01-02}, "
        "annotations: {t: 12:30:45, e: =}}"
    )
    ((_, item),) = decode(text.encode(), "f").objects
    assert item.metadata.creation_timestamp == "2024-01-02T03:04:05Z"
    assert item.metadata.labels == {"d": "2024-01-02"}
    assert item.metadata.annotations == {"t": "12:30:45", "e": "="}


@pytest.mark.parametrize(
    ("port", "reason"),
    [
        ("010", "010 is the number 8 in YAML, expected a whole number or text"),
        ("80.5", "80.5 is a number in YAML, expected a whole number or text"),
        ("true", "expected a whole number or text, got the boolean true"),
        ("[80]", "expected a whole number or text, got a list"),
    ],
)
def test_a_port_that_is_none(port: str, reason: str) -> None:
    found = problems(_policy(f"{{ingress: [{{}}, {{ports: [{{port: 1}}, {{port: {port}}}]}}]}}"))
    assert found == [f"f.yaml#1: NetworkPolicy shop/p: spec.ingress[1].ports[1].port: {reason}"]


def test_a_key_given_twice_is_refused() -> None:
    text = _policy("{ingress: [{from: [{podSelector: {}}], from: []}]}")
    assert problems(text) == ["f.yaml: can't be read: line 4, column 46: key 'from' is given twice"]


def test_anchors_and_merges_are_read() -> None:
    text = "a: &l {app: web}\n" + _pod("{name: a, labels: {<<: *l, tier: x}}")
    ((_, item),) = decode(text.encode(), "f").objects
    assert item.metadata.labels == {"app": "web", "tier": "x"}


# ---------------------------------------------------------------- null, missing and unknown


def test_null_fields_are_missing_fields() -> None:
    policy = one_policy("{podSelector: , ingress: [{from: , ports: }], egress: , policyTypes: }")
    assert policy.spec.pod_selector == LabelSelector()
    assert policy.spec.ingress[0].peers == ()
    assert policy.spec.effective_types == ("Ingress",)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{ingress: [null]}", "spec.ingress[0]"),
        ("{egress: [{to: [{podSelector: {}}, null]}]}", "spec.egress[0].to[1]"),
        ("{podSelector: {matchLabels: {a: }}}", "spec.podSelector.matchLabels[a]"),
    ],
)
def test_null_in_a_list_or_a_label_is_refused(spec: str, path: str) -> None:
    (found,) = problems(_policy(spec))
    assert found.startswith(f"f.yaml#1: NetworkPolicy shop/p: {path}: is empty (null)")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{ingress: [{form: []}]}", "spec.ingress[0].form"),
        ("{ingress: [{to: []}]}", "spec.ingress[0].to"),
        ("{ingres: []}", "spec.ingres"),
        ("{podSelector: {app: web}}", "spec.podSelector.app"),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, excepts: []}}]}]}",
            "spec.egress[0].to[0].ipBlock.excepts",
        ),
        ("{ingress: [{ports: [{prot: TCP}]}]}", "spec.ingress[0].ports[0].prot"),
    ],
)
def test_a_field_that_the_api_does_not_know_is_refused(spec: str, path: str) -> None:
    assert problems(_policy(spec)) == [f"f.yaml#1: NetworkPolicy shop/p: {path}: unknown field"]


def test_other_kinds_may_have_fields_that_do_not_matter() -> None:
    assert problems(_pod("{name: a, foo: 1}") + "spec: {volumes: [1.5, {a: 010}]}") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "f.yaml#1: expected an object, got a list"),
        ("a", "f.yaml#1: expected an object, got text"),
        ("kind: Pod", "f.yaml#1: apiVersion: missing"),
        ("apiVersion: v1", "f.yaml#1: kind: missing"),
        ("apiVersion: 1\nkind: Pod", "f.yaml#1: apiVersion: expected text"),
        ("apiVersion: v1\nkind: Pod", "f.yaml#1: Pod: metadata: missing"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {}",
            "f.yaml#1: Pod default/: metadata.name: missing",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: [a]",
            "f.yaml#1: Pod: metadata: expected an object, got a list",
        ),
        ("apiVersion: v1\nkind: Node\nmetadata: {}", "f.yaml#1: Node: metadata.name: missing"),
        (
            "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: p}",
            "f.yaml#1: NetworkPolicy default/p: apiVersion: extensions/v1beta1 is not read: "
            "NetworkPolicy is of networking.k8s.io/v1",
        ),
        (
            "apiVersion: v1\nkind: Deployment\nmetadata: {name: d}",
            "f.yaml#1: Deployment default/d: apiVersion: v1 is not read: Deployment is of apps/v1",
        ),
    ],
)
def test_what_makes_no_object(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_json_problems_read_the_same() -> None:
    value = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": 1}}}
    for data in (msgspec.json.encode(value), msgspec.yaml.encode(value)):
        (problem,) = decode(data, "f").problems
        assert str(problem) == (
            "f#1: Pod default/a: metadata.labels[x]: "
            'expected text, got the number 1: write "1" in quotes'
        )


# -------------------------------------------------------------- what the API server fills in


def test_what_the_api_server_fills_in() -> None:
    text = (
        _pod("{name: a}")
        + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, namespace: x, "
        + "labels: {kubernetes.io/metadata.name: forged}}\n"
    )
    (_, pod), (_, namespace) = decode(text.encode(), "f").objects
    assert isinstance(pod, Pod)
    assert (pod.metadata.namespace, pod.account) == ("default", "default")
    assert namespace.metadata.namespace == ""
    assert namespace.metadata.labels == {"kubernetes.io/metadata.name": "shop"}


def test_mirror_pods_have_no_service_account() -> None:
    text = _pod("{name: a, annotations: {kubernetes.io/config.mirror: x}}")
    ((_, pod),) = decode(text.encode(), "f").objects
    assert isinstance(pod, Pod)
    assert pod.account == ""


def test_the_deprecated_service_account_field_is_read() -> None:
    text = _pod("{name: a}") + "spec: {serviceAccount: old}"
    ((_, pod),) = decode(text.encode(), "f").objects
    assert isinstance(pod, Pod)
    assert pod.account == "old"


def test_answers_of_an_api_server_are_taken_as_they_are() -> None:
    ((_, pod),) = decode(_pod("{name: a, namespace: b}").encode(), "f", fill=False).objects
    assert isinstance(pod, Pod)
    assert pod.account == ""


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ("{}", ("Ingress",)),
        ("{egress: []}", ("Ingress",)),
        ("{egress: [{}]}", ("Ingress", "Egress")),
        ("{ingress: [], egress: [{}], policyTypes: [Egress]}", ("Egress",)),
    ],
)
def test_policy_types_by_default(spec: str, types: tuple[str, ...]) -> None:
    assert one_policy(spec).spec.effective_types == types


def test_addresses_of_pods_and_nodes() -> None:
    text = (
        _pod("{name: a}") + "status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n"
        "---\n" + _pod("{name: b}") + "status: {podIP: 10.0.0.2}\n"
        "---\napiVersion: v1\nkind: Node\nmetadata: {name: n}\n"
        "spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24]}\n"
        "status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n"
    )
    (_, one), (_, two), (_, node) = decode(text.encode(), "f").objects
    assert isinstance(one, Pod)
    assert isinstance(two, Pod)
    assert isinstance(node, Node)
    assert one.addresses == ("10.0.0.1", "fd00::1")
    assert two.addresses == ("10.0.0.2",)
    assert node.spec.pod_cidrs == ("10.1.0.0/24",)
    assert node.status.addresses[0].address == "192.168.0.1"


# ------------------------------------------------------------------------------- workloads


@pytest.mark.parametrize(
    ("version", "kind", "wrap"),
    [
        ("apps/v1", "Deployment", "{%s}"),
        ("apps/v1", "StatefulSet", "{%s}"),
        ("apps/v1", "DaemonSet", "{%s}"),
        ("apps/v1", "ReplicaSet", "{%s}"),
        ("batch/v1", "Job", "{%s}"),
        ("batch/v1", "CronJob", "{jobTemplate: {spec: {%s}}}"),
    ],
)
def test_workloads(version: str, kind: str, wrap: str) -> None:
    template = (
        "template: {metadata: {creationTimestamp: null, labels: {app: web}}, "
        "spec: {containers: [{ports: [{containerPort: 80, name: http}]}]}}"
    )
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: w}}\nspec: {wrap % template}\n"
    decoded = decode(text.encode(), "f")
    assert decoded.problems == ()
    ((source, workload),) = decoded.workloads
    assert source == "f#1"
    assert str(key_of(workload)) == f"{kind} default/w"
    pod = representative(workload)
    assert str(key_of(pod)) == "Pod default/w"
    assert pod.metadata.labels.items() >= {"app": "web"}.items()
    assert pod.account == "default"
    assert pod.addresses == ()
    assert pod.spec.containers[0].ports[0].name == "http"


def test_a_jobs_pod_has_the_labels_that_its_controller_gives() -> None:
    template = PodTemplate(ObjectMeta(labels={"app": "x"}), PodSpec(service_account_name="sa"))
    job = Workload("Job", ObjectMeta(name="j", namespace="shop"), template)
    pod = representative(job)
    assert pod.metadata.labels == {
        "app": "x",
        "job-name": "j",
        "batch.kubernetes.io/job-name": "j",
    }
    assert pod.account == "sa"


def test_a_workload_with_a_bad_template_is_refused() -> None:
    text = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w}\n"
        "spec: {template: {metadata: {labels: {app: 'a b'}}}}\n"
    )
    decoded = decode(text.encode(), "f")
    assert decoded.workloads == ()
    assert [problem.path for problem in decoded.problems] == ["spec.template.metadata.labels[app]"]
