"""Which policy objects stand behind a compiled resource, for people who read a refusal.

A node refuses what it is sent, and that has names of content: a rule set's hash says nothing to the
person who wrote the policy. A resource that no policy object leads to (a binding, an address) has
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reconciler.core.policy.ir import IdentityPolicy, RuleSet

KIND: Final = "NetworkPolicy "


def of_rule_sets(names: tuple[str, ...], rule_sets: Mapping[str, RuleSet]) -> tuple[str, ...]:
    """ "NetworkPolicy namespace/name", sorted, of the rule sets of these names that exist."""
    found = {
        origin.partition("#")[0]
        for name in names
        if name in rule_sets
        for rule in rule_sets[name].rules
        for origin in rule.origins
        if origin.startswith(KIND)
    }
    return tuple(sorted(found))


def of_peer_set(selector: str, rule_sets: Mapping[str, RuleSet]) -> tuple[str, ...]:
    """Of the rules that name the peer set."""
    found = {
        origin.partition("#")[0]
        for rule_set in rule_sets.values()
        for rule in rule_set.rules
        if selector in rule.peer_sets
        for origin in rule.origins
    }
    return tuple(sorted(found))


def of_policy(policy: IdentityPolicy | None, rule_sets: Mapping[str, RuleSet]) -> tuple[str, ...]:
    """Of both rule sets of one identity."""
    return () if policy is None else of_rule_sets((policy.ingress, policy.egress), rule_sets)
