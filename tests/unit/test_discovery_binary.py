"""Resources as one binary message: what is read of it, and what is said of what is wrong."""

from __future__ import annotations

import msgspec
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, descriptor_pb2
from google.protobuf.message import Message

from reconciler.probe.services import TYPE_PREFIX
from reconciler.server.discovery.binary import parse_binary
from reconciler.server.discovery.documents import parse
from tests.pushed import cluster

CLUSTER = "envoy.config.cluster.v3.Cluster"


def packed(message: Message) -> any_pb2.Any:
    found = any_pb2.Any()
    found.Pack(message)
    return found


def response(*resources: any_pb2.Any) -> bytes:
    return bytes(discovery_pb2.DiscoveryResponse(resources=resources).SerializeToString())


def named(name: str, seconds: int = 1) -> cluster_pb2.Cluster:
    found = cluster_pb2.Cluster(name=name)
    found.connect_timeout.seconds = seconds
    return found


def wrapped(ttl: int | None = None, **more: object) -> any_pb2.Any:
    wrapper = discovery_pb2.Resource(resource=packed(named("a")), **more)
    if ttl is not None:
        wrapper.ttl.seconds = ttl
    return packed(wrapper)


def extension(inner: any_pb2.Any) -> any_pb2.Any:
    return packed(extension_pb2.TypedExtensionConfig(name="e", typed_config=inner))


def test_it_is_what_the_same_document_is() -> None:
    document = {"resources": [cluster("a"), cluster("b", 2)]}
    written = parse(msgspec.json.encode(document), "resources.pb")
    read = parse_binary(response(packed(named("a")), packed(named("b", 2))), "resources.pb")
    assert read.problems == ()
    assert read.found == written.found
    assert len(read.found) == 2


def test_what_a_wrapper_says_counts() -> None:
    (plain,) = parse_binary(response(packed(named("a"))), "r").found
    (same,) = parse_binary(response(wrapped(name="a")), "r").found
    (lasting,) = parse_binary(response(wrapped(30)), "r").found
    assert same == plain
    assert (lasting.name, lasting.ttl, lasting.body) == ("a", 30.0, plain.body)
    assert lasting.version != plain.version


def test_what_is_as_before_is_not_read_again() -> None:
    before = parse_binary(response(packed(named("a")), packed(named("b"))), "r")
    after = parse_binary(response(packed(named("b")), packed(named("a", 2))), "r", before.known)
    assert after.found[0] is before.found[1]
    assert [each.name for each in after.found] == ["b", "a"]
    assert list(after.known.values()) == list(after.found)


def test_what_the_protos_here_do_not_know_is_kept() -> None:
    newer = named("a").SerializeToString() + b"\xfa\xff\x3f\x01x"  # field 131,071
    (found,) = parse_binary(
        response(any_pb2.Any(type_url=TYPE_PREFIX + CLUSTER, value=newer)), "r"
    ).found
    assert found.body == newer


@pytest.mark.parametrize(
    ("resource", "problem"),
    [
        (
            packed(cluster_pb2.Cluster()),
            "Cluster: resources[1].name: is required: it is the resource's name",
        ),
        (packed(named("a", -1)), "Cluster a: resources[1].connect_timeout: must be more than 0s"),
        (
            any_pb2.Any(type_url=TYPE_PREFIX + CLUSTER, value=b"\x0a\xff"),
            "Cluster: resources[1].value: is no envoy.config.cluster.v3.Cluster",
        ),
        (
            any_pb2.Any(type_url=TYPE_PREFIX + "envoy.None", value=b""),
            "None: resources[1].type_url: envoy.None: there is no such type",
        ),
        (
            any_pb2.Any(value=b"x"),
            "resources[1].type_url: is missing, or no type URL (type.googleapis.com/...)",
        ),
        (
            extension(any_pb2.Any(type_url="x/envoy.None")),
            "TypedExtensionConfig e: resources[1].typed_config: envoy.None: there is no such type",
        ),
        (
            extension(any_pb2.Any(type_url=f"x/{CLUSTER}", value=b"\x0a\xff")),
            f"TypedExtensionConfig e: resources[1].typed_config: is no {CLUSTER}",
        ),
        (
            extension(any_pb2.Any(value=b"x")),
            "TypedExtensionConfig e: resources[1].typed_config: is a message without its type",
        ),
        (
            wrapped(name="b"),
            "Cluster a: resources[1].resource.name: is 'a', and the wrapper's name is 'b'",
        ),
        (wrapped(-1), "resources[1].ttl: must be more than 0s"),
        (wrapped(1 << 40), "resources[1].ttl: is no duration: more than 315576000000 seconds"),
        (
            packed(named("a", 1 << 40)),
            "Cluster a: resources[1].connect_timeout: is no duration: more than 315576000000 "
            "seconds",
        ),
        (
            wrapped(version="1"),
            "resources[1].version: only name, ttl and resource are read of a wrapper",
        ),
        (
            packed(discovery_pb2.Resource(name="a")),
            "resources[1].resource: a resource is expected",
        ),
        (
            any_pb2.Any(type_url=wrapped().type_url, value=b"\x0a\xff"),
            "resources[1].value: is no envoy.service.discovery.v3.Resource",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_place_and_hides_nothing(resource: any_pb2.Any, problem: str) -> None:
    read = parse_binary(response(packed(named("good")), resource, packed(named("b"))), "r.pb")
    assert [str(each) for each in read.problems] == [f"r.pb#1: {problem}"]
    assert [each.name for each in read.found] == ["good", "b"]


def test_what_is_no_message_is_refused() -> None:
    read = parse_binary(b'{"resources": []}', "r.pb")
    (problem,) = read.problems
    assert str(problem) == "r.pb: is no envoy.service.discovery.v3.DiscoveryResponse"
    assert (read.found, read.known) == ((), {})


def test_what_is_another_message_is_refused() -> None:
    """A Cluster, say: by chance it can be read, as a message without resources."""
    read = parse_binary(cluster_pb2.Cluster(alt_stat_name="a").SerializeToString(), "r.pb")
    (problem,) = read.problems
    assert str(problem) == (
        "r.pb: has fields that are none of envoy.service.discovery.v3.DiscoveryResponse"
    )
    assert (read.found, read.known) == ((), {})


def test_what_proto2_requires_is_required() -> None:
    name = descriptor_pb2.UninterpretedOption.DESCRIPTOR.full_name
    option = any_pb2.Any(type_url=TYPE_PREFIX + name, value=b"\x12\x00")
    (problem,) = parse_binary(response(option), "r.pb").problems
    assert problem.path == "resources[0]"
    assert "is missing required fields: name[0].name_part" in problem.reason
