"""Who owns each address in the next cut, and the writes to the trie that say so.

Most keys are of one address, and a cut may bring tens of thousands of them: they go by dictionaries
as a whole, while the few wider ones are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.dataplane.indices import Indices
from reconciler.core.dataplane.layout import GroupIndex, MapId
from reconciler.core.dataplane.mirror import AddressPair
from reconciler.core.dataplane.prefixes import host_key, is_host, parse_key, prefix_key
from reconciler.core.dataplane.rulesets import PeerKey
from reconciler.core.dataplane.view import Cause, Dirty, GroupKey
from reconciler.core.policy.ir import Prefix


class Work:
    """What one `stage` has to look at, each with the resource to name if it doesn't fit."""

    __slots__ = ("dirty", "groups", "hosts", "keys", "peers", "recover", "rewrite", "rule_sets")

    def __init__(self, dirty: Dirty) -> None:
        self.dirty = dirty
        self.recover = False  # what covers a key that the next cut doesn't name may have changed
        self.hosts: dict[bytes, tuple[bytes, Cause]] = {}  # key → address
        self.keys: dict[bytes, tuple[Prefix, Cause]] = {}  # of wider prefixes
        self.groups: dict[GroupKey, Cause] = {}
        self.peers: dict[PeerKey, Cause] = {}  # first or last use changed
        self.rule_sets: dict[str, Cause] = {}
        self.rewrite: dict[GroupKey, Cause] = {}  # rows that name an index that changed


class Owners(Indices):
    def _owners(self, work: Work) -> None:
        """Who owns each address that may have changed hands; counts uses of groups."""
        dirty, view = work.dirty, self.view
        work.hosts = {host_key(each): (each, cause) for each, cause in dirty.addresses.items()}
        for prefix, cause in dirty.prefixes.items():
            self._prefix(prefix, cause, work)
        if dirty.all_known is not None:
            for prefix in view.known:
                self._prefix(prefix, dirty.all_known, work)
        put: dict[bytes, GroupKey] = {}
        steps: dict[GroupKey, int] = {}  # uses that come, less those that go
        causes: dict[GroupKey, Cause] = {}

        owners = self.owners.now

        def owned(key: bytes, new: GroupKey | None, cause: Cause) -> None:
            old = owners.get(key)
            if old == new:
                return
            if new is not None:
                put[key] = new
                steps[new] = steps.get(new, 0) + 1
                causes.setdefault(new, cause)
            else:
                self.owners.drop(key)
            if old is not None:
                steps[old] = steps.get(old, 0) - 1
                causes.setdefault(old, cause)

        for key, (address, cause) in work.hosts.items():
            owned(key, view.owner_of(address), cause)
        for key, (prefix, cause) in work.keys.items():
            owned(key, view.owner(prefix), cause)
        self.owners.put_all(put)
        for group, step in steps.items():
            if step:
                self._use(group, step, causes[group], work)

    def _prefix(self, prefix: Prefix, cause: Cause, work: Work) -> None:
        key = prefix_key(prefix)
        if is_host(prefix):
            work.hosts.setdefault(key, (prefix.address, cause))
        else:
            work.keys.setdefault(key, (prefix, cause))

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

    def _write_addresses(self, work: Work) -> None:
        mirror, active, idle = self.mirror, self.active, self.idle
        addresses, limit = mirror.addresses.now, self._limit(MapId.ADDRESSES)
        loosened: list[bytes] = []
        pairs: dict[bytes, AddressPair] = {}
        made: dict[AddressPair, AddressPair] = {}  # thousands of addresses share a few
        size = len(addresses)
        covered, owners, loose = mirror.covered_hosts(active), self.owners.now, self.loose.now
        indices: dict[GroupKey, int] = {}
        for key, (address, cause) in work.hosts.items():
            have, owner = addresses.get(key), owners.get(key)
            if owner is None:
                if have is not None:
                    self.loose.put(key, True)
                    loosened.append(key)
                continue
            if key in loose:
                self.loose.drop(key)
            new = indices.get(owner)
            if new is None:
                new = indices[owner] = self._group_at(owner)
            if have is None:
                size += 1
                if size > limit:
                    self._full(cause, MapId.ADDRESSES, size)
                there = covered(address)
            elif have[idle] == new:
                continue
            else:
                there = have[active]
            pair = (new, there) if idle == 0 else (there, new)
            pairs[key] = made.setdefault(pair, pair)
        mirror.write_hosts(pairs)
        for key, (prefix, cause) in work.keys.items():
            have, owner = addresses.get(key), owners.get(key)
            if owner is None:
                if have is not None:
                    self.loose.put(key, True)
                    loosened.append(key)
                    work.recover = True
                continue
            self.loose.drop(key)
            new = self._group_at(owner)
            if have is None:
                size += 1
                if size > limit:
                    self._full(cause, MapId.ADDRESSES, size)
            elif have[idle] == new:
                continue
            there = mirror.covered(prefix, active) if have is None else have[active]
            mirror.write_address(key, prefix, (new, there) if idle == 0 else (there, new))
            work.recover = True
        self._cover(sorted(self.loose) if work.recover else sorted(loosened))

    def _group_at(self, owner: GroupKey) -> int:
        return int(owner) if isinstance(owner, GroupIndex) else self.group_index.now[owner]

    def _cover(self, keys: Sequence[bytes]) -> None:
        """Give keys that the next cut does not name the answer of what is around them there.

        keys: shorter prefixes first, since one may be around another.
        """
        mirror, idle = self.mirror, self.idle
        for key in keys:
            prefix = parse_key(key)
            pair = [*mirror.addresses[key]]
            pair[idle] = mirror.covered(prefix, idle)
            if pair[idle] != mirror.addresses[key][idle]:
                mirror.write_address(key, prefix, (pair[0], pair[1]))

    def _equalise_addresses(self) -> None:
        mirror = self.mirror
        keys = mirror.addresses if self._sweep else (*mirror.addresses.touched, *self.loose)
        equal: dict[bytes, AddressPair] = {}
        made: dict[int, AddressPair] = {}
        for key in list(keys):
            pair = mirror.addresses.now.get(key)
            if pair is None:
                continue
            if key not in self.owners.now:
                mirror.remove_address(key)
            elif pair[0] != pair[1]:
                group = pair[self.active]
                equal[key] = made.setdefault(group, (group, group))
        mirror.write_hosts(equal)
