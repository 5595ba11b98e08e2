"""Which labels make an identity: Cilium's label filter, rule by rule.

A rule is `source:regexp` to include and `source:!regexp` to ignore; source and colon may be left
out (any source). The regexp must match at the start of the key. Of a label, the longest include
match and the shortest ignore match are compared: it is kept if no rule ignores it (only as long as
nobody gave an include rule of his own), or if the include match is longer.

What follows from it and surprises:
* a match of length zero counts as none; an ignore match of length zero moreover makes the ignore
  matches of the rules before it forgotten (Cilium folds them in order, and so does this);
* `kubernetes\\.io` ignores keys that *start* with it: `foo.kubernetes.io/x` is kept;
* the first colon of a rule always ends its source, also inside a regexp such as `(?:a|b)`;
* rules of a file are plain prefixes, not regexps: `reserved` / `.*` there matches no key.
Changing the rules changes identities: it needs a restart of the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from reconciler.core.labels.label import K8S, POD_NAMESPACE
from reconciler.core.labels.re2 import compile_re2

DEFAULT_RULES: Final = (
    r"reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    r"!pod-template-generation",
    r"!pod-template-hash",
    r"!controller-revision-hash",
    r"!controller-uid",
    r"!annotation.*",
    r"!etcd_node",
    r"!topology\.kubernetes\.io",
)
"""Cilium's built-in rules, in its order (v1.19, pkg/labelsfilter/filter.go)."""

FILE_VERSION: Final = 1

_REMEMBERED: Final = 65_536
"""Keys whose answer is remembered; pod labels are written by users, so there must be an end."""


class Rule(msgspec.Struct, frozen=True):
    """source "": any. `expression` None: `text` is a plain prefix."""

    source: str
    text: str
    ignore: bool
    expression: re.Pattern[str] | None

    def length(self, source: str, key: str) -> int | None:
        """Length of the match at the start of the key; None when there is no match."""
        if self.source and self.source != source:
            return None
        if self.expression is None:
            return len(self.text) if key.startswith(self.text) else None
        match = self.expression.match(key)
        return None if match is None else match.end()

    def __str__(self) -> str:
        return f"{self.source}:{'!' if self.ignore else ''}{self.text}"


class LabelFilter:
    """Immutable; answers are remembered, so that regexps run once for each distinct key.

    whitelist: a label needs an include match to be kept
    warnings:  what is likely not meant, for the log
    """

    def __init__(self, rules: Iterable[Rule], *, whitelist: bool) -> None:
        self.rules = tuple(rules)
        self.whitelist = whitelist
        self._answers: dict[tuple[str, str], bool] = {}
        self.warnings = tuple(self._warnings())

    @classmethod
    def default(cls) -> LabelFilter:
        return cls(map(parse_rule, DEFAULT_RULES), whitelist=False)

    @classmethod
    def from_file(cls, content: Mapping[str, Any]) -> LabelFilter:
        """From the content of a `--label-prefix-file`, which replaces the built-in rules.

        Form: {"version": 1, "valid-prefixes": [{"prefix", "source", "invert"}]}. ValueError else.
        """
        if content.get("version") != FILE_VERSION or isinstance(content.get("version"), bool):
            raise ValueError(f"label prefix file: version must be {FILE_VERSION}")
        entries = content.get("valid-prefixes") or []
        if not isinstance(entries, list):
            raise ValueError("label prefix file: valid-prefixes must be a list")
        rules = []
        for i, entry in enumerate(entries):
            where = f"label prefix file: valid-prefixes[{i}]"
            if not isinstance(entry, Mapping):
                raise ValueError(f"{where} must be an object")
            for field in ("prefix", "source"):
                if not isinstance(entry.get(field), str) or not entry[field]:
                    raise ValueError(f"{where}.{field} must be a text that isn't empty")
            ignore = entry.get("invert", False)
            if not isinstance(ignore, bool):
                raise ValueError(f"{where}.invert must be true or false")
            rules.append(Rule(entry["source"], entry["prefix"], ignore, None))
        return cls(rules, whitelist=any(not rule.ignore for rule in rules))

    def with_user_rules(self, rules: Iterable[str]) -> LabelFilter:
        """These rules after the ones at hand (Cilium's `--labels`); ValueError for a bad one."""
        added = [parse_rule(text) for text in rules]
        whitelist = self.whitelist or any(not rule.ignore for rule in added)
        return LabelFilter((*self.rules, *added), whitelist=whitelist)

    def accepts(self, source: str, key: str) -> bool:
        """Whether a label with this source and key is part of the identity."""
        answer = self._answers.get((source, key))
        if answer is None:
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            answer = self._answers[source, key] = self._decide(source, key)
        return answer

    def _decide(self, source: str, key: str) -> bool:
        included = ignored = 0
        for rule in self.rules:
            length = rule.length(source, key)
            if length is None:
                continue
            if rule.ignore:
                if ignored == 0 or length < ignored:
                    ignored = length
            elif length > included:
                included = length
        return (not self.whitelist and ignored == 0) or included > ignored

    def _warnings(self) -> Iterable[str]:
        if not any(
            rule.source == "reserved" and rule.text == ".*" and not rule.ignore
            for rule in self.rules
        ):
            yield "label filter: no rule reserved:.*, reserved labels may be hidden"
        if not self._decide(K8S, POD_NAMESPACE):
            yield f"label filter: hides {POD_NAMESPACE}, policies can't select any pod"


def parse_rule(text: str) -> Rule:
    """One rule as on Cilium's command line; ValueError with the reason."""
    source, colon, expression = text.partition(":")
    if not colon:
        source, expression = "", text
    ignore = expression.startswith("!")
    expression = expression[1:] if ignore else expression
    if not expression and not ignore:
        raise ValueError(f"label rule {text!r}: the expression is empty")
    try:
        return Rule(source, expression, ignore, compile_re2(expression))
    except ValueError as error:
        raise ValueError(f"label rule {text!r}: {error}") from None
