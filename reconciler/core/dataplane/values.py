"""One resource of the next cut, decoded, as the tables take it."""

from __future__ import annotations

from typing import Final

import msgspec

from reconciler.core.policy.ir import IdentityPolicy, RuleSet
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    ENDPOINT,
    PEER_SET,
    POLICY,
    RULE_SET,
)
from reconciler.core.resources.values import Addresses, Bindings, LocalPod, Members

StagedValue = Members | Bindings | Addresses | LocalPod | IdentityPolicy | RuleSet
"""Value of a type that is staged; see core/resources/values.py."""

TYPE_OF: Final[dict[type, str]] = {
    Members: PEER_SET,
    RuleSet: RULE_SET,
    IdentityPolicy: POLICY,
    Bindings: BINDINGS,
    Addresses: ADDRESS_GROUP,
    LocalPod: ENDPOINT,
}


class Change(msgspec.Struct, frozen=True):
    """value None: the next cut has no such resource."""

    type_url: str
    name: str
    value: StagedValue | None
