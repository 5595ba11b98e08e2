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

from reconciler.core.policy.ir import IdentityPolicy, Prefix, RuleSet
from reconciler.core.resources import encode, root
from reconciler.core.resources.layer import Layer
from reconciler.core.resources.parts import Key, Part, in_order, missing_of, parts_of
from reconciler.core.resources.policies import CLOSED as CLOSED
from reconciler.core.resources.policies import CLOSED_RULES as CLOSED_RULES
from reconciler.core.resources.policies import PolicyLayers, Share, peers_in_rules
from reconciler.core.resources.position import Position
from reconciler.core.resources.types import ENDPOINT, STAGED, Resource

Scope = Literal["all", "selected"]

KEPT_POLICIES: Final = 3
"""Policy layers kept a node: the real one, the closed one that is served, the one before it."""


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
    api_server: Callable[[], Iterable[bytes]]
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
    """What one node is served at one revision. position: None where there is one server only."""

    revision: int
    layers: tuple[Layer, ...]
    root: bytes
    position: Position | None = None

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
        return missing_of(self.parts_since(older))

    def parts_since(self, older: NodeView) -> tuple[Part, ...]:
        """`since`, cut into parts in the order in which they are sent."""
        pairs = zip(self.layers, older.layers, strict=True)
        return in_order(part for mine, theirs in pairs for part in mine.parts_since(theirs))

    def parts_lacking(self, reported: Mapping[str, Mapping[str, str]]) -> tuple[Part, ...]:
        """What a node lacks that reports type URL → name → version."""
        if not any(reported.values()):
            return in_order(part for layer in self.layers for part in layer.parts())
        missing: dict[Key, Resource | None] = {}
        left = {type_url: set(reported.get(type_url, ())) for type_url in STAGED}
        for resource in self.resources():
            left[resource.type_url].discard(resource.name)
            if reported.get(resource.type_url, {}).get(resource.name) != resource.version:
                missing[resource.type_url, resource.name] = resource
        for type_url, names in left.items():
            missing.update(((type_url, name), None) for name in names)
        return parts_of(missing)


def view_of(revision: int, *layers: Layer, position: Position | None = None) -> NodeView:
    return NodeView(revision, layers, root.to_bytes(sum(layer.root for layer in layers)), position)


class _Node:
    __slots__ = (
        "cluster", "endpoints", "left_out", "made_from", "numbers", "own", "own_changed", "shares",
    )  # fmt: skip

    def __init__(self) -> None:
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.own = Layer({})
        self.own_changed: frozenset[str] = frozenset()  # endpoints to be encoded again
        self.numbers: frozenset[int] | None = None  # None: to be found again
        self.shares: dict[frozenset[str], Share] = {}  # rule sets refused → last asked for last
        # Scope "selected": the last one made, from which layers, and without what.
        self.cluster: Layer | None = None
        self.made_from: tuple[Layer, ...] = ()
        self.left_out: frozenset[Key] = frozenset()


class ViewBuilder:
    def __init__(self, state: State, scope: Scope = "all") -> None:
        self._state = state
        self._scope = scope
        self._cluster = Layer({})
        self._bindings: dict[str, dict[str, tuple[int, int]]] = {}
        self._addresses: dict[str, tuple[bytes, ...]] = {}  # as published: the store may be ahead
        self._covered: dict[str, frozenset[Key]] = {}  # group → slices, if an unknown pod's
        self._unknown: tuple[Prefix, ...] = ()
        self._names: dict[Key | str, frozenset[Key]] = {}  # source → names of its resources
        self._policies = PolicyLayers(state.peer_sets, state.rule_sets, state.policies)
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
            api_server = encode.api_server(self._state.api_server())
            self._replace("kube-apiserver", api_server, put, gone)
        self._cluster = self._cluster.changed(put, gone)
        self._policies.update(changed.peer_sets, changed.rule_sets_removed, changed.policies)
        self._update_endpoints(changed)
        if self._scope == "selected":
            self._update_covered(self._addresses if changed.nodes else changed.groups)

    def _replace(
        self, source: Key | str, made: list[Resource], put: list[Resource], gone: list[Key]
    ) -> None:
        names = frozenset((each.type_url, each.name) for each in made)
        gone.extend(self._names.pop(source, frozenset()) - names)
        put.extend(made)
        if names:
            self._names[source] = names

    def _update_endpoints(self, changed: Changed) -> None:
        for name in changed.endpoints:
            before = self._node_of.pop(name, None)
            if before is not None:
                node = self._node(before)
                node.endpoints.pop(name, None)
                node.own_changed |= {name}
                node.numbers = None
            endpoint = self._state.endpoint(name)
            if endpoint is not None and endpoint.node:
                self._node_of[name] = endpoint.node
                node = self._node(endpoint.node)
                node.endpoints[name] = endpoint
                node.own_changed |= {name}
                node.numbers = None
        if changed.namespaces:
            for node in self._nodes.values():
                node.numbers = None

    def _update_covered(self, groups: Iterable[str]) -> None:
        """Groups whose addresses are all in the cluster's own CIDRs."""
        for group in groups:
            addresses = self._addresses.get(group, ())
            if addresses and all(_inside(each, self._unknown) for each in addresses):
                self._covered[group] = self._names[("group", group)]
            else:
                self._covered.pop(group, None)
        for node in self._nodes.values():
            for layer in node.made_from:
                layer.shorten()

    def _node(self, name: str) -> _Node:
        return self._nodes.setdefault(name, _Node())

    # -------------------------------------------------------------------------------- views

    def view(
        self,
        name: str,
        revision: int,
        refused: frozenset[str] = frozenset(),
        position: Position | None = None,
    ) -> NodeView:
        """refused: names of rule sets that are served to this node as *closed*."""
        node = self._node(name)
        if node.own_changed:
            put = [
                _encoded(node.endpoints[each]) for each in node.own_changed & node.endpoints.keys()
            ]
            node.own = node.own.changed(put, [(ENDPOINT, each) for each in node.own_changed])
            node.own_changed = frozenset()
        share = self._share(node, refused)
        cluster = self._cluster_of(node, share)
        return view_of(revision, cluster, share.layer, node.own, position=position)

    def _share(self, node: _Node, refused: frozenset[str]) -> Share:
        if node.numbers is None:
            node.numbers = self._numbers(node)
        before = node.shares.pop(refused, None)
        share = node.shares[refused] = self._policies.share(node.numbers, refused, before)
        node.numbers = share.numbers
        if len(node.shares) > KEPT_POLICIES:
            del node.shares[next(iter(node.shares))]
        return share

    def identity_of(self, endpoint: LocalEndpoint) -> tuple[int, int] | None:
        return self._bindings.get(endpoint.namespace, {}).get(endpoint.group)

    def _numbers(self, node: _Node) -> frozenset[int]:
        bound = (self.identity_of(each) for each in node.endpoints.values())
        return frozenset(identity[0] for identity in bound if identity is not None)

    # -------------------------------------------------------------------------------- scope

    def _cluster_of(self, node: _Node, share: Share) -> Layer:
        if self._scope == "all":
            return self._cluster
        made_from = (self._cluster, share.layer, node.own)
        if node.cluster is None:
            node.left_out = self._left_out(node, share)
            kept = self._cluster.resources.items()
            node.cluster = Layer({key: each for key, each in kept if key not in node.left_out})
        elif made_from != node.made_from:
            before, node.left_out = node.left_out, self._left_out(node, share)
            moved = self._cluster.since(node.made_from[0])
            moved.update((key, self._cluster.get(key)) for key in before - node.left_out)
            put = [each for key, each in moved.items() if each and key not in node.left_out]
            gone = [key for key, each in moved.items() if each is None]
            node.cluster = node.cluster.changed(put, [*gone, *(node.left_out - before)])
        node.made_from = made_from
        return node.cluster

    def _left_out(self, node: _Node, share: Share) -> frozenset[Key]:
        """Address groups that no rule on the node can tell from an unknown pod."""
        named = peers_in_rules(self._policies.rules(share), self._state.peer_sets)
        if named is None:
            return frozenset()
        local = {each.group for each in node.endpoints.values()}
        return frozenset(
            key
            for bound in self._bindings.values()
            for group, (number, _) in bound.items()
            if number not in named and group not in local
            for key in self._covered.get(group, ())
        )


def _encoded(endpoint: LocalEndpoint) -> Resource:
    return encode.endpoint(
        endpoint.namespace,
        endpoint.pod,
        uid=endpoint.uid,
        ipv4=endpoint.ipv4,
        ipv6=endpoint.ipv6,
        group=endpoint.group,
        interface=endpoint.interface,
    )


def _inside(address: bytes, prefixes: Iterable[Prefix]) -> bool:
    bits = int.from_bytes(address, "big")
    width = len(address) * 8
    return any(
        len(prefix.address) == len(address)
        and bits >> (width - prefix.length)
        == int.from_bytes(prefix.address, "big") >> (width - prefix.length)
        for prefix in prefixes
    )
