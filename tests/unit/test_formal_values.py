"""Values through TLA+ text and through ITF: what is equal stays equal, what is wrong is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.formal.values import (
    ModelValue,
    Record,
    TlaSyntaxError,
    Value,
    freeze,
    from_itf,
    function,
    model_values,
    parse_tla,
    to_itf,
    to_tla,
)

NAMES = st.from_regex(r"[a-z_][a-zA-Z0-9_]{0,5}", fullmatch=True)


def homogeneous(children: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    """Containers as TLA+ has them: TLC compares no number with a truth value."""
    numbers: st.SearchStrategy[Value] = st.integers()
    keys: st.SearchStrategy[Value] = st.one_of(
        NAMES.map(ModelValue), st.text(max_size=4), st.tuples(numbers, NAMES)
    )
    return st.one_of(
        st.lists(children, max_size=3).map(tuple),
        st.frozensets(st.one_of(st.integers(), st.text(max_size=4)), max_size=3),
        st.frozensets(st.tuples(NAMES, st.integers()), max_size=3),
        st.dictionaries(NAMES, children, min_size=1, max_size=3).map(Record),
        st.dictionaries(st.integers(), children, max_size=3).map(function),
        st.dictionaries(keys, children, max_size=3).map(function),
    )


VALUES: st.SearchStrategy[Value] = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.text(max_size=8), NAMES.map(ModelValue)),
    homogeneous,
    max_leaves=12,
)


@given(VALUES)
def test_tla_round_trip(value: Value) -> None:
    text = to_tla(value)
    again = parse_tla(text)
    assert again == value
    assert to_tla(again) == text
    assert sorted(model_values(again)) == sorted(model_values(value))


@given(VALUES)
def test_itf_round_trip(value: Value) -> None:
    again = from_itf(to_itf(value))
    assert again == value
    assert hash(again) == hash(value)


@given(VALUES)
def test_copies_are_equal(value: Value) -> None:
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<< >>", ()),
        ("1..3", frozenset({1, 2, 3})),
        ("2..1", frozenset()),
        ("-7", -7),
        ('(1 :> "a" @@ 2 :> "b")', ("a", "b")),
        ('(2 :> "a")', Record({2: "a"})),
        ('[kind |-> "ack", to |-> {n1, n2}]', Record(kind="ack", to=frozenset({"n1", "n2"}))),
        (r'"a \"quoted\" \\ line\n"', 'a "quoted" \\ line\n'),
        ("(<<n1, 1>> :> TRUE @@ <<n2, 1>> :> FALSE)", {("n1", 1): True, ("n2", 1): False}),
        ("{{}, {<<>>}}", frozenset({frozenset(), frozenset({()})})),
        ("<<1,\n   [a |->\n  2]>>", (1, Record(a=2))),
    ],
)
def test_what_tlc_prints(text: str, value: Any) -> None:
    assert parse_tla(text) == freeze(value)


@pytest.mark.parametrize(
    "text",
    ["", "<<1, 2", "[a |-> ]", "{1 2}", "SUBSET {1}", "1 2", "(1 :> 2", "[a]", '"open', "1..x"],
)
def test_no_value(text: str) -> None:
    with pytest.raises(TlaSyntaxError, match="offset"):
        parse_tla(text)


@pytest.mark.parametrize(
    ("json", "value"),
    [
        ({"#bigint": "12345678901234567890"}, 12345678901234567890),
        (3, 3),
        ([{"#bigint": "1"}], (1,)),
        ({"#map": [[{"#bigint": "1"}, "x"]]}, ("x",)),
        ({"#map": []}, ()),
        ({"tag": "Some", "value": {"#bigint": "1"}}, Record(tag="Some", value=1)),
        ({"#set": ["n1_OF_NODE", "n2_OF_NODE"]}, frozenset({"n1_OF_NODE", "n2_OF_NODE"})),
    ],
)
def test_what_apalache_writes(json: Any, value: Value) -> None:
    assert from_itf(json) == value


@pytest.mark.parametrize("json", [{"#unserializable": "SUBSET {1}"}, None, 1.5])
def test_no_value_of_itf(json: Any) -> None:
    with pytest.raises(ValueError, match="ITF"):
        from_itf(json)


def test_model_values_print_bare_and_equal_their_names() -> None:
    value = frozenset({ModelValue("n1")})
    assert to_tla(value) == "{n1}"
    assert value == frozenset({"n1"})
    assert to_tla(frozenset({"n1"})) == '{"n1"}'


def test_record_is_a_mapping_that_never_changes() -> None:
    record = Record(a=1, b=())
    changed = record.replaced(a=2)
    assert dict(record) == {"a": 1, "b": ()}
    assert changed["a"] == 2
    assert changed != record
    assert "a" in record
    assert record != {"a": 1, "b": ()}


def test_freeze_refuses_what_is_no_value() -> None:
    with pytest.raises(TypeError, match=r"1\.5"):
        freeze([1.5])
