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

from collections.abc import Iterable, Sequence
from typing import Any

from reconciler.core.dataplane.endpoints import PodRow
from reconciler.core.dataplane.indices import FIXED_GROUPS, NOBODY, Full, Phase
from reconciler.core.dataplane.layout import (
    ENDPOINT_KEY,
    GroupIndex,
    IdentityIndex,
    MapId,
    RuleSetNumber,
)
from reconciler.core.dataplane.mirror import NO_GROUP, GroupHalf
from reconciler.core.dataplane.ops import Flip, Grace, Op, Put, Remove
from reconciler.core.dataplane.owners import Owners, Work
from reconciler.core.dataplane.prefixes import EVERYWHERE
from reconciler.core.dataplane.rulesets import FIXED_PEERS, PeerKey
from reconciler.core.dataplane.values import Change
from reconciler.core.dataplane.view import Cause, Dirty, GroupKey
from reconciler.core.policy.ir import Direction, Prefix
from reconciler.errors import Refusal


class Tables(Owners):
    def usage(self) -> dict[str, int]:
        """Entries in use per map."""
        return {
            MapId.ADDRESSES.value: len(self.mirror.addresses),
            MapId.GROUPS.value: len(self.mirror.groups),
            MapId.POLICIES.value: self.mirror.entries,
            MapId.ENDPOINTS.value: sum(port.has_entry for port in self.endpoints.ports.values()),
        }

    def origins(self, ifindex: int, direction: Direction, cookie: int) -> tuple[str, ...]:
        """Policy objects of the rule that gave a verdict at an interface, by the entry's cookie."""
        value = self.view.pods.get(self.endpoints.pod_of(ifindex, self.active))
        if value is None:
            return ()
        _, ingress, egress = self.view.row(value.group)
        rules = self.view.rules.get(ingress if direction is Direction.INGRESS else egress)
        return (rules.origins(cookie) if rules is not None else None) or ()

    # --- the four steps of a cut -----------------------------------------------------------

    def stage(
        self, changes: Sequence[Change], *, distrust: bool | None = None
    ) -> list[Op] | Refusal:
        """Prepare resources of the next cut. After a Refusal only `rollback` may follow.

        distrust: whether remote pods count as unknown from this cut on (None: as before).
        """
        assert self.phase is not Phase.FLIPPED, "settle first"
        if self.phase is Phase.SETTLED:
            self.endpoints.begin(self.idle)
        self.phase = Phase.STAGING
        dirty = Dirty()
        if distrust is not None:
            self.view.trust(distrust, dirty, NOBODY)
        for change in changes:
            self.view.apply(change, dirty)
        work = Work(dirty)
        begins = not self._begun
        if begins:
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
        ops: list[Op] = [Grace()] if begins and self._sweep else []
        ops += self.mirror.take()
        self.endpoints.refresh(self.active, staging=True)
        return ops + self.endpoints.sync()

    def commit(self, revision: int, root: bytes) -> list[Op]:
        """The flip. The caller has made sure that what is staged is the cut with this root."""
        assert self.phase is not Phase.FLIPPED, "settle first"
        assert self._begun, "what is in the other half is not known"
        self.active = self.idle
        self.phase = Phase.FLIPPED
        self.endpoints.refresh(self.active, staging=False)
        return [Flip(self.active, revision, root)]

    def uncommit(self) -> None:
        """The flip was not carried out: what was staged is staged still."""
        assert self.phase is Phase.FLIPPED, "nothing was flipped"
        self.active = self.idle
        self.phase = Phase.STAGING
        self.endpoints.refresh(self.active, staging=True)

    def settle(self) -> list[Op]:
        """Remove what only the old cut needed and make the halves equal; once, after `commit`."""
        assert self.phase is Phase.FLIPPED, "nothing to settle"
        self._free_groups()
        self._free_peers()
        self._free_rules()
        self._equalise()
        for key in list(self.loose):
            self.loose.drop(key)
        ops: list[Op] = [Grace(), *self.mirror.take()]
        self.endpoints.copy(self.active)
        ops += self.endpoints.sync()
        self._sweep = False
        self._keep()
        self.phase = Phase.SETTLED
        return ops

    def _equalise(self) -> None:
        """Both halves as the cut in force has them; keys that it does not name go."""
        mirror = self.mirror
        for index in list(mirror.groups if self._sweep else mirror.groups.touched):
            row = mirror.groups.get(index)
            if row is not None:
                mirror.write_group(index, (row[self.active],) * 2)
        self._equalise_addresses()

    def rollback(self) -> list[Op]:
        """Take the staging back, whether or not its writes were carried out."""
        assert self.phase is not Phase.FLIPPED, "a flip can't be called back"
        ops = self.mirror.undo()
        self.view.undo()
        self._undo()
        self.endpoints.copy(self.active)
        self.phase = Phase.SETTLED
        return self.repeat(ops)

    def repeat(self, ops: Iterable[Op]) -> list[Op]:
        """What `settle` or `rollback` gave, once more, should carrying it out fail on the way.

        Interfaces are written as they are by now, since they come, go and are named meanwhile.
        """
        assert self.phase is Phase.SETTLED, "not the last writes any more"
        self.endpoints.forget_written()
        return [*(op for op in ops if not _of_interfaces(op)), *self.links_changed()]

    def links_changed(self, gone: Iterable[int] = ()) -> list[Op]:
        """Writes after interfaces came, went or were attached; allowed at any time.

        gone: interfaces of which nothing is left when these writes are done. Others may have been
        asked to remove an entry before, but those may fail and are not repeated as they were.
        """
        ports = self.endpoints.ports
        keys = [ENDPOINT_KEY.pack(each) for each in gone if ports[each].entry is None]
        ops: list[Op] = [Remove(MapId.ENDPOINTS, tuple(keys))] if keys else []
        self.endpoints.refresh(self.active, staging=self.phase is Phase.STAGING)
        return ops + self.endpoints.sync()

    # --- steps of staging ------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        """Reserved groups and prefixes, which no resource brings."""
        self._begun = True
        work.recover = True  # keys found in maps were never looked at
        self._clear_leftovers()
        work.groups.update(dict.fromkeys(FIXED_GROUPS, NOBODY))
        for prefix in (*EVERYWHERE, *self.view.services):
            work.dirty.prefixes.setdefault(prefix, NOBODY)

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
        new = [p for p in work.peers if p in self.peer_uses and p not in self.peer_index]
        for peer in sorted(new, key=_order):
            self._take_peer(peer)
        for peer, cause in work.peers.items():
            if peer in self.peer_uses:
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
        if self._rules_seen(name) and self._peer_seen(peer):
            if fixed:
                self._take_rule(name)
                work.rewrite.update(dict.fromkeys(self._groups_under(name), cause))
                self._fill_rules(name, cause, work)
                return
            self._take_peer(peer)
            work.rewrite.update(dict.fromkeys(self.view.bound_groups(peer), cause))
            self._fill_peer(peer, cause, work)
            return
        self.mirror.write_block(number, index, want)

    def _rules_seen(self, name: str) -> bool:
        """Whether a rule set's number is one that groups in force may name."""
        return self.rule_number.before(name) == self.rule_number[name]

    def _peer_seen(self, peer: PeerKey) -> bool:
        """Whether a peer's index is one that groups in force may name."""
        fixed = isinstance(peer, IdentityIndex)
        return fixed or self.peer_index.before(peer) == self.peer_index[peer]

    def _groups_under(self, name: str) -> list[GroupKey]:
        found: list[GroupKey] = []
        for number in self.view.subjects.get(name) or ():
            found += [group for _, group in self.view.groups_of.get(number) or ()]
        return found

    def _write_groups(self, work: Work) -> None:
        work.rewrite.update(work.groups)
        new = [g for g in work.rewrite if g in self.rows and g not in self.group_index]
        for group in sorted(new, key=_order):
            self._index_of(group, work.rewrite[group])
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

    def _write_pods(self, work: Work) -> None:
        for pod in work.dirty.pods:
            value = self.view.pods.get(pod)
            row = None
            if value is not None:
                group = self.group_index[value.group]
                row = PodRow(group, value.ipv4, value.ipv6, value.interface)
            self.endpoints.stage(self.idle, pod, row)


def _of_interfaces(op: Op) -> bool:
    return isinstance(op, Put | Remove) and op.map is MapId.ENDPOINTS


def _order(key: GroupKey | PeerKey) -> Any:
    """Indices do not depend on the order in which resources come."""
    if isinstance(key, Prefix):
        return 2, key.address, key.length
    return (1, key) if isinstance(key, str) else (0, key)
