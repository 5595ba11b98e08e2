"""Bytes of a resource to its value: the agent's side of `encode`, and as strict as it can be.

Promises: what is decoded is exactly what `encode` makes of the value – every field known, every
list ascending and without duplicates, every length right, the name that of the content. Anything
else is a `Refusal`, which the NACK carries; nothing is repaired and nothing left out, since a rule
with a field that this agent does not know may allow less than what is left without it.

The version is checked against the bytes, so that what was damaged on the way or in a cache is found
here and not by its effects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from reconciler.core.objects.net import mask
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
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources.encode import (
    MAX_ADDRESSES,
    MAX_BINDINGS,
    SHARD_BITS,
    commit_version,
    version_of,
)
from reconciler.core.resources.position import MAX_TEXT as MAX_POSITION
from reconciler.core.resources.root import SIZE as ROOT_SIZE
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
)
from reconciler.core.resources.values import (
    Addresses,
    Bindings,
    Commit,
    IdentityLabels,
    LocalPod,
    Members,
    Value,
)
from reconciler.errors import Refusal
from reconciler.wire import resources_pb2 as pb

FIRST_ALLOCATED: Final = 256
LAST_NUMBER: Final = 65535
MAX_BIRTH: Final = (1 << 64) - 1

_HASH: Final = re.compile(r"[0-9a-f]{32}")
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,9}")


class _Malformed(Exception):
    """Inside this module only; becomes the reason of a Refusal."""


def decode(type_url: str, name: str, version: str, body: bytes) -> Value | Refusal:
    """The value, or why the resource is refused."""
    kind = _KINDS.get(type_url)
    if kind is None:
        return Refusal(type_url, name, "a type that this agent does not know")
    make, read = kind
    try:
        message = _parse(make(), body)
        if type_url != COMMIT:
            _check(version == version_of(body), "the version is not that of the content")
        value = read(name, message)
        if isinstance(value, Commit):
            expected = commit_version(value.revision, value.root, value.position)
            _check(version == expected, "the version is not that of the content")
        return value
    except _Malformed as error:
        return Refusal(type_url, name, str(error))


def _parse(message: Message, body: bytes) -> Any:
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise _Malformed("the content is not a message of its type") from None
    message.DiscardUnknownFields()  # type: ignore[no-untyped-call,unused-ignore]
    same = message.SerializeToString(deterministic=True) == body
    _check(same, "fields that this agent does not know, or not in their canonical form")
    return message


def _check(holds: bool, reason: str) -> None:
    if not holds:
        raise _Malformed(reason)


# ------------------------------------------------------------------------------------- kinds


def _peer_set(name: str, message: pb.PeerSet) -> Members:
    selector, shard = _split(name)
    _check(_HASH.fullmatch(selector) is not None, "the name does not begin with a selector hash")
    _check(shard <= LAST_NUMBER >> SHARD_BITS, "there is no such shard")
    _check(message.base == shard << SHARD_BITS, "the range is not that of the name")
    which = message.WhichOneof("members")
    if which == "bitmap":
        _check(len(message.bitmap) == 1 << (SHARD_BITS - 3), "a bitmap has 128 bytes")
        bits = int.from_bytes(message.bitmap, "little")
        offsets = [bit for bit in range(1 << SHARD_BITS) if bits >> bit & 1]
    else:
        _check(which == "numbers", "there are no members")
        offsets = list(message.numbers.offsets)
        _ascending(offsets, "offsets")
        _check(not offsets or offsets[-1] < 1 << SHARD_BITS, "an offset is outside the range")
    _check(bool(offsets), "there are no members")
    _check(message.base + offsets[0] >= FIRST_ALLOCATED, "a reserved number is a member")
    return Members(selector, frozenset(message.base + offset for offset in offsets))


def _rule_set(name: str, message: pb.RuleSet) -> RuleSet:
    _check(message.direction in (pb.INGRESS, pb.EGRESS), "the direction is not known")
    rules = RuleSet(
        Direction(message.direction),
        message.enforced,
        tuple(_rule(each) for each in message.rules),
    )
    _check(rule_set_hash(rules) == name, "the name is not that of the content")
    return rules


def _rule(message: pb.Rule) -> Rule:
    _check(message.verdict in (pb.ALLOW, pb.DENY), "the verdict of a rule is not known")
    for ports in message.ports:
        _check(1 <= ports.protocol <= 255, f"{ports.protocol} is not a protocol number")
        _check(ports.first <= ports.last <= 65535, f"{ports.first}-{ports.last} are not ports")
    for peer_set in message.peer_sets:
        _check(_HASH.fullmatch(peer_set) is not None, f"{peer_set!r} is not a selector hash")
    for number in message.reserved:
        _check(number < FIRST_ALLOCATED, f"{number} is not a reserved number")
    rule = Rule(
        Verdict(message.verdict),
        ports=tuple(PortRange(each.protocol, each.first, each.last) for each in message.ports),
        any_peer=message.any_peer,
        peer_sets=tuple(message.peer_sets),
        cidrs=tuple(_block(each) for each in message.cidrs),
        reserved=tuple(message.reserved),
        origins=tuple(message.origins),
    )
    _ascending(rule.ports, "ports of a rule")
    _ascending(rule.peer_sets, "peer sets of a rule")
    _ascending(rule.cidrs, "CIDRs of a rule")
    _ascending(rule.reserved, "reserved peers of a rule")
    return rule


def _block(message: pb.CidrBlock) -> CidrBlock:
    prefix = _prefix(message.prefix)
    excepts = tuple(_prefix(each) for each in message.excepts)
    for each in excepts:
        _check(prefix.covers(each), f"{each} is not inside of {prefix}")
    return CidrBlock(prefix, excepts)


def _prefix(message: pb.Prefix) -> Prefix:
    address, length = message.address, message.length
    _check(len(address) in (4, 16), "the address of a prefix has neither 4 nor 16 bytes")
    _check(length <= 8 * len(address), f"{length} is not a prefix length")
    _check(mask(address, length) == address, "a prefix has host bits")
    return Prefix(address, length)


def _policy(name: str, message: pb.Policy) -> IdentityPolicy:
    _check(name == str(message.number), "the number is not that of the name")
    _identity(message.number, message.birth)
    for rule_set in (message.ingress, message.egress):
        _check(_HASH.fullmatch(rule_set) is not None, f"{rule_set!r} is not a rule set's name")
    return IdentityPolicy(message.number, message.birth, message.ingress, message.egress)


def _bindings(name: str, message: pb.Bindings) -> Bindings:
    namespace, _ = _split(name)
    _check(message.namespace == namespace, "the namespace is not that of the name")
    _namespace(namespace)
    _check(1 <= len(message.bindings) <= MAX_BINDINGS, f"1 to {MAX_BINDINGS} bindings are allowed")
    for each in message.bindings:
        _check(len(each.group) == 16, "a group hash has 16 bytes")
        _identity(each.number, each.birth)
    _ascending([each.group for each in message.bindings], "groups")
    return Bindings(
        tuple(
            (f"{namespace}/{each.group.hex()}", each.number, each.birth)
            for each in message.bindings
        )
    )


def _address_group(name: str, message: pb.AddressGroup) -> Addresses:
    owner, slice = _split(name)
    addresses = (*_packed(message.ipv4, 4), *_packed(message.ipv6, 16))
    prefixes = tuple(_prefix(each) for each in message.prefixes)
    _ascending(prefixes, "prefixes")
    _check(bool(prefixes) == (message.reserved == "unknown"), "prefixes are for `unknown` only")
    _check(bool(addresses) != bool(prefixes), "either addresses or prefixes are needed")
    _check(bool(message.node) == (message.reserved == "node"), "a node's name is for nodes only")
    _check(bool(message.group) != bool(message.reserved), "a group is either a pods' or reserved")
    if not message.reserved:
        _namespace(message.namespace)
        _check(len(message.group) == 16, "a group hash has 16 bytes")
        kind, expected = "pods", f"{message.namespace}/{message.group.hex()}"
        who = expected
    else:
        _check(message.namespace == "reserved", "the namespace of reserved groups is `reserved`")
        kind, who = message.reserved, message.node
        kinds = ("node", "kube-apiserver", "unknown")
        _check(kind in kinds, f"{kind!r} is not a reserved group that this agent knows")
        expected = f"reserved/node.{who}" if kind == "node" else f"reserved/{kind}"
    _check(owner == expected, "the group is not that of the name")
    if kind in ("node", "unknown"):
        _check(slice == 0, "there is one slice only")
    else:
        _check(len(addresses) <= MAX_ADDRESSES, f"a slice has at most {MAX_ADDRESSES} addresses")
    return Addresses(kind, who, addresses, prefixes)


def _endpoint(name: str, message: pb.Endpoint) -> LocalPod:
    _check(name == f"{message.namespace}/{message.pod}", "the pod is not that of the name")
    _namespace(message.namespace)
    _check(bool(message.pod) and "/" not in message.pod, "the pod has no proper name")
    _check(len(message.ipv4) in (0, 4), "an IPv4 address has 4 bytes")
    _check(len(message.ipv6) in (0, 16), "an IPv6 address has 16 bytes")
    _check(bool(message.ipv4 or message.ipv6), "the pod has no address")
    _check(len(message.group) == 16, "a group hash has 16 bytes")
    return LocalPod(
        pod=name,
        uid=message.uid,
        ipv4=message.ipv4,
        ipv6=message.ipv6,
        group=f"{message.namespace}/{message.group.hex()}",
        interface=message.interface,
    )


def _commit(name: str, message: pb.Commit) -> Commit:
    _check(name == CUT_NAME, f"the only commit is {CUT_NAME!r}")
    _check(message.revision > 0, "a cut has a revision above 0")
    _check(len(message.root) == ROOT_SIZE, f"a root has {ROOT_SIZE} bytes")
    _check(len(message.position) <= MAX_POSITION, "its position is too long")
    return Commit(message.revision, message.root, message.position)


def _identity_labels(name: str, message: pb.Identity) -> IdentityLabels:
    _check(name == str(message.number), "the number is not that of the name")
    _identity(message.number, message.birth)
    return IdentityLabels(message.number, message.birth, tuple(message.labels))


# ------------------------------------------------------------------------------------- parts


def _split(name: str) -> tuple[str, int]:
    """ "<owner>/<number>" in its two parts."""
    owner, slash, digits = name.rpartition("/")
    _check(bool(slash) and _DECIMAL.fullmatch(digits) is not None, "the name has no shard or slice")
    return owner, int(digits)


def _namespace(name: str) -> None:
    _check(bool(name) and "/" not in name, f"{name!r} is not a namespace")


def _identity(number: int, birth: int) -> None:
    _check(0 < number <= LAST_NUMBER, f"{number} is not an identity number")
    reserved = number < FIRST_ALLOCATED
    _check(reserved == (birth == 0), "numbers that are allocated have a birth, reserved ones none")


def _packed(data: bytes, width: int) -> tuple[bytes, ...]:
    if not data:
        return ()
    _check(len(data) % width == 0, f"addresses are not {width} bytes each")
    addresses = tuple(data[at : at + width] for at in range(0, len(data), width))
    _ascending(addresses, "addresses")
    return addresses


def _ascending(items: Sequence[Any], what: str) -> None:
    _check(list(items) == sorted(set(items)), f"{what} are not ascending or repeat")


_KINDS: Final[dict[str, tuple[Callable[[], Message], Callable[[str, Any], Value]]]] = {
    PEER_SET: (pb.PeerSet, _peer_set),
    RULE_SET: (pb.RuleSet, _rule_set),
    POLICY: (pb.Policy, _policy),
    BINDINGS: (pb.Bindings, _bindings),
    ADDRESS_GROUP: (pb.AddressGroup, _address_group),
    ENDPOINT: (pb.Endpoint, _endpoint),
    COMMIT: (pb.Commit, _commit),
    IDENTITY: (pb.Identity, _identity_labels),
}
