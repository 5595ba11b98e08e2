"""Resources with anything written anywhere in them: each is read or refused, and nothing else.

A file is what somebody typed. Whatever is in it, the answer is resources and problems, never an
error that would end a server; and what was read is what its type can hold.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.probe.messages import WRAPPER, message_class
from reconciler.server.discovery.documents import parse
from tests.integration.xds_processes import cluster, endpoints, listener, routes

GOOD: list[dict[str, Any]] = [
    cluster("a", dns_refresh_rate="2s", metadata={"filter_metadata": {"x": {"y": [1, None]}}}),
    endpoints("a", 1, 2),
    listener("a", "r"),
    routes("a", "c"),
    {"@type": WRAPPER, "name": "a", "ttl": "3s", "resource": cluster("a")},
]

words = st.sampled_from(
    ["", "a", "*", "1s", "-1s", "9" * 30, "NaN", "é\ud7ff", "name", "resources", "value"]
    + [each["@type"] for each in GOOD]
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), words, st.integers(-(1 << 80), 1 << 80)
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(words, st.just("@type")), inner, max_size=3),
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


@given(st.one_of(documents(), anything), st.booleans())
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
