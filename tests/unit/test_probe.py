"""The client of any xDS server: its table of services, its messages, its frames, its memory."""

from __future__ import annotations

import base64
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.message import Message

from reconciler.core.resources.types import PEER_SET
from reconciler.errors import ConfigError, ProtocolError
from reconciler.probe import messages
from reconciler.probe.follow import Follower
from reconciler.probe.frames import Item, Node, Request, Response, decode, encode
from reconciler.probe.services import (
    AGGREGATED,
    OWN,
    TYPE_PREFIX,
    Variant,
    own_service,
    short_name,
    type_url_of,
)
from tests.packing import pack

CLUSTER = OWN["CDS"].type_url
ENDPOINTS = OWN["EDS"].type_url
SOTW, DELTA = Variant.SOTW, Variant.DELTA
PROTOS = {
    "LDS": "listener.v3.lds_pb2",
    "RDS": "route.v3.rds_pb2",
    "SRDS": "route.v3.srds_pb2",
    "VHDS": "route.v3.rds_pb2",
    "CDS": "cluster.v3.cds_pb2",
    "EDS": "endpoint.v3.eds_pb2",
    "SDS": "secret.v3.sds_pb2",
    "RTDS": "runtime.v3.rtds_pb2",
    "ECDS": "extension.v3.config_discovery_pb2",
}


# ------------------------------------------------------------------------------------- services


@pytest.mark.parametrize("name", [*OWN, "ADS"])
def test_services_are_those_of_the_protos(name: str) -> None:
    service = OWN.get(name, AGGREGATED)
    module = import_module("envoy.service." + PROTOS.get(name, "discovery.v3.ads_pb2"))
    (found,) = (
        each
        for each in module.DESCRIPTOR.services_by_name.values()
        if each.full_name == service.name
    )
    inputs = {m.name: m.input_type.name for m in found.methods if m.server_streaming}
    wanted = {service.delta: "DeltaDiscoveryRequest"}
    if service.sotw:
        wanted[service.sotw] = "DiscoveryRequest"
    assert inputs == wanted
    types = [v.type for k, v in found.GetOptions().ListFields() if k.name == "resource"]
    assert [TYPE_PREFIX + each for each in types] == ([] if name == "ADS" else [service.type_url])


def test_types_by_any_of_their_names() -> None:
    assert type_url_of("cds") == type_url_of("envoy.config.cluster.v3.Cluster") == CLUSTER
    assert type_url_of(CLUSTER) == CLUSTER
    assert own_service(CLUSTER).method(DELTA).endswith(".ClusterDiscoveryService/DeltaClusters")
    assert (short_name(CLUSTER), short_name(PEER_SET)) == ("CDS", "PeerSet")
    for wrong in (lambda: type_url_of("XDS"), lambda: own_service(PEER_SET)):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError, match="no sotw method"):
        OWN["VHDS"].method(SOTW)


# ------------------------------------------------------------------------------------- messages


def test_a_known_type_is_plain_with_what_is_inside_of_it() -> None:
    value: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "a",
        "api_listener": {
            "api_listener": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network."
                "http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "x",
                "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
            }
        },
    }
    packed = pack(value)
    assert messages.name_of(packed) == "a"
    assert messages.plain(packed) == value


def test_our_own_types_are_known() -> None:
    value = {"@type": PEER_SET, "base": 1024}
    found = messages.message_class(PEER_SET)
    assert found is not None
    field = found.DESCRIPTOR.fields[0].name
    assert messages.plain(pack({"@type": PEER_SET}))["@type"] == value["@type"]
    assert field


def test_an_unknown_type_is_base64() -> None:
    strange = any_pb2.Any(type_url=TYPE_PREFIX + "no.such.Thing", value=b"\x01\x02")
    assert messages.plain(strange) == {"@type": strange.type_url, "value": "AQI="}
    assert isinstance(messages.name_of(strange), messages.Unnamed)
    broken = any_pb2.Any(type_url=CLUSTER, value=b"\xff")
    assert messages.plain(broken) == {"@type": CLUSTER, "value": "/w=="}


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (wrappers_pb2.StringValue(value="a"), "a"),
        (duration_pb2.Duration(seconds=1), "1s"),
        (struct_pb2.ListValue(values=[struct_pb2.Value(string_value="a")]), ["a"]),
        (struct_pb2.Struct(fields={"a": struct_pb2.Value(bool_value=True)}), {"a": True}),
        (duration_pb2.Duration(seconds=1, nanos=-1), "CAEQ////////////AQ=="),
        (struct_pb2.Value(number_value=float("inf")), "EQAAAAAAAPB/"),
    ],
)
def test_a_type_with_a_form_of_its_own_is_a_value(message: Message, value: object) -> None:
    """Of what JSON has no form for it is base64."""
    found = any_pb2.Any()
    found.Pack(message)
    assert messages.plain(found) == {"@type": found.type_url, "value": value}


def test_an_any_that_can_not_be_read_is_base64_with_what_it_is_in() -> None:
    cluster = cluster_pb2.Cluster(name="a")
    cluster.typed_extension_protocol_options["x"].CopyFrom(
        any_pb2.Any(type_url=CLUSTER, value=b"\xff")
    )
    found = any_pb2.Any()
    found.Pack(cluster)
    assert messages.plain(found)["value"] == base64.b64encode(found.value).decode()


def test_a_wrapper_that_can_not_be_read_is_a_resource_without_a_name() -> None:
    good = any_pb2.Any()
    good.Pack(cluster_pb2.Cluster(name="a"))
    bad = any_pb2.Any(type_url=messages.WRAPPER, value=b"\xff")
    response = discovery_pb2.DiscoveryResponse(type_url=CLUSTER, resources=[bad, good])
    found = decode(response.SerializeToString(), SOTW)
    assert [each.name for each in found.items] == ["a"]
    assert found.unnamed == (f"{messages.WRAPPER}: not known here, or not a message of it",)


def test_a_module_that_is_no_protos_is_not_imported() -> None:
    """`google/__init__.py` fails as a module of its package."""
    assert messages.message_class("x/google.__init__.a.B") is None


def test_no_package_is_imported_for_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type URLs come from peers, and to import a module is to run it."""
    for name in ("payload", "payload/v1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(name)")
    monkeypatch.syspath_prepend(tmp_path)
    assert messages.message_class(TYPE_PREFIX + "payload.v1.Thing") is None
    assert "payload" not in sys.modules


def test_an_unknown_type_inside_of_a_known_one_is_base64_as_a_whole() -> None:
    cluster = cluster_pb2.Cluster(name="a")
    cluster.transport_socket.name = "x"
    cluster.transport_socket.typed_config.type_url = TYPE_PREFIX + "no.such.Thing"
    packed = any_pb2.Any()
    packed.Pack(cluster)
    assert set(messages.plain(packed)) == {"@type", "value"}


# --------------------------------------------------------------------------------------- frames


def packed(name: str, text: str = "") -> any_pb2.Any:
    found = any_pb2.Any()
    found.Pack(cluster_pb2.Cluster(name=name, alt_stat_name=text))
    return found


def test_requests_are_those_of_the_variant() -> None:
    request = Request(
        CLUSTER,
        ("a",),
        ("b",),
        {"c": "1"},
        "v",
        "n",
        "bad",
        Node("me", "east", {"zone": {"a": 1}}, ("f",)),
    )
    delta = discovery_pb2.DeltaDiscoveryRequest.FromString(encode(request, DELTA))
    assert list(delta.resource_names_subscribe) == ["a"]
    assert list(delta.resource_names_unsubscribe) == ["b"]
    assert dict(delta.initial_resource_versions) == {"c": "1"}
    sotw = discovery_pb2.DiscoveryRequest.FromString(encode(request, SOTW))
    assert (list(sotw.resource_names), sotw.version_info) == (["a"], "v")
    for message in (delta, sotw):
        assert message.response_nonce == "n"
        assert message.error_detail.message == "bad"
        assert (message.node.id, message.node.cluster) == ("me", "east")
        assert message.node.metadata["zone"]["a"] == 1
        assert list(message.node.client_features) == ["f"]
    assert not discovery_pb2.DiscoveryRequest.FromString(encode(Request(CLUSTER), SOTW)).HasField(
        "error_detail"
    )


def test_a_sotw_response_has_names_inside_or_in_a_wrapper() -> None:
    response = discovery_pb2.DiscoveryResponse(version_info="7", type_url=CLUSTER, nonce="n")
    response.resources.add().CopyFrom(packed("a"))
    wrapper = discovery_pb2.Resource(name="b", version="3", resource=packed("b"))
    wrapper.ttl.FromMilliseconds(1500)
    response.resources.add().Pack(wrapper)
    response.resources.add().Pack(discovery_pb2.Resource(name="c", version="4"))
    response.resources.add().type_url = TYPE_PREFIX + "no.such.Thing"
    found = decode(response.SerializeToString(), SOTW)
    assert (found.version, found.nonce) == ("7", "n")
    assert [(i.name, i.version, i.ttl, i.body is None) for i in found.items] == [
        ("a", "", None, False),
        ("b", "3", 1.5, False),
        ("c", "4", None, True),
    ]
    assert len(found.unnamed) == 1


@pytest.mark.parametrize("variant", list(Variant))
def test_what_is_no_response_is_an_error(variant: Variant) -> None:
    with pytest.raises(ProtocolError, match="not a"):
        decode(b"\xff\xff", variant)


# --------------------------------------------------------------------------------------- memory


def response(variant: Variant, *names: str, nonce: str, removed: tuple[str, ...] = ()) -> Response:
    items = tuple(Item(n, f"v-{nonce}", packed(n)) for n in names)
    return Response(CLUSTER, f"V-{nonce}", nonce, items, removed)


def test_sotw_requests_say_everything() -> None:
    follower = Follower(CLUSTER, SOTW)
    node = Node("me")
    assert follower.subscribe((), node=node) == Request(CLUSTER, node=node)
    follower.received(response(SOTW, "a", "b", nonce="1"))
    assert follower.ack() == Request(CLUSTER, version="V-1", nonce="1")
    assert follower.subscribe(("a",)) == Request(CLUSTER, ("*", "a"), version="V-1", nonce="1")
    follower.received(response(SOTW, "a", nonce="2"))
    assert set(follower.held) == {"a"}  # of clusters a response is the whole state
    assert follower.nack("no") == Request(CLUSTER, ("*", "a"), version="V-1", nonce="2", error="no")
    assert follower.unsubscribe(("*", "a")) == Request(CLUSTER, version="V-1", nonce="2")
    assert not follower.wildcard
    assert follower.held == {}


def test_sotw_of_other_types_adds_up() -> None:
    follower = Follower(ENDPOINTS, SOTW)
    follower.subscribe(("a", "b", "c"))
    follower.received(response(SOTW, "a", nonce="1"))
    follower.received(response(SOTW, "b", nonce="2"))
    assert set(follower.held) == {"a", "b"}
    assert follower.missing() == ("c",)
    assert follower.with_stale_nonce(("d",)).nonce == "1"
    assert "d" not in follower.subscribed


def test_delta_requests_say_what_changes() -> None:
    follower = Follower(CLUSTER, DELTA)
    assert follower.subscribe(("a",)) == Request(CLUSTER, ("a",))
    follower.received(response(DELTA, "a", nonce="1"))
    assert follower.subscribe(("b", "x")) == Request(CLUSTER, ("b", "x"))  # no nonce: no answer
    assert follower.ack() == Request(CLUSTER, nonce="1")
    follower.received(response(DELTA, "b", nonce="2", removed=("x",)))
    assert follower.nack("no") == Request(CLUSTER, nonce="2", error="no")
    assert (set(follower.held), follower.absent, follower.missing()) == ({"a", "b"}, {"x"}, ())
    assert follower.unsubscribe(("a",)) == Request(CLUSTER, unsubscribe=("a",))
    again = Follower(CLUSTER, DELTA)
    assert again.first(("b",), held=follower.held) == Request(CLUSTER, ("b",), initial={"b": "v-2"})


def test_a_heartbeat_leaves_the_resource() -> None:
    follower = Follower(CLUSTER, DELTA)
    follower.subscribe(("a",))
    follower.received(response(DELTA, "a", nonce="1"))
    beat = Response(CLUSTER, "", "2", (Item("a", "v-1", None, 1.0), Item("b", "v", None, 1.0)))
    follower.received(beat)
    assert {name: item.body for name, item in follower.held.items()} == {"a": packed("a")}
