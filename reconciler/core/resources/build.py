"""Node views from the published state: what each node is served, and nothing of what it is not.

A view is three layers whose types are disjoint:

* **cluster**: bindings and addresses of all groups (shared by all nodes with `scope` "all");
* **policy**: policies of the identities that have a pod on the node, the rule sets that these name,
  the peer sets that those name;
* **own**: the node's endpoints.

It is a pure function of the state at one revision, the node's name and the rule sets that the node
refused (they are served as *closed*); `update` only keeps the parts that did not change.

Scope "selected" leaves out the addresses of groups that no rule on the node can tell apart from an
unknown pod: no peer set there holds their identity, no rule there denies by identity, and the
cluster's own CIDRs cover the addresses, so that they become unknown and not world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec
from pyroaring import BitMap

from reconciler.core.policy.ir import Direction, IdentityPolicy, Prefix, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode, root
from reconciler.core.resources.layer import Key, Layer
from reconciler.core.resources.types import ADDRESS_GROUP, STAGED, Resource

Scope = Literal["all", "selected"]

KEPT_POLICIES: Final = 3
"""Policy layers kept a node: the real one, the closed one that is served, the one before it."""

_NO_MEMBERS: Final = BitMap()

CLOSED: Final = {direction: rule_set_hash(RuleSet(direction, True, ())) for direction in Direction}
"""Names of the rule sets that drop everything, the pod's own node included."""

CLOSED_RULES: Final = {CLOSED[each]: RuleSet(each, True, ()) for each in Direction}


class LocalEndpoint(msgspec.Struct, frozen=True):
    """A pod as its node is told of it; see proto `Endpoint`. group: its name."""

    namespace: str
    pod: str
    node: str
    uid: str
    ipv4: bytes
    ipv6: bytes
    group: str
    interface: str = ""


class State(msgspec.Struct, frozen=True):
    """Where current values are read from. The mappings are live; `Changed` says what to read again.

    bindings:  namespace → {group: (number, birth)}
    addresses: group → its addresses
    """

    bindings: Callable[[str], Mapping[str, tuple[int, int]]]
    addresses: Callable[[str], Iterable[bytes]]
    endpoint: Callable[[str], LocalEndpoint | None]
    node_addresses: Callable[[str], Iterable[bytes]]
    unknown: Callable[[], Iterable[Prefix]]
    peer_sets: Mapping[str, BitMap]
    rule_sets: Mapping[str, RuleSet]
    policies: Mapping[int, IdentityPolicy]


class Changed(msgspec.Struct, frozen=True):
    """What differs from the state before: names, never values. peer_sets: (selector, shard)."""

    namespaces: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    peer_sets: frozenset[tuple[str, int]] = frozenset()
    rule_sets_removed: frozenset[str] = frozenset()
    policies: frozenset[int] = frozenset()


class NodeView(msgspec.Struct, frozen=True, eq=False):
    """What one node is served at one revision."""

    revision: int
    layers: tuple[Layer, ...]
    root: bytes

    def resources(self) -> Iterator[Resource]:
        for layer in self.layers:
            yield from layer.resources.values()

    def get(self, type_url: str, name: str) -> Resource | None:
        for layer in self.layers:
            found = layer.get((type_url, name))
            if found is not None:
                return found
        return None

    def shorten(self) -> None:
        """For views that are held for long; see `Layer.shorten`."""
        for layer in self.layers:
            layer.shorten()

    def since(self, older: NodeView) -> dict[Key, Resource | None]:
        """What a node at `older` lacks: key → resource, None where it is gone."""
        missing: dict[Key, Resource | None] = {}
        for mine, theirs in zip(self.layers, older.layers, strict=True):
            missing.update(mine.since(theirs))
        return missing

    def lacking(self, reported: Mapping[str, Mapping[str, str]]) -> dict[Key, Resource | None]:
        """What a node lacks that reports type URL → name → version."""
        missing: dict[Key, Resource | None] = {}
        left = {type_url: set(reported.get(type_url, ())) for type_url in STAGED}
        for resource in self.resources():
            left[resource.type_url].discard(resource.name)
            if reported.get(resource.type_url, {}).get(resource.name) != resource.version:
                missing[resource.type_url, resource.name] = resource
        for type_url, names in left.items():
            missing.update(((type_url, name), None) for name in names)
        return missing


def view_of(revision: int, *layers: Layer) -> NodeView:
    return NodeView(revision, layers, root.to_bytes(sum(layer.root for layer in layers)))


class _Node:
    __slots__ = (
        "base", "cluster", "current", "endpoints", "numbers", "own", "own_dirty", "policies",
    )  # fmt: skip

    def __init__(self) -> None:
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.own = Layer({})
        self.own_dirty = False
        self.numbers: frozenset[int] | None = None  # None: to be found again
        # Rule sets refused → layer, those made last.
        self.policies: dict[frozenset[str], Layer] = {}
        self.current: set[frozenset[str]] = set()  # those of `policies` that are up to date
        self.cluster: Layer | None = None  # scope "selected": the last one made
        self.base: tuple[object, ...] = ()  # what `cluster` was made from


class ViewBuilder:
    def __init__(self, state: State, scope: Scope = "all") -> None:
        self._state = state
        self._scope = scope
        self._cluster = Layer({})
        self._bindings: dict[str, dict[str, tuple[int, int]]] = {}
        self._addresses: dict[str, tuple[bytes, ...]] = {}  # as published: the store may be ahead
        self._unknown: tuple[Prefix, ...] = ()
        self._names: dict[Key | str, frozenset[Key]] = {}  # source → names of its resources
        self._peer_sets: dict[str, dict[int, Resource]] = {}
        self._rule_sets: dict[str, Resource] = {}
        self._policies: dict[int, Resource] = {}
        self._nodes: dict[str, _Node] = {}
        self._node_of: dict[str, str] = {}

    # ------------------------------------------------------------------------------ changes

    def update(self, changed: Changed) -> None:
        """Encode again what changed. Nothing else is read."""
        put: list[Resource] = []
        gone: list[Key] = []
        for namespace in changed.namespaces:
            bound = dict(self._state.bindings(namespace))
            self._bindings[namespace] = bound
            self._replace(("bindings", namespace), encode.bindings(namespace, bound), put, gone)
            if not bound:
                del self._bindings[namespace]
        for group in changed.groups:
            addresses = tuple(self._state.addresses(group))
            self._addresses[group] = addresses
            if not addresses:
                del self._addresses[group]
            made = encode.address_group(group, addresses)
            self._replace(("group", group), made, put, gone)
        for node in changed.nodes:
            made = encode.node_group(node, self._state.node_addresses(node))
            self._replace(("node", node), made, put, gone)
        if changed.nodes:
            self._unknown = tuple(self._state.unknown())
            self._replace("unknown", encode.unknown(self._unknown), put, gone)
        self._cluster = self._cluster.changed(put, gone)
        self._update_policy(changed)
        self._update_endpoints(changed)

    def _replace(
        self, source: Key | str, made: list[Resource], put: list[Resource], gone: list[Key]
    ) -> None:
        names = frozenset((each.type_url, each.name) for each in made)
        gone.extend(self._names.pop(source, frozenset()) - names)
        put.extend(made)
        if names:
            self._names[source] = names

    def _update_policy(self, changed: Changed) -> None:
        for selector, shard in changed.peer_sets:
            members = self._state.peer_sets.get(selector, _NO_MEMBERS)
            made = encode.peer_set(selector, members, shard)
            shards = self._peer_sets.setdefault(selector, {})
            if made is not None:
                shards[shard] = made
            else:
                shards.pop(shard, None)
            if not shards:
                del self._peer_sets[selector]
        for name in changed.rule_sets_removed:
            self._rule_sets.pop(name, None)
        for number in changed.policies:
            subject = self._state.policies.get(number)
            if subject is None:
                self._policies.pop(number, None)
            else:
                self._policies[number] = encode.policy(subject)
        if changed.peer_sets or changed.policies or changed.rule_sets_removed:
            for node in self._nodes.values():
                node.numbers = None

    def _update_endpoints(self, changed: Changed) -> None:
        for name in changed.endpoints:
            before = self._node_of.pop(name, None)
            if before is not None:
                self._node(before).endpoints.pop(name, None)
                self._node(before).own_dirty = True
                self._node(before).numbers = None
            endpoint = self._state.endpoint(name)
            if endpoint is not None and endpoint.node:
                self._node_of[name] = endpoint.node
                node = self._node(endpoint.node)
                node.endpoints[name] = endpoint
                node.own_dirty = True
                node.numbers = None
        if changed.namespaces:
            for node in self._nodes.values():
                node.numbers = None

    def _node(self, name: str) -> _Node:
        return self._nodes.setdefault(name, _Node())

    # -------------------------------------------------------------------------------- views

    def view(self, name: str, revision: int, refused: frozenset[str] = frozenset()) -> NodeView:
        """refused: names of rule sets that are served to this node as *closed*."""
        node = self._node(name)
        if node.own_dirty:
            node.own = _moved(node.own, {_key(each): each for each in self._endpoints(node)})
            node.own_dirty = False
        if node.numbers is None:
            node.numbers = self._numbers(node)
            node.current.clear()
        if refused not in node.current:
            before = node.policies.get(refused) or Layer({})
            layer = _moved(before, self._policy_table(node.numbers, refused))
            node.policies.pop(refused, None)
            node.policies[refused] = layer
            node.current.add(refused)
            if len(node.policies) > KEPT_POLICIES:
                oldest = next(iter(node.policies))
                del node.policies[oldest]
                node.current.discard(oldest)
        policy = node.policies[refused]
        return view_of(revision, self._cluster_of(node, policy), policy, node.own)

    def identity_of(self, endpoint: LocalEndpoint) -> tuple[int, int] | None:
        return self._bindings.get(endpoint.namespace, {}).get(endpoint.group)

    def _endpoints(self, node: _Node) -> Iterator[Resource]:
        for each in node.endpoints.values():
            yield encode.endpoint(
                each.namespace,
                each.pod,
                uid=each.uid,
                ipv4=each.ipv4,
                ipv6=each.ipv6,
                group=each.group,
                interface=each.interface,
            )

    def _numbers(self, node: _Node) -> frozenset[int]:
        bound = (self.identity_of(each) for each in node.endpoints.values())
        return frozenset(identity[0] for identity in bound if identity is not None)

    def _policy_table(
        self, numbers: frozenset[int], refused: frozenset[str]
    ) -> dict[Key, Resource]:
        table: dict[Key, Resource] = {}
        names: set[str] = set()
        for number in numbers:
            subject = self._state.policies.get(number)
            if subject is None:
                continue
            resource = self._policies.get(number)
            if refused and {subject.ingress, subject.egress} & refused:
                subject = msgspec.structs.replace(
                    subject,
                    ingress=_closed(subject.ingress, refused, Direction.INGRESS),
                    egress=_closed(subject.egress, refused, Direction.EGRESS),
                )
                resource = encode.policy(subject)
            elif resource is None:
                resource = self._policies[number] = encode.policy(subject)
            table[_key(resource)] = resource
            names |= {subject.ingress, subject.egress}
        selectors: set[str] = set()
        for name in names:
            rules = self._rules(name)
            resource = self._rule_sets.get(name)
            if resource is None:
                resource = self._rule_sets[name] = encode.rule_set(name, rules)
            table[_key(resource)] = resource
            for rule in rules.rules:
                selectors.update(rule.peer_sets)
        for selector in selectors:
            for resource in self._peer_sets.get(selector, {}).values():
                table[_key(resource)] = resource
        return table

    def _rules(self, name: str) -> RuleSet:
        return CLOSED_RULES.get(name) or self._state.rule_sets[name]

    # -------------------------------------------------------------------------------- scope

    def _cluster_of(self, node: _Node, policy: Layer) -> Layer:
        if self._scope == "all":
            return self._cluster
        base: tuple[object, ...] = (self._cluster, policy, node.own)
        if node.cluster is None or node.base != base:
            table = dict(self._cluster.resources)
            for key in self._left_out(node, policy):
                del table[key]
            node.cluster = _moved(node.cluster or Layer({}), table)
            node.base = base
        return node.cluster

    def _left_out(self, node: _Node, policy: Layer) -> Iterator[Key]:
        """Address groups that no rule on the node can tell from an unknown pod."""
        names = {name for type_url, name in policy.resources if type_url.endswith("RuleSet")}
        named = BitMap()
        for name in names:
            for rule in self._rules(name).rules:
                if rule.verdict is Verdict.DENY and (rule.peer_sets or rule.reserved):
                    return  # an unknown pod is denied where another one is not
                for selector in rule.peer_sets:
                    named |= self._state.peer_sets.get(selector, _NO_MEMBERS)
        local = {each.group for each in node.endpoints.values()}
        for bound in self._bindings.values():
            for group, (number, _) in bound.items():
                if group in local or number in named:
                    continue
                if all(_covered(each, self._unknown) for each in self._addresses.get(group, ())):
                    keys = self._names.get(("group", group), frozenset())
                    yield from (key for key in keys if key[0] == ADDRESS_GROUP)


def _key(resource: Resource) -> Key:
    return resource.type_url, resource.name


def _moved(layer: Layer, table: Mapping[Key, Resource]) -> Layer:
    """The layer with exactly this table."""
    gone = [key for key in layer.resources if key not in table]
    return layer.changed(table.values(), gone)


def _closed(name: str, refused: frozenset[str], direction: Direction) -> str:
    return CLOSED[direction] if name in refused else name


def _covered(address: bytes, prefixes: Iterable[Prefix]) -> bool:
    bits = int.from_bytes(address, "big")
    width = len(address) * 8
    return any(
        len(prefix.address) == len(address)
        and bits >> (width - prefix.length)
        == int.from_bytes(prefix.address, "big") >> (width - prefix.length)
        for prefix in prefixes
    )
