"""Names by content: the same value has the same name on every replica, whatever its history.

A name is the first 16 bytes of SHA-256 over the value's canonical JSON (msgspec: field order of the
struct, bytes as base64), as 32 lowercase hex characters. Two values with one name are equal; to
tell two equal *meanings* apart from two equal *values* is the business of whoever builds them
(selectors and rules are sorted and without duplicates before they are named).
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from reconciler.core.policy.ir import RuleSet

_encoder = msgspec.json.Encoder(order="deterministic")


def content_hash(value: Any) -> str:
    """32 hex characters over the canonical JSON of a msgspec value."""
    return hashlib.sha256(_encoder.encode(value)).digest()[:16].hex()


def rule_set_hash(rule_set: RuleSet) -> str:
    """The name of a rule set: direction, enforcement and rules with their origins and order."""
    return content_hash(rule_set)
