"""Taking over pinned maps after a restart, and auditing maps while running.

A restarted agent finds maps in which a packet path goes on working, perhaps with half of a staging
beside the cut in force. The cached cut says what those maps should mean, but not which index stands
for what. `recognise_cut` reads that back: addresses and interfaces give the groups' indices, the
groups' rows those of peers and rule sets. Then the cached cut is **staged like any other cut**,
flipped to (same revision, same root) and settled:

* what was recognised and is right costs nothing but the flip;
* what is wrong, missing or foreign is treated like a change between two cuts, so that no packet
  sees a state between what was there and what is right;
* leftovers of a staging are removed by the settling, which for once looks at everything.

Storing the assignment beside the cut was rejected: it would have to be written, atomically with the
maps, at every staging; and a wrong one would be believed. Rebuilding under fresh indices without
recognising would need room for every entry twice.

Without a cached cut the maps stay in force as they are, and the first cut from a server is staged
beside them in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from reconciler.core.dataplane.indices import NOBODY, Phase
from reconciler.core.dataplane.layout import (
    ADDRESS_VALUE,
    ENDPOINT_KEY,
    ENDPOINT_VALUE,
    GROUP_VALUE,
    GroupIndex,
    IdentityIndex,
    MapId,
    RuleSetNumber,
)
from reconciler.core.dataplane.prefixes import EVERYWHERE, prefix_key
from reconciler.core.dataplane.rulesets import PeerKey
from reconciler.core.dataplane.tables import Tables
from reconciler.core.dataplane.values import Change
from reconciler.core.dataplane.view import Dirty, GroupKey, View
from reconciler.core.policy.ir import Prefix

K = TypeVar("K")
NO_ROOT = bytes(32)


class Adopted(msgspec.Struct, frozen=True):
    """What was found at the start: the cut word, dumped maps, interfaces with programs.

    maps: addresses, endpoints, groups, policies as dumped; an absent one is empty
    ids:  endpoint ids that connections may still be known by
    """

    active: int = 0
    revision: int = 0
    root: bytes = NO_ROOT
    maps: Mapping[MapId, Mapping[bytes, bytes]] = {}
    attached: frozenset[int] = frozenset()
    ids: frozenset[int] = frozenset()


class Finding(msgspec.Struct, frozen=True, order=True):
    """A difference between a map and what it should hold. kind: "foreign", "missing", "wrong"."""

    map: MapId
    kind: str
    key: bytes


def recognise_cut(
    tables: Tables, kernel: Adopted, changes: Sequence[Change], *, distrust: bool = False
) -> None:
    """Find out which index stands for what, if the maps hold the cut that `changes` make up.

    distrust: whether remote pods counted as unknown in it.
    What contradicts itself is not recognised; it then counts as foreign.
    """
    view = View(tables.view.node, tables.view.services)
    dirty = Dirty()
    view.trust(distrust, dirty, NOBODY)
    for change in changes:
        view.apply(change, dirty)
    groups: dict[GroupKey, set[int]] = {}
    addresses = kernel.maps.get(MapId.ADDRESSES, {})
    for prefix in known_prefixes(view):
        owner = view.owner(prefix)
        value = addresses.get(prefix_key(prefix))
        if owner is not None and value is not None:
            groups.setdefault(owner, set()).add(ADDRESS_VALUE.unpack(value)[kernel.active])
    for pod, index in _pods_behind(kernel, view):
        groups.setdefault(view.pods.now[pod].group, set()).add(index)
    group_index: dict[GroupKey, int] = {
        group: index
        for group, index in _one_to_one(groups, GroupIndex.FIRST_FREE).items()
        if not isinstance(group, GroupIndex)
    }
    peers: dict[PeerKey, set[int]] = {}
    rules: dict[str, set[int]] = {}
    rows = kernel.maps.get(MapId.GROUPS, {})
    for group, index in group_index.items():
        value = rows.get(index.to_bytes(4, "little"))
        if value is None:
            continue
        there = GROUP_VALUE.unpack(value)[3 * kernel.active : 3 * kernel.active + 3]
        peer, *names = view.row(group)
        if not isinstance(peer, IdentityIndex):
            peers.setdefault(peer, set()).add(there[0])
        for name, number in zip(names, there[1:], strict=True):
            if name:
                rules.setdefault(name, set()).add(number)
    tables.recognise(
        group_index,
        _one_to_one(peers, IdentityIndex.FIRST_FREE),
        _one_to_one(rules, RuleSetNumber.FIRST_FREE),
    )


def known_prefixes(view: View) -> Iterable[Prefix]:
    """Every prefix that the view may have an answer of its own for."""
    yield from EVERYWHERE
    yield from view.services
    yield from view.known
    yield from view.cluster
    for address in view.claims:
        yield Prefix(address, len(address) * 8)


def audit(tables: Tables, kernel: Adopted) -> list[Finding]:
    """What differs in maps that should be settled; endpoints of unknown interfaces included."""
    assert tables.phase is Phase.SETTLED, "settle or roll back first"
    found: list[Finding] = []
    for map_id, want in expected(tables).items():
        have = kernel.maps.get(map_id, {})
        if map_id is MapId.GROUPS:
            have = {key: value for key, value in have.items() if any(value)}
        for key in want.keys() - have.keys():
            found.append(Finding(map_id, "missing", key))
        for key, value in have.items():
            if key not in want:
                found.append(Finding(map_id, "foreign", key))
            elif want[key] != value:
                found.append(Finding(map_id, "wrong", key))
    return sorted(found)


def expected(tables: Tables) -> dict[MapId, dict[bytes, bytes]]:
    """Packed content that the maps should have now."""
    mirror = tables.mirror
    return {
        MapId.ADDRESSES: {k: ADDRESS_VALUE.pack(*v) for k, v in mirror.addresses.now.items()},
        MapId.GROUPS: {
            index.to_bytes(4, "little"): GROUP_VALUE.pack(*row[0], *row[1])
            for index, row in mirror.groups.now.items()
            if any(row[0]) or any(row[1])
        },
        MapId.POLICIES: {
            key: value for block in mirror.blocks.now.values() for key, value in block.items()
        },
        MapId.ENDPOINTS: {
            ENDPOINT_KEY.pack(ifindex): port.entry
            for ifindex, port in tables.endpoints.ports.items()
            if port.entry is not None
        },
    }


def _pods_behind(kernel: Adopted, view: View) -> Iterable[tuple[str, int]]:
    """(pod, group index in force) of every open interface, known by its address."""
    by_address = {
        address: pod
        for pod, value in view.pods.now.items()
        for address in (value.ipv4, value.ipv6)
        if address
    }
    for value in kernel.maps.get(MapId.ENDPOINTS, {}).values():
        _, _, *halves = ENDPOINT_VALUE.unpack(value)
        group, ipv4, ipv6 = halves[3 * kernel.active : 3 * kernel.active + 3]
        for address in (ipv4, ipv6):
            if any(address) and address in by_address:
                yield by_address[address], int(group)


def _one_to_one(found: Mapping[K, set[int]], first: int) -> dict[K, int]:
    """Only what has one index, of its own, that is not a fixed one."""
    owners: dict[int, int] = {}
    for indices in found.values():
        for index in indices:
            owners[index] = owners.get(index, 0) + 1
    return {
        key: next(iter(indices))
        for key, indices in found.items()
        if len(indices) == 1 and min(indices) >= first and owners[min(indices)] == 1
    }
