"""Rule set × peer → packed entries of the `policies` map.

What a rule set says about a peer depends on the rule set's content and on what the peer *is*: a
reserved identity, a known CIDR prefix, or the peer sets that hold its number. It never depends on
history, so entries can be compared with those of a map that another process filled.

The cookie of an entry is a function of the rule set's name and the deciding rule, so that it
survives restarts: 20 bits of the name, 12 bits of rule index + 1 (0: no rule, the default; 4095:
that rule or a later one).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from reconciler.core.dataplane.layout import (
    POLICY_KEY,
    POLICY_STATIC_BITS,
    POLICY_VALUE,
    IdentityIndex,
)
from reconciler.core.dataplane.prefixes import PrefixIndex
from reconciler.core.policy.entries import Entries, block_has, expand, merge
from reconciler.core.policy.ir import CidrBlock, Prefix, RuleSet

PeerKey = IdentityIndex | tuple[int, int] | Prefix
"""What a peer is: a fixed meaning, (number, birth), or a known prefix outside the cluster."""

Block = dict[bytes, bytes]
"""Entries of one (rule set number, identity index); treated as immutable."""

RESERVED: Final[Mapping[IdentityIndex, int]] = {
    IdentityIndex.UNKNOWN: 0,
    IdentityIndex.HOST: 1,
    IdentityIndex.REMOTE_NODE: 6,
    IdentityIndex.KUBE_APISERVER: 7,
    IdentityIndex.WORLD_V4: 9,
    IdentityIndex.WORLD_V6: 10,
}
"""Fixed identity index → reserved identity number."""

FIXED_PEERS: Final = (IdentityIndex.ANY, *RESERVED)

_MAX_RULE: Final = 4095
_PROTOCOL_BITS: Final = 8


class KernelRules:
    """One rule set, expanded once, ready to give the entries of any peer."""

    __slots__ = ("_blocks", "_expanded", "_wide", "known", "names", "rule_set", "tag")

    def __init__(self, name: str, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self.tag = name_tag(name)
        self._expanded = expand(rule_set)
        self._blocks: dict[Prefix, list[CidrBlock]] = {}
        self._wide = PrefixIndex()
        for block in self._expanded.by_cidr:
            self._blocks.setdefault(block.prefix, []).append(block)
            self._wide.add(block.prefix)
        self.names: frozenset[str] = frozenset(self._expanded.by_peer_set)
        self.known: frozenset[Prefix] = frozenset(
            prefix
            for rule in rule_set.rules
            for block in rule.cidrs
            for prefix in (block.prefix, *block.excepts)
        )

    @property
    def about_prefixes(self) -> bool:
        """Whether any known prefix has entries of its own."""
        return bool(self._blocks) or any(
            self._expanded.for_reserved(RESERVED[world])
            for world in (IdentityIndex.WORLD_V4, IdentityIndex.WORLD_V6)
        )

    def entries(self, peer: PeerKey, peer_sets: Iterable[str] = ()) -> Entries:
        """Entries of one peer; peer_sets: those that hold its number."""
        if isinstance(peer, Prefix):
            return self._for_prefix(peer)
        if isinstance(peer, tuple):
            number = peer[0]
            if number < 256:
                return self._expanded.for_reserved(number)
            return self._expanded.for_identity(peer_sets)
        if peer is IdentityIndex.ANY:
            return self._expanded.any
        if peer is IdentityIndex.WORLD_V4:
            return self._for_prefix(Prefix(bytes(4), 0))
        if peer is IdentityIndex.WORLD_V6:
            return self._for_prefix(Prefix(bytes(16), 0))
        if peer in RESERVED:
            return self._expanded.for_reserved(RESERVED[peer])
        return ()

    def block(self, number: int, index: int, entries: Entries) -> Block:
        """Packed keys and values under a rule set number and an identity index."""
        direction = int(self.rule_set.direction)
        packed: Block = {}
        for entry in entries:
            bits = POLICY_STATIC_BITS
            if entry.protocol:
                bits += _PROTOCOL_BITS + entry.prefix_bits
            key = POLICY_KEY.pack(
                bits, number, index, direction, entry.protocol, entry.port.to_bytes(2, "big")
            )
            packed[key] = POLICY_VALUE.pack(
                entry.verdict, self.tag << 12 | min(entry.rule_index + 1, _MAX_RULE)
            )
        return packed

    def origins(self, cookie: int) -> tuple[str, ...] | None:
        """Policy objects of the rule behind a cookie; () for the default; None: not of this set."""
        if cookie >> 12 != self.tag:
            return None
        index = (cookie & _MAX_RULE) - 1
        rules = self.rule_set.rules
        return rules[index].origins if 0 <= index < len(rules) else ()

    def _for_prefix(self, prefix: Prefix) -> Entries:
        parts = []
        around = self._wide.covering(prefix, strictly=False)
        while around is not None:
            for block in self._blocks[around]:
                if block_has(block, prefix):
                    parts.append(self._expanded.by_cidr[block])
            around = self._wide.covering(around)
        v4 = len(prefix.address) == 4
        world = IdentityIndex.WORLD_V4 if v4 else IdentityIndex.WORLD_V6
        parts.append(self._expanded.for_reserved(RESERVED[world]))
        return merge(parts)


def name_tag(name: str) -> int:
    """20 bits of a rule set's name (hex, as the compiler names them, else of its bytes)."""
    head = name[:5]
    if len(head) == 5 and all(letter in "0123456789abcdef" for letter in head):
        return int(head, 16)
    return int.from_bytes(name.encode()[:3].ljust(3, b"\0"), "big") & 0xFFFFF


def where(key: bytes) -> tuple[int, int]:
    """(rule set number, identity index) of a packed key."""
    _, number, index, _, _, _ = POLICY_KEY.unpack(key)
    return number, index
