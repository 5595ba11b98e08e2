"""Layers and parts: what differs between any two states, however they came about."""

from __future__ import annotations

import weakref

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.resources import root
from reconciler.core.resources.layer import Layer
from reconciler.core.resources.parts import Key, Part, missing_of, parts_of
from reconciler.core.resources.types import POLICY, Resource


def plain(name: str, version: str) -> Resource:
    return Resource("t", name, version, b"")


def naive(old: Layer, new: Layer) -> dict[Key, Resource | None]:
    missing: dict[Key, Resource | None] = {
        key: each
        for key, each in new.resources.items()
        if key not in old.resources or old.resources[key].version != each.version
    }
    missing.update((key, None) for key in old.resources if key not in new.resources)
    return missing


def in_parts(parts: tuple[Part, ...]) -> dict[Key, Resource | None]:
    for part in parts:
        assert [each.name for each in part.put] == sorted(each.name for each in part.put)
        assert list(part.removed) == sorted(part.removed)
    return missing_of(parts)


edits = st.tuples(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("123")), max_size=3),
    st.lists(st.sampled_from("abcdef"), max_size=2),
    st.integers(0, 3),  # how many versions back the layer is that this one is made from
)


@given(st.lists(edits, max_size=12), st.data())
def test_the_difference_of_any_two_layers(
    steps: list[tuple[list[tuple[str, str]], list[str], int]], data: st.DataObject
) -> None:
    layers = [Layer({})]
    for put, removed, back in steps:
        base = layers[max(0, len(layers) - 1 - back)]
        before = dict(base.resources)
        layers.append(
            base.changed([plain(*each) for each in put], [("t", name) for name in removed])
        )
        assert dict(base.resources) == before
        expected = {key: each for key, each in before.items() if key[1] not in removed}
        expected.update((("t", name), plain(name, version)) for name, version in put)
        assert dict(layers[-1].resources) == expected
        # Differences asked for meanwhile must not disturb later ones.
        at = data.draw(st.integers(0, len(layers) - 1))
        assert layers[-1].since(layers[at]) == naive(layers[at], layers[-1])
        assert in_parts(layers[-1].parts_since(layers[at])) == naive(layers[at], layers[-1])
        asked = data.draw(st.sampled_from(layers))
        assert in_parts(asked.parts()) == dict(asked.resources)
    for old in layers:
        for new in layers:
            assert new.since(old) == naive(old, new)
        assert old.root == root.total(
            (each.type_url, each.name, each.version) for each in old.resources.values()
        )


def test_layers_that_nobody_is_served_from_are_gone() -> None:
    first = newest = Layer({("t", "a"): plain("a", "0")})
    between = []
    for number in range(100):
        newest = newest.changed([plain("a", str(number % 7)), plain(f"b{number}", "1")])
        between.append(weakref.ref(newest))
    first.shorten()
    assert [each() for each in between[:-1]] == [None] * 99
    assert first.get(("t", "a")) == plain("a", "0")
    assert first.get(("t", "b3")) is None
    assert newest.since(first) == naive(first, newest)
    ref = weakref.ref(first)
    del first
    assert ref() is None, "the newer one does not keep the older"


changes = st.dictionaries(
    st.tuples(st.just(POLICY), st.text(max_size=2)),
    st.one_of(st.none(), st.text(max_size=1)),
    max_size=4,
)


@given(changes, changes)
def test_parts_have_equal_digests_only_if_they_say_the_same(
    one: dict[Key, str | None], other: dict[Key, str | None]
) -> None:
    digests = []
    for each in (one, other):
        missing = {
            key: None if version is None else Resource(*key, version, b"")
            for key, version in each.items()
        }
        parts = parts_of(missing)
        assert missing_of(parts) == missing
        digests.append([part.digest for part in parts])
    assert (digests[0] == digests[1]) == (one == other)


def test_the_ends_of_names_are_part_of_a_digest() -> None:
    names = [("a", "b"), ("a\0b",), ("ab",), ("a", "", "b")]
    assert len({Part(POLICY, (), removed).digest for removed in names}) == len(names)
