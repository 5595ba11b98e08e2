"""Who owns an address: one owner each, by a rule that every replica answers the same way.

Of those that claim an address, in this order: a node before any pod; a pod that isn't being deleted
before one that is; who was created later (addresses are given again only after they were given
back, so the newer object tells the truth); the first by kind, namespace and name. Two claimants
that are both alive are a problem, which is reported.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from reconciler.core.objects import ObjectKey, format_address
from reconciler.errors import Rejected


class Claim(msgspec.Struct, frozen=True):
    """created: RFC 3339 text, "" for unknown (oldest)."""

    key: ObjectKey
    terminating: bool
    created: str


def owner(claims: Iterable[Claim]) -> Claim | None:
    """The claim that wins; None when nobody claims."""
    ordered = sorted(claims, key=lambda claim: claim.key)
    return max(
        ordered,
        key=lambda claim: (claim.key.kind == "Node", not claim.terminating, claim.created),
        default=None,
    )


class Owners:
    """All claims and owners, by address. Changes are collected and settled by `settle`."""

    def __init__(self) -> None:
        self._claims: dict[bytes, dict[ObjectKey, Claim]] = {}
        self._owner: dict[bytes, ObjectKey] = {}
        self._dirty: set[bytes] = set()
        self._problems: dict[bytes, Rejected] = {}

    def claim(self, address: bytes, claim: Claim) -> None:
        self._claims.setdefault(address, {})[claim.key] = claim
        self._dirty.add(address)

    def release(self, address: bytes, key: ObjectKey) -> None:
        claims = self._claims[address]
        del claims[key]
        if not claims:
            del self._claims[address]
        self._dirty.add(address)

    def owns(self, key: ObjectKey, address: bytes) -> bool:
        return self._owner.get(address) == key

    def owner(self, address: bytes) -> ObjectKey | None:
        return self._owner.get(address)

    @property
    def problems(self) -> tuple[Rejected, ...]:
        """Addresses with more than one living claimant, in order of addresses."""
        return tuple(self._problems[address] for address in sorted(self._problems))

    def settle(self) -> tuple[set[ObjectKey], tuple[Rejected, ...]]:
        """Objects that won or lost an address since the last call, and problems that are new."""
        moved: set[ObjectKey] = set()
        problems: list[Rejected] = []
        for address in sorted(self._dirty):
            claims = self._claims.get(address, {}).values()
            won = owner(claims)
            before, after = self._owner.get(address), won.key if won else None
            if before != after:
                moved.update(key for key in (before, after) if key is not None)
                if after is None:
                    del self._owner[address]
                else:
                    self._owner[address] = after
            problem = _problem(address, claims, won)
            if problem is None:
                self._problems.pop(address, None)
            elif self._problems.get(address) != problem:
                self._problems[address] = problem
                problems.append(problem)
        self._dirty.clear()
        return moved, tuple(problems)


def _problem(address: bytes, claims: Iterable[Claim], won: Claim | None) -> Rejected | None:
    losers = [claim.key for claim in claims if claim is not won and not claim.terminating]
    if won is None or won.terminating or not losers:
        return None
    names = ", ".join(map(str, sorted(losers)))
    reason = f"{format_address(address)} is claimed by {names} too; {won.key} has it"
    return Rejected("", str(won.key), "status", reason, "warning")
