"""The label filter against its rules written down directly, and canonical keys."""

from __future__ import annotations

import re
import string

from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.core.labels import DEFAULT_RULES, Label, LabelFilter, LabelSet, canonical
from reconciler.core.labels.label import (
    GENERATED,
    NAMED_PORTS,
    PROTOCOL_NUMBERS,
    decode_named_ports,
)

PARTS = st.sampled_from(
    ["kubernetes.io", "k8s.io", "beta.", "app.", "io.", "/", "x", "annotation", "reserved", "."]
)
KEYS = st.lists(PARTS, min_size=1, max_size=5).map("".join)
SOURCES = st.sampled_from(["k8s", "reserved", "gen", "any"])
USER_RULES = st.lists(
    st.builds(
        lambda source, ignore, body: f"{source}{ignore}{body}",
        st.sampled_from(["", "k8s:", "reserved:", "any:"]),
        st.sampled_from(["", "!"]),
        st.sampled_from(
            ["x", "x*", ".*", "app", "io", "k8s|io", r"[a-z]+\.", "(?:x)?", "^app", "b$"]
        ),
    ).filter(lambda rule: "(?:" not in rule or rule.startswith(("k8s:", "reserved:", "any:"))),
    max_size=5,
)


def accepts(rules: list[str], source: str, key: str) -> bool:
    """All rules at once, from their definition: no fold, no cache, no translation."""
    matches: list[tuple[bool, int]] = []  # (ignore, length)
    whitelist = False
    for position, rule in enumerate(rules):
        head, body = rule.split(":", 1) if ":" in rule else ("", rule)
        ignore, body = body[:1] == "!", body.removeprefix("!")
        whitelist |= position >= len(DEFAULT_RULES) and not ignore
        found = re.compile(body).search(key)
        if found and found.start() == 0 and head in ("", source):
            matches.append((ignore, found.end()))
    included = max((length for ignore, length in matches if not ignore), default=0)
    # An ignore of length zero forgets those before it.
    ignores = [length for ignore, length in matches if ignore]
    if 0 in ignores:
        ignores = ignores[len(ignores) - ignores[::-1].index(0) :]
    ignored = min(ignores, default=0)
    if included > ignored:
        return True
    return not whitelist and not ignores


@given(USER_RULES, SOURCES, KEYS)
@example(["!x*"], "k8s", "kubernetes.io/x")
def test_the_filter_is_its_rules(user: list[str], source: str, key: str) -> None:
    rules = LabelFilter.default().with_user_rules(user)
    assert rules.accepts(source, key) == accepts([*DEFAULT_RULES, *user], source, key)
    assert rules.accepts(source, key) == rules.accepts(source, key)  # the remembered answer


ODD = st.text(alphabet=":;=%2BF3Dab" + string.whitespace + "é", max_size=6)
LABELS = st.lists(
    st.builds(Label, ODD, ODD, ODD), max_size=5, unique_by=lambda label: (label.source, label.key)
)


@given(LABELS)
def test_a_canonical_key_reads_back(labels: list[Label]) -> None:
    found = LabelSet.of(labels)
    assert set(found.labels) == set(labels)
    again = LabelSet.parse(found.key)
    assert again == found
    assert again.labels == found.labels


@given(LABELS, LABELS)
@example([Label("k8s", "a", "1;k8s:b=2")], [Label("k8s", "a", "1"), Label("k8s", "b", "2")])
@example([Label("k8s", "a=b", "c")], [Label("k8s", "a", "b=c")])
@example([Label("a:b", "c", "")], [Label("a", "b:c", "")])
@example([Label("k8s", "a", "%3B")], [Label("k8s", "a", ";")])
def test_no_two_label_sets_share_a_key(one: list[Label], two: list[Label]) -> None:
    assert (LabelSet.of(one).key == LabelSet.of(two).key) == (set(one) == set(two))


@given(LABELS)
def test_the_order_of_labels_is_not_in_the_key(labels: list[Label]) -> None:
    assert LabelSet.of(labels).key == LabelSet.of(labels[::-1]).key


def test_valid_labels_are_written_as_they_are() -> None:
    labels = [Label("k8s", "app.kubernetes.io/name", "a_b.c-1"), Label("gen", "x", "h.TCP.1")]
    assert canonical(labels) == "k8s:app.kubernetes.io/name=a_b.c-1;gen:x=h.TCP.1;"


protocols = st.sampled_from(["TCP", "UDP", "SCTP", "tcp", ""])
ports = st.one_of(
    st.integers(-1, 10**6).map(str),
    st.text("0123456789", min_size=5, max_size=6),
    st.just("9" * 5000),
    st.text("0129²٣+_ ", max_size=4),
)


@given(st.lists(st.tuples(st.sampled_from(["web", "a-b", ""]), protocols, ports), max_size=4))
def test_named_ports_that_anybody_wrote_are_possible_ones(
    parts: list[tuple[str, str, str]],
) -> None:
    """Whatever an adopted identity says."""
    value = "_".join(".".join(part) for part in parts)
    for name, protocol, port in decode_named_ports([Label(GENERATED, NAMED_PORTS, value)]):
        assert name
        assert protocol in PROTOCOL_NUMBERS.values()
        assert 1 <= port <= 65535
