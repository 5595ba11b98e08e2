"""Rule set → kernel entries: a few look-ups that give the verdict of all its rules.

The kernel asks twice for every packet, once with the peer's identity and once with "any peer",
and each look-up returns only its *longest* match (protocol, then leading port bits). The packet
is denied if either answer denies, else passes if either allows, else falls. The meaning of the
rules is wider than that: **any** deny that matches beats every allow, however narrow. The two
agree only because of what `prune` removes, so a mistake here fails open;
tests/property/test_compiler.py holds this module to the three-line meaning:

    denied if any deny rule matches; else allowed if any allow rule matches; else allowed iff the
    rule set is not enforced.

Why it is exact. The keys of one peer form a tree: every protocol above one protocol above port
prefixes, and two keys are nested or disjoint. `prune` keeps a key only if nothing above it was
kept, or if it is a deny right below an allow. So nothing stands below a deny, each look-up returns
a deny wherever one matches, and what was left out has its verdict from above.

`expand` also leaves out what the any-peer entries decide on their own: an allow of one peer below
any any-peer entry (there that look-up allows or denies every packet already) and a deny below an
any-peer deny. That is exact for each entry on its own, so it survives `merge`.

Cost, with E = peers named by the rules x port prefixes of those rules (a range has ≤ 30, a port
1): `expand` O(E x 18) time and O(E) space, 18 being the depth of the tree; `merge` O(n x 18) in the
entries given; `lookup` O(n). Nothing depends on the number of identities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from reconciler.core.policy.ir import CidrBlock, PortRange, Prefix, Rule, RuleSet, Verdict

PORT_BITS: Final = 16
DEFAULT_RULE: Final = -1
"""`rule_index` of the entry that stands for "not enforced": no rule says it."""

UNKNOWN: Final = 0
"""Reserved identity number of an address inside the cluster whose owner is not known."""
WORLD: Final = 2
WORLD_V4: Final = 9
WORLD_V6: Final = 10


class PortEntry(msgspec.Struct, frozen=True, order=True):
    """One kernel entry of one peer.

    protocol:    IANA number; 0 = every protocol (then port and prefix_bits are 0)
    port:        first port of the prefix, host order
    prefix_bits: leading bits of the port that count: 0 = every port … 16 = this port
    rule_index:  rule of the rule set that decides here; DEFAULT_RULE if none does
    """

    protocol: int
    port: int
    prefix_bits: int
    verdict: Verdict
    rule_index: int


Entries = tuple[PortEntry, ...]
Key = tuple[int, int, int]

EVERYTHING: Final[Key] = (0, 0, 0)


class Expanded(msgspec.Struct, frozen=True):
    """The entries of a rule set by peer, before membership: what each name contributes.

    any:         entries of the key "any peer"
    by_peer_set: selector hash → entries of each identity in that peer set
    by_cidr:     block as written → entries of known prefixes inside it and in none of its excepts
    by_reserved: reserved identity number → entries; a rule for world (2) is also under 9 and 10;
                 0 (unknown) has every deny that names peer sets or reserved identities
    A peer that several names mean has the `merge` of their entries: use the three methods. An empty
    tuple says that the any-peer entries decide alone.
    """

    any: Entries
    by_peer_set: Mapping[str, Entries]
    by_cidr: Mapping[CidrBlock, Entries]
    by_reserved: Mapping[int, Entries]

    def for_identity(self, peer_sets: Iterable[str]) -> Entries:
        """Entries of an allocated identity, given the peer sets that it is in (others ignored)."""
        found = self.by_peer_set
        return merge([found[name] for name in peer_sets if name in found])

    def for_reserved(self, number: int) -> Entries:
        """Entries of a reserved identity: host, remote node, world without a prefix, unknown."""
        return self.by_reserved.get(number, ())

    def for_prefix(self, prefix: Prefix) -> Entries:
        """Entries of a known prefix of external addresses: the blocks around it, and world's.

        Exact for the addresses whose longest known prefix this is, provided that every block's
        prefix and excepts are known prefixes.
        """
        world = WORLD_V4 if len(prefix.address) == 4 else WORLD_V6
        parts = [entries for block, entries in self.by_cidr.items() if block_has(block, prefix)]
        parts.append(self.by_reserved.get(world, ()))
        return merge(parts)


def expand(rule_set: RuleSet) -> Expanded:
    """All entries of a rule set, pruned, and without those that the any-peer entries make idle."""
    everyone: list[PortEntry] = []
    by_peer_set: dict[str, list[PortEntry]] = {}
    by_cidr: dict[CidrBlock, list[PortEntry]] = {}
    by_reserved: dict[int, list[PortEntry]] = {}
    if not rule_set.enforced:
        everyone.append(PortEntry(*EVERYTHING, Verdict.ALLOW, DEFAULT_RULE))
    for index, rule in enumerate(rule_set.rules):
        entries = rule_entries(rule, index)
        if rule.any_peer:
            everyone.extend(entries)
        for name in rule.peer_sets:
            by_peer_set.setdefault(name, []).extend(entries)
        for block in rule.cidrs:
            by_cidr.setdefault(block, []).extend(entries)
        numbers = set(rule.reserved)
        if WORLD in numbers:
            numbers |= {WORLD_V4, WORLD_V6}
        if rule.verdict is Verdict.DENY and (rule.peer_sets or rule.reserved):
            numbers.add(UNKNOWN)
        for number in numbers:
            by_reserved.setdefault(number, []).extend(entries)
    any_entries = prune(everyone)
    above = {key_of(entry): entry.verdict for entry in any_entries}

    def finish(entries: list[PortEntry]) -> Entries:
        return tuple(entry for entry in prune(entries) if not _idle(entry, above))

    return Expanded(
        any=any_entries,
        by_peer_set={name: finish(entries) for name, entries in by_peer_set.items()},
        by_cidr={block: finish(entries) for block, entries in by_cidr.items()},
        by_reserved={number: finish(entries) for number, entries in sorted(by_reserved.items())},
    )


def merge(parts: Sequence[Entries]) -> Entries:
    """Entries of one peer that has all of `parts` (each pruned): pruned again.

    At one key deny beats allow and, of equal verdicts, the smallest rule index decides. The result
    depends on the entries only, never on their order.
    """
    filled = [part for part in parts if part]
    if not filled:
        return ()
    if len(filled) == 1:
        return filled[0]
    return prune(entry for part in filled for entry in part)


def prune(entries: Iterable[PortEntry]) -> Entries:
    """Keep what decides: see the module's text. Sorted by protocol, prefix length and port."""
    best: dict[Key, PortEntry] = {}
    for entry in entries:
        key = key_of(entry)
        other = best.get(key)
        if other is None or _rank(entry) < _rank(other):
            best[key] = entry
    kept: dict[Key, PortEntry] = {}
    for key in sorted(best, key=lambda key: (key[0] != 0, key[2], key)):
        entry = best[key]
        above = next((kept[up] for up in _above(key) if up in kept), None)
        if above is None or (above.verdict is Verdict.ALLOW and entry.verdict is Verdict.DENY):
            kept[key] = entry
    return tuple(kept[key] for key in sorted(kept, key=lambda key: (key[0], key[2], key[1])))


def lookup(entries: Entries, protocol: int, port: int) -> PortEntry | None:
    """The longest match, as the kernel's trie finds it: for tests and offline verdicts."""
    found: PortEntry | None = None
    for entry in entries:
        if covers(key_of(entry), (protocol, port, PORT_BITS)) and (
            found is None or _depth(entry) > _depth(found)
        ):
            found = entry
    return found


def decide(
    any_entries: Entries, peer_entries: Entries, protocol: int, port: int
) -> tuple[bool, int | None]:
    """(allowed?, index of the deciding rule or None): both look-ups joined as the kernel does."""
    found = (lookup(peer_entries, protocol, port), lookup(any_entries, protocol, port))
    for verdict in (Verdict.DENY, Verdict.ALLOW):
        for entry in found:
            if entry is not None and entry.verdict is verdict:
                return verdict is Verdict.ALLOW, entry.rule_index
    return False, None


def rule_entries(rule: Rule, index: int) -> Entries:
    """The port entries of one rule, the same for each of its peers. No ports = every protocol."""
    if not rule.ports:
        return (PortEntry(*EVERYTHING, rule.verdict, index),)
    return tuple(
        PortEntry(span.protocol, port, bits, rule.verdict, index)
        for span in join_ranges(rule.ports)
        for port, bits in port_prefixes(span.first, span.last)
    )


def join_ranges(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in the fewest ranges: overlapping and adjacent ones become one."""
    joined: list[PortRange] = []
    for span in sorted(ranges):
        if not (0 < span.protocol < 256 and 0 <= span.first <= span.last <= 65535):
            raise ValueError(f"not a range of ports: {span}")
        last = joined[-1] if joined else None
        if last and last.protocol == span.protocol and span.first <= last.last + 1:
            joined[-1] = PortRange(last.protocol, last.first, max(last.last, span.last))
        else:
            joined.append(span)
    return tuple(joined)


def port_prefixes(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, leading bits) that cover first..last exactly; at most 30."""
    prefixes = []
    while first <= last:
        size = min(first & -first or 1 << PORT_BITS, 1 << (last - first + 1).bit_length() - 1)
        prefixes.append((first, PORT_BITS - (size.bit_length() - 1)))
        first += size
    return tuple(prefixes)


def key_of(entry: PortEntry) -> Key:
    return entry.protocol, entry.port, entry.prefix_bits


def covers(above: Key, below: Key) -> bool:
    """Whether every packet of the key `below` is one of the key `above` (equal keys: yes)."""
    if above[0] == 0:
        return True
    shift = PORT_BITS - above[2]
    return above[0] == below[0] and above[2] <= below[2] and above[1] >> shift == below[1] >> shift


def block_has(block: CidrBlock, prefix: Prefix) -> bool:
    """Whether a prefix lies inside the block and inside none of its excepts."""
    return block.prefix.covers(prefix) and not any(hole.covers(prefix) for hole in block.excepts)


def _rank(entry: PortEntry) -> tuple[bool, int]:
    return entry.verdict is not Verdict.DENY, entry.rule_index


def _depth(entry: PortEntry) -> int:
    return -1 if entry.protocol == 0 else entry.prefix_bits


def _above(key: Key) -> Iterator[Key]:
    """The keys above this one, nearest first."""
    protocol, port, bits = key
    if protocol == 0:
        return
    for shorter in range(bits - 1, -1, -1):
        shift = PORT_BITS - shorter
        yield protocol, port >> shift << shift, shorter
    yield EVERYTHING


def _idle(entry: PortEntry, above: Mapping[Key, Verdict]) -> bool:
    """Whether the any-peer entries give every packet of this entry its verdict without it."""
    key = key_of(entry)
    for up in (key, *_above(key)):
        if up in above:
            return entry.verdict is Verdict.ALLOW or above[up] is Verdict.DENY
    return False
