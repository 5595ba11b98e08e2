"""Resources and node views: functions of the state alone, however it came about."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from reconciler.core.policy.ir import (
    Direction,
    IdentityPolicy,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode, root
from reconciler.core.resources.build import (
    CLOSED,
    Changed,
    LocalEndpoint,
    NodeView,
    Scope,
    State,
    ViewBuilder,
)
from reconciler.core.resources.decode import decode
from reconciler.core.resources.parts import Key
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    ENDPOINT,
    PEER_SET,
    POLICY,
    RULE_SET,
)
from reconciler.errors import Refusal

# ------------------------------------------------------------------------------------- parts


@given(st.sets(st.integers(0, 2**128 - 1), max_size=400), st.randoms(use_true_random=False))
def test_shards_are_a_function_of_the_set(numbers: set[int], order: random.Random) -> None:
    groups = {f"shop/{number:032x}": (256 + number % 100, 1) for number in numbers}
    shuffled = list(groups.items())
    order.shuffle(shuffled)
    made = encode.bindings("shop", groups)
    assert made == encode.bindings("shop", dict(shuffled))
    seen: dict[str, tuple[int, int]] = {}
    for resource in made:
        value = decode(resource.type_url, resource.name, resource.version, resource.body)
        assert not isinstance(value, Refusal), value
        bound = value.bindings  # type: ignore[union-attr]
        assert 0 < len(bound) <= encode.MAX_BINDINGS
        seen.update((group, (number, birth)) for group, number, birth in bound)
    assert seen == groups
    assert len({resource.name for resource in made}) == len(made)
    if len(groups) <= encode.MAX_BINDINGS:
        assert len(made) <= 1


addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@given(st.sets(addresses, max_size=120), st.randoms(use_true_random=False))
def test_slices_are_a_function_of_the_set(owned: set[bytes], order: random.Random) -> None:
    group = "shop/" + "0" * 32
    shuffled = list(owned)
    order.shuffle(shuffled)
    made = encode.address_group(group, sorted(owned))
    assert made == encode.address_group(group, shuffled)
    seen: list[bytes] = []
    for resource in made:
        value = decode(resource.type_url, resource.name, resource.version, resource.body)
        assert not isinstance(value, Refusal), value
        seen += value.addresses  # type: ignore[union-attr]
    assert len(seen) == len(owned)
    assert set(seen) == owned


@given(st.sets(st.integers(256, 4000)))
def test_a_peer_set_is_the_sum_of_its_shards(numbers: set[int]) -> None:
    name = "a" * 32
    seen: set[int] = set()
    for shard in range(4):
        made = encode.peer_set(name, BitMap(numbers), shard)
        if made is not None:
            value = decode(made.type_url, made.name, made.version, made.body)
            assert not isinstance(value, Refusal), value
            seen |= value.numbers  # type: ignore[union-attr]
            assert len(made.body) <= 140
    assert seen == numbers


# ------------------------------------------------------------------------------------- views

NODES = ("n0", "n1", "n2")
NAMESPACES = ("a", "b")
GROUPS = tuple(f"{namespace}/{number:032x}" for namespace in NAMESPACES for number in range(3))
SELECTORS = tuple(character * 32 for character in "0123")
NUMBERS = (256, 257, 1500, 1501)
INSIDE = Prefix(b"\x0a\0\0\0", 8)


def rules(direction: Direction, selectors: Iterable[str], deny: bool) -> RuleSet:
    verdict = Verdict.DENY if deny else Verdict.ALLOW
    made = Rule(verdict, peer_sets=tuple(sorted(selectors)))
    return RuleSet(direction, True, (made,) if made.peer_sets else ())


class World:
    """The state that a builder reads, edited at random, with what each edit changed."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[int, int]] = {}
        self.owned: dict[str, set[bytes]] = {}
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.nodes: dict[str, tuple[bytes, ...]] = {}
        self.prefixes: tuple[Prefix, ...] = ()
        self.peer_sets: dict[str, BitMap] = {each: BitMap() for each in SELECTORS}
        self.rule_sets: dict[str, RuleSet] = {}
        self.policies: dict[int, IdentityPolicy] = {}
        self.births = 0

    def state(self) -> State:
        return State(
            bindings=lambda namespace: {
                group: identity
                for group, identity in self.bound.items()
                if group.startswith(namespace + "/")
            },
            addresses=lambda group: self.owned.get(group, set()),
            endpoint=self.endpoints.get,
            node_addresses=lambda node: self.nodes.get(node, ()),
            api_server=lambda: self.nodes.get("n1", ()),
            unknown=lambda: self.prefixes,
            peer_sets=self.peer_sets,
            rule_sets=self.rule_sets,
            policies=self.policies,
        )

    def everything(self) -> Changed:
        return Changed(
            namespaces=frozenset(NAMESPACES),
            groups=frozenset(GROUPS),
            endpoints=frozenset(self.endpoints),
            nodes=frozenset(NODES),
            peer_sets=frozenset((each, shard) for each in SELECTORS for shard in range(2)),
            policies=frozenset(self.policies),
        )

    def edit(self, random: random.Random) -> Changed:
        kind = random.choice(
            ("bind", "bind", "pod", "pod", "move", "peers", "peers", "policy", "policy", "node")
        )
        if kind == "bind":
            group = random.choice(GROUPS)
            if random.random() < 0.2:
                self.bound.pop(group, None)
            else:
                self.births += 1
                self.bound[group] = (random.choice(NUMBERS), self.births)
            return Changed(namespaces=frozenset({group.partition("/")[0]}))
        if kind in ("pod", "move"):
            return self._pod(random, random.choice(GROUPS))
        if kind == "peers":
            selector, number = random.choice(SELECTORS), random.choice(NUMBERS)
            self.peer_sets[selector] ^= BitMap([number])
            return Changed(peer_sets=frozenset({(selector, number >> 10)}))
        if kind == "policy":
            return self._policy(random)
        node = random.choice(NODES)
        self.nodes[node] = tuple(
            bytes([192, 0, 2, each]) for each in random.sample(range(9), random.randrange(3))
        )
        self.prefixes = (INSIDE,) if random.random() < 0.7 else ()
        return Changed(nodes=frozenset({node}))

    def _pod(self, random: random.Random, group: str) -> Changed:
        namespace = group.partition("/")[0]
        name = f"{namespace}/p{random.randrange(3)}"
        old = self.endpoints.pop(name, None)
        groups = {group}
        if old is not None:
            self.owned[old.group].discard(old.ipv4)
            groups.add(old.group)
        if old is None or random.random() < 0.7:
            first = 10 if random.random() < 0.8 else 11  # 11.0.0.0/8 is not the cluster's
            ipv4 = bytes([first, ord(namespace), 0, int(name[-1])])
            self.endpoints[name] = LocalEndpoint(
                namespace, name[2:], random.choice((*NODES, "")), "u", ipv4, b"", group
            )
            self.owned.setdefault(group, set()).add(ipv4)
        return Changed(groups=frozenset(groups), endpoints=frozenset({name}))

    def _policy(self, random: random.Random) -> Changed:
        number = random.choice(NUMBERS)
        old = set(self.rule_sets)
        if random.random() < 0.2:
            self.policies.pop(number, None)
        else:
            self.births += 1
            names = []
            for direction in Direction:
                chosen = random.sample(SELECTORS, random.randrange(3))
                made = rules(direction, chosen, random.random() < 0.1)
                self.rule_sets[rule_set_hash(made)] = made
                names.append(rule_set_hash(made))
            self.policies[number] = IdentityPolicy(number, self.births, *names)
        used = {
            name for policy in self.policies.values() for name in (policy.ingress, policy.egress)
        }
        for name in self.rule_sets.keys() - used:
            del self.rule_sets[name]
        return Changed(
            policies=frozenset({number}), rule_sets_removed=frozenset(old - self.rule_sets.keys())
        )


def content(view: NodeView) -> dict[Key, str]:
    return {(each.type_url, each.name): each.version for each in view.resources()}


def of_type(view: NodeView, type_url: str) -> set[str]:
    return {each.name for each in view.resources() if each.type_url == type_url}


# With a seed as the only choice: edits drawn one by one are mostly the simplest ones.
@given(st.randoms(use_true_random=True), st.integers(5, 25), st.sampled_from(["all", "selected"]))
def test_a_view_that_is_kept_up_to_date_is_the_view_made_anew(
    random: random.Random, steps: int, scope: Scope
) -> None:
    world = World()
    builder = ViewBuilder(world.state(), scope)
    builder.update(world.everything())
    held = {node: builder.view(node, 0) for node in NODES}
    for step in range(steps):
        builder.update(world.edit(random))
        fresh = ViewBuilder(world.state(), scope)
        fresh.update(world.everything())
        refused = frozenset(
            random.sample(sorted(world.rule_sets), min(len(world.rule_sets), random.randrange(2)))
        )
        for node in NODES:
            if random.random() < 0.4:
                continue  # a node whose view nobody asked for meanwhile
            view = builder.view(node, step + 1)
            assert content(view) == content(fresh.view(node, 9))
            assert view.root == root.to_bytes(root.total((*k, v) for k, v in content(view).items()))
            closed = builder.view(node, step + 1, refused)
            assert content(closed) == content(fresh.view(node, 9, refused))
            for old in (held[node], closed):
                moved = dict(content(old))
                for key, resource in view.since(old).items():
                    if resource is None:
                        del moved[key]
                    else:
                        assert moved.get(key) != resource.version
                        moved[key] = resource.version
                assert moved == content(view)
            held[node] = view


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_a_view_holds_what_the_node_needs_and_nothing_else(
    random: random.Random, steps: int
) -> None:
    world = World()
    for _ in range(steps):
        world.edit(random)
    every, selected = (ViewBuilder(world.state(), scope) for scope in ("all", "selected"))
    for builder in (every, selected):
        builder.update(world.everything())
    for node in NODES:
        view = every.view(node, 1)
        for resource in view.resources():
            value = decode(resource.type_url, resource.name, resource.version, resource.body)
            assert not isinstance(value, Refusal), value
        local = [each for each in world.endpoints.values() if each.node == node]
        numbers = {world.bound[each.group][0] for each in local if each.group in world.bound}
        policies = [world.policies[each] for each in numbers if each in world.policies]
        names = {name for policy in policies for name in (policy.ingress, policy.egress)}
        selectors = {
            selector
            for name in names
            for rule in world.rule_sets[name].rules
            for selector in rule.peer_sets
        }
        shards = {
            f"{selector}/{number >> 10}"
            for selector in selectors
            for number in world.peer_sets[selector]
        }
        assert of_type(view, ENDPOINT) == {f"{each.namespace}/{each.pod}" for each in local}
        assert of_type(view, POLICY) == {str(policy.number) for policy in policies}
        assert of_type(view, RULE_SET) == names
        assert of_type(view, PEER_SET) == shards
        assert of_type(view, BINDINGS) == {f"{group.partition('/')[0]}/0" for group in world.bound}

        # Scope: what is left out can't be told from an unknown pod by any rule of this node.
        less = selected.view(node, 1)
        missing = content(view).keys() - content(less).keys()
        assert content(less).items() <= content(view).items()
        named = {number for selector in selectors for number in world.peer_sets[selector]}
        denies = any(
            rule.verdict is Verdict.DENY for name in names for rule in world.rule_sets[name].rules
        )
        may = {
            group
            for group, owned in world.owned.items()
            if owned
            and not denies
            and group in world.bound
            and world.bound[group][0] not in named
            and group not in {each.group for each in local}
            and all(world.prefixes and each[0] == 10 for each in owned)
        }
        assert {name for _, name in missing} == {f"{group}/0" for group in may}
        assert all(type_url == ADDRESS_GROUP for type_url, _ in missing)


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_a_refused_rule_set_drops_everything_on_that_node_alone(
    random: random.Random, steps: int
) -> None:
    world = World()
    for _ in range(steps):
        world.edit(random)
    builder = ViewBuilder(world.state())
    builder.update(world.everything())
    before = {node: content(builder.view(node, 1)) for node in NODES}
    for node in NODES:
        view = builder.view(node, 1)
        for name in sorted(of_type(view, RULE_SET) - set(CLOSED.values())):
            closed = builder.view(node, 1, frozenset({name}))
            assert name not in of_type(closed, RULE_SET)
            assert of_type(closed, POLICY) == of_type(view, POLICY)
            for policy in of_type(view, POLICY):
                subject = world.policies[int(policy)]
                wanted = encode.policy(
                    IdentityPolicy(
                        subject.number,
                        subject.birth,
                        CLOSED[Direction.INGRESS] if subject.ingress == name else subject.ingress,
                        CLOSED[Direction.EGRESS] if subject.egress == name else subject.egress,
                    )
                )
                assert closed.get(POLICY, policy) == wanted
    assert {node: content(builder.view(node, 1)) for node in NODES} == before


def test_a_closed_view_follows_the_pods_of_its_node() -> None:
    world = World()
    made = rules(Direction.INGRESS, SELECTORS[:1], False)
    name = rule_set_hash(made)
    world.rule_sets[name] = made
    for number in (256, 257):
        world.policies[number] = IdentityPolicy(number, 1, name, CLOSED[Direction.EGRESS])
        group = GROUPS[number - 256]
        world.bound[group] = (number, 1)
    builder = ViewBuilder(world.state())
    builder.update(world.everything())
    for number in (256, 257):
        pod = f"p{number}"
        world.endpoints[f"a/{pod}"] = LocalEndpoint(
            "a", pod, "n0", "u", bytes([10, 0, 0, number - 256]), b"", GROUPS[number - 256]
        )
        builder.update(Changed(endpoints=frozenset({f"a/{pod}"})))
        assert str(number) in of_type(builder.view("n0", 1, frozenset({name})), POLICY)


def test_a_relabelled_namespace_is_its_bindings_and_nothing_else() -> None:
    world = World()
    for namespace in NAMESPACES:
        for number in range(300):
            group = f"{namespace}/{number:08x}{0:024x}"
            world.bound[group] = (256 + number, 1)
            world.owned[group] = {bytes([10, ord(namespace), number >> 8, number & 255])}
    builder = ViewBuilder(world.state())
    builder.update(Changed(namespaces=frozenset(NAMESPACES), groups=frozenset(world.owned)))
    before = [builder.view(node, 1) for node in NODES]
    for group, (number, _) in list(world.bound.items()):
        if group.startswith("a/"):
            world.bound[group] = (number + 1000, 2)
    builder.update(Changed(namespaces=frozenset({"a"})))
    after = [builder.view(node, 2) for node in NODES]
    for old, new in zip(before, after, strict=True):
        changed = new.since(old)
        assert changed
        assert all(key[0] == BINDINGS and key[1].startswith("a/") for key in changed)
    assert after[0].layers[0] is after[1].layers[0], "the cluster's layer is shared"


def test_nodes_with_the_same_identities_share_a_layer_that_others_do_not_touch() -> None:
    world = World()
    for at, number in enumerate(NUMBERS[:2]):
        made = rules(Direction.INGRESS, SELECTORS[at : at + 1], False)
        world.rule_sets[rule_set_hash(made)] = made
        world.policies[number] = IdentityPolicy(
            number, 1, rule_set_hash(made), CLOSED[Direction.EGRESS]
        )
        world.bound[GROUPS[at]] = (number, 1)
    for pod, (node, group) in enumerate((("n0", 0), ("n1", 0), ("n2", 1))):
        world.endpoints[f"a/p{pod}"] = LocalEndpoint(
            "a", f"p{pod}", node, "u", bytes([10, 0, 0, pod]), b"", GROUPS[group]
        )
    builder = ViewBuilder(world.state())
    builder.update(world.everything())
    before = {node: builder.view(node, 1) for node in NODES}
    assert before["n0"].layers[1] is before["n1"].layers[1]
    assert before["n0"].layers[1] is not before["n2"].layers[1]
    world.peer_sets[SELECTORS[0]] |= BitMap([1500])  # which only the first two name
    builder.update(Changed(peer_sets=frozenset({(SELECTORS[0], 1)})))
    after = {node: builder.view(node, 2) for node in NODES}
    assert after["n0"].layers[1] is after["n1"].layers[1]
    assert after["n0"].since(before["n0"]).keys() == {(PEER_SET, f"{SELECTORS[0]}/1")}
    assert after["n2"].layers[1] is before["n2"].layers[1]
    assert after["n0"].parts_since(before["n0"]) == after["n1"].parts_since(before["n1"])
    world.policies[257] = IdentityPolicy(
        257, 2, CLOSED[Direction.INGRESS], CLOSED[Direction.EGRESS]
    )
    builder.update(Changed(policies=frozenset({257})))
    last = {node: builder.view(node, 3) for node in NODES}
    assert last["n0"].layers[1] is after["n0"].layers[1]
    assert last["n2"].since(after["n2"])
