"""A NetworkPolicy that is there and can't be read closes what it may select, for every reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.objects import KubeObject, LabelSelector, NetworkPolicy, Pod, Upsert, key_of
from reconciler.core.verdicts import ALLOW, parse_probes
from reconciler.core.verdicts import matrix as verdicts_of
from reconciler.server.kubernetes.mirror import Mirror
from reconciler.server.kubernetes.source import NETWORK_POLICIES
from reconciler.server.manifests import Batch, Directory
from reconciler.testing.strategies import World, worlds

WEB = {"matchLabels": {"app": "web"}}
META = {"name": "p", "namespace": "shop", "uid": "u1", "generation": 2}
PROBES = parse_probes("80/tcp,53/udp")
UNKNOWN: dict[str, Any] = {"ingress": [{"from": [{"newer": {}}]}]}
"""Rules with a field that nobody knows here."""


def encoded(spec: Any, version: int = 5, **meta: Any) -> dict[str, Any]:
    return {"metadata": {**META, "resourceVersion": str(version), **meta}, "spec": spec}


def event(mirror: Mirror[NetworkPolicy], object: dict[str, Any]) -> None:
    line = json.dumps({"type": "MODIFIED", "object": object}).encode()
    mirror.apply(mirror.kind.event(line))


def listed(version: int, *objects: dict[str, Any]) -> Mirror[NetworkPolicy]:
    mirror = Mirror(NETWORK_POLICIES)
    body = {"metadata": {"resourceVersion": str(version)}, "items": objects}
    page = mirror.kind.page(json.dumps(body).encode())
    mirror.replace(page.version, page.items)
    return mirror


def of(spec: Any) -> NetworkPolicy:
    (policy,) = listed(6, encoded(spec, 6)).objects()
    return policy


# ------------------------------------------------------------------------------ the API server


def test_who_saw_the_good_version_goes_on_with_it_and_who_did_not_closes() -> None:
    saw = listed(5, encoded({"podSelector": WEB, "ingress": [{}]}))
    event(saw, encoded({"podSelector": WEB, **UNKNOWN}, 6))
    assert saw.objects()[0].spec.ingress
    (problem,) = saw.problems
    assert str(problem).endswith("spec.ingress[0].from[0].newer: unknown field")
    started = listed(6, encoded({"podSelector": WEB, **UNKNOWN}, 6))
    (policy,) = started.objects()
    assert policy.spec.pod_selector == LabelSelector({"app": "web"})
    assert (policy.spec.ingress, policy.spec.effective_types) == ((), ("Ingress",))
    assert (policy.metadata.uid, policy.metadata.generation) == ("u1", 2)
    (problem,) = started.problems
    assert str(problem) == (
        "networkpolicies: NetworkPolicy shop/p: spec.ingress[0].from[0].newer: unknown field; "
        "until it can be read the pods that it selects are closed (Ingress)"
    )
    other = {"podSelector": {"matchLabels": {"app": "db"}}, **UNKNOWN}
    event(started, encoded(other, 7))  # what stands for it is no good version
    assert started.objects()[0].spec.pod_selector == LabelSelector({"app": "db"})
    for mirror in (saw, started):
        event(mirror, encoded({"podSelector": WEB, "ingress": [{}]}, 8))
        assert not mirror.problems
        assert mirror.objects()[0].spec.ingress


def test_one_that_was_made_anew_under_its_name_has_no_good_version() -> None:
    saw = listed(5, encoded({"podSelector": WEB, "ingress": [{}]}))
    event(saw, encoded({"podSelector": WEB, **UNKNOWN}, 6, uid="u2"))
    (policy,) = saw.objects()
    assert (policy.spec.ingress, policy.metadata.uid) == ((), "u2")


@pytest.mark.parametrize(
    ("spec", "subject", "types"),
    [
        ({"podSelector": WEB, "policyTypes": ["Egress"], **UNKNOWN}, {"app": "web"}, ["Egress"]),
        ({"podSelector": WEB, "egress": [{"newer": 1}]}, {"app": "web"}, ["Ingress", "Egress"]),
        ({"podSelector": WEB, "newer": 1}, {"app": "web"}, ["Ingress", "Egress"]),
        ({"podSelector": WEB, "policyTypes": ["Both"]}, {"app": "web"}, ["Ingress", "Egress"]),
        ({"podSelector": WEB, "policyTypes": "Egress"}, {"app": "web"}, ["Ingress", "Egress"]),
        ({"podSelector": {"newer": {}}, "policyTypes": ["Ingress"]}, {}, ["Ingress"]),
        ({"podSelector": {"matchLabels": {"app": "not valid"}}}, {}, ["Ingress"]),
        ({"podSelector": {"matchLabels": None}, **UNKNOWN}, {}, ["Ingress"]),
        ("nonsense", {}, ["Ingress", "Egress"]),
        # It fits, and is refused for what it says
        (
            {"podSelector": WEB, "ingress": [{"from": [{}]}], "policyTypes": ["Ingress"]},
            {"app": "web"}, ["Ingress"],
        ),
    ],
)  # fmt: skip
def test_the_subject_and_the_directions_are_those_that_can_be_read(
    spec: Any, subject: dict[str, str], types: list[str]
) -> None:
    found = of(spec).spec
    assert found.pod_selector == LabelSelector(subject)
    assert list(found.effective_types) == types
    assert (found.ingress, found.egress) == ((), ())


def test_an_unread_subject_is_said_as_the_whole_namespace() -> None:
    (problem,) = listed(6, encoded({"podSelector": {"newer": {}}}, 6)).problems
    assert problem.path == "spec.podSelector.newer"
    assert problem.reason.endswith("all pods of namespace shop are closed (Ingress)")


FIELDS = ("spec", "podSelector", "policyTypes", "ingress", "egress", "from", "to", "ports")


@given(worlds(max_policies=2), st.data())
def test_nothing_is_open_that_the_good_version_closes(world: World, data: st.DataObject) -> None:
    """Whatever in it becomes unreadable, by a value of another type or a field of another name."""
    rest = [object for object in world.objects if not isinstance(object, NetworkPolicy)]
    good = [object for object in world.objects if isinstance(object, NetworkPolicy)]
    if not good or not any(isinstance(object, Pod) for object in rest):
        return
    broken = [_written(policy, index) for index, policy in enumerate(good)]
    saw = listed(90, *broken)
    places = [place for object in broken for place in _places(object)]
    where, field = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()):
        where["newer"] = where[field]
    else:
        where[field] = 7
    for object in broken:
        object["metadata"]["resourceVersion"] = "91"
        event(saw, object)
    started = listed(91, *broken)
    assert len(saw.problems) == len(started.problems)
    if saw.problems:
        assert _allowed([*rest, *saw.objects()]) == _allowed([*rest, *good])
        assert _allowed([*rest, *started.objects()]) <= _allowed([*rest, *good])


def _written(policy: NetworkPolicy, version: int) -> dict[str, Any]:
    """As the API server has it: with its types, and without what is empty."""
    spec = msgspec.structs.replace(policy.spec, policy_types=policy.spec.effective_types)
    object: dict[str, Any] = json.loads(msgspec.json.encode({"spec": spec}))
    name, namespace = policy.metadata.name, policy.metadata.namespace
    return encoded(_without_nulls(object["spec"]), version, name=name, namespace=namespace)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _places(value: Any) -> list[tuple[dict[str, Any], str]]:
    """Objects in it and their fields, of those that a policy is made of."""
    if isinstance(value, list):
        return [place for each in value for place in _places(each)]
    if not isinstance(value, dict):
        return []
    found = [(value, field) for field in value if field in FIELDS and field != "spec"]
    return found + [place for each in value.values() for place in _places(each)]


def _allowed(objects: list[KubeObject]) -> set[tuple[str, str, str, int]]:
    return {
        (row.source, row.destination, row.protocol, row.port)
        for row in verdicts_of(objects, PROBES, ["198.51.100.1"])
        if row.verdict == ALLOW
    }


# ----------------------------------------------------------------------------------- manifests

HEAD = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
GOOD = HEAD + "spec: {podSelector: {matchLabels: {app: web}}, ingress: [{}]}\n"
BAD = HEAD + "spec: {podSelector: {matchLabels: {app: web}}, ingress: [{form: []}]}\n"
WORSE = HEAD + "spec: {podSelector: {matchLabels: {app: db}}, ingress: [{form: []}]}\n"
CLOSED = "until it can be read the pods that it selects are closed (Ingress)"


def policies(batch: Batch | None) -> dict[str, NetworkPolicy]:
    assert batch is not None
    return {
        str(key_of(change.object)): change.object
        for change in batch.changes
        if isinstance(change, Upsert) and isinstance(change.object, NetworkPolicy)
    }


def reasons(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [problem.reason for problem in batch.problems]


def test_a_server_that_starts_with_a_bad_policy_closes_its_pods(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    files = Directory(tmp_path)
    batch = files.scan()
    (policy,) = policies(batch).values()
    assert policy.spec.pod_selector == LabelSelector({"app": "web"})
    assert (policy.spec.ingress, policy.spec.effective_types) == ((), ("Ingress",))
    assert reasons(batch) == [f"unknown field; {CLOSED}"]
    (tmp_path / "a.yaml").write_text(WORSE)
    (policy,) = policies(files.scan()).values()
    assert policy.spec.pod_selector == LabelSelector({"app": "db"})
    (tmp_path / "a.yaml").write_text(GOOD)
    batch = files.scan()
    (policy,) = policies(batch).values()
    assert policy.spec.ingress
    assert reasons(batch) == []


def test_a_server_that_has_a_good_version_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    files = Directory(tmp_path)
    files.scan()
    (tmp_path / "a.yaml").write_text(BAD)
    batch = files.scan()
    assert policies(batch) == {}
    assert reasons(batch) == ["unknown field"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (BAD.replace("{name: p}", "{}"), "NetworkPolicy default/(a.yaml#1, 1)"),
        (GOOD.replace("{name: p}", "{}"), "NetworkPolicy default/(a.yaml#1, 1)"),
        (GOOD.replace("networking.k8s.io/v1\n", "extensions/v1beta1\n"), "NetworkPolicy default/p"),
        (GOOD.replace("apiVersion: networking.k8s.io/v1\n", ""), "NetworkPolicy default/p"),
        (GOOD.replace("{name: p}", "{name: p, namespace: shop, labels: 7}"),
         "NetworkPolicy shop/p"),
    ],
)  # fmt: skip
def test_a_policy_whose_head_is_bad_closes_too(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    batch = Directory(tmp_path).scan()
    (found,) = policies(batch)
    assert found == key
    assert [reason.rpartition("; ")[2] for reason in reasons(batch)] == [CLOSED]


def test_one_without_a_name_beside_good_ones_may_be_the_one_that_stays(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    (tmp_path / "a.yaml").write_text(GOOD)
    files.scan()
    nameless = BAD.replace("{name: p}", "{}")
    (tmp_path / "a.yaml").write_text(nameless)
    assert policies(files.scan()) == {}
    (tmp_path / "a.yaml").write_text(GOOD + nameless)
    assert list(policies(files.scan())) == ["NetworkPolicy default/(a.yaml#2, 1)"]
