"""Resources as bytes: each kind's message, serialised once, named and versioned by content.

Everything here is a pure function of what the resource says – sets are sorted, and shards and
slices follow from the members alone, never from how the set came about – so every server that is
at the same state makes the same bytes and the same versions.

A set that does not fit one resource is split by the leading bits of a hash of each member, into the
smallest power of two of parts of which none is too large.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from pyroaring import BitMap

from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    IdentityPolicy,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    COMMIT,
    CUT_NAME,
    ENDPOINT,
    IDENTITY,
    PEER_SET,
    POLICY,
    RULE_SET,
    Resource,
)
from reconciler.errors import Refusal
from reconciler.wire import resources_pb2 as pb

SHARD_BITS: Final = 10
"""A peer set's shard holds 1,024 numbers: a bitmap of 128 bytes at most."""

MAX_BINDINGS: Final = 128
"""Bindings in one resource: most namespaces are one; a relabelled one is 4 KB."""

MAX_ADDRESSES: Final = 16
"""Addresses in one slice: a pod that comes or goes re-sends at most 16 addresses."""

_VERDICT: Final = {Verdict.ALLOW: pb.ALLOW, Verdict.DENY: pb.DENY}
_DIRECTION: Final = {Direction.INGRESS: pb.INGRESS, Direction.EGRESS: pb.EGRESS}

T = TypeVar("T")


def version_of(body: bytes) -> str:
    """22 characters, 128 bits: tenants choose content, so shorter could be made to collide."""
    return urlsafe_b64encode(hashlib.sha256(body).digest()[:16]).rstrip(b"=").decode()


def seal(type_url: str, name: str, message: Message) -> Resource:
    body = message.SerializeToString(deterministic=True)
    return Resource(type_url, name, version_of(body), body)


def split(members: Sequence[T], hashes: Sequence[int], limit: int) -> Iterator[tuple[int, list[T]]]:
    """(part, its members in the given order) of every part that has any.

    hashes: one 32-bit number a member. Members whose hashes are equal can't be separated; then a
    part may pass the limit.
    """
    for bits in range(33):
        parts: dict[int, list[T]] = {}
        for member, hashed in zip(members, hashes, strict=True):
            parts.setdefault(hashed >> (32 - bits), []).append(member)
        if bits == 32 or all(len(part) <= limit for part in parts.values()):
            yield from sorted(parts.items(), key=lambda item: item[0])
            return


def peer_set(selector: str, members: BitMap, shard: int) -> Resource | None:
    """One shard; None where it has no member. The smaller of bitmap and list is sent."""
    base = shard << SHARD_BITS
    offsets = [number - base for number in members & BitMap(range(base, base + (1 << SHARD_BITS)))]
    if not offsets:
        return None
    listed = pb.PeerSet(base=base, numbers=pb.NumberList(offsets=offsets))
    bits = bytearray(1 << (SHARD_BITS - 3))
    for offset in offsets:
        bits[offset >> 3] |= 1 << (offset & 7)
    mapped = pb.PeerSet(base=base, bitmap=bytes(bits))
    smaller = min((listed, mapped), key=lambda message: message.ByteSize())
    return seal(PEER_SET, shard_name(selector, shard), smaller)


def shard_name(selector: str, shard: int) -> str:
    return f"{selector}/{shard}"


def _prefix(prefix: Prefix) -> pb.Prefix:
    return pb.Prefix(address=prefix.address, length=prefix.length)


def _block(block: CidrBlock) -> pb.CidrBlock:
    return pb.CidrBlock(
        prefix=_prefix(block.prefix), excepts=[_prefix(each) for each in block.excepts]
    )


def _rule(rule: Rule) -> pb.Rule:
    return pb.Rule(
        verdict=_VERDICT[rule.verdict],
        ports=[
            pb.PortRange(protocol=ports.protocol, first=ports.first, last=ports.last)
            for ports in rule.ports
        ],
        any_peer=rule.any_peer,
        peer_sets=rule.peer_sets,
        cidrs=[_block(block) for block in rule.cidrs],
        reserved=rule.reserved,
        origins=rule.origins,
    )


def rule_set(name: str, rules: RuleSet) -> Resource:
    message = pb.RuleSet(
        direction=_DIRECTION[rules.direction],
        enforced=rules.enforced,
        rules=[_rule(rule) for rule in rules.rules],
    )
    return seal(RULE_SET, name, message)


def policy(subject: IdentityPolicy) -> Resource:
    message = pb.Policy(
        number=subject.number,
        birth=subject.birth,
        ingress=subject.ingress,
        egress=subject.egress,
    )
    return seal(POLICY, str(subject.number), message)


def bindings(namespace: str, bound: Mapping[str, tuple[int, int]]) -> list[Resource]:
    """bound: group name → (number, birth)."""
    names = sorted(bound)
    keys = [group_hash(name) for name in names]
    hashes = [int.from_bytes(key[:4], "big") for key in keys]
    made: list[Resource] = []
    for part, members in split(list(zip(names, keys, strict=True)), hashes, MAX_BINDINGS):
        message = pb.Bindings(
            namespace=namespace,
            bindings=[
                pb.Binding(group=key, number=bound[name][0], birth=bound[name][1])
                for name, key in members
            ],
        )
        made.append(seal(BINDINGS, f"{namespace}/{part}", message))
    return made


def address_group(group: str, addresses: Iterable[bytes]) -> list[Resource]:
    """The slices of one group's addresses (4 or 16 bytes each)."""
    namespace = group.rpartition("/")[0]
    return _slices(group, addresses, namespace=namespace, group=group_hash(group))


def api_server(addresses: Iterable[bytes]) -> list[Resource]:
    """Where the API server is, of addresses that are nodes' own."""
    return _slices(
        "reserved/kube-apiserver", addresses, namespace="reserved", reserved="kube-apiserver"
    )


def node_group(node: str, addresses: Iterable[bytes]) -> list[Resource]:
    """A node's own addresses in one resource: host there, remote-node elsewhere."""
    ordered = sorted(set(addresses))
    if not ordered:
        return []
    message = pb.AddressGroup(
        namespace="reserved",
        reserved="node",
        node=node,
        ipv4=b"".join(each for each in ordered if len(each) == 4),
        ipv6=b"".join(each for each in ordered if len(each) == 16),
    )
    return [seal(ADDRESS_GROUP, f"reserved/node.{node}/0", message)]


def unknown(prefixes: Iterable[Prefix]) -> list[Resource]:
    """The cluster's own CIDRs: an address inside that nobody owns is unknown, never world."""
    ordered = sorted(set(prefixes))
    if not ordered:
        return []
    message = pb.AddressGroup(
        namespace="reserved", reserved="unknown", prefixes=[_prefix(each) for each in ordered]
    )
    return [seal(ADDRESS_GROUP, "reserved/unknown/0", message)]


def _slices(name: str, addresses: Iterable[bytes], **fields: Any) -> list[Resource]:
    ordered = sorted(set(addresses), key=lambda address: (len(address), address))
    hashes = [int.from_bytes(hashlib.sha256(each).digest()[:4], "big") for each in ordered]
    made: list[Resource] = []
    for part, members in split(ordered, hashes, MAX_ADDRESSES):
        message = pb.AddressGroup(
            ipv4=b"".join(each for each in members if len(each) == 4),
            ipv6=b"".join(each for each in members if len(each) == 16),
            **fields,
        )
        made.append(seal(ADDRESS_GROUP, f"{name}/{part}", message))
    return made


def endpoint(
    namespace: str,
    pod: str,
    *,
    uid: str,
    ipv4: bytes,
    ipv6: bytes,
    group: str,
    interface: str = "",
) -> Resource:
    message = pb.Endpoint(
        namespace=namespace,
        pod=pod,
        uid=uid,
        ipv4=ipv4,
        ipv6=ipv6,
        group=group_hash(group),
        interface=interface,
    )
    return seal(ENDPOINT, f"{namespace}/{pod}", message)


def commit_version(revision: int, root: bytes, position: str = "") -> str:
    """Version of a commit: it says the cut itself, so that a node can report what it enforces."""
    said = f"{revision}.{root.hex()}"
    return f"{said}.{position}" if position else said


def parse_commit_version(version: str) -> tuple[int, bytes, str] | None:
    """(revision, root, position) of `commit_version`; None for anything else."""
    number, _, rest = version.partition(".")
    digits, _, position = rest.partition(".")
    if not number.isdecimal() or len(number) > 20 or len(digits) != 64:
        return None
    try:
        return int(number), bytes.fromhex(digits), position
    except ValueError:
        return None


def commit(revision: int, root: bytes, position: str = "") -> Resource:
    message = pb.Commit(revision=revision, root=root, position=position)
    body = message.SerializeToString(deterministic=True)
    return Resource(COMMIT, CUT_NAME, commit_version(revision, root, position), body)


def identity(number: int, birth: int, labels: Iterable[str]) -> Resource:
    return seal(IDENTITY, str(number), pb.Identity(number=number, birth=birth, labels=labels))


def rejection(refusal: Refusal) -> pb.Rejection:
    return pb.Rejection(
        type_url=refusal.type_url,
        name=refusal.name,
        reason=refusal.reason,
        needed=refusal.needed,
        limit=refusal.limit,
    )


def group_hash(group: str) -> bytes:
    """The 16 bytes in a group's name "<namespace>/<32 hex digits>"."""
    return bytes.fromhex(group.rpartition("/")[2])
