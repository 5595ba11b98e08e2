"""Documents that are wrong in a way of their own: each is one problem, with field and reason."""

from __future__ import annotations

import msgspec
import pytest

from reconciler.server.discovery.documents import parse
from reconciler.server.discovery.match import parse_match
from reconciler.server.discovery.values import Bad, plain
from tests.integration.xds_processes import cluster
from tests.pushed import cluster as short

GOOGLE = "type.googleapis.com/google.protobuf."
XDS = "type.googleapis.com/xds.type.v3."
WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"


def refused(document: object, file: str = "a.json") -> str:
    (problem,) = parse(msgspec.json.encode(document), file).problems
    return str(problem)


def refused_yaml(text: str) -> str:
    (problem,) = parse(text.encode(), "a.yaml").problems
    return str(problem)


def packed(inner: object) -> dict[str, object]:
    """A cluster with this as an Any in it."""
    return cluster("a", typed_extension_protocol_options={"x": inner})


# ------------------------------------------------------------------------------- one resource


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (
            packed({"@type": GOOGLE + name}),
            "a.json#1: Cluster a: typed_extension_protocol_options[x].value: is missing: "
            f"a google.protobuf.{name} is written there",
        )
        for name in ("Any", "Struct", "StringValue", "Duration", "FieldMask", "ListValue", "Value")
    ]
    + [
        (
            cluster("a", connect_timeout="0.1e999s"),
            "a.json#1: Cluster a: connect_timeout: is no Duration: cannot convert float infinity",
        ),
        (
            cluster("a", health_checks=[{}, {"interval": "0.1e999s"}]),
            "a.json#1: Cluster a: health_checks[1].interval: is no Duration: cannot",
        ),
        (
            packed({"@type": GOOGLE + "Duration", "value": "0.1e999s"}),
            "a.json#1: Cluster a: typed_extension_protocol_options[x].value: is no Duration: can",
        ),
        (
            packed({"@type": 3}),
            "a.json#1: Cluster a: typed_extension_protocol_options[x].@type: is no type URL",
        ),
        (
            packed({"@type": GOOGLE + "UninterpretedOption", "name": [{}]}),
            "a.json#1: Cluster a: typed_extension_protocol_options[x]: ",
        ),
        (
            {"@type": GOOGLE + "UninterpretedOption", "name": [{}]},
            "a.json#1: UninterpretedOption [{}]: Message google.protobuf.UninterpretedOption is",
        ),
        (
            {"@type": WRAPPER, "ttl": "0.1e999s", "resource": cluster("a")},
            "a.json#1: ttl: '0.1e999s' is no duration, such as \"30s\"",
        ),
        (
            packed({"@type": GOOGLE + "Any", "value": {"@type": "x/no.Such"}}),
            "a.json#1: Cluster a: typed_extension_protocol_options.x.value.@type: no.Such: there",
        ),
        (
            cluster("a", health_checks=[{"event_logger": [{"typed_config": {"@type": "x/a.b"}}]}]),
            "a.json#1: Cluster a: health_checks[0].event_logger[0].typed_config.@type: a.b: there",
        ),
    ],
)  # fmt: skip
def test_what_json_format_lets_through_is_a_problem_of_its_field(
    document: object, problem: str
) -> None:
    found = refused(document)
    assert found.startswith(problem), found


def test_what_is_data_is_no_type() -> None:
    """In a Struct `@type` is a key as any other."""
    data = {"@type": XDS + "TypedStruct", "type_url": "x/y", "value": {"a": {"@type": "no/Such"}}}
    document = cluster("a", metadata={"filter_metadata": {"x": {"@type": "no/Such"}}})
    for each in (packed(data), document):
        assert parse(msgspec.json.encode(each), "a.json").problems == ()


def test_a_resource_with_a_form_of_its_own_is_written_as_in_an_any() -> None:
    wrapper = {"@type": WRAPPER, "name": "a"}
    duration = {"@type": GOOGLE + "Duration", "value": "1s"}
    (found,) = parse(msgspec.json.encode({**wrapper, "resource": duration}), "a.json").found
    assert (found.name, found.body) == ("a", b"\x08\x01")
    without = {"@type": GOOGLE + "Duration"}
    assert refused({**wrapper, "resource": without}).startswith(
        "a.json#1: Duration a: resource.value: is missing: a google.protobuf.Duration is written"
    )


# ------------------------------------------------------------------------------- documents


@pytest.mark.parametrize("written", ["null", "false", "0", '""', "{}"])
def test_what_means_nothing_is_not_taken_for_no_resources(written: str) -> None:
    parsed = parse(written.encode(), "resources.json")
    assert len(parsed.problems) == 1
    if written != "null":
        text = f'{{"resources": {written}}}'
        for file in ("resources.json", "a.yaml"):
            assert len(parse(text.encode(), file).problems) == 1
        assert len(parse(written.encode(), "a.yaml").problems) == 1


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("", "a.yaml"),
        ("---\n---\n", "a.yaml"),
        ("resources:\n", "a.yaml"),
        ("resources: []\n", "a.yaml"),
        ("[]", "a.yaml"),
        ("[]", "a.json"),
        ('{"resources": []}', "a.json"),
        ('{"resources": null}', "a.json"),
    ],
)
def test_what_says_that_there_are_none_is_read(text: str, file: str) -> None:
    parsed = parse(text.encode(), file)
    assert (parsed.found, parsed.problems) == ((), ())


# ------------------------------------------------------------------------------- values


def test_keys_are_texts_as_json_has_them() -> None:
    assert plain({True: 1, False: 2, 3: 4, -5: 6, "a": 7, "True": 8}) == {
        "true": 1, "false": 2, "3": 4, "-5": 6, "a": 7, "True": 8,
    }  # fmt: skip


KEYS = [
    ("on", 'on is a boolean (true) in YAML: write "on" in quotes'),
    ("1.5", '1.5 is a number in YAML: write "1.5" in quotes'),
    ("017", '017 is the number 15 in YAML: write "017" in quotes'),
    ("null", "a key must be a text"),
    ("!!binary YQ==", "a key must be a text"),
]


@pytest.mark.parametrize(("key", "reason"), KEYS)
def test_a_key_that_is_no_text_is_refused(key: str, reason: str) -> None:
    text = msgspec.json.encode(short("a")).decode()[:-1]
    found = refused_yaml(f"{text}, metadata: {{filter_metadata: {{x: {{{key}: 1}}}}}}}}")
    assert found == f"a.yaml#1: metadata.filter_metadata.x: {reason}"


@pytest.mark.parametrize("document", [{True: 1, "true": 2}, {"3": 1, 3: 2}])
def test_keys_that_become_equal_are_refused(document: dict[object, int]) -> None:
    with pytest.raises(Bad, match=r"^metadata\.(true|3): is given twice$"):
        parse_match({"metadata": document})


@pytest.mark.parametrize(
    ("written", "kind"), [("!!set {a}", "set"), ("!!binary YQ==", "bytes"), ("!!pairs [a: 1]", "")]
)
def test_a_value_that_json_does_not_have_is_refused(written: str, kind: str) -> None:
    reason = f"is of a kind that JSON does not have: {kind}"
    assert reason in refused_yaml(f"a:\n- b: {written}")
    with pytest.raises(Bad, match=reason):
        parse_match({"metadata": {"a": {"b"} if kind == "set" else b"b" if kind else ("b",)}})


def test_a_match_does_not_rewrite_keys() -> None:
    assert parse_match({"metadata": {True: "a"}}).wants == {("metadata", "true"): ("a",)}
    with pytest.raises(Bad, match=r"^metadata: a key must be a text$"):
        parse_match({"metadata": {None: "a"}})
