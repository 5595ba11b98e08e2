"""Names of the resource types, their order in a cut, and the value that stands for one resource."""

from __future__ import annotations

from typing import Final

import msgspec

PREFIX: Final = "type.googleapis.com/reconciler.v1."

PEER_SET: Final = PREFIX + "PeerSet"
RULE_SET: Final = PREFIX + "RuleSet"
POLICY: Final = PREFIX + "Policy"
BINDINGS: Final = PREFIX + "Bindings"
ADDRESS_GROUP: Final = PREFIX + "AddressGroup"
ENDPOINT: Final = PREFIX + "Endpoint"
COMMIT: Final = PREFIX + "Commit"
IDENTITY: Final = PREFIX + "Identity"

STAGED: Final = (PEER_SET, RULE_SET, POLICY, BINDINGS, ADDRESS_GROUP, ENDPOINT)
"""The types of a cut, in the order in which they are sent (DESIGN: stage and commit)."""

CUT_TYPES: Final = (*STAGED, COMMIT)
"""Every type that an agent subscribes to (wildcard) before the server sends anything."""

CUT_NAME: Final = "cut"
"""Name of the only `Commit` resource of a node."""


class Resource(msgspec.Struct, frozen=True):
    """One resource, serialised once.

    version: base64url of the first 16 bytes of SHA-256 over `body`, 22 characters
    body:    deterministic bytes of the resource's own message (not of the Any around it)
    """

    type_url: str
    name: str
    version: str
    body: bytes
