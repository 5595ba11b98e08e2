"""Who may talk to whom: the whole matrix of a set of objects, without a cluster or a kernel.

The way is that of the product: objects → label sets → compiled rule sets → kernel entries →
look-ups; only the numbers of identities are made up here. Verdicts are found once for each pair of
identities and then given to the pods that have them, so a matrix costs its rows and little more.

Pods need neither node nor address, so a workload's representative will do. Pods that are done have
no traffic, and hostNetwork pods are their nodes: neither is in a matrix. A pod's traffic to itself
never leaves it and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from reconciler.core.labels import Grouper, LabelFilter
from reconciler.core.labels.label import PROTOCOL_NUMBERS
from reconciler.core.objects import (
    KubeObject,
    ObjectKey,
    Pod,
    Prefix,
    Upsert,
    key_of,
    parse_address,
)
from reconciler.core.policy.compiler import Compiler
from reconciler.core.policy.entries import UNKNOWN, Entries, Expanded, decide, expand
from reconciler.core.policy.evaluate import WORLDS, Decision, PeerInfo, external, verdict
from reconciler.core.policy.ir import Direction, IdentityPolicy
from reconciler.core.policy.rules import HOST
from reconciler.core.store import Cluster
from reconciler.errors import Rejected

REMOTE_NODE: Final = 6
FIRST_NUMBER: Final = 256

ALLOW: Final = "allow"
DENY: Final = "deny"

ICMP_NUMBERS: Final = {"ICMP": 1, "ICMPV6": 58}
"""Protocols without ports; only rules that name no ports allow them."""


class Probe(msgspec.Struct, frozen=True, order=True):
    """protocol: "TCP", "UDP", "SCTP", "ICMP" or "ICMPV6"; port: 0 for the last two."""

    protocol: str
    port: int

    @property
    def number(self) -> int:
        """IANA number of the protocol."""
        return (PROTOCOL_NUMBERS | ICMP_NUMBERS)[self.protocol]

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol.lower()}" if self.port else self.protocol.lower()


class Row(msgspec.Struct, frozen=True, gc=False):
    """One packet's way. from, to: "namespace/pod" or an address; the rest "allow" or "deny".

    egress: what the sender's policies say; ingress: the receiver's; verdict: both together
    """

    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    protocol: str
    port: int
    egress: str
    ingress: str
    verdict: str


class Difference(msgspec.Struct, frozen=True):
    """A way whose verdict changed; "" where one of the two matrices doesn't have it."""

    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    protocol: str
    port: int
    before: str
    after: str


class Party(msgspec.Struct, frozen=True):
    """One end. owner: the pod or node behind the name, None for the world and unknown addresses.

    number: identity; 0 for a node, whose number depends on who asks. node: its own or a pod's
    """

    name: str
    owner: ObjectKey | None
    number: int
    node: str = ""
    address: bytes = b""

    @property
    def is_pod(self) -> bool:
        return self.number >= FIRST_NUMBER


class _End:
    """A party with what a matrix asks of it a million times.

    kind: as a peer, what parties with the same verdicts share (nodes: by being the own node or not)
    ingress, egress: names of its rule sets, "" where nothing restricts it
    """

    __slots__ = (
        "egress", "ingress", "is_node", "is_pod", "kind", "name", "node", "owner", "party", "shown"
    )  # fmt: skip

    def __init__(
        self, party: Party, policy: IdentityPolicy | None, namespaces: Collection[str] | None
    ) -> None:
        owner = party.owner
        self.party = party
        self.name = party.name
        self.node = party.node
        self.owner = party.name if owner is None else str(owner)
        self.is_pod = policy is not None
        self.is_node = owner is not None and owner.kind == "Node"
        self.kind: int | str = party.number if party.is_pod else party.name
        self.ingress = "" if policy is None else policy.ingress
        self.egress = "" if policy is None else policy.egress
        self.shown = namespaces is None or (
            party.is_pod and owner is not None and owner.namespace in namespaces
        )


_Side = tuple[str, ...]
"""One side's answer to each probe."""

_Answer = tuple[str, int, str, str, str]
"""What stands in a row behind the two names."""


class _Table:
    """The answers to some probes, each found once: by rule set and peer, then by pair of sides."""

    def __init__(
        self, probes: Sequence[Probe], judge: Callable[[str, PeerInfo, Sequence[Probe]], _Side]
    ) -> None:
        self._probes = probes
        self._judge = judge
        self._open: _Side = (ALLOW,) * len(probes)
        self._sides: dict[tuple[str, int | str, bool], _Side] = {}
        self._joined: dict[tuple[_Side, _Side], list[_Answer]] = {}

    def answers(self, one: _End, other: _End) -> list[_Answer]:
        """For packets from `one` to `other`."""
        sides = (self._side(one.egress, one, other), self._side(other.ingress, other, one))
        joined = self._joined.get(sides)
        if joined is None:
            joined = self._joined[sides] = [
                (probe.protocol, probe.port, out, into, ALLOW if out == into == ALLOW else DENY)
                for probe, out, into in zip(self._probes, *sides, strict=True)
            ]
        return joined

    def _side(self, rule_set: str, subject: _End, other: _End) -> _Side:
        if not rule_set:
            return self._open
        key = (rule_set, other.kind, other.is_node and other.node == subject.node)
        side = self._sides.get(key)
        if side is None:
            peer = _peer(other.party, subject.party)
            side = self._sides[key] = self._judge(rule_set, peer, self._probes)
        return side


class Verdicts:
    """Objects, compiled. Policies must be valid, as `decode` gives them; of one key the last holds.

    warnings: of the policies, e.g. selectors on labels that the label filter hides
    """

    def __init__(
        self,
        objects: Iterable[KubeObject],
        *,
        label_filter: LabelFilter | None = None,
        cluster_name: str = "default",
        named_ports: bool = True,
        cluster_cidrs: tuple[Prefix, ...] = (),
    ) -> None:
        found = {key_of(item): item for item in objects}
        filter = label_filter or LabelFilter.default()
        self._cluster = Cluster(filter, cluster_name, named_ports, cluster_cidrs)
        self._cluster.apply([Upsert(item, "") for item in found.values()])
        self._numbers = {
            key: number for number, key in enumerate(sorted(self._cluster.label_sets), FIRST_NUMBER)
        }
        self._compiler = Compiler(filter)
        self._compiler.apply(
            identities_added={
                number: (1, self._cluster.label_sets[key]) for key, number in self._numbers.items()
            },
            policies_changed=self._cluster.policies,
        )
        self._expanded: dict[str, Expanded] = {
            name: expand(rule_set) for name, rule_set in self._compiler.rule_sets.items()
        }
        self._merged: dict[tuple[str, tuple[str, ...]], Entries] = {}
        grouper = Grouper(filter, named_ports=named_ports)
        self._pods = {
            party.name: party
            for key, item in sorted(found.items())
            if isinstance(item, Pod) and not item.spec.host_network and not item.done
            for party in [self._pod(key, item, grouper)]
        }
        self.warnings: tuple[Rejected, ...] = tuple(
            warning
            for key in sorted(self._compiler.warnings)
            for warning in self._compiler.warnings[key]
        )

    def party(self, name: str) -> Party:
        """A pod by "namespace/name", anything else by its address. ValueError for neither."""
        found = self._pods.get(name)
        if found is not None:
            return found
        try:
            address = parse_address(name)
        except ValueError:
            raise ValueError(f"{name!r} is neither one of the pods nor an IP address") from None
        owner = self._cluster.owner_of(address)
        if owner is None:
            plain = Prefix(address, 8 * len(address))
            if any(prefix.covers(plain) for prefix in self._cluster.unknown_prefixes()):
                return Party(name, None, UNKNOWN)
            return Party(name, None, external(address).number, address=address)
        if owner.kind == "Node":
            return Party(name, owner, HOST, node=owner.name)
        pod = self._pods[f"{owner.namespace}/{owner.name}"]
        return msgspec.structs.replace(pod, name=name)

    def rows(
        self,
        probes: Sequence[Probe],
        externals: Iterable[str] = (),
        *,
        namespaces: Collection[str] | None = None,
    ) -> Iterator[Row]:
        """Every ordered pair of pods, and of pods and `externals`, with every probe, in order.

        externals:  addresses: outside the cluster, or of a node or pod, or unknown ones inside it.
                    Nobody restricts what is no pod: its side is always "allow"
        namespaces: only rows with a pod of these on at least one side
        """
        outside = [self.party(name) for name in dict.fromkeys(externals)]
        ends = [
            _End(party, self._compiler.policies.get(party.number), namespaces)
            for party in (*self._pods.values(), *outside)
        ]
        table = _Table(probes, self._side)
        for one in ends:
            for other in ends:
                if (
                    (one.shown or other.shown)
                    and (one.is_pod or other.is_pod)
                    and one.owner != other.owner
                ):
                    for answer in table.answers(one, other):
                        yield Row(one.name, other.name, *answer)

    def decide(
        self, source: Party, destination: Party, probe: Probe
    ) -> tuple[Decision | None, Decision | None]:
        """(egress, ingress) with the rules that decide, by reference evaluation; None: no pod."""
        return (
            self._decide(source, destination, Direction.EGRESS, probe),
            self._decide(destination, source, Direction.INGRESS, probe),
        )

    # ----------------------------------------------------------------------------------- inside

    def _pod(self, key: ObjectKey, pod: Pod, grouper: Grouper) -> Party:
        labels = self._cluster.groups[grouper.group_key(pod).name].label_set
        return Party(
            f"{key.namespace}/{key.name}", key, self._numbers[labels.key], pod.spec.node_name
        )

    def _rule_set(self, subject: Party, direction: Direction) -> str:
        policy = self._compiler.policies[subject.number]
        return policy.ingress if direction is Direction.INGRESS else policy.egress

    def _side(self, rule_set: str, peer: PeerInfo, probes: Sequence[Probe]) -> _Side:
        """What a rule set says about a peer, for each probe: by the kernel's two look-ups."""
        expanded = self._expanded[rule_set]
        if peer.number >= FIRST_NUMBER:
            sets = self._compiler.peer_sets
            names = tuple(name for name in expanded.by_peer_set if peer.number in sets[name])
            entries = self._merged.get((rule_set, names))
            if entries is None:
                entries = self._merged[rule_set, names] = expanded.for_identity(names)
        elif peer.number in WORLDS:
            # As if every address were a known prefix: exact, whatever blocks the rules name.
            entries = expanded.for_prefix(Prefix(peer.address, 8 * len(peer.address)))
        else:
            entries = expanded.for_reserved(peer.number)
        return _look_up(expanded.any, entries, probes)

    def _decide(
        self, subject: Party, other: Party, direction: Direction, probe: Probe
    ) -> Decision | None:
        if not subject.is_pod:
            return None
        sets = self._compiler.peer_sets
        return verdict(
            self._compiler.rule_sets[self._rule_set(subject, direction)],
            _peer(other, subject),
            probe.number,
            probe.port,
            lambda name, number: number in sets[name],
        )


def matrix(
    objects: Iterable[KubeObject],
    probes: Sequence[Probe],
    externals: Iterable[str] = (),
    *,
    namespaces: Collection[str] | None = None,
    label_filter: LabelFilter | None = None,
    cluster_name: str = "default",
    named_ports: bool = True,
    cluster_cidrs: tuple[Prefix, ...] = (),
) -> list[Row]:
    """All rows of `Verdicts.rows`, sorted as they come: senders, receivers, probes.

    About 100 bytes a row: for a million pairs, iterate over `Verdicts.rows` instead.
    """
    verdicts = Verdicts(
        objects,
        label_filter=label_filter,
        cluster_name=cluster_name,
        named_ports=named_ports,
        cluster_cidrs=cluster_cidrs,
    )
    return list(verdicts.rows(probes, externals, namespaces=namespaces))


def diff(old: Iterable[Row], new: Iterable[Row]) -> list[Difference]:
    """Ways whose verdict isn't the same in both, in the order of `new`, then what is gone."""
    before = {_way(row): row.verdict for row in old}
    found = [
        Difference(*_way(row), before.pop(_way(row), ""), row.verdict)
        for row in new
    ]  # fmt: skip
    found += [Difference(*way, verdict, "") for way, verdict in before.items()]
    return [one for one in found if one.before != one.after]


def parse_probes(text: str) -> tuple[Probe, ...]:
    """ "80/tcp,53/udp,icmp" → probes, in order, each once. ValueError with the reason."""
    found: dict[Probe, None] = {}
    for part in text.split(","):
        port, slash, protocol = part.strip().partition("/")
        if not slash and port.upper() in ICMP_NUMBERS:
            found[Probe(port.upper(), 0)] = None
            continue
        name = protocol.upper() if slash else "TCP"
        if name not in PROTOCOL_NUMBERS:
            raise ValueError(f"probe {part!r}: the protocol must be tcp, udp, sctp or icmp")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"probe {part!r}: the port must be a number, 1 to 65535")
        found[Probe(name, int(port))] = None
    return tuple(found)


def _peer(other: Party, subject: Party) -> PeerInfo:
    """What a party is to a pod: its own node is the host, any other a remote node."""
    if other.owner is not None and other.owner.kind == "Node":
        return PeerInfo(HOST if other.node == subject.node else REMOTE_NODE)
    return PeerInfo(other.number, other.address)


def _look_up(everyone: Entries, entries: Entries, probes: Sequence[Probe]) -> _Side:
    return tuple(
        ALLOW if decide(everyone, entries, probe.number, probe.port)[0] else DENY
        for probe in probes
    )


def _way(row: Row) -> tuple[str, str, str, int]:
    return row.source, row.destination, row.protocol, row.port
