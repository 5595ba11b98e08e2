"""A node's refusal as a person reads it: with the policy objects that lead to what was refused.

Resources have names of content, which say nothing to who wrote the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reconciler.core.policy import origins
from reconciler.core.policy.ir import IdentityPolicy, RuleSet
from reconciler.core.resources.types import PEER_SET, POLICY, RULE_SET
from reconciler.errors import Refusal

MAX_NAMED: Final = 3
"""Policy objects named in a reason; the rest is counted."""


def with_policies(
    reason: str,
    refusal: Refusal | None,
    rule_sets: Mapping[str, RuleSet],
    policies: Mapping[int, IdentityPolicy],
) -> str:
    """The reason behind the names of the policies; as it is where none leads to the resource."""
    found: tuple[str, ...] = ()
    if refusal is not None and refusal.type_url == RULE_SET:
        found = origins.of_rule_sets((refusal.name,), rule_sets)
    elif refusal is not None and refusal.type_url == PEER_SET:
        found = origins.of_peer_set(refusal.name.rpartition("/")[0], rule_sets)
    elif refusal is not None and refusal.type_url == POLICY and refusal.name.isdecimal():
        found = origins.of_policy(policies.get(int(refusal.name)), rule_sets)
    if not found:
        return reason
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"{', '.join(found[:MAX_NAMED])}{more}: {reason}"
