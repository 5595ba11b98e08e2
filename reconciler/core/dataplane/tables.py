"""The kernel's maps for the cut in force and the one being staged, as one stream of writes.

`stage` takes resources of the next cut and gives the writes that prepare them, `commit` the flip,
`settle` the writes that remove what only the old cut needed, `rollback` those that take a staging
back. **After every single one of these writes each packet gets the verdict of the cut in force**,
and the flip changes all of them at once to those of the next:

* two-sided values (addresses, groups, endpoints) are written in the idle half; a prefix that comes
  or goes has the answer of what covers it (see `prefixes`);
* entries of the `policies` map are written in place only where no packet can look: under the number
  of a rule set that is not in force, or under the index of a peer that no group in force has. If
  what a rule set in force says about a peer in force has to change, the peer gets a new index (for
  a peer with a fixed one: the rule set a new number), and both exist until the flip has settled;
* a peer is (number, birth) or a known CIDR prefix, and has its index for as long as anything in
  either half names it: a number that comes back with another meaning never meets old entries;
* indices are given again only after `settle`, whose grace outlasts every packet that read the old
  half.

Costs are those of the change: of the addresses, groups and entries that differ.

A cut that doesn't fit gives a `Refusal` that names the resource; `rollback` then leaves nothing of
it. Both cuts have to fit beside each other while one is staged.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from reconciler.core.dataplane.endpoints import Endpoints, PodRow
from reconciler.core.dataplane.layout import GroupIndex, IdentityIndex, MapId, RuleSetNumber
from reconciler.core.dataplane.mirror import NO_BLOCK, NO_GROUP, GroupHalf, Mirror, Pool
from reconciler.core.dataplane.ops import Flip, Grace, Op
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.prefixes import (
    EVERYWHERE,
    host_key,
    is_host,
    parse_key,
    prefix_key,
)
from reconciler.core.dataplane.rulesets import FIXED_PEERS, RESERVED, PeerKey
from reconciler.core.dataplane.values import Change
from reconciler.core.dataplane.view import Cause, Dirty, GroupKey, Row, View
from reconciler.core.policy.ir import Prefix
from reconciler.errors import Refusal

NOBODY: Cause = ("", "")
FIXED_INDICES = frozenset(int(index) for index in RESERVED)
FIXED_GROUPS = tuple(index for index in GroupIndex if 0 < index < GroupIndex.FIRST_FREE)


class Phase(enum.Enum):
    SETTLED = "both halves are equal, nothing is left over"
    STAGING = "the idle half and unseen entries are ahead of the cut in force"
    FLIPPED = "the new cut is in force, the idle half and leftovers are of the old one"


class Full(Exception):
    """Internal: unwinds a staging that doesn't fit."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Work:
    """What one `stage` has to look at, each with the resource to name if it doesn't fit."""

    __slots__ = ("dirty", "groups", "keys", "peers", "recover", "rewrite", "rule_sets")

    def __init__(self, dirty: Dirty) -> None:
        self.dirty = dirty
        self.recover = False  # what covers a key that the next cut doesn't name may have changed
        self.keys: dict[bytes, tuple[Prefix, Cause]] = {}
        self.groups: dict[GroupKey, Cause] = {}
        self.peers: dict[PeerKey, Cause] = {}  # first or last use changed
        self.rule_sets: dict[str, Cause] = {}
        self.rewrite: dict[GroupKey, Cause] = {}  # rows that name an index that changed


class Tables:
    def __init__(
        self,
        node: str,
        limits: Mapping[MapId, int],
        services: Iterable[Prefix] = (),
        next_id: int = 1,
    ) -> None:
        self.limits = limits
        self.phase = Phase.SETTLED
        self.active = 0
        self.view = View(node, services)
        self.mirror = Mirror()
        self.endpoints = Endpoints(next_id)
        self.owners: Overlay[bytes, GroupKey] = Overlay()  # trie key → what the next cut says
        self.uses: Overlay[GroupKey, int] = Overlay()  # addresses and pods of a group
        self.rows: Overlay[GroupKey, Row] = Overlay()  # of used groups
        self.peer_uses: Overlay[PeerKey, int] = Overlay()  # used groups of a peer
        self.group_index: Overlay[GroupKey, int] = Overlay()
        self.peer_index: Overlay[PeerKey, int] = Overlay()
        self.rule_number: Overlay[str, int] = Overlay()
        self.loose: Overlay[bytes, bool] = Overlay()  # trie keys that the next cut doesn't name
        self._pod_groups: Overlay[str, str] = Overlay()
        self._peer_at: dict[int, PeerKey] = {}
        self._rule_at: dict[int, str] = {}
        self._sweep = False  # leftovers may be anywhere
        self._begun = False  # reserved groups and prefixes are in the tables
        self._set_pools((), (), ())

    def _set_pools(self, groups: Iterable[int], peers: Iterable[int], rules: Iterable[int]) -> None:
        self._group_pool = Pool(GroupIndex.FIRST_FREE, self.limits.get(MapId.GROUPS), groups)
        self._peer_pool = Pool(IdentityIndex.FIRST_FREE, None, peers)
        self._rule_pool = Pool(RuleSetNumber.FIRST_FREE, None, rules)
        self._taken: tuple[list[int], list[int], list[int]] = ([], [], [])

    @property
    def idle(self) -> int:
        return 1 - self.active

    def usage(self) -> dict[str, int]:
        """Entries in use per map."""
        return {
            MapId.ADDRESSES: len(self.mirror.addresses),
            MapId.GROUPS: len(self.mirror.groups),
            MapId.POLICIES: self.mirror.entries,
            MapId.ENDPOINTS: sum(port.has_entry for port in self.endpoints.ports.values()),
        }

    # --- the four steps of a cut -----------------------------------------------------------

    def stage(
        self, changes: Sequence[Change], *, distrust: bool | None = None
    ) -> list[Op] | Refusal:
        """Prepare resources of the next cut. After a Refusal only `rollback` may follow.

        distrust: whether remote pods count as unknown from this cut on (None: as before).
        """
        assert self.phase is not Phase.FLIPPED, "settle first"
        self.phase = Phase.STAGING
        dirty = Dirty()
        if distrust is not None:
            self.view.trust(distrust, dirty, NOBODY)
        for change in changes:
            self.view.apply(change, dirty)
        work = Work(dirty)
        if not self._begun:
            self._begin(work)
        try:
            self._owners(work)
            self._pods(work)
            self._rule_sets(work)
            self._group_rows(work)
            self._peers(work)
            self._write_groups(work)
            self._write_addresses(work)
            self._write_pods(work)
        except Full as full:
            return full.refusal
        ops = self.mirror.take()
        self.endpoints.refresh(self.active, staging=True)
        return ops + self.endpoints.sync()

    def commit(self, revision: int, root: bytes) -> list[Op]:
        """The flip. The caller has made sure that what is staged is the cut with this root."""
        assert self.phase is not Phase.FLIPPED, "settle first"
        self.active = self.idle
        self.phase = Phase.FLIPPED
        self.endpoints.refresh(self.active, staging=False)
        return [Flip(self.active, revision, root)]

    def settle(self) -> list[Op]:
        """Remove what only the old cut needed and make the halves equal; once, after `commit`.

        If carrying out fails on the way, carry out the same writes again.
        """
        assert self.phase is Phase.FLIPPED, "nothing to settle"
        self._free_groups()
        self._free_peers()
        self._free_rules()
        mirror = self.mirror
        for index in list(mirror.groups if self._sweep else mirror.groups.touched):
            row = mirror.groups.get(index)
            if row is not None:
                mirror.write_group(index, (row[self.active],) * 2)
        keys = mirror.addresses if self._sweep else (*mirror.addresses.touched, *self.loose)
        for key in list(keys):
            pair = mirror.addresses.get(key)
            if pair is None:
                continue
            if key not in self.owners:
                mirror.remove_address(key)
            elif pair[0] != pair[1]:
                mirror.write_address(key, parse_key(key), (pair[self.active],) * 2)
        for key in list(self.loose):
            self.loose.drop(key)
        ops: list[Op] = [Grace(), *mirror.take()]
        self.endpoints.copy(self.active)
        ops += self.endpoints.sync()
        self._sweep = False
        self._keep()
        self.phase = Phase.SETTLED
        return ops

    def rollback(self) -> list[Op]:
        """Take the staging back, whether or not its writes were carried out."""
        assert self.phase is not Phase.FLIPPED, "a flip can't be called back"
        ops = self.mirror.undo()
        self.view.undo()
        for overlay in self._overlays():
            overlay.undo()
        for pool, taken in zip(
            (self._group_pool, self._peer_pool, self._rule_pool), self._taken, strict=True
        ):
            for index in taken:
                pool.give(index)
        for index in self._taken[1]:
            self._peer_at.pop(index, None)
        for index in self._taken[2]:
            self._rule_at.pop(index, None)
        self._taken = ([], [], [])
        self._begun = bool(self.owners)
        self.endpoints.copy(self.active)
        self.endpoints.refresh(self.active, staging=False)
        self.endpoints.forget_written()
        self.phase = Phase.SETTLED
        return ops + self.endpoints.sync()

    def links_changed(self) -> list[Op]:
        """Writes after interfaces came, went or were attached; allowed at any time."""
        self.endpoints.refresh(self.active, staging=self.phase is Phase.STAGING)
        return self.endpoints.sync()

    # --- taking over and giving up ---------------------------------------------------------

    def load(
        self,
        active: int,
        maps: Mapping[MapId, Mapping[bytes, bytes]],
        attached: Iterable[int],
    ) -> None:
        """Begin with maps that another process filled: in force as they are, not understood.

        Everything in them stays until the first cut has been flipped to and settled; no index
        that occurs anywhere is given out before.
        """
        assert not self._begun, "only empty tables can take over others"
        self.active = active
        self.mirror.load(maps)
        self.endpoints.adopt(maps.get(MapId.ENDPOINTS, {}), attached, active)
        groups = set(self.mirror.groups) | self.endpoints.groups()
        for pair in self.mirror.addresses.now.values():
            groups.update(pair)
        peers = {index for _, index in self.mirror.blocks}
        rules = {number for number, _ in self.mirror.blocks}
        for row in self.mirror.groups.now.values():
            for peer, ingress, egress in row:
                peers.add(peer)
                rules |= {ingress, egress}
        self._set_pools(groups, peers, rules)
        self.loose = Overlay(dict.fromkeys(self.mirror.addresses, True))
        self._sweep = True

    def recognise(
        self,
        groups: Mapping[GroupKey, int],
        peers: Mapping[PeerKey, int],
        rules: Mapping[str, int],
    ) -> None:
        """After `load`: what some indices stand for in the half in force (see `adopt`)."""
        self.group_index = Overlay(groups)
        self.peer_index = Overlay(peers)
        self.rule_number = Overlay(rules)
        self._peer_at = {index: peer for peer, index in peers.items()}
        self._rule_at = {number: name for name, number in rules.items()}

    def _free_groups(self) -> None:
        for group in list(self.uses.touched):
            index = self.group_index.get(group)
            if group not in self.uses and index is not None:
                self.group_index.drop(group)
                self.mirror.remove_group(index)
                self._group_pool.give(index)
        if self._sweep:
            live = {*self.group_index.now.values(), *FIXED_GROUPS}
            for index in [each for each in self.mirror.groups if each not in live]:
                self.mirror.remove_group(index)
            for index in self._group_pool.used - live:
                self._group_pool.give(index)

    def _free_peers(self) -> None:
        for peer in list(self.peer_uses.touched):
            if peer not in self.peer_uses:
                self.peer_index.drop(peer)
        stale = {self.peer_index.before(peer) for peer in self.peer_index.touched}
        stale.update(self._taken[1])
        if self._sweep:
            stale |= {index for _, index in self.mirror.blocks} | self._peer_pool.used
        for index in stale:
            if index is None or index == IdentityIndex.ANY or index in FIXED_INDICES:
                continue
            peer_there = self._peer_at.get(index)
            if peer_there is None or self.peer_index.get(peer_there) != index:
                for number in self.mirror.rules_with(index):
                    self.mirror.write_block(number, index, NO_BLOCK)
                self._peer_at.pop(index, None)
                self._peer_pool.give(index)

    def _free_rules(self) -> None:
        stale = {self.rule_number.before(name) for name in self.rule_number.touched}
        stale.update(self._taken[2])
        if self._sweep:
            stale |= {number for number, _ in self.mirror.blocks} | self._rule_pool.used
        for number in stale:
            if number is None:
                continue
            name = self._rule_at.get(number)
            if name is None or self.rule_number.get(name) != number:
                for index in self.mirror.peers_in(number):
                    self.mirror.write_block(number, index, NO_BLOCK)
                self._rule_at.pop(number, None)
                self._rule_pool.give(number)

    def _overlays(self) -> list[Overlay[Any, Any]]:
        return [each for each in vars(self).values() if isinstance(each, Overlay)]

    def _keep(self) -> None:
        self.view.keep()
        self.mirror.keep()
        for overlay in self._overlays():
            overlay.keep()
        self._taken = ([], [], [])

    # --- steps of staging ------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        """Reserved groups and prefixes, which no resource brings."""
        self._begun = True
        work.recover = True  # keys found in maps were never looked at
        work.groups.update(dict.fromkeys(FIXED_GROUPS, NOBODY))
        for prefix in (*EVERYWHERE, *self.view.services):
            work.keys[prefix_key(prefix)] = (prefix, NOBODY)

    def _owners(self, work: Work) -> None:
        """Who owns each address that may have changed hands; counts uses of groups."""
        dirty, view = work.dirty, self.view
        for address, cause in dirty.addresses.items():
            work.keys[host_key(address)] = (Prefix(address, len(address) * 8), cause)
        for prefix, cause in dirty.prefixes.items():
            work.keys[prefix_key(prefix)] = (prefix, cause)
        if dirty.all_known is not None:
            for prefix in view.known:
                work.keys.setdefault(prefix_key(prefix), (prefix, dirty.all_known))
        for key, (prefix, cause) in work.keys.items():
            old, new = self.owners.get(key), view.owner(prefix)
            if new is not None:
                self.owners.put(key, new)
                self._use(new, 1, cause, work)
            else:
                self.owners.drop(key)
            if old is not None:
                self._use(old, -1, cause, work)

    def _pods(self, work: Work) -> None:
        for pod, cause in work.dirty.pods.items():
            old, value = self._pod_groups.get(pod), self.view.pods.get(pod)
            if value is not None:
                self._pod_groups.put(pod, value.group)
                self._use(value.group, 1, cause, work)
            else:
                self._pod_groups.drop(pod)
            if old is not None:
                self._use(old, -1, cause, work)

    def _use(self, group: GroupKey, step: int, cause: Cause, work: Work) -> None:
        if isinstance(group, GroupIndex):
            return
        have = self.uses.get(group) or 0
        if have + step:
            self.uses.put(group, have + step)
        else:
            self.uses.drop(group)
        if not have or not have + step:
            work.groups[group] = cause

    def _rule_sets(self, work: Work) -> None:
        """A number for each rule set of the next cut; one in force keeps its own."""
        view = self.view
        for name, cause in work.dirty.rule_sets.items():
            rules = view.rules.get(name)
            if rules is None:
                self.rule_number.drop(name)
                continue
            number, in_force = self.rule_number.get(name), self.rule_number.before(name)
            was = view.rules.before(name)
            if in_force is not None and was is not None and was.rule_set == rules.rule_set:
                number = in_force
            elif number == in_force and was is not None:
                number = None
            self.rule_number.put(name, self._take_rule(name) if number is None else number)
            work.rule_sets[name] = cause

    def _group_rows(self, work: Work) -> None:
        """What each group that may have changed is now; counts uses of peers."""
        work.groups.update(work.dirty.groups)
        for group, cause in work.groups.items():
            fixed = isinstance(group, GroupIndex)
            used = fixed or group in self.uses
            old, new = self.rows.get(group), self.view.row(group) if used else None
            if new is not None:
                self.rows.put(group, new)
                self._use_peer(new[0], 1, cause, work)
            else:
                self.rows.drop(group)
            if old is not None:
                self._use_peer(old[0], -1, cause, work)

    def _use_peer(self, peer: PeerKey, step: int, cause: Cause, work: Work) -> None:
        if isinstance(peer, IdentityIndex):
            return
        have = self.peer_uses.get(peer) or 0
        if have + step:
            self.peer_uses.put(peer, have + step)
        else:
            self.peer_uses.drop(peer)
        if not have or not have + step:
            work.peers[peer] = cause

    def _peers(self, work: Work) -> None:
        """Entries: of new rule sets, of new peers, and of peers that joined or left peer sets."""
        for peer, cause in work.peers.items():
            if peer in self.peer_uses:
                if peer not in self.peer_index:
                    self._take_peer(peer)
                self._fill_peer(peer, cause, work)
        for name, cause in work.rule_sets.items():
            self._fill_rules(name, cause, work)
        for number, (selectors, cause) in work.dirty.numbers.items():
            if number not in self.view.groups_of:
                continue
            names: set[str] = set()
            for selector in selectors:
                names |= self.view.named_by.get(selector) or frozenset()
            for birth in sorted({birth for birth, _ in self.view.groups_of[number]}):
                peer = (number, birth)
                if peer in self.peer_uses:
                    for name in sorted(names):
                        self._fit(name, peer, cause, work)
            self._check_entries(cause)

    def _fill_peer(self, peer: PeerKey, cause: Cause, work: Work) -> None:
        names = set(self.view.relevant_rules(peer))
        for number in self.mirror.rules_with(self.peer_index[peer]):
            name = self._rule_at.get(number)
            if name is not None and self.rule_number.get(name) == number:
                names.add(name)
        for name in sorted(names):
            if name in self.rule_number:
                self._fit(name, peer, cause, work)
        self._check_entries(cause)

    def _fill_rules(self, name: str, cause: Cause, work: Work) -> None:
        rules = self.view.rules[name]
        peers: set[PeerKey] = set()
        for number in self.view.numbers_in(rules.names):
            for birth, _ in self.view.groups_of.get(number) or ():
                peers.add((number, birth))
        for peer in self.peer_uses:
            if isinstance(peer, Prefix):
                if rules.about_prefixes:
                    peers.add(peer)
            elif isinstance(peer, tuple) and peer[0] < 256:
                peers.add(peer)
        for index in self.mirror.peers_in(self.rule_number[name]):
            peer_there = self._peer_at.get(index)
            if peer_there is not None and self.peer_index.get(peer_there) == index:
                peers.add(peer_there)
        for fixed in FIXED_PEERS:
            self._fit(name, fixed, cause, work)
        for peer in peers:
            if peer in self.peer_uses:
                self._fit(name, peer, cause, work)
        self._check_entries(cause)

    def _fit(self, name: str, peer: PeerKey, cause: Cause, work: Work) -> None:
        """Make the entries of one rule set and peer right, where no packet looks."""
        rules, number = self.view.rules[name], self.rule_number[name]
        fixed = isinstance(peer, IdentityIndex)
        index = int(peer) if isinstance(peer, IdentityIndex) else self.peer_index[peer]
        sets = self.view.sets_of.get(peer[0]) if isinstance(peer, tuple) else None
        want = rules.block(number, index, rules.entries(peer, sets or ()))
        if want == self.mirror.block(number, index):
            return
        if self.rule_number.before(name) == number:
            if fixed:
                self._take_rule(name)
                work.rewrite.update(dict.fromkeys(self._groups_under(name), cause))
                self._fill_rules(name, cause, work)
                return
            if self.peer_index.before(peer) == index:
                self._take_peer(peer)
                work.rewrite.update(dict.fromkeys(self.view.bound_groups(peer), cause))
                self._fill_peer(peer, cause, work)
                return
        self.mirror.write_block(number, index, want)

    def _groups_under(self, name: str) -> list[GroupKey]:
        found: list[GroupKey] = []
        for number in self.view.subjects.get(name) or ():
            found += [group for _, group in self.view.groups_of.get(number) or ()]
        return found

    def _write_groups(self, work: Work) -> None:
        work.rewrite.update(work.groups)
        for group, cause in work.rewrite.items():
            row = self.rows.get(group)
            if row is None:
                continue
            index = self._index_of(group, cause)
            peer, ingress, egress = row
            half: GroupHalf = (
                int(peer) if isinstance(peer, IdentityIndex) else self.peer_index[peer],
                self.rule_number.get(ingress) or RuleSetNumber.CLOSED,
                self.rule_number.get(egress) or RuleSetNumber.CLOSED,
            )
            pair = [*self.mirror.groups.now.get(index, (NO_GROUP, NO_GROUP))]
            pair[self.idle] = half
            self.mirror.write_group(index, (pair[0], pair[1]))

    def _write_addresses(self, work: Work) -> None:
        mirror, active, idle = self.mirror, self.active, self.idle
        loosened: list[bytes] = []
        for key, (prefix, cause) in work.keys.items():
            owner, have = self.owners.get(key), mirror.addresses.get(key)
            if owner is None:
                if have is not None:
                    self.loose.put(key, True)
                    loosened.append(key)
                    work.recover = work.recover or not is_host(prefix)
                continue
            self.loose.drop(key)
            pair = [0, 0]
            pair[idle] = int(owner) if isinstance(owner, GroupIndex) else self.group_index[owner]
            pair[active] = mirror.covered(prefix, active) if have is None else have[active]
            if have is None or have[idle] != pair[idle]:
                mirror.write_address(key, prefix, (pair[0], pair[1]))
                work.recover = work.recover or not is_host(prefix)
            if have is None and len(mirror.addresses) > self._limit(MapId.ADDRESSES):
                self._full(cause, MapId.ADDRESSES, len(mirror.addresses))
        for key in sorted(self.loose) if work.recover else sorted(loosened):
            prefix = parse_key(key)
            pair = [*mirror.addresses[key]]
            pair[idle] = mirror.covered(prefix, idle)
            if pair[idle] != mirror.addresses[key][idle]:
                mirror.write_address(key, prefix, (pair[0], pair[1]))

    def _write_pods(self, work: Work) -> None:
        for pod in work.dirty.pods:
            value = self.view.pods.get(pod)
            row = None
            if value is not None:
                group = self.group_index[value.group]
                row = PodRow(group, value.ipv4, value.ipv6, value.interface)
            self.endpoints.stage(self.idle, pod, row)

    # --- indices ---------------------------------------------------------------------------

    def _index_of(self, group: GroupKey, cause: Cause) -> int:
        if isinstance(group, GroupIndex):
            return int(group)
        index = self.group_index.get(group)
        if index is None:
            index = self._group_pool.take()
            if index is None:
                limit = self._limit(MapId.GROUPS)
                self._full(cause, MapId.GROUPS, max(limit + 1, len(self.uses)))
            self._taken[0].append(index)
            self.group_index.put(group, index)
        return index

    def _take_peer(self, peer: PeerKey) -> None:
        index = self._peer_pool.take()
        assert index is not None
        self._taken[1].append(index)
        self._peer_at[index] = peer
        self.peer_index.put(peer, index)

    def _take_rule(self, name: str) -> int:
        number = self._rule_pool.take()
        assert number is not None
        self._taken[2].append(number)
        self._rule_at[number] = name
        self.rule_number.put(name, number)
        return number

    def _limit(self, map_id: MapId) -> int:
        return self.limits.get(map_id, 1 << 32)

    def _check_entries(self, cause: Cause) -> None:
        if self.mirror.entries > self._limit(MapId.POLICIES):
            self._full(cause, MapId.POLICIES, self.mirror.entries)

    def _full(self, cause: Cause, map_id: MapId, needed: int) -> NoReturn:
        limit = self._limit(map_id)
        reason = f"needs {needed} entries in map {map_id}, which holds {limit}"
        raise Full(Refusal(cause[0], cause[1], reason, needed, limit))
