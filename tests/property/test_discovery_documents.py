"""Resources with anything written anywhere in them: each is read or refused, and nothing else.

A file is what somebody typed. Whatever is in it, the answer is resources and problems, never an
error that would end a server; and what was read is what its type can hold. The same of bytes.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import yaml
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.message import Error
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
