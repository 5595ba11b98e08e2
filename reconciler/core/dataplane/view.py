"""One node view as the tables need it: who owns an address, what a group is, what names what.

Resources are put and taken one by one; each change costs what it touches and is noted in `Dirty`,
with the resource that caused it (a refusal names it). The view of the cut in force is what `undo`
returns to. Nothing here knows the kernel.

A view may be incoherent while responses of one cut are still arriving, so every question has an
answer that allows no more than it must: an address claimed by two groups, a group bound twice and a
group that is bound to an earlier birth of its number are all *unknown*.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from reconciler.core.dataplane.layout import GroupIndex, IdentityIndex
from reconciler.core.dataplane.overlay import Overlay
from reconciler.core.dataplane.prefixes import EVERYWHERE, PrefixIndex, is_host
from reconciler.core.dataplane.rulesets import KernelRules, PeerKey
from reconciler.core.dataplane.values import TYPE_OF, Change, StagedValue
from reconciler.core.policy.ir import IdentityPolicy, Prefix, RuleSet
from reconciler.core.resources.values import Addresses, Bindings, LocalPod, Members

K = TypeVar("K")
V = TypeVar("V")

GroupKey = GroupIndex | str | Prefix
"""What an address belongs to: a fixed meaning, a group's name, or a known prefix outside."""

Cause = tuple[str, str]
"""(type URL, name) of the resource to name when something doesn't fit."""

Row = tuple[PeerKey, str, str]
"""Identity, ingress and egress rule set names ("": closed) of a group."""

NODES: Final = (GroupIndex.HOST, GroupIndex.KUBE_APISERVER, GroupIndex.REMOTE_NODE)
"""Who wins an address that nodes and the API server share, best first."""

BINDABLE: Final = {
    0: IdentityIndex.UNKNOWN,
    1: IdentityIndex.HOST,
    6: IdentityIndex.REMOTE_NODE,
    7: IdentityIndex.KUBE_APISERVER,
}
"""Reserved numbers with a fixed index, should a group be bound to one."""


class Dirty:
    """What may have another answer than before, with its cause."""

    __slots__ = (
        "addresses", "all_known", "groups", "numbers", "pods", "prefixes", "rule_sets",
    )  # fmt: skip

    def __init__(self) -> None:
        self.addresses: dict[bytes, Cause] = {}
        self.prefixes: dict[Prefix, Cause] = {}
        self.all_known: Cause | None = None  # the cluster's own prefixes changed
        self.groups: dict[str, Cause] = {}
        self.numbers: dict[int, tuple[set[str], Cause]] = {}  # number → selectors joined or left
        self.rule_sets: dict[str, Cause] = {}
        self.pods: dict[str, Cause] = {}


class View:
    def __init__(self, node: str, services: Iterable[Prefix] = ()) -> None:
        self.node = node
        self.services = frozenset(services)
        self.distrust = False  # remote pods count as unknown
        self._distrust_before = False
        self.values: Overlay[tuple[str, str], StagedValue] = Overlay()
        self.rules: Overlay[str, KernelRules] = Overlay()
        self.policies: Overlay[int, IdentityPolicy] = Overlay()
        self.pods: Overlay[str, LocalPod] = Overlay()
        self.sets_of: Overlay[int, frozenset[str]] = Overlay()
        self.shards: Overlay[str, frozenset[str]] = Overlay()  # selector → resource names
        self.named_by: Overlay[str, frozenset[str]] = Overlay()  # selector → rule sets
        self.subjects: Overlay[str, frozenset[int]] = Overlay()  # rule set → numbers
        self.bound: Overlay[str, tuple[tuple[int, int], ...]] = Overlay()
        self.groups_of: Overlay[int, frozenset[tuple[int, str]]] = Overlay()  # (birth, group)
        self.claims: Overlay[bytes, tuple[GroupIndex | str, ...]] = Overlay()
        self.local: Overlay[bytes, int] = Overlay()  # addresses of this node's pods, counted
        self.known: Overlay[Prefix, int] = Overlay()  # counted by rule sets
        self.cluster: Overlay[Prefix, int] = Overlay()  # prefixes of the cluster, counted
        self._walls = PrefixIndex()
        for prefix in self.services:
            self._walls.add(prefix)

    def _overlays(self) -> list[Overlay[Any, Any]]:
        return [each for each in vars(self).values() if isinstance(each, Overlay)]

    def keep(self) -> None:
        self._distrust_before = self.distrust
        for overlay in self._overlays():
            overlay.keep()

    def undo(self) -> None:
        self.distrust = self._distrust_before
        prefixes = list(self.cluster.touched)
        for overlay in self._overlays():
            overlay.undo()
        for prefix in prefixes:
            self._wall(prefix)

    # --- questions -------------------------------------------------------------------------

    def owner(self, prefix: Prefix) -> GroupKey | None:
        """What the trie says at this very prefix; None: what the prefix around it says."""
        if is_host(prefix):
            claims = self.claims.get(prefix.address)
            if claims is not None:
                return self._claimed(prefix.address, claims)
        if prefix in self.services:
            return GroupIndex.SERVICE
        if prefix in self.cluster:
            return GroupIndex.UNKNOWN
        if prefix in EVERYWHERE:
            v4 = len(prefix.address) == 4
            return GroupIndex.WORLD_V4 if v4 else GroupIndex.WORLD_V6
        if prefix in self.known and self._walls.covering(prefix) is None:
            return prefix
        return None

    def owner_of(self, address: bytes) -> GroupKey | None:
        """`owner` of one address."""
        claims = self.claims.now.get(address)
        if claims is not None:
            return self._claimed(address, claims)
        return self.owner(Prefix(address, len(address) * 8))

    def _claimed(self, address: bytes, claims: tuple[GroupIndex | str, ...]) -> GroupIndex | str:
        first = claims[0]
        if len(claims) > 1 and any(claim != first for claim in claims):
            if any(isinstance(claim, str) for claim in claims):
                return GroupIndex.UNKNOWN
            return next(index for index in NODES if index in claims)
        if self.distrust and isinstance(first, str) and address not in self.local:
            return GroupIndex.UNKNOWN
        return first

    def row(self, group: GroupKey) -> Row:
        if isinstance(group, GroupIndex):
            return IdentityIndex(int(group)), "", ""
        if isinstance(group, Prefix):
            return group, "", ""
        bound = self.bound.get(group)
        if bound is None or len(set(bound)) != 1:
            return IdentityIndex.UNKNOWN, "", ""
        number, birth = bound[0]
        if number < 256:
            return BINDABLE.get(number, (number, 0)), "", ""
        if birth != self.birth(number):
            return IdentityIndex.UNKNOWN, "", ""
        policy = self.policies.get(number)
        if policy is None or policy.birth != birth:
            return (number, birth), "", ""
        return (
            (number, birth),
            policy.ingress if policy.ingress in self.rules else "",
            policy.egress if policy.egress in self.rules else "",
        )

    def birth(self, number: int) -> int:
        """The newest birth of a number that any group is bound to."""
        return max((birth for birth, _ in self.groups_of.get(number) or ()), default=0)

    def bound_groups(self, peer: PeerKey) -> list[GroupKey]:
        if isinstance(peer, Prefix):
            return [peer]
        if isinstance(peer, tuple):
            return [name for birth, name in self.groups_of.get(peer[0]) or () if birth == peer[1]]
        return []

    def relevant_rules(self, peer: PeerKey) -> Iterable[str]:
        """Rule sets that may have entries of this peer."""
        if isinstance(peer, tuple) and peer[0] >= 256:
            names: set[str] = set()
            for selector in self.sets_of.get(peer[0]) or ():
                names |= self.named_by.get(selector) or frozenset()
            return sorted(names)
        return sorted(self.rules)

    def numbers_in(self, selectors: Iterable[str]) -> set[int]:
        found: set[int] = set()
        for selector in selectors:
            for name in self.shards.get(selector) or ():
                value = self.values[TYPE_OF[Members], name]
                assert isinstance(value, Members)
                found |= value.numbers
        return found

    # --- changes ---------------------------------------------------------------------------

    def apply(self, change: Change, dirty: Dirty) -> None:
        key = (change.type_url, change.name)
        old, new = self.values.get(key), change.value
        if old == new:
            return
        if new is None:
            self.values.drop(key)
        else:
            self.values.put(key, new)
        kind = type(new if new is not None else old)
        if kind is Members:
            self._members(key, old, new, dirty)
        elif kind is RuleSet:
            self._rule_set(key, old, new, dirty)
        elif kind is IdentityPolicy:
            self._policy(key, old, new, dirty)
        elif kind is Bindings:
            self._bindings(key, old, new, dirty)
        elif kind is Addresses:
            self._addresses(key, old, new, dirty)
        else:
            self._pod(key, old, new, dirty)

    def trust(self, distrust: bool, dirty: Dirty, cause: Cause) -> None:
        """Switch whether remote pods count as unknown; touches every pod's address."""
        if distrust != self.distrust:
            self.distrust = distrust
            dirty.addresses.update(dict.fromkeys(self.claims, cause))

    def _members(
        self, key: Cause, old: StagedValue | None, new: StagedValue | None, dirty: Dirty
    ) -> None:
        none: frozenset[int] = frozenset()
        was = old.numbers if isinstance(old, Members) else none
        now = new.numbers if isinstance(new, Members) else none
        some = new if new is not None else old
        assert isinstance(some, Members)
        selector = some.selector
        _set(self.shards, selector, key[1], new is not None)
        for number in was ^ now:
            _set(self.sets_of, number, selector, number in now)
            dirty.numbers.setdefault(number, (set(), key))[0].add(selector)

    def _rule_set(
        self, key: Cause, old: StagedValue | None, new: StagedValue | None, dirty: Dirty
    ) -> None:
        name = key[1]
        was = self.rules.get(name)
        now = KernelRules(name, new) if isinstance(new, RuleSet) else None
        if now is None:
            self.rules.drop(name)
        else:
            self.rules.put(name, now)
        was_names, now_names = (each.names if each else frozenset() for each in (was, now))
        for selector in was_names ^ now_names:
            _set(self.named_by, selector, name, selector in now_names)
        was_known, now_known = (each.known if each else frozenset() for each in (was, now))
        for prefix in was_known ^ now_known:
            if _count(self.known, prefix, 1 if prefix in now_known else -1):
                self._prefix_dirty(prefix, key, dirty)
        dirty.rule_sets[name] = key
        for number in self.subjects.get(name) or ():
            self._number_dirty(number, key, dirty)

    def _policy(
        self, key: Cause, old: StagedValue | None, new: StagedValue | None, dirty: Dirty
    ) -> None:
        if isinstance(old, IdentityPolicy):
            for name in {old.ingress, old.egress}:
                _set(self.subjects, name, old.number, False)
            self.policies.drop(old.number)
            self._number_dirty(old.number, key, dirty)
        if isinstance(new, IdentityPolicy):
            for name in {new.ingress, new.egress}:
                _set(self.subjects, name, new.number, True)
            self.policies.put(new.number, new)
            self._number_dirty(new.number, key, dirty)

    def _bindings(
        self, key: Cause, old: StagedValue | None, new: StagedValue | None, dirty: Dirty
    ) -> None:
        was = set(old.bindings) if isinstance(old, Bindings) else set()
        now = set(new.bindings) if isinstance(new, Bindings) else set()
        for group, number, birth in was - now:
            left = list(self.bound.get(group) or ())
            left.remove((number, birth))
            if left:
                self.bound.put(group, tuple(left))
            else:
                self.bound.drop(group)
            if (number, birth) not in left:
                self._rebind(number, (birth, group), False, key, dirty)
            dirty.groups[group] = key
        for group, number, birth in now - was:
            self.bound.put(group, (*(self.bound.get(group) or ()), (number, birth)))
            self._rebind(number, (birth, group), True, key, dirty)
            dirty.groups[group] = key

    def _rebind(
        self, number: int, bound: tuple[int, str], present: bool, key: Cause, dirty: Dirty
    ) -> None:
        before = self.birth(number)
        _set(self.groups_of, number, bound, present)
        if self.birth(number) != before:
            self._number_dirty(number, key, dirty)

    def _addresses(
        self, key: Cause, old: StagedValue | None, new: StagedValue | None, dirty: Dirty
    ) -> None:
        for value, present in ((old, False), (new, True)):
            if not isinstance(value, Addresses):
                continue
            for prefix in value.prefixes:
                _count(self.cluster, prefix, 1 if present else -1)
                self._wall(prefix)
                dirty.all_known = key
                self._prefix_dirty(prefix, key, dirty)
        was = _claims(old, self.node)
        now = _claims(new, self.node)
        claimed = self.claims.now
        alone = [each for each in now if each not in was and each not in claimed]
        if alone:  # most of them, and one slice's all have one owner
            self.claims.put_all(dict.fromkeys(alone, (now[alone[0]],)))
            dirty.addresses.update(dict.fromkeys(alone, key))
            if len(alone) == len(now) and not was:
                return
        for address in (was.keys() | now.keys()).difference(alone):
            before, after = was.get(address), now.get(address)
            if before == after:
                continue
            claims = list(self.claims.get(address) or ())
            if before is not None:
                claims.remove(before)
            if after is not None:
                claims.append(after)
            if claims:
                self.claims.put(address, tuple(claims))
            else:
                self.claims.drop(address)
            dirty.addresses[address] = key

    def _pod(
        self, key: Cause, old: StagedValue | None, new: StagedValue | None, dirty: Dirty
    ) -> None:
        for value, step in ((old, -1), (new, 1)):
            if isinstance(value, LocalPod):
                for address in (value.ipv4, value.ipv6):
                    if address and _count(self.local, address, step) and self.distrust:
                        dirty.addresses[address] = key
        if isinstance(new, LocalPod):
            self.pods.put(key[1], new)
        else:
            self.pods.drop(key[1])
        dirty.pods[key[1]] = key

    def _number_dirty(self, number: int, key: Cause, dirty: Dirty) -> None:
        for _, group in self.groups_of.get(number) or ():
            dirty.groups[group] = key

    def _prefix_dirty(self, prefix: Prefix, key: Cause, dirty: Dirty) -> None:
        if is_host(prefix):
            dirty.addresses[prefix.address] = key
        else:
            dirty.prefixes[prefix] = key

    def _wall(self, prefix: Prefix) -> None:
        if prefix in self.cluster or prefix in self.services:
            self._walls.add(prefix)
        else:
            self._walls.discard(prefix)


def _claims(value: StagedValue | None, node: str) -> dict[bytes, GroupIndex | str]:
    """address → who claims it, by one slice."""
    if not isinstance(value, Addresses):
        return {}
    owner: GroupIndex | str
    if value.kind == "pods":
        owner = value.owner
    elif value.kind == "node":
        owner = GroupIndex.HOST if value.owner == node else GroupIndex.REMOTE_NODE
    elif value.kind == "kube-apiserver":
        owner = GroupIndex.KUBE_APISERVER
    else:
        owner = GroupIndex.UNKNOWN
    return dict.fromkeys(value.addresses, owner)


def _set(overlay: Overlay[K, frozenset[V]], key: K, item: V, present: bool) -> None:
    have = overlay.get(key) or frozenset()
    want = have | {item} if present else have - {item}
    if want:
        overlay.put(key, want)
    else:
        overlay.drop(key)


def _count(overlay: Overlay[K, int], key: K, step: int) -> bool:
    """Add `step`; True if the key appeared or went."""
    have = overlay.get(key) or 0
    if have + step:
        overlay.put(key, have + step)
    else:
        overlay.drop(key)
    return not (have and have + step)
