"""The compiler: incremental equals fresh, deltas are exact, rules mean what the policies say."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from reconciler.core.labels import LabelFilter, LabelSet, group_key, label_set
from reconciler.core.objects import Namespace, NetworkPolicy, ObjectMeta
from reconciler.core.policy.compiler import Compiler
from reconciler.core.policy.evaluate import PeerInfo, verdict
from reconciler.core.policy.index import SelectorIndex
from reconciler.core.policy.ir import Direction, IdentityPolicy, RuleSet, Verdict
from reconciler.core.policy.published import SHARD_BITS, PolicyDelta
from reconciler.core.policy.rules import HOST_RULE, PolicyRule, Translated
from reconciler.core.policy.selectors import NamedPort, Selector
from reconciler.testing.strategies import (
    PORTS,
    PROTOCOLS,
    labels,
    network_policies,
    pods,
    selectors,
    translated_policies,
)

FILTER = LabelFilter.default()
NUMBERS = (256, 257, 1023, 1024, 5000)
KEYS = ("shop/a", "shop/b", "pay/c")
Policy: TypeAlias = NetworkPolicy | Translated


class Change(msgspec.Struct, frozen=True):
    added: dict[int, tuple[int, LabelSet]]
    removed: tuple[int, ...]
    policies: dict[str, Policy | None]


class Seen(msgspec.Struct, frozen=True):
    """Everything that a compiler gives out, copied."""

    peer_sets: dict[str, frozenset[int]]
    selectors: dict[str, Selector]
    rule_sets: dict[str, RuleSet]
    policies: dict[int, IdentityPolicy]


def seen(compiler: Compiler) -> Seen:
    return Seen(
        {name: frozenset(members) for name, members in compiler.peer_sets.items()},
        dict(compiler.selectors),
        dict(compiler.rule_sets),
        dict(compiler.policies),
    )


@st.composite
def label_sets(draw: st.DrawFn) -> LabelSet:
    pod = draw(pods())
    namespace = Namespace(ObjectMeta(name=pod.metadata.namespace, labels=draw(labels())))
    return label_set(group_key(pod, FILTER), namespace, FILTER, "default")


def policies() -> st.SearchStrategy[Policy]:
    return st.one_of(network_policies(), translated_policies())


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Some identities and policies at once; the same keys come back with other content."""
    births = st.integers(1, 3)
    return Change(
        draw(
            st.dictionaries(st.sampled_from(NUMBERS), st.tuples(births, label_sets()), max_size=2)
        ),
        tuple(draw(st.lists(st.sampled_from(NUMBERS), max_size=2, unique=True))),
        draw(
            st.dictionaries(
                st.sampled_from(KEYS), st.one_of(st.none(), policies(), policies()), max_size=2
            )
        ),
    )


def exact_delta(before: Seen, after: Seen) -> PolicyDelta:
    """The delta as its definition says it, by a walk over everything."""

    def shards(state: Seen) -> dict[tuple[str, int], frozenset[int]]:
        found: dict[tuple[str, int], frozenset[int]] = {}
        for name, members in state.peer_sets.items():
            for number in members:
                key = (name, number >> SHARD_BITS)
                found[key] = found.get(key, frozenset()) | {number}
        return found

    old, new = shards(before), shards(after)
    return PolicyDelta(
        frozenset(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)),
        frozenset(after.rule_sets.keys() - before.rule_sets.keys()),
        frozenset(before.rule_sets.keys() - after.rule_sets.keys()),
        frozenset(
            number
            for number, policy in after.policies.items()
            if before.policies.get(number) != policy
        ),
        frozenset(before.policies.keys() - after.policies.keys()),
    )


@given(st.lists(changes(), min_size=1, max_size=6))
def test_incremental_equals_fresh_and_deltas_are_exact(history: list[Change]) -> None:
    compiler = Compiler(FILTER)
    identities: dict[int, tuple[int, LabelSet]] = {}
    given: dict[str, Policy] = {}
    for change in history:
        before = seen(compiler)
        delta = compiler.apply(
            identities_added=change.added,
            identities_removed=change.removed,
            policies_changed=change.policies,
        )
        for number in change.removed:
            identities.pop(number, None)
        identities |= change.added
        for key, policy in change.policies.items():
            if policy is None:
                given.pop(key, None)
            else:
                given[key] = policy
        after = seen(compiler)
        assert msgspec.structs.replace(delta, warnings=()) == exact_delta(before, after)

        fresh = Compiler(FILTER)
        fresh.apply(identities_added=identities, policies_changed=given)
        assert after == seen(fresh)
        assert compiler.warnings == fresh.warnings
        stepwise = Compiler(FILTER)
        for key, policy in given.items():
            stepwise.apply(policies_changed={key: policy})
        for number, identity in identities.items():
            stepwise.apply(identities_added={number: identity})
        assert after == seen(stepwise)

    gone = compiler.apply(
        identities_removed=tuple(identities), policies_changed=dict.fromkeys(given)
    )
    assert gone.policies_removed == identities.keys()
    assert seen(compiler) == Seen({}, {}, {}, {})
    assert not compiler._index.watches  # nothing is kept for policies that are gone
    assert not compiler._index.parts


@given(
    st.lists(label_sets(), min_size=1, max_size=4),
    st.lists(translated_policies(), max_size=3),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(PORTS),
)
def test_compiled_rules_mean_what_the_policies_say(
    sets: list[LabelSet], given: list[Translated], protocol: int, port: int
) -> None:
    """Against the three lines, rule by rule, over the policies themselves: denies included."""
    compiler = Compiler(FILTER)
    numbers = dict(enumerate(sets, 256))
    compiler.apply(
        identities_added={number: (1, labels) for number, labels in numbers.items()},
        policies_changed={f"shop/{i}": policy for i, policy in enumerate(given)},
    )
    for number, subject in numbers.items():
        for direction in Direction:
            policy = compiler.policies[number]
            name = policy.ingress if direction is Direction.INGRESS else policy.egress
            for other in (*numbers, 0, 1, 6):
                expected = three_lines(subject, other, numbers, given, direction, protocol, port)
                decision = verdict(
                    compiler.rule_sets[name],
                    PeerInfo(other),
                    protocol,
                    port,
                    lambda name, number: number in compiler.peer_sets[name],
                )
                assert decision.allowed is expected, (number, direction, other)


def three_lines(
    subject: LabelSet,
    other: int,
    numbers: dict[int, LabelSet],
    given: list[Translated],
    direction: Direction,
    protocol: int,
    port: int,
) -> bool:
    ingress = direction is Direction.INGRESS
    speaking = [
        (policy, policy.ingress if ingress else policy.egress)
        for policy in given
        if policy.subject.matches(subject)
    ]
    rules = [rule for _, section in speaking for rule in section or ()]
    enforced = any(policy.isolates for policy, section in speaking if section is not None)
    peer = numbers.get(other)
    holder = subject if ingress else peer

    def has_port(rule: PolicyRule, holder: LabelSet | None) -> bool:
        return rule.ports is None or any(
            (holder is not None and (spec.name, spec.protocol, port) in holder.named_ports)
            if isinstance(spec, NamedPort)
            else spec.first <= port <= spec.last
            for spec in rule.ports
            if spec.protocol == protocol
        )

    def named(rule: PolicyRule) -> bool:
        """Whether a named port of an egress rule lets it name pods here (for unknown peers)."""
        return any(
            has_port(msgspec.structs.replace(rule, ports=tuple(rule.named_ports)), labels)
            and (rule.any_peer or any(s.matches(labels) for s in rule.selectors))
            for labels in numbers.values()
        )

    def matches(rule: PolicyRule) -> bool:
        if rule.any_peer and has_port(rule, holder):
            return True
        if peer is not None:
            return has_port(rule, holder) and any(s.matches(peer) for s in rule.selectors)
        if other == 0:
            if rule.verdict is not Verdict.DENY:
                return False
            if not ingress and named(rule):
                return True
            return has_port(rule, holder) and bool(rule.selectors or rule.reserved)
        return has_port(rule, holder) and other in rule.reserved

    if any(rule.verdict is Verdict.DENY and matches(rule) for rule in rules):
        return False
    if any(rule.verdict is Verdict.ALLOW and matches(rule) for rule in rules):
        return True
    if ingress and enforced and other in HOST_RULE.reserved:
        return True
    return not enforced


@given(st.lists(label_sets(), max_size=5), st.lists(selectors(), min_size=1, max_size=4))
def test_index_finds_what_selectors_match(sets: list[LabelSet], wanted: list[Selector]) -> None:
    """Bitmaps (selector after identities) and comparison (identities after selectors) agree."""
    late, early = SelectorIndex(), SelectorIndex()
    for found in wanted:
        early.watch(found)
    for number, found_labels in enumerate(sets, 256):
        late.add(number, found_labels)
        early.add(number, found_labels)
    for found in wanted:
        expected = BitMap(n for n, labels in enumerate(sets, 256) if found.matches(labels))
        assert late.watch(found).members == expected
        assert early.watches[found.hash].members == expected
    for number in range(256, 256 + len(sets)):
        early.remove(number)
    assert not any(watch.members for watch in early.watches.values())


@given(label_sets(), label_sets())
def test_a_number_that_is_given_anew_has_the_new_meaning(old: LabelSet, new: LabelSet) -> None:
    """Removed and added in one change, for other labels: the policy carries the new birth."""
    compiler = Compiler(FILTER)
    compiler.apply(identities_added={256: (1, old)})
    delta = compiler.apply(identities_removed=[256], identities_added={256: (2, new)})
    assert delta == PolicyDelta(policies_changed=frozenset({256}))
    assert compiler.policies[256].birth == 2
