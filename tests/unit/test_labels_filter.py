"""The label filter, one test for each thing that implementers get wrong."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.labels import LabelFilter
from reconciler.core.labels.re2 import compile_re2

DEFAULT = LabelFilter.default()


@pytest.mark.parametrize(
    "key",
    [
        "app",
        "app.kubernetes.io/name",
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.policy.cluster",
        "io.cilium.k8s.policy.serviceaccount",
        "foo.kubernetes.io/x",  # `kubernetes\.io` ignores only keys that start with it
        "my-pod-template-hash",
        "team.k8s.io/x",
    ],
)
def test_default_keeps(key: str) -> None:
    assert DEFAULT.accepts("k8s", key)


@pytest.mark.parametrize(
    "key",
    [
        "io.kubernetes.foo",
        "kubernetes.io/hostname",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
        "beta.kubernetes.io/arch",
        "failure-domain.beta.kubernetes.io/zone",  # .*beta matches from the start
        "k8s.io/x",
        "pod-template-generation",
        "pod-template-hash",
        "pod-template-hashed",  # a regexp is a prefix
        "controller-revision-hash",
        "controller-uid",
        "annotationfoo",
        "etcd_node",
        "etcd_nodes",
        "topology.kubernetes.io/zone",
    ],
)
def test_default_ignores(key: str) -> None:
    assert not DEFAULT.accepts("k8s", key)


@pytest.mark.parametrize(
    "key", ["pod-template-hash", "kubernetes.io/metadata.name", "etcd_node", "k8s.io/x", "team"]
)
def test_namespace_labels_are_kept_whatever_their_key(key: str) -> None:
    assert DEFAULT.accepts("k8s", f"io.cilium.k8s.namespace.labels.{key}")


def test_an_ignore_that_matches_further_than_the_namespace_prefix_hides_a_namespace_label() -> None:
    # `.*beta\.kubernetes\.io` is longer than the include that saves other namespace labels.
    assert not DEFAULT.accepts("k8s", "io.cilium.k8s.namespace.labels.beta.kubernetes.io/x")


def test_reserved_labels_are_kept_by_their_source() -> None:
    assert DEFAULT.accepts("reserved", "kubernetes.io/x")
    assert not DEFAULT.accepts("k8s", "kubernetes.io/x")


def test_reserved_rule_is_a_source_and_a_regexp_not_a_key() -> None:
    only = LabelFilter([], whitelist=False).with_user_rules(["reserved:.*"])
    assert only.accepts("reserved", "host")
    assert not only.accepts("k8s", "reserved:host")


def test_a_match_must_start_at_the_start_of_the_key() -> None:
    only = LabelFilter([], whitelist=False).with_user_rules(["!pp"])
    assert only.accepts("k8s", "app")
    assert not only.accepts("k8s", "ppa")


def test_the_longest_include_meets_the_shortest_ignore() -> None:
    rules = LabelFilter([], whitelist=False).with_user_rules(["!ab", "!abcdef", "a", "abc"])
    assert rules.accepts("k8s", "abcdefg")  # 3 against 2, though an ignore has 6


def test_equal_lengths_ignore() -> None:
    rules = LabelFilter([], whitelist=False).with_user_rules(["abc", "!abc"])
    assert not rules.accepts("k8s", "abc")


def test_an_include_of_the_user_hides_what_it_does_not_match() -> None:
    rules = DEFAULT.with_user_rules(["k8s:app"])
    assert rules.whitelist
    assert rules.accepts("k8s", "app")
    assert not rules.accepts("k8s", "team")
    assert rules.accepts("k8s", "io.kubernetes.pod.namespace")


def test_an_ignore_of_the_user_hides_only_what_it_matches() -> None:
    rules = DEFAULT.with_user_rules(["!team"])
    assert not rules.whitelist
    assert not rules.accepts("k8s", "team-a")
    assert rules.accepts("k8s", "app")


def test_the_exclamation_mark_comes_after_the_source() -> None:
    rules = DEFAULT.with_user_rules(["k8s:!team"])
    assert not rules.accepts("k8s", "team")
    assert rules.accepts("gen", "team")


def test_a_rule_of_another_source_does_nothing() -> None:
    assert DEFAULT.with_user_rules(["container:!app"]).accepts("k8s", "app")


def test_an_include_match_of_length_zero_counts_as_none() -> None:
    rules = LabelFilter([], whitelist=False).with_user_rules(["x*"])
    assert not rules.accepts("k8s", "app")
    assert rules.accepts("k8s", "xapp")


def test_an_ignore_match_of_length_zero_counts_as_none() -> None:
    rules = LabelFilter([], whitelist=False).with_user_rules(["!x*"])
    assert rules.accepts("k8s", "app")
    assert not rules.accepts("k8s", "xapp")


def test_an_ignore_match_of_length_zero_makes_earlier_ignores_forgotten() -> None:
    assert DEFAULT.with_user_rules(["!x*"]).accepts("k8s", "pod-template-hash")
    before = LabelFilter([], whitelist=False).with_user_rules(["!x*", "!pod"])
    assert not before.accepts("k8s", "pod-template-hash")


def test_the_first_colon_ends_the_source_even_inside_a_regexp() -> None:
    with pytest.raises(ValueError, match=r"foo\|bar"):
        DEFAULT.with_user_rules(["(?:foo|bar)"])
    assert not DEFAULT.with_user_rules(["k8s:!(?:foo|bar)"]).accepts("k8s", "bar")


def test_empty_rules_are_refused() -> None:
    for text in ("", "k8s:"):
        with pytest.raises(ValueError, match="empty"):
            DEFAULT.with_user_rules([text])


# ------------------------------------------------------------------------------ custom files


def _entry(prefix: str, source: str = "k8s", invert: bool = False) -> dict[str, Any]:
    return {"prefix": prefix, "source": source, "invert": invert}


def test_a_file_replaces_the_built_in_rules() -> None:
    rules = LabelFilter.from_file({"version": 1, "valid-prefixes": [_entry("pod-template")]})
    assert rules.accepts("k8s", "pod-template-hash")
    assert not rules.accepts("k8s", "app")


def test_a_file_of_ignores_only_is_no_whitelist() -> None:
    rules = LabelFilter.from_file({"version": 1, "valid-prefixes": [_entry("team", invert=True)]})
    assert not rules.whitelist
    assert rules.accepts("k8s", "app")
    assert not rules.accepts("k8s", "team-a")


def test_entries_of_a_file_are_plain_prefixes() -> None:
    rules = LabelFilter.from_file(
        {"version": 1, "valid-prefixes": [_entry("a.c"), _entry(".*", "reserved")]}
    )
    assert rules.accepts("k8s", "a.cd")
    assert not rules.accepts("k8s", "abc")
    assert not rules.accepts("reserved", "host")


def test_user_rules_are_appended_to_those_of_a_file() -> None:
    rules = LabelFilter.from_file({"version": 1, "valid-prefixes": [_entry("a")]})
    both = rules.with_user_rules(["k8s:te.m"])
    assert both.accepts("k8s", "team")
    assert both.accepts("k8s", "app")


def test_what_is_likely_not_meant_is_a_warning_and_not_fatal() -> None:
    rules = LabelFilter.from_file({"version": 1, "valid-prefixes": [_entry("app")]})
    assert [text for text in rules.warnings if "reserved:.*" in text]
    assert [text for text in rules.warnings if "can't select any pod" in text]
    assert DEFAULT.warnings == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"version": 2, "valid-prefixes": []}, "version"),
        ({"version": True}, "version"),
        ({}, "version"),
        ({"version": 1, "valid-prefixes": [{"prefix": "a"}]}, "source"),
        ({"version": 1, "valid-prefixes": [{"source": "k8s", "prefix": ""}]}, "prefix"),
        ({"version": 1, "valid-prefixes": [_entry("a") | {"invert": "no"}]}, "invert"),
        ({"version": 1, "valid-prefixes": "a"}, "list"),
        ({"version": 1, "valid-prefixes": ["a"]}, "object"),
    ],
)
def test_bad_files_are_refused(content: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LabelFilter.from_file(content)


# --------------------------------------------------------------------------------------- RE2


@pytest.mark.parametrize(
    "pattern",
    [
        "a(?=b)",
        "a(?!b)",
        "(?<=a)b",
        "(?<!a)b",
        r"(a)\1",
        "(?P<n>a)(?P=n)",
        "(?(1)a|b)",
        "(?>a)",
        "(?#c)a",
        "a++",
        "a*+",
        "a**",
        "*a",
        "a|*",
        "a{2}{3}",
        "a{1001}",
        r"a\Z",
        r"\pL",
        r"\p{Greek}",
        "(?U)a",
        "[a",
        "[[:foo:]]",
        "(a",
        "a)",
        "a\\",
    ],
)
def test_what_re2_or_the_translation_refuses(pattern: str) -> None:
    with pytest.raises(ValueError):
        compile_re2(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "length"),
    [
        ("a{,3}", "a{,3}", 5),  # a repetition needs its minimum: text in RE2
        ("a{2,3}", "aaaa", 3),
        ("a{2,}?", "aaaa", 2),
        ("[[:alpha:]]+", "ab1", 2),
        ("[^[:digit:]x]+", "ab1", 2),
        ("[]a]+", "]a]b", 3),
        ("[a&&b]+", "a&b-", 3),
        (r"\d+", "1\u0661", 1),  # classes are ASCII
        (r"\w+", "a\u00e9", 1),
        (r"\Qa.c\E+", "a.ccc", 5),
        (r"\x41\x{42}", "AB", 2),
        (r"ab\z", "ab", 2),
        ("ab$", "ab", 2),
        ("(?i)APP", "app", 3),
        ("(?i:AP)p", "app", 3),
        ("(?P<n>a)b", "ab", 2),
        ("(?<n>a)b", "ab", 2),
        ("a|ab", "ab", 1),  # leftmost-first, not longest
    ],
)
def test_what_re2_means(pattern: str, text: str, length: int) -> None:
    match = compile_re2(pattern).match(text)
    assert match is not None
    assert match.end() == length


def test_the_end_of_text_is_not_before_a_newline() -> None:
    assert compile_re2("ab$").match("ab\n") is None
