"""Random cuts over a small world in which everything collides: few numbers, nested prefixes,
addresses that move between groups and nodes, numbers that come back with another birth."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from reconciler.core.dataplane.meaning import Full
from reconciler.core.dataplane.values import TYPE_OF, Change, StagedValue
from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    IdentityPolicy,
    PortRange,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)
from reconciler.core.resources.values import Addresses, Bindings, LocalPod, Members

NODE = "n0"
GROUPS = ("a/0", "a/1", "b/2", "b/3")
NUMBERS = (256, 257, 258, 1300)
SELECTORS = ("s0", "s1", "s2")
PODS = {"a/p0": 11, "b/p1": 12}
SERVICES = (Prefix(bytes([10, 96, 0, 0]), 16),)


def v4(a: int, b: int, c: int, d: int, length: int = 32) -> Prefix:
    return Prefix(bytes([a, b, c, d]), length)


PREFIXES = (
    v4(0, 0, 0, 0, 0), v4(10, 0, 0, 0, 8), v4(10, 1, 0, 0, 16), v4(10, 1, 2, 0, 24),
    v4(10, 1, 2, 3), v4(10, 2, 0, 0, 16), v4(10, 96, 3, 0, 24), Prefix(bytes(16), 0),
    Prefix(b"\xfd" + bytes(15), 8),
)  # fmt: skip
CLUSTER = (v4(10, 1, 0, 0, 16), v4(10, 1, 2, 0, 24), Prefix(b"\xfd" + bytes(15), 8))
ADDRESSES = (
    *(bytes([10, 1, 2, n]) for n in (3, 4, 5)),
    bytes([10, 2, 0, 1]), bytes([10, 1, 9, 9]), bytes([9, 9, 9, 9]), bytes([10, 96, 3, 1]),
    b"\xfd" + bytes(14) + b"\x01",
)  # fmt: skip
PORTS = ((6, 80), (6, 443), (17, 53))
PROBES = tuple(
    (pod, peer, direction, protocol, port)
    for pod in PODS
    for peer in ADDRESSES
    for direction in Direction
    for protocol, port in PORTS
)

Cut = dict[tuple[str, str], StagedValue]


class World:
    """Makes cuts. Births only rise; the same number may come back with a new one."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.birth = 0

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def some(self, items: Iterable[object], most: int) -> list[object]:
        pool = list(items)
        return self.random.sample(pool, self.random.randint(0, min(most, len(pool))))

    def rule(self) -> Rule:
        random = self.random
        ports = random.choice(
            (
                (),
                (PortRange(6, 80, 80),),
                (PortRange(6, 80, 500),),
                (PortRange(17),),
                (PortRange(6), PortRange(17, 53, 53)),
            )
        )
        blocks = []
        for _ in range(random.choice((0, 0, 1, 2))):
            prefix = random.choice(PREFIXES)
            holes = tuple(
                sorted(
                    each
                    for each in PREFIXES
                    if len(each.address) == len(prefix.address)
                    and each.length > prefix.length
                    and self.maybe(0.3)
                    and _inside(prefix, each)
                )
            )
            blocks.append(CidrBlock(prefix, holes))
        return Rule(
            Verdict.DENY if self.maybe(0.3) else Verdict.ALLOW,
            ports,
            self.maybe(0.1),
            tuple(sorted(str(each) for each in self.some(SELECTORS, 2))),
            tuple(sorted(set(blocks))),
            tuple(n for n in (0, 1, 2, 6, 7) if self.maybe(0.1)),
            (f"NetworkPolicy a/{random.randint(0, 9)}#spec.ingress[0]",),
        )

    def rule_set(self) -> RuleSet:
        rules = tuple(self.rule() for _ in range(self.random.randint(0, 3)))
        return RuleSet(self.random.choice(list(Direction)), self.maybe(0.7), rules)

    def mutated(self, cut: Cut) -> Cut:
        new = dict(cut)
        for _ in range(self.random.randint(1, 6)):
            self.random.choice(
                (
                    self.members, self.rules, self.rules, self.policy, self.binding, self.relabel,
                    self.addresses, self.addresses, self.reserved, self.pods,
                )
            )(new)  # fmt: skip
        return new

    def put(self, cut: Cut, name: str, value: StagedValue) -> None:
        cut[TYPE_OF[type(value)], name] = value

    def members(self, cut: Cut) -> None:
        selector, shard = self.random.choice(SELECTORS), self.random.choice((0, 1))
        numbers = frozenset(n for n in NUMBERS if n >> 10 == shard and self.maybe(0.5))
        key = (TYPE_OF[Members], f"{selector}/{shard}")
        cut.pop(key, None)
        if numbers:
            cut[key] = Members(selector, numbers)

    def rules(self, cut: Cut) -> None:
        names = [name for kind, name in cut if kind == TYPE_OF[RuleSet]]
        if names and self.maybe(0.3):
            del cut[TYPE_OF[RuleSet], self.random.choice(names)]
        rule_set = self.rule_set()
        name = f"{self.random.getrandbits(40):010x}"
        self.put(cut, name, rule_set)
        number = self.random.choice(NUMBERS)
        policy = cut.get((TYPE_OF[IdentityPolicy], str(number)))
        if isinstance(policy, IdentityPolicy):
            ingress = rule_set.direction is Direction.INGRESS
            self.put(
                cut,
                str(number),
                IdentityPolicy(
                    number,
                    policy.birth,
                    name if ingress else policy.ingress,
                    policy.egress if ingress else name,
                ),
            )

    def policy(self, cut: Cut) -> None:
        """A policy for a number, with the birth that it is bound with."""
        number = self.random.choice(NUMBERS)
        birth = max((b for n, b in self.bound(cut) if n == number), default=1)
        sides = {
            side: [
                name
                for (_, name), value in cut.items()
                if isinstance(value, RuleSet) and value.direction is side
            ]
            for side in Direction
        }
        if all(sides.values()):
            names = [self.random.choice(sides[side]) for side in Direction]
            self.put(cut, str(number), IdentityPolicy(number, birth, *names))

    def bound(self, cut: Cut) -> list[tuple[int, int]]:
        return [
            (number, birth)
            for value in cut.values()
            if isinstance(value, Bindings)
            for _, number, birth in value.bindings
        ]

    def binding(self, cut: Cut) -> None:
        namespace = self.random.choice("ab")
        births = dict(self.bound(cut))
        bindings = []
        for group in GROUPS:
            if group[0] == namespace and self.maybe(0.8):
                number = self.random.choice(NUMBERS)
                if number not in births:
                    self.birth += 1
                    births[number] = self.birth
                bindings.append((group, number, births[number]))
        self.put(cut, f"{namespace}/0", Bindings(tuple(bindings)))

    def relabel(self, cut: Cut) -> None:
        """A number means something else: a new birth everywhere, other members, its policy."""
        number = self.random.choice(NUMBERS)
        self.birth += 1
        for key, value in list(cut.items()):
            if isinstance(value, Bindings):
                cut[key] = Bindings(
                    tuple(
                        (group, n, self.birth if n == number else birth)
                        for group, n, birth in value.bindings
                    )
                )
            elif isinstance(value, IdentityPolicy) and value.number == number:
                cut[key] = IdentityPolicy(number, self.birth, value.ingress, value.egress)
        if self.maybe(0.8):
            self.members(cut)

    def addresses(self, cut: Cut) -> None:
        group, slice = self.random.choice(GROUPS), self.random.choice((0, 1))
        key = (TYPE_OF[Addresses], f"{group}/{slice}")
        cut.pop(key, None)
        taken = {
            address
            for value in cut.values()
            if isinstance(value, Addresses)
            for address in value.addresses
        }
        free = [each for each in ADDRESSES if each not in taken or self.maybe(0.05)]
        mine = tuple(each for each in free if self.maybe(0.4))
        if mine:
            cut[key] = Addresses("pods", group, mine)

    def reserved(self, cut: Cut) -> None:
        kind = self.random.choice(("node", "node", "kube-apiserver", "unknown"))
        owner = self.random.choice((NODE, "n1")) if kind == "node" else ""
        key = (TYPE_OF[Addresses], f"reserved/{kind}.{owner}/0")
        cut.pop(key, None)
        if self.maybe(0.2):
            return
        if kind == "unknown":
            prefixes = tuple(each for each in CLUSTER if self.maybe(0.6))
            cut[key] = Addresses(kind, owner, (), prefixes)
        else:
            cut[key] = Addresses(kind, owner, (self.random.choice(ADDRESSES),))

    def pods(self, cut: Cut) -> None:
        pod = self.random.choice(list(PODS))
        key = (TYPE_OF[LocalPod], pod)
        cut.pop(key, None)
        if self.maybe(0.8):
            last = 200 + PODS[pod]
            cut[key] = LocalPod(
                pod,
                "uid",
                bytes([10, 1, 2, last]),
                b"\xfd" + bytes(14) + bytes([last]),
                self.random.choice(GROUPS),
            )


def first_cut(world: World) -> Cut:
    cut: Cut = {}
    for step in (
        world.members, world.rules, world.rules, world.rules, world.rules, world.binding,
        world.binding, world.policy, world.policy, world.policy, world.addresses,
        world.addresses, world.reserved, world.pods, world.pods, world.pods,
    ):  # fmt: skip
        step(cut)
    return cut


def changes_between(old: Cut, new: Cut) -> list[Change]:
    return [
        Change(*key, new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def verdicts(cut: Cut, distrust: bool = False) -> list[bool]:
    full = Full((Change(*key, value) for key, value in cut.items()), NODE, SERVICES, distrust)
    return [full.allowed(*probe) for probe in PROBES]


def _inside(outer: Prefix, inner: Prefix) -> bool:
    bits = outer.length
    size = len(outer.address) * 8
    return int.from_bytes(outer.address, "big") >> (size - bits) == int.from_bytes(
        inner.address, "big"
    ) >> (size - bits)
