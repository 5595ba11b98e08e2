"""Resources with anything written anywhere in them: each is read or refused, and nothing else.

A file is what somebody typed. Whatever is in it, the answer is resources and problems, never an
error that would end a server; and what was read is what its type can hold, and what JSON has a form
for, since there are clients that poll it as JSON. The same of bytes.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import yaml
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Error, Message
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.probe.messages import WRAPPER, message_class
from reconciler.server.discovery.binary import parse_binary
from reconciler.server.discovery.documents import parse
from tests.integration.xds_processes import cluster, endpoints, listener, routes

GOOGLE = "type.googleapis.com/google.protobuf."

GOOD: list[dict[str, Any]] = [
    cluster("a", dns_refresh_rate="2s", metadata={"filter_metadata": {"x": {"y": [1, None]}}}),
    endpoints("a", 1, 2),
    listener("a", "r"),
    routes("a", "c"),
    {"@type": WRAPPER, "name": "a", "ttl": "3s", "resource": cluster("a")},
    {"@type": WRAPPER, "name": "a", "resource": {"@type": GOOGLE + "Struct", "value": {"a": 1}}},
    cluster(
        "a", typed_extension_protocol_options={"x": {"@type": GOOGLE + "Duration", "value": "1s"}}
    ),
]

OWN_FORMS = [
    "Any", "BoolValue", "BytesValue", "DoubleValue", "Duration", "FieldMask", "FloatValue",
    "Int32Value", "ListValue", "StringValue", "Struct", "Timestamp", "UInt64Value", "Value",
]  # fmt: skip
"""Google's messages that are one value in JSON."""

OTHER_TYPES = [
    GOOGLE + "Empty",
    GOOGLE + "UninterpretedOption",  # of proto2: it has required fields
    "type.googleapis.com/xds.type.v3.TypedStruct",
    "type.googleapis.com/no.Such",
]

words = st.sampled_from(
    ["", "a", "*", "1s", "-1s", "9" * 30, "NaN", "é\ud7ff", "name", "resources", "value"]
    + ["0.1e999s", "-0.1e999s", "1e999s", "1e999", ".1e999s", "9999-99-99T99:99:99Z", "aB,c_d"]
    + [each["@type"] for each in GOOD]
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), words, st.integers(-(1 << 80), 1 << 80)
)


def anys(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """With a `value`, or with what stands in its place, or with nothing."""
    types = st.sampled_from([GOOGLE + name for name in OWN_FORMS] + OTHER_TYPES)
    keys = st.sampled_from(["value", "value", "typed_config", "name", "@type"])
    return st.builds(
        lambda type, more: {**more, "@type": type}, types, st.dictionaries(keys, inner, max_size=2)
    )


anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(words, st.just("@type")), inner, max_size=3),
        anys(inner),
    ),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        found.append((value, key))
        if isinstance(each, (dict, list)):
            found += places(each)
    return found


@st.composite
def documents(draw: st.DrawFn) -> Any:
    document = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 3))):
        container, key = draw(st.sampled_from(places(document)))
        if isinstance(container, dict) and draw(st.booleans()):
            key = draw(words)
        container[key] = draw(anything)
    return document


@given(st.one_of(documents(), anything, anys(anything)), st.booleans())
@example(cluster("a", connect_timeout="0.1e999s"), False)
@example(cluster("a", typed_extension_protocol_options={"x": {"@type": GOOGLE + "Any"}}), True)
def test_whatever_is_written_is_read_or_refused(document: Any, as_yaml: bool) -> None:
    if as_yaml:
        data, name = yaml.safe_dump(document, allow_unicode=True).encode(), "a.yaml"
    else:
        try:
            data, name = msgspec.json.encode(document), "a.json"
        except OverflowError:
            return
    parsed = parse(data, name)
    for each in parsed.found:
        cls = message_class(each.type_url)
        assert cls is not None
        again = cls.FromString(each.body)
        assert again.SerializeToString(deterministic=True) == each.body
        assert each.name not in ("", "*")
        assert json_format.MessageToJson(again)
    assert all(problem.reason and problem.source.startswith(name) for problem in parsed.problems)
    again_parsed = parse(data, name, parsed.known)
    assert (again_parsed.found, again_parsed.problems) == (parsed.found, parsed.problems)


@given(st.binary(max_size=200))
@example(b'"\x80"')
def test_any_bytes_are_no_error(data: bytes) -> None:
    for name in ("a.yaml", "a.json"):
        parse(data, name)
    parse_binary(data, "a.pb")


def message_of(document: dict[str, Any]) -> bytes:
    """The same resource as bytes. Its types are known: it was read once."""
    parse(msgspec.json.encode(document), "a.json")
    response = discovery_pb2.DiscoveryResponse()
    json_format.ParseDict({"resources": [document]}, response)
    return bytes(response.SerializeToString())


@given(documents())
def test_a_resource_is_the_same_in_both_forms(document: dict[str, Any]) -> None:
    try:
        data, written = message_of(document), msgspec.json.encode(document)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, Error):
        return  # no message
    except json_format.ParseError:
        return
    in_json, in_binary = parse(written, "a"), parse_binary(data, "a")
    if in_json.found:
        assert in_json.found == in_binary.found


@given(st.sampled_from(GOOD), st.data())
def test_whatever_bytes_are_in_a_message_it_is_read_or_refused(
    good: dict[str, Any], data: st.DataObject
) -> None:
    written = bytearray(message_of(good))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(written)))
        written[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    parsed = parse_binary(bytes(written), "a.pb")
    for each in parsed.found:
        cls = message_class(each.type_url)
        assert cls is not None
        assert cls.FromString(each.body).SerializeToString(deterministic=True) == each.body
        assert each.name not in ("", "*")
    again = parse_binary(bytes(written), "a.pb", parsed.known)
    assert (again.found, again.problems) == (parsed.found, parsed.problems)


seconds = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-2, 2))
nanos = st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-2, 2))
numbers = st.floats()  # also those that JSON does not have
edges = st.sampled_from(
    [315576000000, 315576000001, -62135596800, -62135596801, 253402300799, 253402300800]
)
durations = st.builds(duration_pb2.Duration, seconds=st.one_of(seconds, edges), nanos=nanos)
times = st.builds(timestamp_pb2.Timestamp, seconds=st.one_of(seconds, edges), nanos=nanos)
masks = st.builds(FieldMask, paths=st.lists(st.text("aA_b1.", max_size=4), max_size=2))
values = st.recursive(
    st.one_of(
        st.builds(struct_pb2.Value),
        st.builds(struct_pb2.Value, number_value=numbers),
        st.builds(struct_pb2.Value, string_value=st.text(max_size=2)),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda items: struct_pb2.Value(list_value=struct_pb2.ListValue(values=items)),
            st.lists(inner, max_size=2),
        ),
        st.builds(
            lambda fields: struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields)),
            st.dictionaries(st.text(max_size=2), inner, max_size=2),
        ),
    ),
    max_leaves=4,
)


@st.composite
def clusters(draw: st.DrawFn) -> cluster_pb2.Cluster:
    """With messages in them that have a form of their own in JSON, or none."""
    found = cluster_pb2.Cluster(name="a")
    for name in ("connect_timeout", "cleanup_interval", "dns_jitter"):
        if draw(st.booleans()):
            getattr(found, name).CopyFrom(draw(durations))
    if draw(st.booleans()):
        found.metadata.filter_metadata["x"].fields["y"].CopyFrom(draw(values))
    inner: Message | None = draw(st.one_of(st.none(), durations, times, masks, values))
    if inner is not None:
        found.typed_extension_protocol_options["x"].Pack(inner)
    return found


@given(clusters())
def test_whatever_bytes_are_taken_they_can_be_written_as_json(given: cluster_pb2.Cluster) -> None:
    response = discovery_pb2.DiscoveryResponse()
    response.resources.add().Pack(given)
    parsed = parse_binary(response.SerializeToString(), "a.pb")
    try:
        json_format.MessageToJson(response)
    except (json_format.Error, ValueError):
        assert parsed.problems, "nothing is said of what JSON has no form for"
        assert all(problem.path.startswith("resources[0].") for problem in parsed.problems)
    else:
        for problem in parsed.problems:
            assert problem.reason.startswith("must "), "a rule of the proto's own"
