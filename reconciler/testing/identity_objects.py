"""An API server for identity objects, as far as names, UIDs and preconditions go; and its past.

Bodies are those that the shells send. Every write is remembered, so that readers may be behind.
"""

from __future__ import annotations

from typing import Any

import msgspec

from reconciler.core.identity import objects as core
from reconciler.core.identity.objects import (
    AllocationJournal,
    CiliumIdentity,
    JournalSpec,
)
from reconciler.core.identity.objects_register import Action
from reconciler.core.objects import ObjectMeta


class Refused(Exception):
    """409 or 404."""


class Objects:
    def __init__(self) -> None:
        self.version = 0
        self.now = 0
        self.identities: dict[str, CiliumIdentity] = {}
        self.journal: AllocationJournal | None = None
        self.identity_log: list[tuple[str, CiliumIdentity | None]] = []
        self.journal_log: list[AllocationJournal | None] = []

    # Identities

    def put(self, name: str, raw: dict[str, Any], old: CiliumIdentity | None) -> CiliumIdentity:
        self.version += 1
        metadata = raw.get("metadata", {})
        made = old.metadata if old else None
        found = CiliumIdentity(
            ObjectMeta(
                name=name,
                uid=made.uid if made else f"uid-{self.version}",
                resource_version=str(self.version),
                creation_timestamp=made.creation_timestamp if made else f"{self.now:08}",
                labels=metadata.get("labels", {}),
                annotations=metadata.get("annotations", {}),
            ),
            raw.get("security-labels"),
        )
        self.identities[name] = found
        self.identity_log.append((name, found))
        return found

    def create(self, name: str, raw: dict[str, Any]) -> CiliumIdentity:
        if name in self.identities:
            raise Refused("AlreadyExists")
        return self.put(name, raw, None)

    def patch(self, name: str, raw: dict[str, Any]) -> CiliumIdentity:
        old = self.identities.get(name)
        if old is None:
            raise Refused("NotFound")
        metadata = raw.get("metadata", {})
        self.check(old, metadata)
        merged = {
            "metadata": {
                "labels": merge(old.metadata.labels, metadata.get("labels", {})),
                "annotations": merge(old.metadata.annotations, metadata.get("annotations", {})),
            },
            "security-labels": merge(old.security_labels or {}, raw.get("security-labels", {})),
        }
        return self.put(name, merged, old)

    def delete(self, name: str, preconditions: dict[str, str]) -> CiliumIdentity:
        old = self.identities.get(name)
        if old is None:
            raise Refused("NotFound")
        self.check(old, preconditions)
        self.version += 1
        del self.identities[name]
        self.identity_log.append((name, None))
        return old

    def check(self, old: CiliumIdentity, wanted: dict[str, str]) -> None:
        if wanted.get("uid", old.metadata.uid) != old.metadata.uid:
            raise Refused("Conflict")
        version = old.metadata.resource_version
        if wanted.get("resourceVersion", version) != version:
            raise Refused("Conflict")

    def arrive(self, action: Action) -> CiliumIdentity | None:
        """Carry out what a leader asked for; gives what was deleted."""
        name = str(action.number)
        if action.kind == "create":
            assert action.entry is not None
            self.create(name, msgspec.json.decode(core.create_body(action.entry)))
            return None
        assert action.seen is not None
        if action.kind == "delete":
            body = msgspec.json.decode(core.delete_body(action.seen))
            assert set(body["preconditions"]) == {"uid", "resourceVersion"}
            return self.delete(name, body["preconditions"])
        if action.kind == "disown":
            body = msgspec.json.decode(core.disown_body(action.seen))
        else:
            assert action.entry is not None
            body = msgspec.json.decode(core.patch_body(action.entry, action.seen))
        assert set(body["metadata"]) >= {"uid", "resourceVersion"}
        self.patch(name, body)
        return None

    # The journal

    def write_journal(self, spec: JournalSpec, expected: str | None) -> AllocationJournal:
        """expected: the resourceVersion that was read, None: there was no object."""
        held = self.journal.metadata.resource_version if self.journal else None
        if held != expected:
            raise Refused("Conflict")
        self.version += 1
        body = msgspec.json.encode(spec)  # through its text, as over a network
        self.journal = AllocationJournal(
            ObjectMeta("default", uid="journal", resource_version=str(self.version)),
            msgspec.json.decode(body, type=JournalSpec),
        )
        self.journal_log.append(self.journal)
        return self.journal


def merge(old: Any, patch: dict[str, Any]) -> dict[str, str]:
    merged = {**old, **patch}
    return {name: value for name, value in merged.items() if value is not None}
