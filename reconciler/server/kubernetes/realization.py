"""How far each NetworkPolicy is enforced on the nodes: what replicas say of theirs, and what that
means.

Nothing is kept per policy and node. A cut says the position that it was made at, and part of that
is the resource version up to which policies had been read: a node enforces a policy as it was
written at version v if the cut in force has read policies up to v, and no rule set of it was
refused there. So what a replica says of all its nodes is short: how many of them are at which
version, and which refuse what. Pure; `statuses` writes what comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from reconciler.core.plane import ControlPlane
from reconciler.core.policy import origins

POLICIES: Final = "networkpolicies"
"""The part of a position that counts here."""

MOST_VERSIONS: Final = 16
MOST_CLOSED: Final = 50
MOST_NAMES: Final = 5


class Refusing(msgspec.Struct, frozen=True):
    """count: nodes that keep a policy's pods closed; names: some of them, sorted."""

    count: int
    names: tuple[str, ...]


class NodesReport(msgspec.Struct, frozen=True):
    """Of the nodes that are connected to one replica.

    at:      (version, nodes): the cut in force has read policies up to this version; ascending
    refused: "namespace/name" of a policy → the nodes that refuse a rule set of it
    """

    at: tuple[tuple[int, int], ...] = ()
    refused: Mapping[str, Refusing] = {}

    def text(self) -> str:
        """Bounded: of too many versions neighbours are taken together as the older one, and of
        policies that are refused the first by name are said."""
        at = list(self.at)
        while len(at) > MOST_VERSIONS:
            (older, count), (_, more) = at[-2:]
            at[-2:] = [(older, count + more)]
        refused = {name: self.refused[name] for name in sorted(self.refused)[:MOST_CLOSED]}
        return msgspec.json.encode(NodesReport(tuple(at), refused)).decode()


def parse(text: str) -> NodesReport | None:
    """None: not what `NodesReport.text` writes."""
    try:
        return msgspec.json.decode(text, type=NodesReport)
    except msgspec.DecodeError:
        return None


def nodes_report(plane: ControlPlane) -> NodesReport:
    """Of the nodes that are connected here, now."""
    at: Counter[int] = Counter()
    refusing: dict[str, list[str]] = {}
    newest = 0 if plane.position is None else dict(plane.position.objects).get(POLICIES, 0)
    rule_sets = plane.intake.compiler.rule_sets
    for node in plane.nodes:
        if node.stream is None:
            continue
        rollout = node.rollout
        if rollout.in_sync:
            at[newest] += 1  # also where more was read since, and nothing of it changed any view
        elif rollout.acked is not None and rollout.acked.position is not None:
            at[dict(rollout.acked.position.objects).get(POLICIES, 0)] += 1
        else:
            at[0] += 1
        if rollout.refused:
            for policy in origins.of_rule_sets(tuple(rollout.refused), rule_sets):
                refusing.setdefault(policy.removeprefix(origins.KIND), []).append(node.name)
    refused = {
        policy: Refusing(len(names), tuple(sorted(names)[:MOST_NAMES]))
        for policy, names in refusing.items()
    }
    return NodesReport(tuple(sorted(at.items())), refused)


class Found(msgspec.Struct, frozen=True):
    """Of one policy in one generation. phase: Realizing, Realized or Failed.

    wanted, current: connected nodes, and those of them that enforce this generation
    reason, message: why, as in a condition
    """

    phase: str
    wanted: int
    current: int
    reason: str
    message: str


def found(
    policy: str, version: int, reports: Iterable[NodesReport], *, too_large: bool = False
) -> Found:
    """policy: "namespace/name"; version: resource version at which it was written as it is;
    reports: of all replicas; too_large: no node could hold it, so that all keep it closed."""
    wanted = current = 0
    refusing: list[Refusing] = []
    for report in reports:
        wanted += sum(count for _, count in report.at)
        current += sum(count for at, count in report.at if at >= version)
        if policy in report.refused:
            refusing.append(report.refused[policy])
    if too_large:
        message = "needs more policy entries than a node has; its pods are closed"
        return Found("Failed", wanted, 0, "TooLarge", message)
    if refusing:
        count = sum(each.count for each in refusing)
        names = sorted({name for each in refusing for name in each.names})[:MOST_NAMES]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        message = f"refused by {', '.join(names)}{more}; its pods are closed there"
        return Found("Failed", wanted, max(0, current - count), "RefusedByNodes", message)
    if not wanted:
        return Found("Realizing", 0, 0, "NoNodes", "no node is connected")
    message = f"{current} of {wanted} connected nodes enforce it"
    if current < wanted:
        return Found("Realizing", wanted, current, "InProgress", message)
    return Found("Realized", wanted, current, "EnforcedOnNodes", message)
