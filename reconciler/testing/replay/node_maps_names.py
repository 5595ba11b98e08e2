"""What the names of specs/NodeMaps.tla stand for in the code, and the code's maps as its values.

Groups and peers 1 and 2 are unknown and world. The last key is one address, key 1 everything, those
between are prefixes of the cluster. The first two peers that have no fixed index are two births of
one number. Groups that addresses belong to are given indices before those of pods, so the spec's
group of the pod is the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pyroaring import BitMap

from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import (
    ADDRESS_VALUE,
    ENDPOINT_CLOSED,
    ENDPOINT_VALUE,
    GROUP_VALUE,
    GroupIndex,
    IdentityIndex,
    MapId,
    RuleSetNumber,
)
from reconciler.core.dataplane.prefixes import EVERYWHERE, host_key, prefix_key
from reconciler.core.dataplane.rulesets import where
from reconciler.core.dataplane.tables import Tables
from reconciler.core.policy.ir import Direction, IdentityPolicy, Prefix, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode
from reconciler.core.resources import root as roots
from reconciler.core.resources.types import Resource
from reconciler.formal.values import Record, Value

LINK: Final = Link(7, pod="shop/pod")
_ADDRESS: Final = bytes([10, 9, 0, 1])  # the pod's own; no peer's
_HOST: Final = bytes([10, 1, 2, 3])
_NAME: Final = "{:032x}"
_GROUPS: Final = {0: 0, 1: GroupIndex.UNKNOWN, 2: GroupIndex.WORLD_V4}
_PEERS: Final = {0: 0, 1: IdentityIndex.UNKNOWN, 2: IdentityIndex.WORLD_V4}
_RESERVED: Final = {1: 0, 2: 9}  # fixed peer → reserved identity number
_PREFIXES: Final = (
    EVERYWHERE[0],
    Prefix(bytes([10, 1, 0, 0]), 16),
    Prefix(bytes([10, 1, 2, 0]), 24),
)
_INSIDE: Final = (bytes([11, 0, 0, 1]), bytes([10, 1, 9, 9]), bytes([10, 1, 2, 9]))

Resources = dict[tuple[str, str], Resource]


class Names:
    """By the constants of the spec."""

    def __init__(self, constants: Mapping[str, Value]) -> None:
        def number(name: str) -> int:
            value = constants[name]
            assert isinstance(value, int)
            return value

        self.keys, self.groups = number("Keys"), number("Groups")
        self.peers, self.rule_sets = number("Peers"), number("RuleSets")
        self.fixed = number("Fixed")
        self.group_indices = number("GroupIndices")
        self.max_faults, self.max_responses = number("MaxFaults"), number("MaxResponses")
        self.any_order = constants["AnyOrder"] is True
        meaning = function(constants["Meaning"])
        self._contents = {0: RuleSet(Direction.EGRESS, False, ())} | {
            number: self._rule_set(number, allows)
            for number, allows in function(meaning[0]["allows"]).items()
        }
        self.cuts = [self._resources(meaning[n]) for n in range(number("Cuts") + 1)]
        self.of_root = {root_of(cut): n for n, cut in enumerate(self.cuts)}

    # --- resources ------------------------------------------------------------------------

    def _resources(self, cut: Mapping[str, Any]) -> Resources:
        owner, peer, policy, allows = (
            function(cut[name]) for name in ("owner", "peer", "policy", "allows")
        )
        pod = cut["pod"]
        used = {group for group in (*owner.values(), pod) if group}
        bound = {group: peer[group] for group in used if group > self.fixed}
        made: list[Resource | None] = []
        for rules in {policy[each] for each in bound.values()} - {0}:
            members = BitMap(self.identity(p)[0] for p in allows[rules] if p > self.fixed)
            made += [
                encode.peer_set(_NAME.format(rules), members, 0),
                encode.rule_set(self.rule_name(rules), self._contents[rules]),
            ]
        for each in set(bound.values()):
            if policy[each]:
                number, birth = self.identity(each)
                names = self.rule_name(policy[each]), self.rule_name(0)
                made.append(encode.policy(IdentityPolicy(number, birth, *names)))
        made += encode.bindings(
            "shop", {self.group_name(g): self.identity(p) for g, p in bound.items()}
        )
        made += encode.unknown(
            [_PREFIXES[key - 1] for key in range(2, self.keys) if owner[key] == 1]
        )
        if owner[self.keys] > self.fixed:
            made += encode.address_group(self.group_name(owner[self.keys]), [_HOST])
        if pod:
            made.append(
                encode.endpoint(
                    "shop", "pod", uid="u", ipv4=_ADDRESS, ipv6=b"", group=self.group_name(pod)
                )
            )
        return {(each.type_url, each.name): each for each in made if each is not None}

    def _rule_set(self, number: int, allows: frozenset[int]) -> RuleSet:
        reserved = tuple(sorted(_RESERVED[peer] for peer in allows if peer <= self.fixed))
        rule = Rule(
            Verdict.ALLOW,
            peer_sets=(_NAME.format(number),),
            reserved=reserved,
            origins=(f"NetworkPolicy shop/rules-{number}",),
        )
        return RuleSet(Direction.INGRESS, True, (rule,))

    def group_name(self, group: int) -> str:
        return f"shop/{_NAME.format(group)}"

    def rule_name(self, number: int) -> str:
        return rule_set_hash(self._contents[number])

    def identity(self, peer: int) -> tuple[int, int]:
        second = peer == self.fixed + 2
        return 300 + peer - second, 1 + second

    # --- keys and indices -----------------------------------------------------------------

    def address(self, key: int) -> bytes:
        """An address for which this key is the most specific there can be."""
        return _HOST if key == self.keys else _INSIDE[key - 1]

    def trie_key(self, key: int) -> bytes:
        return host_key(_HOST) if key == self.keys else prefix_key(_PREFIXES[key - 1])

    def group_index(self, code: int) -> int:
        """Of the code's index; -1: the spec has no such thing."""
        return self._index(code, _GROUPS, GroupIndex.FIRST_FREE)

    def peer_index(self, code: int) -> int:
        return self._index(code, _PEERS, IdentityIndex.FIRST_FREE)

    def rule_number(self, code: int) -> int:
        return code - RuleSetNumber.FIRST_FREE + 1 if code else 0

    def group_code(self, index: int) -> int:
        return _GROUPS.get(index, GroupIndex.FIRST_FREE + index - self.fixed - 1)

    def peer_code(self, index: int) -> int:
        return _PEERS.get(index, IdentityIndex.FIRST_FREE + index - self.fixed - 1)

    def rule_code(self, number: int) -> int:
        return RuleSetNumber.FIRST_FREE + number - 1 if number else 0

    def _index(self, code: int, fixed: Mapping[int, int], first: int) -> int:
        if code >= first:
            return code - first + self.fixed + 1
        return next((index for index, known in fixed.items() if known == code), -1)

    def arguments(self, map_id: MapId, key: bytes) -> tuple[int, ...] | None:
        """Of the spec's write of this entry; None: the spec does not have it."""
        if map_id is MapId.ENDPOINTS:
            return ()
        if map_id is MapId.ADDRESSES:
            keys = (each for each in range(1, self.keys + 1) if self.trie_key(each) == key)
            found = next(keys, -1)
        elif map_id is MapId.GROUPS:
            found = self.group_index(int.from_bytes(key, "little"))
        else:
            number, code = where(key)
            peer = self.peer_index(code)
            assert peer > 0, "an entry of a peer that the spec does not have"
            return self.rule_number(number), peer
        return None if found < 0 else (found,)

    # --- maps as values --------------------------------------------------------------------

    def addresses(self, entries: Mapping[bytes, tuple[int, int]]) -> Value:
        absent = (self.groups + self.group_indices + 1,) * 2
        return tuple(
            tuple(self.group_index(code) for code in entries[key]) if key in entries else absent
            for key in map(self.trie_key, range(1, self.keys + 1))
        )

    def rows(self, entries: Mapping[int, tuple[tuple[int, int, int], ...]]) -> Value:
        nothing = ((0, 0, 0),) * 2
        return tuple(
            tuple(
                Record(peer=self.peer_index(peer), rule=self.rule_number(ingress))
                for peer, ingress, _ in entries.get(self.group_code(index), nothing)
            )
            for index in range(1, self.group_indices + 1)
        )

    def policies(self, entries: Iterable[tuple[int, int]]) -> Value:
        return frozenset(
            (self.rule_number(number), self.peer_index(peer)) for number, peer in entries
        )

    def endpoint(self, value: bytes) -> Value:
        _, flags, *halves = ENDPOINT_VALUE.unpack(value)
        return Record(
            closed=bool(flags & ENDPOINT_CLOSED),
            group=tuple(self.group_index(code) for code in halves[::3]),
        )

    def maps(self, dumped: Mapping[MapId, Mapping[bytes, bytes]]) -> dict[str, Value]:
        (endpoint,) = dumped[MapId.ENDPOINTS].values()
        rows = {
            int.from_bytes(key, "little"): GROUP_VALUE.unpack(value)
            for key, value in dumped[MapId.GROUPS].items()
        }
        return {
            "addresses": self.addresses(
                {k: ADDRESS_VALUE.unpack(v) for k, v in dumped[MapId.ADDRESSES].items()}
            ),
            "groups": self.rows({index: (row[:3], row[3:]) for index, row in rows.items()}),
            "policies": self.policies(map(where, dumped[MapId.POLICIES])),
            "endpoint": self.endpoint(endpoint),
        }

    def tables(self, tables: Tables) -> Value:
        """The spec's `now`: what the tables mean the maps to hold, and their indices."""
        mirror, port = tables.mirror, tables.endpoints.ports[LINK.ifindex]
        assert port.entry is not None
        groups = {g: tables.group_index.get(self.group_name(g)) for g in self._free(self.groups)}
        peers = {p: tables.peer_index.get(self.identity(p)) for p in self._free(self.peers)}
        rules = [tables.rule_number.get(self.rule_name(r)) for r in range(1, self.rule_sets + 1)]
        fixed = tuple(range(1, self.fixed + 1))
        used_groups, used_peers, used_rules = tables.used
        return Record(
            addresses=self.addresses(mirror.addresses.now),
            groups=self.rows(mirror.groups.now),
            policies=self.policies(at for at, block in mirror.blocks.now.items() if block),
            endpoint=self.endpoint(port.entry),
            gi=(*fixed, *(self.group_index(code or 0) for code in groups.values())),
            pi=(*fixed, *(self.peer_index(code or 0) for code in peers.values())),
            rn=tuple(self.rule_number(code or 0) for code in rules),
            usedG=self._used(used_groups, self.group_index, GroupIndex.FIRST_FREE),
            usedP=self._used(used_peers, self.peer_index, IdentityIndex.FIRST_FREE),
            usedR=frozenset(map(self.rule_number, used_rules)) - {0},
            begun=tables.begun,
            sweep=tables.sweeps,
            raw=tables.endpoints.unexplained,
        )

    def _free(self, last: int) -> range:
        return range(self.fixed + 1, last + 1)

    def _used(self, codes: Iterable[int], index: Any, first: int) -> frozenset[Any]:
        fixed = range(1, self.fixed + 1)
        return frozenset((*fixed, *(index(code) for code in codes if code >= first)))


def root_of(resources: Resources) -> bytes:
    return roots.to_bytes(roots.total((*key, each.version) for key, each in resources.items()))


def function(value: Any) -> dict[int, Any]:
    """A function of the spec from numbers, which is a tuple where its domain is 1..n."""
    if isinstance(value, tuple):
        return dict(enumerate(value, 1))
    return dict(value)
