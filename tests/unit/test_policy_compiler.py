"""The compiler's promises, one small change each: what is shared, what is told, what goes away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconciler.core.labels import Label, LabelFilter, LabelSet
from reconciler.core.labels.label import NAMED_PORTS, encode_named_ports
from reconciler.core.objects import (
    LabelSelector,
    NetworkPolicy,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicySpec,
    ObjectMeta,
)
from reconciler.core.policy.compiler import Compiler
from reconciler.core.policy.evaluate import PeerInfo, external, verdict
from reconciler.core.policy.ir import Direction, PortRange, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.policy.published import PolicyDelta
from reconciler.core.policy.rules import HOST_RULE, PolicyRule, Translated
from reconciler.core.policy.selectors import (
    EVERYTHING,
    NOTHING,
    NamedPort,
    Requirement,
    Selector,
    selector,
    with_named_port,
)
from reconciler.core.policy.translate import protocol_number

OPEN = {
    direction: rule_set_hash(RuleSet(direction, False)) for direction in Direction
}  # fmt: skip
CLOSED_EGRESS = RuleSet(Direction.EGRESS, True)
HOST_ONLY = RuleSet(Direction.INGRESS, True, (HOST_RULE,))


def labels(app: str, *ports: tuple[str, int, int], namespace: str = "shop") -> LabelSet:
    return LabelSet.of(
        [
            Label("k8s", "app", app),
            Label("k8s", "io.kubernetes.pod.namespace", namespace),
            *encode_named_ports(ports),
        ]
    )


def app(*values: str) -> Selector:
    return selector([Requirement("k8s:app", "In", values)])


def allow(*peers: Selector, ports: tuple[PortRange | NamedPort, ...] | None = None) -> PolicyRule:
    return PolicyRule(selectors=peers, ports=ports, origin="allow")


@pytest.fixture
def compiler() -> Compiler:
    """Identities 256 web, 257 db, 5000 batch; no policy."""
    found = Compiler(LabelFilter.default())
    found.apply(
        identities_added={
            256: (1, labels("web")),
            257: (1, labels("db")),
            5000: (2, labels("batch")),
        }
    )
    return found


def ingress(compiler: Compiler, number: int) -> RuleSet:
    return compiler.rule_sets[compiler.policies[number].ingress]


def egress(compiler: Compiler, number: int) -> RuleSet:
    return compiler.rule_sets[compiler.policies[number].egress]


def test_without_policies_everything_is_open_and_shared(compiler: Compiler) -> None:
    assert set(compiler.rule_sets) == set(OPEN.values())
    assert compiler.policies[5000].birth == 2
    assert compiler.policies[5000].ingress == OPEN[Direction.INGRESS]


def test_a_policy_touches_only_whom_it_selects(compiler: Compiler) -> None:
    delta = compiler.apply(
        policies_changed={"shop/p": Translated(app("web"), ingress=(allow(app("db")),))}
    )
    name = compiler.policies[256].ingress
    assert delta == PolicyDelta(
        peer_sets=frozenset({(app("db").hash, 257 >> 10)}),
        rule_sets_added=frozenset({name}),
        policies_changed=frozenset({256}),
    )
    assert compiler.policies[256].egress == OPEN[Direction.EGRESS]
    assert set(compiler.peer_sets[app("db").hash]) == {257}


def test_a_new_peer_changes_one_shard_and_no_rule_set(compiler: Compiler) -> None:
    compiler.apply(policies_changed={"shop/p": Translated(app("web"), (allow(app("db")),))})
    delta = compiler.apply(identities_added={2048: (3, labels("db", namespace="pay"))})
    assert delta == PolicyDelta(
        peer_sets=frozenset({(app("db").hash, 2)}), policies_changed=frozenset({2048})
    )


def test_a_policy_that_is_the_same_changes_nothing(compiler: Compiler) -> None:
    policy = Translated(app("web"), (allow(app("db")),))
    compiler.apply(policies_changed={"shop/p": policy})
    assert not compiler.apply(policies_changed={"shop/p": policy, "shop/gone": None})


def test_a_peer_set_is_published_only_while_a_rule_set_names_it(compiler: Compiler) -> None:
    policy = Translated(app("nobody"), (allow(app("db")),))
    assert not compiler.apply(policies_changed={"shop/p": policy})
    assert not compiler.peer_sets
    compiler.apply(identities_added={300: (4, labels("nobody"))})
    assert set(compiler.peer_sets) == {app("db").hash}
    assert compiler.selectors[app("db").hash] == app("db")
    delta = compiler.apply(identities_removed=[300])
    assert delta.peer_sets == {(app("db").hash, 0)}
    assert delta.policies_removed == {300}
    assert not compiler.peer_sets


def test_an_empty_peer_set_is_there_without_shards(compiler: Compiler) -> None:
    delta = compiler.apply(policies_changed={"shop/p": Translated(app("web"), (allow(app("x")),))})
    assert not delta.peer_sets
    assert not compiler.peer_sets[app("x").hash]


def test_rule_sets_are_shared_by_content(compiler: Compiler) -> None:
    """Two policies that isolate say the same: one closed rule set."""
    compiler.apply(
        policies_changed={
            "shop/a": Translated(app("web"), (), ()),
            "shop/b": Translated(app("db"), (), ()),
        }
    )
    assert compiler.policies[256].egress == compiler.policies[257].egress
    assert egress(compiler, 256) == CLOSED_EGRESS
    assert ingress(compiler, 256) == HOST_ONLY


def test_equal_rules_of_two_policies_are_one_rule_with_two_origins(compiler: Compiler) -> None:
    one = PolicyRule(selectors=(app("db"),), origin="one")
    two = PolicyRule(selectors=(app("db"),), origin="two")
    compiler.apply(
        policies_changed={
            "shop/a": Translated(app("web"), (one,)),
            "shop/b": Translated(app("web"), (two,)),
        }
    )
    (rule,) = (rule for rule in ingress(compiler, 256).rules if rule != HOST_RULE)
    assert rule.origins == ("one", "two")


def test_a_changed_policy_replaces_the_rule_set_of_its_subjects(compiler: Compiler) -> None:
    compiler.apply(policies_changed={"shop/p": Translated(EVERYTHING, (allow(app("db")),))})
    before = compiler.policies[256].ingress
    delta = compiler.apply(
        policies_changed={"shop/p": Translated(EVERYTHING, (allow(app("web")),))}
    )
    assert delta.rule_sets_removed == {before}
    assert delta.rule_sets_added == {compiler.policies[256].ingress}
    assert delta.policies_changed == {256, 257, 5000}
    assert delta.peer_sets == {(app("db").hash, 0), (app("web").hash, 0)}


def test_a_deny_beats_a_narrower_allow(compiler: Compiler) -> None:
    compiler.apply(
        policies_changed={
            "shop/allow": Translated(
                app("web"), (allow(app("db"), ports=(PortRange(6, 80, 80),)),)
            ),
            "shop/deny": Translated(
                app("web"), (PolicyRule(Verdict.DENY, selectors=(EVERYTHING,), origin="deny"),)
            ),
        }
    )
    decision = verdict(ingress(compiler, 256), PeerInfo(257), 6, 80, _members(compiler))
    assert not decision.allowed
    assert decision.rule is not None
    assert decision.rule.origins == ("deny",)


def test_a_deny_covers_the_host_and_unknown_addresses(compiler: Compiler) -> None:
    deny = PolicyRule(Verdict.DENY, reserved=(1,))
    compiler.apply(
        policies_changed={
            "shop/p": Translated(app("web"), (deny, PolicyRule(any_peer=True))),
        }
    )
    rules, members = ingress(compiler, 256), _members(compiler)
    assert not verdict(rules, PeerInfo(1), 6, 80, members).allowed
    assert not verdict(rules, PeerInfo(0), 6, 80, members).allowed
    assert verdict(rules, PeerInfo(6), 6, 80, members).allowed


def test_denies_without_isolation_leave_the_rest_open(compiler: Compiler) -> None:
    deny = PolicyRule(Verdict.DENY, selectors=(app("db"),))
    compiler.apply(policies_changed={"shop/p": Translated(app("web"), (deny,), isolates=False)})
    rules, members = ingress(compiler, 256), _members(compiler)
    assert not rules.enforced
    assert not verdict(rules, PeerInfo(257), 6, 80, members).allowed
    assert verdict(rules, PeerInfo(5000), 6, 80, members).allowed
    assert verdict(rules, external(bytes(4)), 6, 80, members).allowed
    compiler.apply(policies_changed={"shop/q": Translated(app("web"), ())})
    assert not verdict(ingress(compiler, 256), PeerInfo(5000), 6, 80, members).allowed


def test_named_ports_of_ingress_split_the_rule_sets(compiler: Compiler) -> None:
    compiler.apply(
        identities_added={
            300: (5, labels("web", ("http", 6, 8080))),
            301: (5, labels("web", ("http", 6, 9090), ("dns", 17, 53))),
        },
        policies_changed={
            "shop/p": Translated(app("web"), (allow(app("db"), ports=(NamedPort("http", 6),)),))
        },
    )
    assert ingress(compiler, 256) == HOST_ONLY  # no port of that name: no rule at all
    assert _ports(ingress(compiler, 300)) == {(PortRange(6, 8080, 8080),)}
    assert _ports(ingress(compiler, 301)) == {(PortRange(6, 9090, 9090),)}


def test_one_name_on_two_protocols_is_two_ports(compiler: Compiler) -> None:
    rules = (
        allow(app("db"), ports=(NamedPort("http", 6),)),
        allow(app("batch"), ports=(NamedPort("http", 17),)),
    )
    compiler.apply(
        identities_added={300: (5, labels("web", ("http", 6, 8080), ("http", 17, 8081)))},
        policies_changed={"shop/p": Translated(app("web"), rules)},
    )
    found, members = ingress(compiler, 300), _members(compiler)
    assert _ports(found) == {(PortRange(6, 8080, 8080),), (PortRange(17, 8081, 8081),)}
    assert verdict(found, PeerInfo(257), 6, 8080, members).allowed
    assert not verdict(found, PeerInfo(257), 17, 8081, members).allowed


def test_named_ports_of_egress_follow_the_destinations(compiler: Compiler) -> None:
    http = NamedPort("http", 6)
    compiler.apply(
        policies_changed={
            "shop/p": Translated(app("batch"), egress=(allow(app("web"), ports=(http,)),))
        }
    )
    assert egress(compiler, 5000) == CLOSED_EGRESS

    def at(port: int) -> str:
        return with_named_port(app("web"), NamedPort("http", 6, port)).hash

    delta = compiler.apply(identities_added={300: (5, labels("web", ("http", 6, 8080)))})
    assert delta.policies_changed == {300, 5000}
    assert delta.peer_sets == {(at(8080), 0)}
    assert egress(compiler, 5000).rules == (
        Rule(Verdict.ALLOW, (PortRange(6, 8080, 8080),), peer_sets=(at(8080),), origins=("allow",)),
    )
    same = compiler.apply(identities_added={301: (5, labels("web", ("http", 6, 8080)))})
    assert same.policies_changed == {301}  # one member more, the same rules
    assert same.peer_sets == {(at(8080), 0)}

    compiler.apply(identities_added={302: (5, labels("web", ("http", 6, 9090)))})
    assert set(compiler.peer_sets) == {at(8080), at(9090)}
    unrelated = compiler.apply(identities_added={303: (5, labels("db", ("http", 6, 7070)))})
    assert unrelated.policies_changed == {303}

    gone = compiler.apply(identities_removed=[302])
    assert gone.peer_sets == {(at(9090), 0)}
    assert gone.policies_changed == {5000}
    compiler.apply(identities_removed=[300, 301])
    assert egress(compiler, 5000) == CLOSED_EGRESS
    assert not compiler.peer_sets


def test_everybodys_port_name_means_pods_only(compiler: Compiler) -> None:
    rule = PolicyRule(any_peer=True, ports=(NamedPort("http", 6),), origin="allow")
    compiler.apply(
        identities_added={300: (5, labels("web", ("http", 6, 8080)))},
        policies_changed={"shop/p": Translated(app("batch"), egress=(rule,))},
    )
    rules, members = egress(compiler, 5000), _members(compiler)
    assert verdict(rules, PeerInfo(300), 6, 8080, members).allowed
    assert not verdict(rules, PeerInfo(256), 6, 8080, members).allowed
    assert not verdict(rules, external(bytes(4)), 6, 8080, members).allowed


def test_an_adopted_identity_with_impossible_ports_is_one_without_them(compiler: Compiler) -> None:
    rule = PolicyRule(any_peer=True, ports=(NamedPort("web", 6),), origin="allow")
    wrong = LabelSet.of(
        [Label("k8s", "app", "web"), Label("gen", NAMED_PORTS, "web.TCP.99999_web.TCP.0")]
    )
    compiler.apply(
        identities_added={300: (5, wrong)},
        policies_changed={"shop/p": Translated(app("web"), ingress=(rule,), egress=(rule,))},
    )
    assert ingress(compiler, 300) == RuleSet(Direction.INGRESS, True, (HOST_RULE,))


def test_a_rule_for_nobody_leaves_no_rule(compiler: Compiler) -> None:
    compiler.apply(policies_changed={"shop/p": Translated(app("web"), (PolicyRule(),))})
    assert ingress(compiler, 256) == HOST_ONLY


def test_a_bad_policy_changes_nothing(compiler: Compiler) -> None:
    bad = NetworkPolicy(
        ObjectMeta(name="bad", namespace="shop"),
        NetworkPolicySpec(ingress=(NetworkPolicyIngressRule((NetworkPolicyPeer(),)),)),
    )
    before = dict(compiler.policies)
    with pytest.raises(ValueError, match="without podSelector"):
        compiler.apply(identities_removed=[256], policies_changed={"shop/bad": bad})
    assert compiler.policies == before


def test_warnings_stand_until_the_policy_changes(compiler: Compiler) -> None:
    hidden = NetworkPolicy(
        ObjectMeta(name="p", namespace="shop"),
        NetworkPolicySpec(LabelSelector({"pod-template-hash": "1"})),
    )
    delta = compiler.apply(policies_changed={"shop/p": hidden})
    assert [warning.path for warning in delta.warnings] == [
        "spec.podSelector.matchLabels[pod-template-hash]"
    ]
    assert compiler.warnings == {"shop/p": delta.warnings}
    assert not compiler.apply(policies_changed={"shop/p": hidden}).warnings
    compiler.apply(policies_changed={"shop/p": None})
    assert not compiler.warnings


def test_selectors_with_one_meaning_have_one_name() -> None:
    a = Requirement("k8s:a", "In", ("y", "x", "x"))
    b = Requirement("k8s:b", "DoesNotExist")
    assert selector([a, b]).hash == selector([b, a, a]).hash
    assert selector([a, Requirement("k8s:a", "Exists")]) == selector([a])
    assert selector([a, Requirement("k8s:a", "In", ("x",))]) == app_key("a", "x")
    assert (
        selector([app_key("a", "x").requirements[0], Requirement("k8s:a", "In", ("y",))]) == NOTHING
    )
    assert selector([a, Requirement("k8s:a", "DoesNotExist")]) == NOTHING
    assert selector([a]).hash != selector([Requirement("k8s:a", "NotIn", ("x", "y"))]).hash
    assert not NOTHING.matches(labels("web"))
    assert EVERYTHING.matches(labels("web"))


def test_a_selector_with_a_named_port_needs_exactly_that_port() -> None:
    wanted = with_named_port(app("web"), NamedPort("http", 6, 80))
    assert wanted.matches(labels("web", ("http", 6, 80)))
    assert not wanted.matches(labels("web", ("http", 6, 81)))
    assert not wanted.matches(labels("web", ("http", 17, 80)))
    assert not wanted.matches(labels("db", ("http", 6, 80)))


def test_names_do_not_change() -> None:
    """Names are on the wire and in pinned maps' cookies: another name is another rule set."""
    assert EVERYTHING.hash == "bb5bb1b3a77487eecdeb0af136abad36"
    assert OPEN[Direction.INGRESS] == "ae2d37a47b2158276d22b5a56b09020f"


def test_protocols_are_those_of_the_api() -> None:
    assert [protocol_number(name) for name in ("TCP", "UDP", "SCTP")] == [6, 17, 132]
    with pytest.raises(ValueError):
        protocol_number("tcp")


def app_key(key: str, *values: str) -> Selector:
    return selector([Requirement(f"k8s:{key}", "In", values)])


def _members(compiler: Compiler) -> Callable[[str, int], bool]:
    return lambda name, number: number in compiler.peer_sets[name]


def _ports(rule_set: RuleSet) -> set[tuple[PortRange, ...]]:
    return {rule.ports for rule in rule_set.rules if rule != HOST_RULE}
