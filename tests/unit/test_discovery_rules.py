"""Rules that Envoy's protos carry: one of each kind, on messages that have it."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.geoip_providers.maxmind.v3 import maxmind_pb2
from google.protobuf import duration_pb2, field_mask_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.message import Message

from reconciler.server.discovery.rules import violations


@pytest.mark.parametrize(
    ("cls", "value", "expected"),
    [
        (address_pb2.SocketAddress, {"address": "a", "port_value": 1}, {}),
        (address_pb2.SocketAddress, {"address": "a"}, {"port_specifier": "is required: one of"}),
        (
            address_pb2.SocketAddress,
            {"port_value": 70000},
            {"address": "must have at least 1 characters", "port_value": "must be at most 65535"},
        ),
        (
            address_pb2.SocketAddress,
            {"address": "a", "port_value": 1, "protocol": 7},
            {"protocol": "is not a value of its enum"},
        ),
        (
            health_check_pb2.HealthCheck,
            {"timeout": "0s", "interval": "1s", "tcp_health_check": {}},
            {
                "timeout": "must be more than 0s",
                "unhealthy_threshold": "is required",
                "healthy_threshold": "is required",
            },
        ),
        (
            base_pb2.HeaderValue,
            {"key": "a\nb", "value": "ok"},
            {"key": "is no name of an HTTP header"},
        ),
        (
            endpoint_pb2.ClusterLoadAssignment.Policy.DropOverload,
            {},
            {"category": "must have at least 1 characters"},
        ),
        (
            endpoint_pb2.ClusterLoadAssignment.Policy,
            {"overprovisioning_factor": 0},
            {"overprovisioning_factor": "must be more than 0"},
        ),
        (route.VirtualHost, {"name": "a"}, {"domains": "must have at least 1 items"}),
        (
            route.VirtualHost,
            {"name": "a", "domains": ["x\n"]},
            {"domains": "item 0 is no value of an HTTP header"},
        ),
        (
            route.VirtualHost,
            {"name": "a", "domains": ["x"], "routes": [{"match": {"prefix": "/"}}]},
            {"routes[0].action": "is required: one of route, redirect"},
        ),
        (
            cluster_pb2.Cluster,
            {"name": "a", "preconnect_policy": {"per_upstream_preconnect_ratio": 3.5}},
            {
                "preconnect_policy.per_upstream_preconnect_ratio": "must be at least 1 and "
                "at most 3"
            },
        ),
        (
            listener_pb2.Listener,
            {"name": "a", "filter_chains": [{"filters": [{"name": ""}]}]},
            {"filter_chains[0].filters[0].name": "must have at least 1 characters"},
        ),
        (
            # In RE2 $ is the end; in Python it is also before a last line break.
            maxmind_pb2.MaxMindConfig,
            {
                "common_provider_config": {"geo_field_keys": {"city": "x"}},
                "city_db_path": "a.mmdb",
                "isp_db_path": "a.mmdb\n",
                "asn_db_path": "a.dat",
            },
            {"isp_db_path": "must match ^$|^.*", "asn_db_path": "must match ^$|^.*"},
        ),
    ],
)  # fmt: skip
def test_a_rule(cls: Any, value: dict[str, Any], expected: dict[str, str]) -> None:
    message = json_format.ParseDict(value, cls())
    found = dict(violations(message))
    assert found.keys() == expected.keys()
    for path, reason in expected.items():
        assert found[path].startswith(reason)


def test_what_is_in_an_any_is_looked_at() -> None:
    bad = address_pb2.SocketAddress(address="a")
    inner = listener_pb2.Listener(name="l")
    inner.address.socket_address.CopyFrom(bad)
    cluster = cluster_pb2.Cluster(name="c")
    cluster.typed_extension_protocol_options["x"].Pack(inner)
    assert dict(violations(cluster)) == {
        "typed_extension_protocol_options[x].address.socket_address.port_specifier": (
            "is required: one of port_value, named_port"
        )
    }


def duration(seconds: int, nanos: int = 0) -> Message:
    return duration_pb2.Duration(seconds=seconds, nanos=nanos)


def time(seconds: int, nanos: int = 0) -> Message:
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)


SIGN = "is no duration: nanos must be less than a second, with the sign of the seconds"
RANGE = "is no duration: more than 315576000000 seconds"
YEARS = "is no time: it must be in the years 1 to 9999"
NANOS = "is no time: nanos must be at least 0 and less than a second"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (duration(315576000000, 999999999), ""),
        (duration(-315576000000, -999999999), ""),
        (duration(0, -1), ""),
        (duration(315576000001), RANGE),
        (duration(-315576000001), RANGE),
        (duration(0, 1_000_000_000), SIGN),
        (duration(0, -1_000_000_000), SIGN),
        (duration(1, -1), SIGN),
        (duration(-1, 1), SIGN),
        (time(-62135596800), ""),
        (time(253402300799, 999999999), ""),
        (time(-62135596801), YEARS),
        (time(253402300800), YEARS),
        (time(0, -1), NANOS),
        (time(0, 1_000_000_000), NANOS),
        (field_mask_pb2.FieldMask(paths=["a_b.c"]), ""),
        (field_mask_pb2.FieldMask(paths=["aB"]), "is no field mask: "),
    ],
)
def test_what_has_no_form_in_json_is_refused(message: Message, reason: str) -> None:
    cluster = cluster_pb2.Cluster(name="c")
    cluster.typed_extension_protocol_options["x"].Pack(message)
    found = violations(cluster)
    if not reason:
        assert found == []
        return
    ((path, said),) = found
    assert path == "typed_extension_protocol_options[x]"
    assert said.startswith(reason)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_number_of_a_struct_is_finite(number: float) -> None:
    cluster = cluster_pb2.Cluster(name="c")
    fields = cluster.metadata.filter_metadata["x"].fields
    fields["good"].number_value = 0
    fields["bad"].list_value.values.add(number_value=number)
    assert violations(cluster) == [
        ("metadata.filter_metadata[x].fields[bad].list_value.values[0].number_value",
         "must be finite")
    ]  # fmt: skip
    assert violations(struct_pb2.Value(number_value=1.5)) == []


def test_a_field_without_a_rule_is_looked_at_too() -> None:
    cluster = cluster_pb2.Cluster(name="c", cleanup_interval=duration(1))
    cluster.dns_jitter.nanos = -(10**9)
    assert ("dns_jitter", SIGN) in violations(cluster)
    endpoints = endpoint_pb2.ClusterLoadAssignment(cluster_name="c")
    endpoints.policy.endpoint_stale_after.seconds = 1 << 40
    assert ("policy.endpoint_stale_after", RANGE) in violations(endpoints)
